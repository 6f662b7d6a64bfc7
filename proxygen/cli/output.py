"""What commands print: tables for people, JSON for machines, progress for terminals only."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any

import click
import msgspec

from proxygen.kit.errors import printable as printable


def print_json(body: Any) -> None:
    """Print ``body`` (dataclasses included) as indented JSON."""
    click.echo(msgspec.json.format(msgspec.json.encode(body), indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in aligned columns; nothing at all where there are no rows."""
    cells = [[printable(cell) for cell in row] for row in rows]
    if not cells:
        return
    table = [list(headings), *cells]
    widths = [max(len(row[column]) for row in table) for column in range(len(headings))]
    for row in table:
        click.echo("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def progress(text: str) -> None:
    """Tell a person at a terminal what is going on; say nothing in a pipe."""
    if sys.stderr.isatty():
        click.echo(click.style(text, dim=True), err=True)
