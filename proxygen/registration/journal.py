"""The log of a library: it goes where the application's own log goes."""

from __future__ import annotations

import logging

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, WrappedLogger

from proxygen.kit.log import get_logger


def get_journal(name: str) -> FilteringBoundLogger:
    """Return structlog's logger where structlog is set up (proxygen's commands, or the application), else `logging`'s.

    Unconfigured, structlog would print on standard output, which belongs to the application.
    """
    if structlog.is_configured():
        return get_logger(name)
    logger: FilteringBoundLogger = structlog.wrap_logger(
        logging.getLogger(name),
        processors=[structlog.stdlib.filter_by_level, structlog.processors.format_exc_info, _one_text],
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    return logger


def _one_text(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    facts = {key: value for key, value in event.items() if key not in ("event", "exception")}
    text = " ".join([str(event["event"]), *(f"{key}={value}" for key, value in facts.items())])
    return f"{text}\n{event['exception']}" if "exception" in event else text
