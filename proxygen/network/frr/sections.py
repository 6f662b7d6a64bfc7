"""Which lines of an FRR configuration are ours, and which an operator's. Pure.

An operator's lines are never lost: ours are taken out by their names, and put in anew beside them. What cannot stand
side by side, such as two ``router bgp``, is a conflict that somebody must settle.

A configuration is a row of sections: a line that begins at the margin, and the indented lines that belong to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Final

from proxygen.network.frr.design import BgpDesign, Design

_OURS: Final = re.compile(
    r"ip prefix-list PROXYGEN-(IN|OUT) .*"
    r"|route-map PROXYGEN-(IN|OUT) .*"
    r"|ip protocol ospf route-map PROXYGEN-IN"
    r"|ip route \S+ blackhole tag 225 250"
)
_OUR_BGP: Final = "neighbor PROXYGEN peer-group"
_OUR_OSPF: Final = "redistribute static route-map PROXYGEN-OUT"
_BGP: Final = re.compile(r"router bgp [0-9.]+")
_OUR_LINK: Final = re.compile(r"ip ospf network (non-broadcast|point-to-multipoint non-broadcast)")
_OUR_LINK_LINES: Final = re.compile(
    r"ip ospf (area 0\.0\.0\.0|(dead|hello)-interval [0-9]+|priority [0-9]+"
    r"|network (non-broadcast|point-to-multipoint non-broadcast))"
)
_SAME_KIND: Final = re.compile(r"ip ospf (area|network|dead-interval|hello-interval|priority) .*")
"""What a link has one of; an operator's cost or authentication stands beside ours."""
_PASSING: Final = re.compile(r"frr version .*|end|exit.*|Building configuration.*|Current configuration.*")
"""Lines that say nothing about what FRR does."""


@dataclass(frozen=True, slots=True)
class _Section:
    lines: tuple[str, ...]
    """As they were written, the closing ``exit`` and the comments before it included."""

    @property
    def header(self) -> str:
        return _tidy(self.lines[0])

    @property
    def body(self) -> tuple[str, ...]:
        return tuple(line for line in map(_tidy, self.lines[1:]) if _says_something(line))


def merge(text: str, ours: str) -> str:
    """Return a configuration with our part in place of what it had of ours; empty: without any."""
    kept = "\n".join(line for section in _foreign(text) for line in section.lines).rstrip("!\n ")
    return "\n!\n".join(part for part in (kept, ours.strip("!\n ")) if part) + "\n!\n"


def mute(text: str) -> str:
    """Return a configuration in which our BGP announces nothing, while its sessions stay."""
    return "\n".join(
        line
        for section in _sections(text)
        for line in section.lines
        if not (_is_ours(section) and section.header.startswith("router bgp ") and line.startswith("  network "))
    )


def says_the_same(one: str, other: str) -> bool:
    """Tell whether two configurations make FRR do the same, whatever their order and their comments."""
    return _facts(one) == _facts(other)


def holds_ours(text: str) -> bool:
    """Tell whether anything in a configuration is ours."""
    return not says_the_same(text, merge(text, ""))


def missing(wanted: str, found: str) -> tuple[str, ...]:
    """Return the lines of one configuration that another lacks."""
    facts = _facts(found)
    return tuple(line or header for header, line in dict.fromkeys(_all_facts(wanted)) if (header, line) not in facts)


def conflicts(text: str, design: Design, link: str) -> tuple[str, ...]:
    """Name what an operator has in a configuration that leaves no room for ours."""
    return tuple(
        " / ".join((section.header, *filter(_SAME_KIND.fullmatch, section.body)))
        for section in _foreign(text)
        if _is_about(section, design.says.own) or _is_in_the_way(section, design, link)
    )


def _is_in_the_way(section: _Section, design: Design, link: str) -> bool:
    if isinstance(design, BgpDesign):
        return _BGP.fullmatch(section.header) is not None
    return (
        section.header == "router ospf"
        or section.header.startswith("ip protocol ospf route-map ")
        or (section.header == f"interface {link}" and any(map(_SAME_KIND.fullmatch, section.body)))
    )


def _is_about(section: _Section, own: IPv4Network) -> bool:
    return section.header.startswith(f"ip route {own} ")


def _foreign(text: str) -> Iterator[_Section]:
    sections = tuple(_sections(text))
    is_our_ospf = any(section.header == "router ospf" and _OUR_OSPF in section.body for section in sections)
    for section in sections:
        if _is_ours(section):
            continue
        if is_our_ospf and section.header.startswith("interface ") and any(map(_OUR_LINK.fullmatch, section.body)):
            section = replace(
                section, lines=tuple(line for line in section.lines if not _OUR_LINK_LINES.fullmatch(_tidy(line)))
            )
            if not section.body:
                continue
        if section.header != "end":
            yield section


def _is_ours(section: _Section) -> bool:
    if section.header.startswith("router bgp "):
        return _OUR_BGP in section.body
    if section.header == "router ospf":
        return _OUR_OSPF in section.body
    return _OURS.fullmatch(section.header) is not None


def _sections(text: str) -> Iterator[_Section]:
    """Cut a configuration up. A comment at the margin is a section of its own, so that it stays where it is."""
    lines: list[str] = []
    for line in text.splitlines():
        if lines and line.startswith((" ", "\t", "exit")):
            lines.append(line)
            continue
        if lines:
            yield _Section(tuple(lines))
        lines = [line]
    if lines:
        yield _Section(tuple(lines))


def _facts(text: str) -> frozenset[tuple[str, str]]:
    return frozenset(_all_facts(text))


def _all_facts(text: str) -> Iterable[tuple[str, str]]:
    for section in _sections(text):
        if _says_something(section.header):
            yield section.header, ""
            context = ""
            for line in section.body:
                # Inside a router an address family is a section of its own.
                context = f"{line}/" if line.startswith("address-family ") else context
                yield section.header, context + line


def _says_something(line: str) -> bool:
    return bool(line) and line[0] not in "!#" and not _PASSING.fullmatch(line)


def _tidy(line: str) -> str:
    return " ".join(line.split())
