"""One tree of errors: each has its place, its exit code and its status, and something raises it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import proxygen
from proxygen.kit import errors
from proxygen.kit.errors import ProxygenError
from proxygen.proxy.admin.statuses import STATUSES, status_of

PACKAGE = Path(proxygen.__file__).parent
SOURCES = {path.relative_to(PACKAGE).as_posix(): path.read_text() for path in PACKAGE.rglob("*.py")}
ERRORS_PAGE = (PACKAGE.parent / "docs/reference/errors.md").read_text()
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ProxygenError)]


def of_kind(kind: type[ProxygenError]) -> ProxygenError:
    """An error whatever its class asks to be made from."""
    error = kind.__new__(kind)
    error.args = ("why",)
    return error


def drawn() -> Iterator[tuple[str, str, int]]:
    """Each error of the tree at the head of the module, with the one above it and its exit code."""
    above = [("ProxygenError", 1)]
    for line in str(errors.__doc__).splitlines():
        match = re.fullmatch(r" {4}((?:│   |    )*)[├└]── (\w+) +(?:exit (\d+): )?\S.*", line)
        if match:
            del above[len(match[1]) // 4 + 1 :]
            parent, code = above[-1]
            above.append((match[2], int(match[3] or code)))
            yield match[2], parent, above[-1][1]


def test_the_tree_is_drawn_as_it_is() -> None:
    tree = [(kind.__name__, kind.__bases__[0].__name__, kind.exit_code) for kind in KINDS if kind is not ProxygenError]
    assert sorted(drawn()) == sorted(tree)


LEAVES = [kind for kind in KINDS if not [each for each in KINDS if each is not kind and issubclass(each, kind)]]


def homeless(sources: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Classes outside of the one module that derive from what is no leaf of the tree, or have a code of their own; a
    private one never leaves its module."""
    inner = {kind.__name__ for kind in KINDS} - {kind.__name__ for kind in LEAVES}
    for path, source in sources.items():
        for node in ast.walk(ast.parse(source)) if path != "kit/errors.py" else ():
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if bases & inner or any(ast.unparse(line).startswith("exit_code") for line in node.body):
                    yield path, node.name


def test_every_kind_of_error_is_in_the_one_module() -> None:
    assert list(homeless(SOURCES)) == []


def test_a_kind_of_error_in_another_module_is_seen() -> None:
    source = """
class Odd(errors.Refused): ...
class OfALeaf(NetworkError): ...
class WithACode(NetworkError):
    exit_code = 9
"""
    assert list(homeless({"x.py": source})) == [("x.py", "Odd"), ("x.py", "WithACode")]


@pytest.mark.parametrize("kind", KINDS)
def test_every_error_is_raised(kind: type[ProxygenError]) -> None:
    made = re.compile(rf"\b{kind.__name__}\(")
    assert [path for path, source in SOURCES.items() if path != "kit/errors.py" and made.search(source)]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ProxygenError])
def test_every_error_is_in_the_reference(kind: type[ProxygenError]) -> None:
    row = f"| `{kind.__name__}` | `{kind.__bases__[0].__name__}` | {kind.exit_code} | {status_of(of_kind(kind))} | "
    assert row in ERRORS_PAGE


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not ProxygenError])
def test_every_error_has_a_status_in_the_table(kind: type[ProxygenError]) -> None:
    """Its own, or that of the kind that it is."""
    rows = [each for each in kind.__mro__ if each in STATUSES and each is not ProxygenError]
    assert rows, f"give {kind.__name__} a status"
    assert status_of(of_kind(kind)) == STATUSES[rows[0]]
    assert STATUSES.keys() <= set(KINDS)
