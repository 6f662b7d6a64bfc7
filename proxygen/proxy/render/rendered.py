"""What rendering gives: units of configuration, the files that they make up, and whose lines they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Literal

from proxygen.catalog import ServiceName
from proxygen.kit.templating import Block
from proxygen.proxy.plan.types import Plan
from proxygen.proxy.render.pushed import Pushable

Context = Literal["http", "stream"]


@dataclass(frozen=True, kw_only=True)
class Unit:
    """A piece of configuration that is complete in itself, with what the plan expects to find in it.

    It is kept for as long as it does not change, and with it what was worked out of its text.
    """

    context: Context
    text: Block
    inert: Block
    """The same templates filled with inert values: the structure that the text must have."""
    owners: tuple[tuple[int, tuple[ServiceName, ...]], ...] = ((1, ()),)
    """(first line, services that these lines stand for), ascending."""
    upstreams: tuple[tuple[str, tuple[str, ...]], ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()
    targets: tuple[tuple[str, str], ...] = ()
    """(host, where its requests go) for hosts that share a virtual server."""
    labels: tuple[tuple[str, str], ...] = ()
    """(host, service), for the same hosts, in a map that stands behind the one of the targets."""
    pushable: Pushable | None = None
    """What of it can be pushed; None where nothing can."""
    is_operators: bool = False
    """Copied from nginx.conf: no value of it comes from Consul, and it may say whatever nginx takes."""

    @cached_property
    def lines(self) -> int:
        """How many lines of the file it takes."""
        return self.text.count("\n")

    @cached_property
    def mark(self) -> bytes:
        """SHA-256 of its text, and of where that may stand."""
        return sha256(f"{self.context}\0{self.text}".encode()).digest()

    def owners_at(self, line: int) -> tuple[ServiceName, ...]:
        """The services whose lines these are; those of the whole unit where one line is everybody's."""
        position = bisect_right([first for first, _ in self.owners], line) - 1
        return self.owners[max(position, 0)][1]


@dataclass(frozen=True, slots=True)
class RenderedFile:
    """One file of a generation, made of units that each have their owners."""

    path: str
    """Relative to the generation, such as ``http.d/20-servers.conf``."""
    units: tuple[Unit, ...]

    @property
    def text(self) -> str:
        return "".join(unit.text for unit in self.units)

    def owners_at(self, line: int) -> tuple[ServiceName, ...]:
        """Whose lines these are, from 1; empty for a line that is nobody's."""
        for unit in self.units:
            if line <= unit.lines:
                return unit.owners_at(line)
            line -= unit.lines
        return ()


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """A plan in nginx's language, not yet checked."""

    plan: Plan
    files: tuple[RenderedFile, ...]

    @cached_property
    def contents(self) -> Mapping[str, bytes]:
        """By path below the generation, as written to disk."""
        return MappingProxyType({file.path: file.text.encode() for file in self.files})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the units of all files: two renderings with the same digest are the same configuration."""
        total = sha256()
        for file in sorted(self.files, key=lambda file: file.path):
            total.update(f"{file.path}\0{len(file.units)}\0".encode() + b"".join([unit.mark for unit in file.units]))
        return total.hexdigest()

    def owners_at(self, path: str, line: int) -> tuple[ServiceName, ...]:
        return next((file.owners_at(line) for file in self.files if file.path == path), ())
