"""What one stage leaves for the next: one small JSON file, replaced whole."""

from __future__ import annotations

import dataclasses
import enum
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

from shipping.errors import Misuse

DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Rollout(enum.StrEnum):
    """How far the version has come in production."""

    NONE = "none"
    STARTING = "starting"
    """The playbook was called; whether a canary runs is not known until it came to its end."""
    CANARY = "canary"
    PROMOTING = "promoting"
    PROMOTED = "promoted"
    ABORTED = "aborted"

    @property
    def is_open(self) -> bool:
        """Whether something of this version may be in production beside the old one."""
        return self in (Rollout.STARTING, Rollout.CANARY, Rollout.PROMOTING)


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Empty texts are what no stage has found out yet."""

    commit: str
    base: str = ""
    """The base image by digest."""
    image_id: str = ""
    """The engine's own name of what it built."""
    image: str = ""
    """What is deployed: REGISTRY/IMAGE@DIGEST, as the registry answered."""
    rollout: Rollout = Rollout.NONE
    tried: bool = False
    """Whether a canary was seen: where nothing ran before, there is nothing to compare with, and no canary."""


def read(path: Path) -> State | None:
    """Return what the last stage left, None where none did."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise Misuse(f"{path} cannot be read: {error}") from error
    try:
        state = State(**{**found, "rollout": Rollout(found["rollout"])})
    except (TypeError, KeyError, ValueError) as error:
        raise Misuse(f"{path} is not a state of this pipeline: {error}") from error
    for text in (state.base, state.image):
        if not isinstance(text, str) or (text and not DIGEST.fullmatch(text.rpartition("@")[2])):
            raise Misuse(f"{path}: {text!r} does not end with a digest")
    return state


def write(path: Path, state: State) -> None:
    """Replace the file; a reader sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(dataclasses.asdict(state), indent=2) + "\n", encoding="utf-8")
    os.replace(scratch, path)
