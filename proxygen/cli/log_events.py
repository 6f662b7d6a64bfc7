"""Every event of proxygen's log, read from the code that writes it: for the reference page and its test.

An event is a literal where it is written, so that it can be searched for in the code, and in a log for as long as it
means the same.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAKERS: Final = frozenset({"get_logger", "get_audit_logger", "get_journal"})
_BY_TABLE: Final = "proxygen.proxy.record.events"
"""Its events are those of its table `TELLINGS`."""
_LEVELS: Final = {
    "debug": "debug",
    "info": "info",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "critical",
}


class NotConstant(ValueError):
    """A logger is used in a way that hides which event is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEvent:
    """One event and who writes it."""

    event: str
    levels: tuple[str, ...]
    loggers: tuple[str, ...]
    """What the field ``module`` of its lines says."""


def log_events(package: Path) -> tuple[LogEvent, ...]:
    """Return the events that a package's modules write, by their text. Raise NotConstant for what is no literal."""
    found: defaultdict[str, set[tuple[str, str]]] = defaultdict(set)
    for path in sorted(package.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if not any(maker in source for maker in _MAKERS):
            continue
        module = ".".join([package.name, *path.relative_to(package).with_suffix("").parts]).removesuffix(".__init__")
        for line in _lines(ast.parse(source), module):
            if line.event is not None:
                found[line.event].add((line.level, line.logger))
            elif module != _BY_TABLE:
                raise NotConstant(f"{path}:{line.number}: write the event as a literal, LOGGER.LEVEL('event', FACT=…)")
    return tuple(
        LogEvent(
            event=event,
            levels=tuple(sorted({level for level, _ in lines})),
            loggers=tuple(sorted({logger for _, logger in lines})),
        )
        for event, lines in sorted(found.items(), key=lambda one: (one[0].lower(), one[0]))
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """One use of a logger."""

    number: int
    logger: str
    level: str = ""
    event: str | None = None
    """None for one that cannot be read there."""


def _lines(tree: ast.Module, module: str) -> Iterator[_Line]:
    names = dict(_bound(tree, module))
    calls = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    asked: set[int] = set()
    for node in ast.walk(tree):
        logger = _logger(node.value, names, module) if isinstance(node, ast.Attribute) else None
        if isinstance(node, ast.Attribute) and logger is not None:
            asked.add(id(node.value))
            yield _line(node, calls.get(id(node)), logger)
    for node in ast.walk(tree):
        # What is handed on as a whole, or asked for a method by name, is written to elsewhere.
        if isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Load) and id(node) not in asked:
            logger = names.get(ast.unparse(node))
            if logger is not None:
                yield _Line(number=node.lineno, logger=logger)


def _line(method: ast.Attribute, call: ast.Call | None, logger: str) -> _Line:
    match call:
        case ast.Call(args=[ast.Constant(value=str(event))]) if method.attr in _LEVELS:
            return _Line(number=method.lineno, logger=logger, level=_LEVELS[method.attr], event=event)
    return _Line(number=method.lineno, logger=logger)


def _bound(tree: ast.Module, module: str) -> Iterator[tuple[str, str]]:
    """Yield each name that a logger is kept under, and the logger's own."""
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[target], value=value) | ast.AnnAssign(target=target, value=ast.expr() as value):
                logger = _made(value, module)
                if logger is not None:
                    yield ast.unparse(target), logger


def _logger(node: ast.expr, names: Mapping[str, str], module: str) -> str | None:
    return names.get(ast.unparse(node)) or _made(node, module)


def _made(node: ast.expr, module: str) -> str | None:
    """Return the name of the logger that an expression makes; None where it makes none."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="structlog"))):
            return None  # where ours are made
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[of]) if name in _MAKERS:
            return of.value if isinstance(of, ast.Constant) and isinstance(of.value, str) else module
    return None
