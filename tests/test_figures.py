"""Figures of the source as a whole: none may get worse unnoticed. Each fails with the names of what is over."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import proxygen

ROOT: Final = Path(proxygen.__file__).parent
SOURCES: Final = {path.relative_to(ROOT.parent): path.read_text() for path in sorted(ROOT.rglob("*.py"))}
TREES: Final = {path: ast.parse(source) for path, source in SOURCES.items()}

LONGEST: Final = 50
"""Lines of a function."""
SHORT: Final = 16
"""Lines that nine functions in ten do not exceed."""
BROAD_EXCEPTS: Final = 0.5
"""In a thousand lines."""
DOCUMENTED: Final = 0.9
"""The part of all public classes, functions, methods and properties that have a docstring."""

FUNCTIONS: Final = (ast.FunctionDef, ast.AsyncFunctionDef)

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes() -> Iterator[tuple[str, ast.AST]]:
    """Every node of the source, with its place."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            yield f"{path}:{getattr(node, 'lineno', 0)}", node


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def lengths() -> list[tuple[int, str]]:
    """Lines of each function and where it is, the longest last."""
    return sorted((length(node), f"{place} {node.name}") for place, node in nodes() if isinstance(node, FUNCTIONS))


def is_broad(node: ast.AST) -> bool:
    """Whether it is a handler that catches whatever there is."""
    if not isinstance(node, ast.ExceptHandler):
        return False
    return node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))


def test_no_function_is_long() -> None:
    assert [f"{lines} {where}" for lines, where in lengths() if lines > LONGEST] == []


def test_nine_functions_in_ten_are_short() -> None:
    found = lengths()
    over = [f"{lines} {where}" for lines, where in found if lines > SHORT]
    assert len(over) < len(found) / 10, "\n".join(over)


def test_few_handlers_catch_everything() -> None:
    found = [place for place, node in nodes() if is_broad(node)]
    lines = sum(len(source.splitlines()) for source in SOURCES.values())
    assert len(found) <= BROAD_EXCEPTS * lines / 1_000, "\n".join(found)


def public_names(body: Iterable[ast.stmt]) -> Iterator[ast.ClassDef | Function]:
    """Classes and functions without an underscore, and those in such classes; what stands in functions is nobody's."""
    for node in body:
        if isinstance(node, (ast.ClassDef, *FUNCTIONS)) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public_names(node.body)


def test_public_names_say_what_their_name_does_not() -> None:
    """What is left is named by its Protocol, its framework, or so plainly that a sentence would repeat it."""
    names = [
        (f"{path} {node.name}", ast.get_docstring(node))
        for path, tree in TREES.items()
        for node in public_names(tree.body)
    ]
    silent = [where for where, said in names if said is None]
    assert len(silent) <= (1 - DOCUMENTED) * len(names), "\n".join(silent)
