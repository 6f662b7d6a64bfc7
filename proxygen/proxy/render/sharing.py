"""Which hosts share a virtual server: those whose virtual servers would differ in their host and its target only.

nginx keeps 25 kB for each virtual server and searches all upstreams for the one that it names, so thousands of them
make every reload take long. Hosts that share one stand in a map from host to target.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Final
from zlib import crc32

from proxygen.catalog import ServiceName
from proxygen.kit.templating import Expression, Variable
from proxygen.proxy.plan.types import VirtualServer
from proxygen.proxy.render.twins import MAX_SHAPES
from proxygen.proxy.render.views import LocationView, MapLine, MapView, Value, VirtualServerView

HOSTS_EACH: Final = 64
"""Hosts in a shared virtual server, about: a change of one renders and checks them all."""


@dataclass(frozen=True, slots=True, eq=False)
class SharedKind:
    """What the hosts of a shared virtual server have in common. One object each, for they are compared often."""

    mark: str
    server: VirtualServerView
    """Without a name."""
    location: LocationView
    """Without a target and the service's name."""


@dataclass(frozen=True, slots=True)
class Sharer:
    """A host that may share a virtual server."""

    host: str
    service: ServiceName
    label: Value
    """The service's name, for logs."""
    target: Expression
    kind: SharedKind


@dataclass(frozen=True, slots=True)
class Shared:
    """Hosts that share a virtual server."""

    name: str
    """No other one's."""
    sharers: tuple[Sharer, ...]
    """By host; two or more."""

    @property
    def variable(self) -> Variable:
        """Which holds the target, by host."""
        return Variable(f"proxygen_target_{self.name}")

    @property
    def label(self) -> Variable:
        """Which holds the service's name, by host."""
        return Variable(f"proxygen_service_{self.name}")

    def server_view(self) -> VirtualServerView:
        lines = tuple(MapLine(match=sharer.host, value=sharer.target) for sharer in self.sharers)
        labels = tuple(MapLine(match=sharer.host, value=sharer.label) for sharer in self.sharers)
        return replace(
            self.sharers[0].kind.server,
            names=tuple(sharer.host for sharer in self.sharers),
            targets=MapView(source=Variable("host"), variable=self.variable, default="", lines=lines),
            labels=MapView(source=Variable("host"), variable=self.label, default="", lines=labels),
        )

    def location_view(self) -> LocationView:
        return replace(self.sharers[0].kind.location, service=self.label, target=Expression((self.variable,)))


class Kinds:
    """The kinds that were met so far."""

    def __init__(self) -> None:
        self._known: dict[tuple[VirtualServerView, LocationView], SharedKind] = {}

    def sharer(
        self, server: VirtualServer, view: VirtualServerView, locations: Sequence[LocationView]
    ) -> Sharer | None:
        """None for a virtual server that must stand by itself."""
        if server.host is None or not _is_literal(server.host) or len(locations) != 1:
            return None
        (location,) = locations
        # What names the service, or is the operator's fragment for it, cannot be shared.
        if location.unavailable or location.limit or location.cookie or location.snippets:
            return None
        if any(isinstance(part, Variable) for part in location.target.parts):
            return None
        if len(self._known) > MAX_SHAPES:
            self._known.clear()
        common = (replace(view, names=()), replace(location, service="", target=Expression(())))
        kind = self._known.get(common)
        if kind is None:
            kind = self._known[common] = SharedKind(sha256(repr(common).encode()).hexdigest()[:12], *common)
        return Sharer(server.host, server.locations[0].service.name, location.service, location.target, kind)


def _is_literal(host: str) -> bool:
    """Whether a map takes a host as it stands: no wildcard, and none of the words that nginx obeys there."""
    return "*" not in host and "." in host


def share(sharers: Iterable[Sharer]) -> tuple[Shared, ...]:
    """Gather those of one kind, about `HOSTS_EACH` in each; who remains alone shares nothing.

    Where a host belongs depends on its name and on how many there are, to the next power of two: one that comes or goes
    moves no other.
    """
    found = tuple(sharers)
    places = 1 << max(0, len(found) // HOSTS_EACH).bit_length()
    gathered: dict[tuple[str, int], list[Sharer]] = defaultdict(list)
    for sharer in found:
        gathered[sharer.kind.mark, crc32(sharer.host.encode()) % places].append(sharer)
    return tuple(
        Shared(f"{mark}_{place}", tuple(members))
        for (mark, place), members in sorted(gathered.items())
        if len(members) > 1
    )
