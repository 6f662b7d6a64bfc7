"""Who changed what: a line in the log for each write, and an event for each that changed something.

A write that is refused, or whose end nobody knows, leaves its line too. Never a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

from aiohttp import hdrs, web

from proxygen.kit.errors import BadInput, CatalogUnavailable, ConflictingWrite, Refused
from proxygen.kit.log import get_audit_logger
from proxygen.proxy.admin.handling import SIDECAR, writer_of
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.events import Kind

_log = get_audit_logger("audit")

_OUTCOMES: Final = (
    ((ConflictingWrite, web.HTTPPreconditionFailed), "conflict"),
    ((BadInput, Refused, web.HTTPException), "refused"),
    # Also a write that Consul may or may not have done; the reason says so.
    (CatalogUnavailable, "no answer"),
)


@dataclass(slots=True, kw_only=True)
class Write:
    """One write, while it is carried out. What it came to is told when it is over."""

    before: Mapping[str, object] = field(default_factory=dict)
    after: Mapping[str, object] = field(default_factory=dict)
    outcome: str = Outcome.UNCHANGED.value
    story: str = ""
    """What the writer did, in words that follow a name; "" where nothing changed."""
    generation: int | None = None


@contextmanager
def audited(request: web.Request, what: str, *, service: str = "") -> Iterator[Write]:
    """Carry out a write in the block, and tell of it however that ends."""
    write, who = Write(), writer_of(request)
    facts: dict[str, object] = {
        "who": who,
        "what": what,
        "remote": request.remote or "unix socket",
        "etag": request.headers.get(hdrs.IF_MATCH, ""),
    }
    if service:
        facts["service"] = service
    try:
        yield write
    except BaseException as error:
        outcome = next((name for kinds, name in _OUTCOMES if isinstance(error, kinds)), "failed")
        _log.warning("write", **facts, before=write.before, outcome=outcome, reason=_reason(error))
        raise
    _log.info("write", **facts, before=write.before, after=write.after, outcome=write.outcome)
    if write.story:
        request.app[SIDECAR].events.append(
            Kind.STEERED,
            f"{who} {write.story}",
            generation=write.generation,
            services=(service,) if service else (),
        )


def _reason(error: BaseException) -> str:
    return error.reason if isinstance(error, web.HTTPException) else str(error) or type(error).__name__
