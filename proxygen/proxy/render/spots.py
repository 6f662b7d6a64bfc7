"""A location with what the operator says in it and around it, on which every part of its view depends."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxygen.kit.templating import Block, Variable
from proxygen.proxy.plan.types import Location, Service, ServiceState, VirtualServer
from proxygen.proxy.render.defaults import mentions, stated
from proxygen.proxy.render.inherited import ignored_headers
from proxygen.proxy.render.rawpaths import rest_variable
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.views import DefaultLine, Template
from proxygen.tags import Protocol

_TEMPLATES: Final = {
    Protocol.HTTP: Template.PROXY,
    Protocol.HTTPS: Template.PROXY,
    Protocol.GRPC: Template.GRPC,
    Protocol.GRPCS: Template.GRPC,
    Protocol.FASTCGI: Template.FASTCGI,
    Protocol.UWSGI: Template.UWSGI,
}


def template_of(service: Service) -> Template:
    return _TEMPLATES.get(service.options.protocol or Protocol.HTTP, Template.PROXY)


_NEVER_NAMED: Final = frozenset({"location", "alias", "limit_except", "include"})
"""What nginx refuses in a named location, or what passes by it; a fragment of the operator's may say it."""


_ASKING: Final = frozenset({"auth_basic", "auth_basic_user_file", "satisfy", "include"})
"""With one of these the operator may ask for a password too: a request then needs what he asks for and the tag's."""


INTERCEPTING: Final = frozenset(f"{template.module}_intercept_errors" for template in Template) | {"include"}
"""With it an instance's own errors lead to whatever pages are named, and the operator means his."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """A location, with what the operator says in it and around it."""

    path: str
    service: Service
    template: Template
    around: Surroundings
    fragments: tuple[Block, ...]
    """His for the service; none in quarantine: it may be what nginx refuses."""
    outer: tuple[Block, ...]
    """His for the virtual server."""
    outermost: tuple[Block, ...]
    said: frozenset[str]
    """Directives of his fragment for the service; ``said_around`` those around it too."""
    said_around: frozenset[str]
    rest: Variable | None
    strip: bool

    @property
    def is_served(self) -> bool:
        """Whether an instance answers its requests."""
        return self.service.state is ServiceState.SERVED

    @property
    def may_be_named(self) -> bool:
        """Whether nginx takes its fragment in a named location."""
        return self.said.isdisjoint(_NEVER_NAMED)

    @property
    def is_gated(self) -> bool:
        """Whether the operator asks for something too, so that a request must pass both him and the tag."""
        asks = self.service.htpasswd is not None and self.is_served
        return asks and self.may_be_named and not self.said_around.isdisjoint(_ASKING)


def spot_of(location: Location, server: VirtualServer, around: Surroundings, snippets: Snippets) -> Spot:
    service = location.service
    fragments = snippets[f"location-{service.name}.conf"] if service.state is not ServiceState.QUARANTINED else ()
    outer = snippets["server.conf"] + (snippets[f"server-{server.host}.conf"] if server.host else ())
    said = stated(fragments)
    return Spot(
        path=location.path,
        service=service,
        template=template_of(service),
        around=around,
        fragments=fragments,
        outer=outer,
        outermost=outermost_lines(around, snippets),
        said=said,
        said_around=said | said_of_server(outer, around, snippets),
        rest=rest_of(location, around, outer, snippets),
        strip=strips(location),
    )


def said_of_server(fragments: Iterable[Block], around: Surroundings, snippets: Snippets) -> frozenset[str]:
    """What the operator says in a virtual server or around it."""
    return stated(fragments) | stated(snippets["http.conf"]) | around.operator_says


def outermost_lines(around: Surroundings, snippets: Snippets) -> tuple[Block, ...]:
    """What the operator says for all virtual servers."""
    return around.operator_lines + snippets["http.conf"]


def ignored_views(
    around: Surroundings, templates: Iterable[Template], within: Iterable[Block], *levels: Iterable[Block]
) -> tuple[DefaultLine, ...]:
    """By which instances' orders to nginx are ignored."""
    if around.requests.accel_headers:
        return ()
    lines = (ignored_headers(template, within, *levels) for template in Template if template in templates)
    return tuple(line for line in lines if line is not None)


def ungated(snippets: Snippets, around: Surroundings) -> frozenset[str]:
    """The services whose fragment keeps them from standing behind a gate, where the operator asks for anything himself:
    in the fragment, or in any virtual server, since hosts come and go."""
    servers = (text for name in snippets.files if name.startswith("server") for text in snippets[name])
    asked = not said_of_server(servers, around, snippets).isdisjoint(_ASKING)
    names = (name for name in snippets.files if name.startswith("location-"))
    return frozenset(
        name.removeprefix("location-").removesuffix(".conf")
        for name in names
        if not (said := stated(snippets[name])).isdisjoint(_NEVER_NAMED) and (asked or not said.isdisjoint(_ASKING))
    )


def strips(location: Location) -> bool:
    return bool(location.service.options.strip_prefix) and location.path != "/"


_LEADING: Final = frozenset({"rewrite", "rewrite_by_lua_block", "rewrite_by_lua_file", "include"})
"""By which a fragment may have led a request to another path than the one that the client wrote."""


def rest_of(location: Location, around: Surroundings, outer: tuple[Block, ...], snippets: Snippets) -> Variable | None:
    """None where nginx is to choose the path: gRPC cannot be told one."""
    service = location.service
    fragments = outer + snippets[f"location-{service.name}.conf"]
    if not strips(location) or template_of(service) is not Template.PROXY or mentions(fragments, _LEADING):
        return None
    return rest_variable(location.path)
