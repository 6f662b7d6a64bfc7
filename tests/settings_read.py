"""Which settings the shipped code reads, by its source: for the law that a setting does something.

A section is known where it is named (``settings.reload``), where a parameter or a field is annotated with its type, and
under the names that it is assigned to from there.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from proxygen.settings import Settings

_TYPES: Final = {
    **{getattr(field.annotation, "__name__", ""): name for name, field in Settings.model_fields.items()},
    "Bounds": "bounds",
}
"""Sections by their types. `Bounds` of the plan is made of that section, field by field."""

_OWNERS: Final = {"client": "consul", "_client": "consul", "place": "network"}
"""Who hands a section to other modules as ``settings``: ConsulClient, and what the doctor looks at."""

_Names = defaultdict[str, set[str]]
"""Sections by the name that something of theirs has."""


def keys_read(sources: Iterable[str]) -> set[str]:
    """Return ``section.name`` of each setting that some module reads by attribute."""
    found = set()
    for tree in map(ast.parse, sources):
        names = _names(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
                found |= {f"{section}.{node.attr}" for section in _sections(node.value, names)}
    return found


def _names(tree: ast.Module) -> _Names:
    names: _Names = defaultdict(set)
    for node in ast.walk(tree):
        match node:
            case ast.arg(arg=name, annotation=ast.expr() as annotation):
                names[name] |= _annotated(annotation)
            case ast.AnnAssign(target=target, annotation=annotation):
                names[ast.unparse(target)] |= _annotated(annotation)
                names[f"self.{ast.unparse(target)}"] |= _annotated(annotation)
    # What is assigned may be assigned on, against the order of the text.
    for _ in range(2):
        for target, value in _assignments(tree):
            names[ast.unparse(target)] |= _sections(value, names)
    return names


def _assignments(tree: ast.Module) -> Iterator[tuple[ast.expr, ast.expr]]:
    for node in ast.walk(tree):
        match node:
            case ast.Assign(targets=[ast.Tuple(elts=targets)], value=ast.Tuple(elts=values)):
                yield from zip(targets, values, strict=True)
            case ast.Assign(targets=[target], value=value):
                yield target, value
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                yield target, value


def _sections(node: ast.expr, names: Mapping[str, set[str]]) -> set[str]:
    match node:
        case ast.Attribute(value=ast.Name(id=owner) | ast.Attribute(attr=owner), attr="settings") if owner in _OWNERS:
            return {_OWNERS[owner]}
        case ast.Attribute(attr=section) if section in Settings.model_fields:
            return {section}
    return names.get(ast.unparse(node), set())


def _annotated(annotation: ast.expr) -> set[str]:
    words = {node.id for node in ast.walk(annotation) if isinstance(node, ast.Name)}
    return {_TYPES[word] for word in words & _TYPES.keys()}
