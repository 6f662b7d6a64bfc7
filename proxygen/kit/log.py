"""proxygen's own log: constant events with facts as fields, on standard error.

``get_logger(__name__).info("reload proven", generation=42, seconds=0.31)`` reads as text on a terminal and as
one JSON object a line for machines, with our own names or with those of the Elastic Common Schema. What other
libraries say through `logging` (warnings and worse) comes out the same way. A syslog receiver gets the same lines.
"""

from __future__ import annotations

import json
import logging
import re
import select
import sys
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from typing import Any, Final, Literal, TextIO, cast

import structlog
from structlog.typing import EventDict, FilteringBoundLogger, Processor, WrappedLogger

from proxygen.kit.ecs import to_ecs
from proxygen.kit.syslog import MAX_MESSAGE, Syslog

Format = Literal["text", "json", "ecs"]

HIDDEN: Final = "(hidden)"

SYSLOG_SILENT: Final = "syslog takes no lines"
SYSLOG_BACK: Final = "syslog takes lines again"
"""The two events of the log itself, at level warning."""

_SECRET_WORDS: Final = frozenset({"token", "auth", "authorization", "password", "secret"})
_SECRET_TEXT: Final = re.compile(r"(?i)(bearer\s+|(?<=//)[^/\s:@]+:(?=[^/\s@]+@)|token=)[^\s,;&@'\"]+")
_CONTROLS: Final = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160))}
_FIRST: Final = ("timestamp", "level", "event")
_WORD: Final = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")


def configure(*, format: Format = "text", level: str = "info", syslog: str | None = None) -> None:
    """Send every log line to standard error in ``format`` from ``level`` up, and to the ``syslog`` receiver where one
    is named. Call it again to change any of them. Raise ValueError for what is no receiver's address."""
    severity = logging.getLevelNamesMapping()[level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        redact,
    ]
    renderer = _renderer(format, colors=sys.stderr.isatty())
    if syslog is not None:
        renderer = _Tee(renderer, _renderer(format, colors=False), _receiver(syslog))
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(severity),
        logger_factory=structlog.WriteLoggerFactory(_LossyStream.on(sys.stderr)),
        # A cached logger would keep the settings of the first call.
        cache_logger_on_first_use=False,
    )
    _adopt_standard_logging(shared, renderer, severity)


class _LossyStream:
    """A stream for the log: what cannot be written at once is lost, and who wrote it goes on.

    A full disk or a reader that has left must not end the sidecar, as it would not with the standard library's log. A
    reader that reads no more, such as an engine's log driver that hangs, must not hold it up: it would hear no signal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: Final = stream

    @classmethod
    def on(cls, stream: TextIO) -> TextIO:
        return cast("TextIO", cls(stream))

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text) if self._takes_a_line() else 0
        return 0

    def _takes_a_line(self) -> bool:
        """Whether a line would not wait. A pipe that can be written to has room for one of 4 kB (pipe(7))."""
        try:
            descriptor = self._stream.fileno()
        except (OSError, ValueError):
            # In memory.
            return True
        poll = select.poll()
        poll.register(descriptor, select.POLLOUT)
        return bool(poll.poll(0))

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def get_logger(name: str) -> FilteringBoundLogger:
    """Return the logger of one part of the program; ``name`` is the module's."""
    logger: FilteringBoundLogger = structlog.get_logger(module=name)
    return logger


def get_audit_logger(name: str) -> FilteringBoundLogger:
    """Return a logger whose lines are written whatever the level: a quieter log still says who changed what."""
    always = structlog.make_filtering_bound_logger(logging.INFO)
    logger: FilteringBoundLogger = structlog.wrap_logger(None, wrapper_class=always, module=name)
    return logger


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide every secret in a log event: by the field's name, by the value's type and by the text's form."""
    return {key: HIDDEN if _names_secret(key) and value is not None else _hide(value) for key, value in event.items()}


def _names_secret(key: object) -> bool:
    """Tell whether a field's last word is a secret's: ``consul_token`` and ``X-Consul-Token``, not ``token_file``."""
    words = _WORD.findall(str(key))
    return bool(words) and words[-1].lower() in _SECRET_WORDS


def _hide(value: Any) -> Any:
    # Pydantic's SecretStr is known by its method: the log must not import pydantic, which applications that
    # only register themselves never load.
    if hasattr(value, "get_secret_value"):
        return HIDDEN
    if isinstance(value, str):
        return _SECRET_TEXT.sub(rf"\g<1>{HIDDEN}", value)
    if isinstance(value, Mapping):
        return {key: HIDDEN if _names_secret(key) else _hide(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_hide(item) for item in value]
    return value


def _name_module(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {"module": event["_record"].name, **event}


# One for each address, however often the settings are read: it counts what it lost, and has a socket.
_receiver = lru_cache(Syslog)


class _Tee:
    """Renders for standard error, and on the way for a syslog receiver."""

    def __init__(self, render: Processor, render_plain: Processor, syslog: Syslog) -> None:
        self._render: Final = render
        self._plain: Final = render_plain
        self._syslog: Final = syslog

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        lost = self._syslog.lost
        problem = self._send(logger, method, event)
        text = str(self._render(logger, method, event))
        if problem and not lost:
            said = self._say(SYSLOG_SILENT, event, reason=problem)
            text += "\n" + str(self._render(logger, method, said))
        elif lost and not problem:
            self._send(logger, method, self._say(SYSLOG_BACK, event, lost=lost))
        return text

    def _say(self, what: str, event: EventDict, **facts: object) -> EventDict:
        first = {"timestamp": event.get("timestamp"), "level": "warning", "event": what, "module": __name__}
        return {**first, "receiver": self._syslog.receiver, **facts}

    def _send(self, logger: WrappedLogger, method: str, event: EventDict) -> str:
        text = ""
        for candidate in _ever_shorter(event):
            # A line break would end the line for a receiver that takes them one by one.
            text = str(self._plain(logger, method, candidate)).translate(_CONTROLS)
            if len(text.encode(errors="backslashreplace")) <= MAX_MESSAGE:
                break
        return self._syslog.send(str(event.get("level")), text)


def _ever_shorter(event: EventDict) -> Iterator[EventDict]:
    """Yield an event, and then what is left of it where that is too long: whole as a document, with shorter texts."""
    yield event
    for length in (1000, 100):
        yield {**{key: _cut(value, length) for key, value in event.items()}, "shortened": True}
    yield {**{key: _cut(event.get(key), 100) for key in _FIRST}, "shortened": True}


def _cut(value: object, length: int) -> object:
    return value if value is None or isinstance(value, bool | int | float) else str(value)[:length]


def _renderer(format: Format, *, colors: bool) -> Processor:
    if format == "json":
        return _render_json
    if format == "ecs":
        return lambda _logger, _method, event: json.dumps(to_ecs(event), default=str)
    console = structlog.dev.ConsoleRenderer(colors=colors, pad_event_to=0)
    return lambda logger, method, event: console(logger, method, _printable(event))


def _render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    first = {key: event[key] for key in _FIRST if key in event}
    return json.dumps({**first, **event}, default=str)


def _printable(event: EventDict) -> EventDict:
    """Escape control characters: a service's name may hold a newline or a terminal's escape sequence."""
    return {
        key: value if key == "exception" or not isinstance(value, str) else value.translate(_CONTROLS)
        for key, value in event.items()
    }


def _adopt_standard_logging(shared: list[Processor], renderer: Processor, severity: int) -> None:
    handler = logging.StreamHandler(_LossyStream.on(sys.stderr))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_name_module, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    # Libraries narrate at info; only their warnings concern an operator.
    root.setLevel(max(severity, logging.WARNING))
