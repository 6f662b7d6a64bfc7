"""A request's way through one service, as a picture: routes, the service, its variants, their instances.

Pure geometry, in the units of an SVG's view box. Shares stand on the lines in words, and their widths follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.views import SERIES
from proxygen.proxy.admin.service_report import InstanceReport, InstanceState, ServiceDetail, VariantReport
from proxygen.tags.shares import WHOLE

WIDTH: Final = 1000
_COLUMNS: Final = (1, 235, 560, 779)
"""Where routes, the service, the variants and the instances begin."""
_WIDTHS: Final = (190, 140, 150, 220)
_HEIGHT: Final = 40
_STEP: Final = 52
_TOP: Final = 26
_LETTER: Final = 7.4
"""A letter's width, at most for nearly all; longer texts are cut, and whole in the tooltip."""

_MOST_ROUTES: Final = 6
_MOST_INSTANCES: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Box:
    """A box with a line or two in it."""

    x: int
    y: float
    width: int
    text: str
    note: str
    whole: str
    """All that could not be written."""
    kind: str
    """A class of the style sheet."""
    height: int = _HEIGHT


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """A line between two boxes, and what goes along it, which ends at ``x``."""

    path: str
    width: float
    kind: str
    x: float = 0
    y: float = 0
    text: str = ""
    note: str = ""
    level: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """The picture, and the same in sentences."""

    height: float
    nodes: tuple[Box, ...]
    edges: tuple[Edge, ...]
    sentences: tuple[str, ...]
    width: int = WIDTH


def way(service: ServiceDetail) -> Way:
    routes = _first(service.routes, _MOST_ROUTES, "route")
    groups = [_instances(variant) for variant in service.variants]
    rows = max(sum(max(1, len(group)) for group in groups), len(routes), 1)
    middle = _TOP + rows * _STEP / 2
    centre = _node(1, middle, service.name, "", "service")
    nodes, edges = [centre], []
    for place, (text, whole) in enumerate(routes):
        node = _node(0, middle + (place - (len(routes) - 1) / 2) * _STEP, text, "", "route", whole)
        nodes.append(node)
        edges.append(_edge(node, centre, 2, "plain"))
    row = (rows - sum(max(1, len(group)) for group in groups)) / 2
    for series, (variant, group) in enumerate(zip(service.variants, groups, strict=True)):
        tall = max(1, len(group))
        variant_node = _variant_node(variant, _TOP + (row + tall / 2) * _STEP, series)
        nodes.append(variant_node)
        edges.append(_variant_edge(variant, centre, variant_node, series))
        for place, (text, note, part, kind) in enumerate(group):
            node = _node(3, _TOP + (row + place + 0.5) * _STEP, text, note, kind)
            nodes.append(node)
            width = 1 + 6 * part * variant.effective / WHOLE
            edges.append(_edge(variant_node, node, width, f"series-{series % SERIES}" if part else "none"))
        row += tall
    return Way(height=_TOP + rows * _STEP, nodes=tuple(nodes), edges=tuple(edges), sentences=tuple(_sentences(service)))


def _first(texts: Sequence[str], most: int, what: str) -> list[tuple[str, str]]:
    """Return the texts that have room, each with itself in whole."""
    if len(texts) <= most:
        return [(text, text) for text in texts]
    rest = len(texts) - most + 1
    return [
        *((text, text) for text in texts[: most - 1]),
        (f"{rest:,} more {what}s", ", ".join(texts[most - 1 :][:50])),
    ]


def _instances(variant: VariantReport) -> list[tuple[str, str, float, str]]:
    """Return for each box: its text, its note, its part of the variant's requests, its kind."""
    total = sum(item.weight for item in variant.instances if item.state is InstanceState.SERVING)
    # Those that take requests first: where there is no room for all, they are what matters.
    ordered = sorted(variant.instances, key=lambda item: (-_part(item, total), item.id))
    shown = ordered if len(ordered) <= _MOST_INSTANCES else ordered[: _MOST_INSTANCES - 1]
    found = []
    for item in shown:
        part = _part(item, total)
        note = f"{words.percent_of(part, 1)} of {variant.name}" if part else item.state.value
        found.append((item.address, note, part, f"instance {item.state.value}"))
    if rest := ordered[len(shown) :]:
        part = sum(_part(item, total) for item in rest)
        note = f"{words.percent_of(part, 1)} of {variant.name} together"
        found.append((f"{len(rest):,} more instances", note, part, "instance more"))
    return found


def _part(item: InstanceReport, total: int) -> float:
    return item.weight / total if total and item.state is InstanceState.SERVING else 0.0


def _variant_node(variant: VariantReport, y: float, series: int) -> Box:
    serving = sum(item.state is InstanceState.SERVING for item in variant.instances)
    note = f"{serving:,} of {len(variant.instances):,} serving"
    return _node(2, y, variant.name, note, f"variant series-{series % SERIES}")


def _variant_edge(variant: VariantReport, service: Box, node: Box, series: int) -> Edge:
    traffic = variant.traffic
    kind = f"series-{series % SERIES}" if variant.effective else "none"
    edge = _edge(service, node, 1 + 9 * variant.effective / WHOLE, kind)
    note = f"{words.rate(traffic)}, {words.errors(traffic)} err." if traffic else ""
    return Edge(
        path=edge.path,
        width=edge.width,
        kind=kind,
        x=node.x - 8,
        y=node.y,
        text=words.percent(variant.effective),
        note=note,
        level=words.error_level(traffic.errors, traffic.requests) if traffic else "",
    )


def _node(column: int, y: float, text: str, note: str, kind: str, whole: str = "") -> Box:
    width = _WIDTHS[column]
    room = int((width - 20) / _LETTER)
    return Box(
        x=_COLUMNS[column],
        y=y,
        width=width,
        text=_cut(text, room),
        note=_cut(note, room),
        whole=whole or text,
        kind=kind,
    )


def _cut(text: str, room: int) -> str:
    return text if len(text) <= room else f"{text[: room - 1]}…"


def _edge(start: Box, end: Box, width: float, kind: str) -> Edge:
    left, right = start.x + start.width, end.x
    middle = (left + right) / 2
    path = f"M{left} {start.y:g}C{middle:g} {start.y:g} {middle:g} {end.y:g} {right} {end.y:g}"
    return Edge(path=path, width=round(width, 2), kind=kind)


def _sentences(service: ServiceDetail) -> Iterator[str]:
    yield f"Requests for {', '.join(service.routes[:_MOST_ROUTES]) or 'no route'} go to the service {service.name}."
    for variant in service.variants:
        serving = sum(item.state is InstanceState.SERVING for item in variant.instances)
        traffic = variant.traffic
        measured = f", {words.percent(traffic.share)} measured" if traffic and traffic.share is not None else ""
        figures = f", {words.rate(traffic)} with {words.errors(traffic)} errors" if traffic else ""
        yield (
            f"Its variant {variant.name} gets {words.percent(variant.effective)}{measured}{figures}, "
            f"by {serving} of {words.count(len(variant.instances), 'instance')}."
        )
