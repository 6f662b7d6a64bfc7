"""Plan -> files. The same plan gives the same bytes; what did not change since the last call is not rendered again."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import sha256
from types import MappingProxyType
from typing import Any, Final, Literal

from proxygen.errors import TemplateError
from proxygen.model import ServiceName
from proxygen.plan.types import Plan, RouteClaim, Service, StreamServer, VirtualServer
from proxygen.templating import Block, Page, Templates
from proxygen.viewing import Surroundings, location_view, server_view, service_view, stream_view, tries
from proxygen.views import HashSize, HttpView, StreamDefaultsView, as_context, inert

Context = Literal["http", "stream"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """A piece of configuration that is complete in itself, with what the plan expects to find in it."""

    context: Context
    text: Block
    inert: Block
    """The same templates filled with inert values: the structure that the text must have."""
    owners: tuple[tuple[int, tuple[ServiceName, ...]], ...] = ((1, ()),)
    """(first line, services that these lines stand for), ascending."""
    upstreams: tuple[tuple[str, tuple[str, ...]], ...] = ()
    names: tuple[str, ...] = ()
    paths: tuple[str, ...] = ()

    @property
    def lines(self) -> int:
        return self.text.count("\n")

    def owners_at(self, line: int) -> tuple[ServiceName, ...]:
        """The services whose lines these are; those of the whole unit where one line is everybody's."""
        position = bisect_right([first for first, _ in self.owners], line) - 1
        return self.owners[max(position, 0)][1]


@dataclass(frozen=True, slots=True)
class RenderedFile:
    path: str
    """Relative to the generation, such as ``http.d/20-servers.conf``."""
    units: tuple[Unit, ...]

    @property
    def text(self) -> str:
        return "".join(unit.text for unit in self.units)

    def owners_at(self, line: int) -> tuple[ServiceName, ...]:
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
        return MappingProxyType({file.path: file.text.encode() for file in self.files})

    @cached_property
    def digest(self) -> str:
        """SHA-256 over all files: two renderings with the same digest are the same configuration."""
        total = sha256()
        for path, content in sorted(self.contents.items()):
            total.update(f"{path}\0{len(content)}\0".encode() + content)
        return total.hexdigest()

    def owners_at(self, path: str, line: int) -> tuple[ServiceName, ...]:
        return next((file.owners_at(line) for file in self.files if file.path == path), ())


@dataclass(frozen=True, slots=True, kw_only=True)
class Snippets:
    """The operator's own fragments by file name, read from disk by the caller."""

    files: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def __getitem__(self, name: str) -> tuple[Block, ...]:
        text = self.files.get(name)
        return () if text is None else (Block(text if text.endswith("\n") else text + "\n"),)


_LOCATIONS: Final = "\0locations\0"
"""Stands where server.conf.j2 prints its locations, so that their lines can be counted."""

MAX_PAGE: Final = 3_800

MAX_SHAPES: Final = 2_000
"""Inert twins that are kept. Numbers are part of a shape: a service whose tags change for ever makes ever new ones."""


class Renderer:
    """Renders plans one after the other and remembers the units of the last one."""

    def __init__(self, templates: Templates, surroundings: Surroundings, snippets: Snippets) -> None:
        self._templates: Final = templates
        self._around: Final = surroundings
        self._snippets: Final = snippets
        self._pages: Final = {name: self._page(name) for name in ("404.html", "503.html")}
        self._inert: dict[tuple[str, object], Block] = {}
        self._services: dict[ServiceName, tuple[Service, Unit]] = {}
        self._servers: dict[str, tuple[VirtualServer, Unit]] = {}
        self._streams: dict[ServiceName, tuple[StreamServer, Unit]] = {}

    def render(self, plan: Plan) -> Rendered:
        """Raise TemplateError where a template cannot be filled."""
        if len(self._inert) > MAX_SHAPES:
            self._inert.clear()
        upstreams = tuple(
            self._service(service) for service in plan.services if service.upstreams and _speaks_http(service)
        )
        servers = tuple(self._server(server) for server in plan.servers)
        streams = tuple(self._stream(stream) for stream in plan.streams)
        self._forget(plan)
        files = [
            RenderedFile("http.d/00-http.conf", (self._http(plan),)),
            RenderedFile("http.d/10-upstreams.conf", upstreams),
            RenderedFile("http.d/20-servers.conf", servers),
            RenderedFile("stream.d/00-stream.conf", (self._stream_defaults(plan),) if streams else ()),
            RenderedFile("stream.d/streams.conf", streams),
        ]
        return Rendered(plan=plan, files=tuple(file for file in files if file.units))

    def _page(self, name: str) -> Page:
        page = self._templates.read(name)
        if "$" in page or len(page.encode()) > MAX_PAGE:
            raise TemplateError(f"page {name}: at most {MAX_PAGE} bytes and no $ (nginx would read a variable)")
        return Page(page)

    def _forget(self, plan: Plan) -> None:
        names = {service.name for service in plan.services}
        hosts = {server.host or "" for server in plan.servers}
        self._services = {name: unit for name, unit in self._services.items() if name in names}
        self._servers = {host: unit for host, unit in self._servers.items() if host in hosts}
        self._streams = {name: unit for name, unit in self._streams.items() if name in names}

    def _pair(self, name: str, view: Any, **more: tuple[Block, Block]) -> tuple[Block, Block]:
        """Render a view and its inert twin; views of one shape share the twin."""
        context = as_context(view) | {key: pair[0] for key, pair in more.items()}
        twin_view = inert(view)
        twin_key = (name, (twin_view, tuple(pair[1] for pair in more.values())))
        twin = self._inert.get(twin_key)
        if twin is None:
            twin = self._templates.render(name, as_context(twin_view) | {key: pair[1] for key, pair in more.items()})
            self._inert[twin_key] = twin
        return self._templates.render(name, context), twin

    def _http(self, plan: Plan) -> Unit:
        around = self._around
        view = HttpView(
            hash_sizes=tuple(size for size in _hash_sizes(plan) if size.directive not in around.operator_directives),
            reject_tls=any(server.certificate for server in plan.servers)
            and not any(server.host is None and server.certificate for server in plan.servers)
            and around.reject_handshake,
            tls_listens=around.https_listens(default=True),
            hsts=f"max-age={around.hsts_max_age}",
            not_found=self._pages["404.html"],
            unavailable=self._pages["503.html"],
            snippets=self._snippets["http.conf"],
        )
        text, twin = self._pair("http.conf.j2", view)
        return Unit(context="http", text=text, inert=twin)

    def _stream_defaults(self, plan: Plan) -> Unit:
        sizes = (size for size in _hash_sizes(plan) if size.directive.startswith("variables_"))
        view = StreamDefaultsView(
            hash_sizes=tuple(size for size in sizes if size.directive not in self._around.operator_stream_directives)
        )
        text, twin = self._pair("stream-defaults.conf.j2", view)
        return Unit(context="stream", text=text, inert=twin)

    def _service(self, service: Service) -> Unit:
        known = self._services.get(service.name)
        if known is not None and (known[0] is service or known[0] == service):
            return known[1]
        text, twin = self._pair("upstream.conf.j2", service_view(service, self._around))
        unit = Unit(context="http", text=text, inert=twin, owners=((1, (service.name,)),), upstreams=_expected(service))
        self._services[service.name] = (service, unit)
        return unit

    def _server(self, server: VirtualServer) -> Unit:
        key = server.host or ""
        known = self._servers.get(key)
        if known is not None and _same_server(known[0], server):
            return known[1]
        rendered, paths, lines = [], [], []
        for location in server.locations:
            route = location_view(location, server, self._around, self._snippets)
            rendered.append(self._location(route))
            paths += [match.path for match in route.matches]
            lines.append((location.service.name, rendered[-1][0].count("\n")))
        view = server_view(server, self._around, self._snippets)
        context = {"server": view, "locations": Block(_LOCATIONS)}
        frame = self._templates.render("server.conf.j2", context)
        twin_key = ("server.conf.j2", inert(view))
        twin_frame = self._inert.get(twin_key)
        if twin_frame is None:
            twin_frame = self._templates.render(
                "server.conf.j2", {"server": inert(view), "locations": Block(_LOCATIONS)}
            )
            self._inert[twin_key] = twin_frame
        body = "".join(text for text, _ in rendered)
        # What is wrong with the frame is the fault of those who ask for this host; of nobody where a fragment of the
        # operator's stands in it.
        present = {item.service.name for item in server.locations}
        claimants = {item.service.name for item in server.locations if item.service.claims_host(key)} or present
        everyone = () if view.snippets else tuple(sorted(claimants))
        owners: list[tuple[int, tuple[ServiceName, ...]]] = [(1, everyone)]
        line = 1 + _before(frame).count("\n")
        for name, count in lines:
            owners.append((line, (name,)))
            line += count
        owners.append((line, everyone))
        unit = Unit(
            context="http",
            text=_filled(frame, body),
            inert=_filled(twin_frame, "".join(twin for _, twin in rendered)),
            owners=tuple(owners),
            names=(view.name,),
            paths=tuple(paths),
        )
        self._servers[key] = (server, unit)
        return unit

    def _location(self, view: Any) -> tuple[Block, Block]:
        twin_view = inert(view)
        twin = self._inert.get(("location.conf.j2", twin_view))
        if twin is None:
            twin = self._templates.render("location.conf.j2", {"location": twin_view})
            self._inert["location.conf.j2", twin_view] = twin
        return self._templates.render("location.conf.j2", {"location": view}), twin

    def _stream(self, stream: StreamServer) -> Unit:
        known = self._streams.get(stream.service.name)
        if known is not None and known[0] == stream:
            return known[1]
        text, twin = self._pair("stream.conf.j2", stream_view(stream, self._around, self._snippets))
        name = stream.service.name
        owners = () if self._snippets["stream.conf"] else (name,)
        unit = Unit(context="stream", text=text, inert=twin, owners=((1, owners),), upstreams=_expected(stream.service))
        self._streams[name] = (stream, unit)
        return unit


def _before(frame: str) -> str:
    head, mark, tail = frame.partition(_LOCATIONS)
    if not mark or _LOCATIONS in tail:
        raise TemplateError("template server.conf.j2 must print {{ locations | q }} exactly once")
    return head


def _filled(frame: str, body: str) -> Block:
    head = _before(frame)
    return Block(head + body + frame[len(head) + len(_LOCATIONS) :].removeprefix("\n"))


def _speaks_http(service: Service) -> bool:
    return any(isinstance(claim, RouteClaim) for claim in service.claims)


def _same_server(known: VirtualServer, server: VirtualServer) -> bool:
    """Compare what a virtual server shows of its services: not their instances, which stand in the upstreams."""
    if known is server:
        return True
    if known.certificate != server.certificate or len(known.locations) != len(server.locations):
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


def _expected(service: Service) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return tuple(
        (upstream.name, tuple(str(server.endpoint) for server in upstream.servers)) for upstream in service.upstreams
    )


SMALLEST_BUCKETS: Final = MappingProxyType(
    {"server_names_hash_bucket_size": 512, "map_hash_bucket_size": 512, "variables_hash_bucket_size": 256}
)
"""Bytes that hold the longest name that the types allow: a host of 253 characters, a forced value of 128, a variable
of 80. At nginx's default of 64 a host of 47 characters is refused, and with it everybody's configuration."""


def _hash_sizes(plan: Plan) -> Iterable[HashSize]:
    """Sizes for the longest names and for as many names as there are."""
    names = {"server_names": 2 * len(plan.servers), "map": 0, "variables": 4 * len(plan.services)}
    for table, count in names.items():
        bucket = f"{table}_hash_bucket_size"
        yield HashSize(directive=bucket, value=SMALLEST_BUCKETS[bucket])
        yield HashSize(directive=f"{table}_hash_max_size", value=_power(count))


def _power(count: int) -> int:
    """The next power of two, so that the size does not change with every service."""
    return max(4096, 1 << max(0, count - 1).bit_length())
