"""One event of our log in the names of the Elastic Common Schema.

What a log library may say of itself (https://www.elastic.co/guide/en/ecs-logging/overview/current/intro.html) comes
first: ``@timestamp``, ``log.level`` and ``ecs.version`` with a dot in the name, all else nested. Our facts stand
below ``proxygen``, so that none can meet a field of the schema: its ``service`` is an object, ours is a name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from proxygen import __version__

ECS_VERSION: Final = "8.11.0"

_OURS: Final = frozenset({"timestamp", "level", "event", "module", "error", "exception"})
"""What has a name of its own in the schema."""


def to_ecs(event: Mapping[str, Any]) -> dict[str, Any]:
    """Return a document; ``event`` is what our processors made of a call."""
    document: dict[str, Any] = {
        "@timestamp": event.get("timestamp"),
        "log.level": event.get("level"),
        "message": event.get("event"),
        "ecs.version": ECS_VERSION,
        "event": {"kind": "event", "module": "proxygen", "dataset": "proxygen.log"},
        "service": {"name": "proxygen", "type": "proxygen", "version": __version__},
        "process": {"pid": os.getpid()},
    }
    if "module" in event:
        document["log"] = {"logger": event["module"]}
    error = {
        ecs: str(event[ours]) for ours, ecs in (("error", "message"), ("exception", "stack_trace")) if ours in event
    }
    if error:
        document["error"] = error
    facts = {key: value for key, value in event.items() if key not in _OURS}
    if facts:
        document["proxygen"] = facts
    return document
