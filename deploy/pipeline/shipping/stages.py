"""The stages in their order: start reading here. Each can be run again, and does then what is left to do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from shipping import checks, images, rollout
from shipping import state as states
from shipping.errors import Failure
from shipping.programs import say
from shipping.settings import Settings, require
from shipping.state import State


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step, with the settings that have no default and must be there."""

    name: str
    meaning: str
    needs: Sequence[str]
    work: Callable[[Settings, State], State]


def _unchanged(work: Callable[[Settings], None]) -> Callable[[Settings, State], State]:
    def checked(settings: Settings, state: State) -> State:
        work(settings)
        return state

    return checked


_REGISTRY = ("registry", "image")
_ROLL = (*_REGISTRY, "service", "inventory")
STAGES = (
    Stage(name="test", meaning="run the application's tests", needs=("tests",), work=_unchanged(checks.test)),
    Stage(
        name="lint",
        meaning="lint the service definition, and try it in a snapshot of production",
        needs=("definition",),
        work=_unchanged(checks.lint),
    ),
    Stage(name="build", meaning="build the image of this commit", needs=(*_REGISTRY, "base"), work=images.build),
    Stage(name="push", meaning="push it, and learn its digest", needs=_REGISTRY, work=images.push),
    Stage(name="canary", meaning="try it beside the old version, in steps", needs=_ROLL, work=rollout.canary),
    Stage(name="promote", meaning="replace the old version", needs=_ROLL, work=rollout.promote),
)
ABORT = Stage(name="abort", meaning="take the canary away", needs=_ROLL, work=rollout.abort)


def run_stage(stage: Stage, settings: Settings) -> None:
    """Run one stage, and leave for the next what it found out."""
    say(f"== {stage.name}")
    require(settings, stage.needs, stage.name)
    before = images.begin(settings)
    after = stage.work(settings, before)
    # test and lint find nothing out; a build server runs them side by side, and only one may write.
    if after != before:
        states.write(images.state_file(settings), after)


def run_all(settings: Settings) -> None:
    """Run every stage. Whatever ends it, also a signal, leaves no canary behind."""
    for stage in STAGES:
        require(settings, stage.needs, stage.name)
    commit = images.current_commit(settings)
    try:
        for stage in STAGES:
            run_stage(stage, settings)
    except BaseException:
        _leave_no_canary(settings, commit)
        raise


def _leave_no_canary(settings: Settings, commit: str) -> None:
    """Abort what this run began; a canary of another commit is somebody else's."""
    found = states.read(images.state_file(settings))
    if found is not None and found.commit == commit and found.rollout.is_open:
        say(f"== {ABORT.name}")
        states.write(images.state_file(settings), ABORT.work(settings, found))


def prepare(settings: Settings) -> None:
    """Make the output's directory, which git does not see and whose files may be read by its owner alone."""
    settings.output.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        with (settings.output / ".gitignore").open("x", encoding="utf-8") as file:
            file.write("*\n")
    except FileExistsError:
        return
    except OSError as error:
        raise Failure(f"{settings.output} cannot be written to: {error}") from error
