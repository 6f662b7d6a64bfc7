"""The stages build and push: one image per commit, known by its digest from then on."""

from __future__ import annotations

import datetime
from dataclasses import replace
from pathlib import Path

from shipping import state as states
from shipping.credentials import access, plain_environment
from shipping.engine import Engine
from shipping.errors import Failure, Misuse
from shipping.programs import run, say
from shipping.settings import Settings
from shipping.state import State

_REVISION = "org.opencontainers.image.revision"


def build(settings: Settings, state: State) -> State:
    """Build the image from the base that the registry has now; keep its bill of materials."""
    file = settings.dockerfile or settings.context / "Dockerfile"
    if not file.is_file():
        raise Misuse(f"there is no {file}")
    with access(settings) as way:
        engine = Engine(command=settings.engine, access=way, timeout=settings.timeout)
        base = engine.resolve(settings.base or "")
        say(f"  base {base}")
        image = engine.build(
            settings.context,
            file,
            tag=_tag(settings, state),
            arguments={settings.base_argument: base, "VERSION": state.commit[:12]},
            labels=_labels(settings, state.commit, base),
            options=settings.build_options,
        )
        if settings.sbom:
            bill = settings.output / "sbom.cdx.json"
            engine.copy_out(image, settings.sbom, bill)
            say(f"  bill of materials {bill}")
    return replace(state, base=base, image_id=image, image="")


def _labels(settings: Settings, commit: str, base: str) -> dict[str, str]:
    return {
        _REVISION: commit,
        "org.opencontainers.image.version": commit[:12],
        "org.opencontainers.image.created": _committed(settings, commit),
        "org.opencontainers.image.base.name": (settings.base or "").partition("@")[0],
        "org.opencontainers.image.base.digest": base.rpartition("@")[2],
    }


def _committed(settings: Settings, commit: str) -> str:
    """Return when the commit was made: the time of the build would make another image of the same input."""
    command = ["git", "show", "--no-patch", "--format=%ct", commit]
    seconds = run(command, timeout=60, keep=True, environment=plain_environment(), directory=settings.context)
    return datetime.datetime.fromtimestamp(int(seconds), datetime.UTC).isoformat().replace("+00:00", "Z")


def push(settings: Settings, state: State) -> State:
    """Push, and see that the registry gives back what was built."""
    if not state.image_id:
        raise Misuse("nothing was built from this commit: run the stage build first")
    with access(settings) as way:
        engine = Engine(command=settings.engine, access=way, timeout=settings.timeout)
        tag = _tag(settings, state)
        digest = engine.push(tag)
        image = f"{settings.registry}/{settings.image}@{digest}"
        engine.pull(image)
        labels = engine.inspect(image)["Config"].get("Labels") or {}
    if labels.get(_REVISION) != state.commit:
        raise Failure(f"{image} in the registry is not of the commit {state.commit}")
    say(f"  pushed {image}")
    return replace(state, image=image)


def _tag(settings: Settings, state: State) -> str:
    return f"{settings.registry}/{settings.image}:{state.commit[:12]}"


def current_commit(settings: Settings) -> str:
    """Return the commit that is checked out. Raise Misuse where files differ from it: nobody could build that again."""
    if settings.commit is not None:
        return settings.commit
    where: Path = settings.context
    changed = run(["git", "status", "--porcelain", "--", "."], timeout=60, keep=True, directory=where)
    if changed.strip():
        raise Misuse(f"{where} has changes that are in no commit:\n{changed.rstrip()}")
    return run(["git", "rev-parse", "HEAD"], timeout=60, keep=True, directory=where).strip()


def begin(settings: Settings) -> State:
    """Return the state of this commit, fresh if it is new. Raise Misuse while another commit's canary is on trial."""
    commit = current_commit(settings)
    found = states.read(state_file(settings))
    if found is not None and found.commit == commit:
        return found
    if found is not None and found.rollout.is_open:
        raise Misuse(f"the rollout of {found.commit} is not at its end: promote or abort it first")
    return State(commit=commit)


def state_file(settings: Settings) -> Path:
    return settings.output / "state.json"
