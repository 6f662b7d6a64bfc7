"""The log of a library: it goes where the application's own log goes."""

from __future__ import annotations

import logging
import sys
from typing import Any, Protocol


class RegistrationLog(Protocol):
    """What is told as an event and its facts. ``exc_info`` is the error whose traceback belongs to it."""

    def info(self, event: str, **facts: Any) -> Any:
        """Tell what happened as it should."""
        ...

    def warning(self, event: str, **facts: Any) -> Any:
        """Tell what somebody may have to do something about."""
        ...

    def error(self, event: str, **facts: Any) -> Any:
        """Tell what has failed."""
        ...


def get_journal(name: str) -> RegistrationLog:
    """Return structlog's logger where structlog is set up (proxygen's commands, or the application), else `logging`'s.

    Unconfigured, structlog would print on standard output, which belongs to the application; and where nobody has
    imported it, it is not loaded: that costs more than all of a registration.
    """
    structlog = sys.modules.get("structlog")
    if structlog is not None and structlog.is_configured():
        from proxygen.kit.log import get_logger

        return get_logger(name)
    return _StandardLog(logging.getLogger(name))


class _StandardLog:
    """Writes one text: the event, then ``key=value`` of each fact."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def info(self, event: str, **facts: Any) -> None:
        self._tell(logging.INFO, event, facts)

    def warning(self, event: str, **facts: Any) -> None:
        self._tell(logging.WARNING, event, facts)

    def error(self, event: str, **facts: Any) -> None:
        self._tell(logging.ERROR, event, facts)

    def _tell(self, level: int, event: str, facts: dict[str, Any]) -> None:
        error = facts.pop("exc_info", None)
        text = " ".join([event, *(f"{key}={value}" for key, value in facts.items())])
        self._logger.log(level, "%s", text, exc_info=error, stacklevel=3)
