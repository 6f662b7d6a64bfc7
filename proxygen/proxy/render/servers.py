"""Virtual servers -> units: one for each host, or one for many hosts that differ in nothing but their target."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.kit.errors import TemplateError
from proxygen.kit.templating import Block
from proxygen.proxy.plan.types import Plan, Service, VirtualServer
from proxygen.proxy.render.efforts import tries
from proxygen.proxy.render.locations import location_view
from proxygen.proxy.render.rendered import Unit
from proxygen.proxy.render.sharing import Kinds, Shared, Sharer, share
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.twins import Pair, Twins
from proxygen.proxy.render.views import LocationView, VirtualServerView
from proxygen.proxy.render.virtual_servers import server_view

_TEMPLATE: Final = "server.conf.j2"
_LOCATIONS: Final = "\0locations\0"
"""Stands where server.conf.j2 prints its locations, so that their lines can be counted."""

_Owners = tuple[ServiceName, ...]


class ServerRenderer:
    """Renders the virtual servers of plans one after the other and remembers those of the last one."""

    def __init__(self, twins: Twins, surroundings: Surroundings, snippets: Snippets) -> None:
        self._twins: Final = twins
        self._around: Final = surroundings
        self._snippets: Final = snippets
        # An operator's own template knows one host.
        self._share_from: Final = 0 if twins.templates.is_own(_TEMPLATE) else surroundings.share_from
        self._kinds: Final = Kinds()
        self._sharers: dict[str | None, tuple[VirtualServer, Sharer | None]] = {}
        self._alone: dict[str | None, tuple[VirtualServer, Unit]] = {}
        self._shared: dict[str, tuple[Shared, Unit]] = {}

    def render(self, plan: Plan) -> tuple[tuple[Unit, ...], tuple[Unit, ...]]:
        """Return the virtual servers of one host, and those of many."""
        is_shared = 0 < self._share_from <= len(plan.servers)
        self._sharers = {server.host: self._judged(server) for server in plan.servers} if is_shared else {}
        shared = share(sharer for _, sharer in self._sharers.values() if sharer is not None)
        elsewhere = {sharer.host for each in shared for sharer in each.sharers}
        self._alone = {server.host: self._one(server) for server in plan.servers if server.host not in elsewhere}
        self._shared = {each.name: self._many(each) for each in shared}
        return tuple(unit for _, unit in self._alone.values()), tuple(unit for _, unit in self._shared.values())

    def _judged(self, server: VirtualServer) -> tuple[VirtualServer, Sharer | None]:
        known = self._sharers.get(server.host)
        if known is not None and _same_server(known[0], server):
            return server, known[1]
        view = server_view(server, self._around, self._snippets)
        return server, self._kinds.sharer(server, view, self._locations(server))

    def _locations(self, server: VirtualServer) -> list[LocationView]:
        return [location_view(location, server, self._around, self._snippets) for location in server.locations]

    def _one(self, server: VirtualServer) -> tuple[VirtualServer, Unit]:
        known = self._alone.get(server.host)
        if known is not None and _same_server(known[0], server):
            return server, known[1]
        view, locations = server_view(server, self._around, self._snippets), self._locations(server)
        frame, twin_frame = self._frame(view)
        rendered = [self._location(location) for location in locations]
        # What is wrong with the frame is the fault of those who ask for this host; of nobody where a fragment of the
        # operator's stands in it.
        present = {item.service.name for item in server.locations}
        claimants = {item.service.name for item in server.locations if item.service.claims_host(server.host or "")}
        everyone = () if view.snippets else tuple(sorted(claimants or present))
        owners: list[tuple[int, _Owners]] = [(1, everyone)]
        line = 1 + _before(frame).count("\n")
        for location, (text, _) in zip(server.locations, rendered, strict=True):
            owners.append((line, (location.service.name,)))
            line += text.count("\n")
        owners.append((line, everyone))
        return server, Unit(
            context="http",
            text=_filled(frame, "".join(text for text, _ in rendered)),
            inert=_filled(twin_frame, "".join(twin for _, twin in rendered)),
            owners=tuple(owners),
            names=view.names,
            paths=tuple(match.path for location in locations for match in location.matches),
        )

    def _many(self, shared: Shared) -> tuple[Shared, Unit]:
        known = self._shared.get(shared.name)
        if known is not None and known[0] == shared:
            return known
        view, location = shared.server_view(), shared.location_view()
        frame, twin_frame = self._frame(view)
        body, twin_body = self._location(location)
        return shared, Unit(
            context="http",
            text=_filled(frame, body),
            inert=_filled(twin_frame, twin_body),
            owners=tuple(_owners(shared, _before(frame), body)),
            names=view.names,
            paths=tuple(match.path for match in location.matches),
            targets=tuple((sharer.host, "".join(map(str, sharer.target.parts))) for sharer in shared.sharers),
            labels=tuple((sharer.host, str(sharer.label)) for sharer in shared.sharers),
        )

    def _frame(self, view: VirtualServerView) -> Pair:
        return self._twins.pair_as("server", _TEMPLATE, view, locations=Block(_LOCATIONS))

    def _location(self, view: LocationView) -> Pair:
        return self._twins.pair_as("location", "location.conf.j2", view)


def _owners(shared: Shared, frame: str, body: str) -> Iterator[tuple[int, _Owners]]:
    """A line that names a host is its service's. The location states what all of them asked for in the same words; what
    else stands around it is nobody's."""
    services: Mapping[str, _Owners] = {sharer.host: (sharer.service,) for sharer in shared.sharers}
    for number, line in enumerate(frame.splitlines(), 1):
        first, _, rest = line.strip().partition(" ")
        yield number, services.get(rest.rstrip(";") if first == "server_name" else first, ())
    below = 1 + frame.count("\n")
    yield below, tuple(sorted({sharer.service for sharer in shared.sharers}))
    yield below + body.count("\n"), ()


def _before(frame: str) -> str:
    head, mark, tail = frame.partition(_LOCATIONS)
    if not mark or _LOCATIONS in tail:
        raise TemplateError("template server.conf.j2 must print {{ locations | q }} exactly once")
    return head


def _filled(frame: str, body: str) -> Block:
    head = _before(frame)
    return Block(head + body + frame[len(head) + len(_LOCATIONS) :].removeprefix("\n"))


def _same_server(known: VirtualServer, server: VirtualServer) -> bool:
    """Compare what a virtual server shows of its services: not their instances, which stand in the upstreams."""
    if known is server:
        return True
    if (known.certificate, known.hsts, known.without) != (server.certificate, server.hsts, server.without):
        return False
    if len(known.locations) != len(server.locations):
        return False
    return all(
        old.path == new.path and (old.service is new.service or _face(old.service) == _face(new.service))
        for old, new in zip(known.locations, server.locations, strict=True)
    )


def _face(service: Service) -> tuple[object, ...]:
    return (
        service.name,
        service.state,
        service.options,
        service.split is None,
        tuple(upstream.name for upstream in service.upstreams),
        tries(service),
    )
