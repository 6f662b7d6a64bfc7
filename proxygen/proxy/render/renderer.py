"""Plan -> files. The same plan gives the same bytes; what did not change since the last call is not rendered again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import MappingProxyType
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.kit.errors import TemplateError
from proxygen.kit.templating import Block, Expression, Templates, Variable
from proxygen.proxy.nginx.default_copies import OPERATOR_FILE
from proxygen.proxy.plan.types import Plan, RouteClaim, Service, StreamServer
from proxygen.proxy.render.access import Networks, geo_view, networks_of
from proxygen.proxy.render.clients import client_view, vouched_headers
from proxygen.proxy.render.defaults import stated, tls_lines
from proxygen.proxy.render.efforts import again_views
from proxygen.proxy.render.pushed import pushable_of
from proxygen.proxy.render.rawpaths import rest_view
from proxygen.proxy.render.rendered import Rendered, RenderedFile, Unit
from proxygen.proxy.render.servers import ServerRenderer
from proxygen.proxy.render.spots import strips
from proxygen.proxy.render.streams import stream_view
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.traffic import traffic_view
from proxygen.proxy.render.twins import MAX_SHAPES, Twins
from proxygen.proxy.render.upstreams import service_view
from proxygen.proxy.render.views import HashSize, HttpView, PushView, StreamDefaultsView

__all__ = ["MAX_SHAPES", "SMALLEST_BUCKETS", "Rendered", "RenderedFile", "Renderer", "Unit"]


MAX_PAGE: Final = 3_800
_MARKED: Final = {
    name: Variable(f"proxygen_{name}" if name != "status" else name) for name in ("status", "reason", "request_id")
}
_MARKS: Final = re.compile(r"\{\{(status|reason|request_id)\}\}")
"""What a page may say of the request that it answers."""


class Renderer:
    """Renders plans one after the other and remembers the units of the last one."""

    def __init__(self, templates: Templates, surroundings: Surroundings, snippets: Snippets) -> None:
        self._templates: Final = templates
        self._around: Final = surroundings
        self._snippets: Final = snippets
        self._pages: Final = {name: self._page(name) for name in ("404.html", "503.html", "error.html")}
        self._push: Final = PushView(
            balancers=Block(templates.read("lua/balancers.lua")), push=Block(templates.read("lua/push.lua"))
        )
        self._twins: Final = Twins(templates)
        self._servers: Final = ServerRenderer(self._twins, surroundings, snippets)
        self._operators: Final = tuple(
            Unit(context="http", text=block, inert=block, is_operators=True) for block in surroundings.operator_servers
        )
        self._shared: tuple[HttpView, Unit] | None = None
        self._services: dict[ServiceName, tuple[Service, Unit]] = {}
        self._streams: dict[tuple[ServiceName, str], tuple[StreamServer, Unit]] = {}

    def render(self, plan: Plan) -> Rendered:
        """Raise TemplateError where a template cannot be filled."""
        self._twins.sweep()
        self._services = {
            service.name: self._service(service)
            for service in plan.services
            if service.upstreams and self._is_rendered(service)
        }
        self._streams = {_key(stream): self._stream(stream) for stream in plan.streams}
        servers, shared = self._servers.render(plan)
        streams = tuple(unit for _, unit in self._streams.values())
        files = [
            RenderedFile("http.d/00-http.conf", (self._http(plan),)),
            RenderedFile("http.d/10-upstreams.conf", tuple(unit for _, unit in self._services.values())),
            RenderedFile(OPERATOR_FILE, self._operators),
            RenderedFile("http.d/20-servers.conf", servers),
            RenderedFile("http.d/30-shared-servers.conf", shared),
            RenderedFile("stream.d/00-stream.conf", (self._stream_defaults(plan),) if streams else ()),
            RenderedFile("stream.d/streams.conf", streams),
        ]
        return Rendered(plan=plan, files=tuple(file for file in files if file.units))

    def _page(self, name: str) -> Expression:
        page = self._templates.read(name)
        if "$" in page or len(page.encode()) > MAX_PAGE:
            raise TemplateError(f"page {name}: at most {MAX_PAGE} bytes and no $ (nginx would read a variable)")
        parts = _MARKS.split(page)
        return Expression(tuple(_MARKED[part] if place % 2 else part for place, part in enumerate(parts) if part))

    def _http(self, plan: Plan) -> Unit:
        around = self._around
        view = HttpView(
            hash_sizes=tuple(size for size in _hash_sizes(plan) if size.directive not in around.operator_directives),
            reject_tls=any(server.certificate for server in plan.servers)
            and not any(server.host is None and server.certificate for server in plan.servers)
            and around.reject_handshake,
            tls_listens=around.https_listens(default=True),
            tls_defaults=tls_lines(around.operator_says | stated(self._snippets["http.conf"])),
            hsts=f"max-age={around.hsts_max_age}",
            trusted_proxies=around.networks_trusted,
            vouched=vouched_headers(around),
            client=client_view(around),
            agains=again_views(),
            redirect_port=around.https_port,
            retry_after=around.retry_after,
            geos=tuple(geo_view(*networks) for networks in _restrictions(plan)),
            rests=tuple(map(rest_view, _prefixes(plan))),
            error_html=self._pages["error.html"],
            not_found=self._pages["404.html"],
            unavailable=self._pages["503.html"],
            traffic=None if around.traffic is None else traffic_view(around.traffic),
            push=self._push if around.pushed else None,
            snippets=self._snippets["http.conf"],
        )
        if self._shared is None or self._shared[0] != view:
            text, twin = self._twins.pair("http.conf.j2", view)
            self._shared = view, Unit(context="http", text=text, inert=twin)
        return self._shared[1]

    def _stream_defaults(self, plan: Plan) -> Unit:
        sizes = (size for size in _hash_sizes(plan) if size.directive.startswith("variables_"))
        view = StreamDefaultsView(
            hash_sizes=tuple(size for size in sizes if size.directive not in self._around.operator_stream_directives)
        )
        text, twin = self._twins.pair("stream-defaults.conf.j2", view)
        return Unit(context="stream", text=text, inert=twin)

    def _is_rendered(self, service: Service) -> bool:
        known = self._services.get(service.name)
        return (known is not None and known[0] is service) or _speaks_http(service)

    def _service(self, service: Service) -> tuple[Service, Unit]:
        known = self._services.get(service.name)
        if known is not None and (known[0] is service or known[0] == service):
            return service, known[1]
        view = service_view(service, self._around)
        text, twin = self._twins.pair("upstream.conf.j2", view)
        owners = ((1, (service.name,)),)
        pushable = pushable_of(view) if self._around.pushed else None
        return service, Unit(
            context="http", text=text, inert=twin, owners=owners, upstreams=_expected(service), pushable=pushable
        )

    def _stream(self, stream: StreamServer) -> tuple[StreamServer, Unit]:
        known = self._streams.get(_key(stream))
        if known is not None and known[0] == stream:
            return stream, known[1]
        text, twin = self._twins.pair("stream.conf.j2", stream_view(stream, self._around, self._snippets))
        owners = () if self._snippets["stream.conf"] else (stream.service.name,)
        upstreams = _expected(stream.service)
        return stream, Unit(context="stream", text=text, inert=twin, owners=((1, owners),), upstreams=upstreams)


def _restrictions(plan: Plan) -> list[tuple[Networks, Networks]]:
    """The networks that tags let in and turn away, each pair once."""
    found = {networks_of(service) for service in plan.services if _speaks_http(service)}
    return sorted((networks for networks in found if networks is not None), key=str)


def _prefixes(plan: Plan) -> list[str]:
    """What is taken off paths."""
    return sorted({location.path for server in plan.servers for location in server.locations if strips(location)})


def _key(stream: StreamServer) -> tuple[ServiceName, str]:
    return stream.service.name, stream.claims[0].protocol


def _speaks_http(service: Service) -> bool:
    return any(isinstance(claim, RouteClaim) for claim in service.claims)


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
    names = {"server_names": 2 * len(plan.servers), "map": 0, "variables": _variables(plan)}
    for table, count in names.items():
        bucket = f"{table}_hash_bucket_size"
        yield HashSize(directive=bucket, value=SMALLEST_BUCKETS[bucket])
        yield HashSize(directive=f"{table}_hash_max_size", value=_power(count))


def _variables(plan: Plan) -> int:
    """At least as many as are rendered, but for values that are forced."""
    return 6 * len(plan.services) + len(_prefixes(plan)) + len(_restrictions(plan))


def _power(count: int) -> int:
    """The next power of two, so that the size does not change with every service."""
    return max(4096, 1 << max(0, count - 1).bit_length())
