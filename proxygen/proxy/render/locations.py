"""From a route of the plan to what its location's template sees: where a default or a directive is decided."""

from __future__ import annotations

import re
from typing import Final, TypedDict

from proxygen.kit.templating import Block, Expression, Regex, Variable
from proxygen.proxy.plan.types import Location, Service, ServiceState, VirtualServer
from proxygen.proxy.render.access import denied_variable, networks_of
from proxygen.proxy.render.clients import client_view, vouched_headers
from proxygen.proxy.render.defaults import innermost, mentions, or_default
from proxygen.proxy.render.efforts import effort_of
from proxygen.proxy.render.inherited import added_headers, gate_lines, limits, parameters
from proxygen.proxy.render.notation import literal
from proxygen.proxy.render.prefixes import prefix_of
from proxygen.proxy.render.spots import INTERCEPTING, Spot, ignored_views, spot_of, template_of
from proxygen.proxy.render.subrequests import closed
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.upstreams import cookie_variable, share_view, target_of, variant_variable, zone_name
from proxygen.proxy.render.views import LimitView, LocationView, MatchView, RequestKind, Said, Template, Value
from proxygen.tags import Protocol, StickyBy

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


_SCHEMES: Final = {
    Protocol.HTTP: "http://",
    Protocol.HTTPS: "https://",
    Protocol.GRPC: "grpc://",
    Protocol.GRPCS: "grpcs://",
    Protocol.FASTCGI: "",
    Protocol.UWSGI: "",
}


_TO_HTTPS: Final = Expression(
    ("https://", Variable("proxygen_asked_name"), Variable("proxygen_https_port"), Variable("request_uri"))
)


_LEADING_ERRORS: Final = frozenset({"error_page", "include"})


def location_view(location: Location, server: VirtualServer, around: Surroundings, snippets: Snippets) -> LocationView:
    """What stands in a virtual server for one route."""
    at = spot_of(location, server, around, snippets)
    service, options, template = at.service, at.service.options, at.template
    protocol = options.protocol or Protocol.HTTP
    is_secure = server.certificate is not None
    apart = _apart(service, around) if at.may_be_named else ()
    cookie = cookie_variable(service) if _sets_cookie(service) else None
    hsts = is_secure and service.name == server.hsts
    return LocationView(
        **_admission(at),
        **prefix_of(at),
        **effort_of(at),
        **_errors(at),
        matches=_open_matches(at, apart),
        service=_label(service),
        variant=_variant(service),
        told=around.traffic is not None,
        unavailable=not at.is_served,
        redirect=_TO_HTTPS if options.redirect_https and is_secure else None,
        hsts=hsts,
        headers=added_headers(at.fragments, at.outer, at.outermost) if hsts or cookie else (),
        body_size=None if template is Template.GRPC else options.body_size,
        cookie=cookie,
        ignored=ignored_views(around, {template}, at.fragments)
        if f"{template.module}_ignore_headers" in at.said
        else (),
        parameters=parameters(f"{template.module}_param", at.fragments, at.outer, at.outermost),
        apart_by=Variable("proxygen_apart" if RequestKind.ONCE in apart else "proxygen_waits"),
        client=client_view(around),
        vouched=vouched_headers(around) if template in (Template.FASTCGI, Template.UWSGI) else (),
        protocol=template,
        tls_upstream=protocol in (Protocol.HTTPS, Protocol.GRPCS),
        plain_connection=options.websocket is False and template is Template.PROXY,
        request_buffering=options.request_buffering,
        response_buffering=options.response_buffering,
        said=Said(at.said),
        said_around=Said(at.said_around),
        share=share_view(service, around) if at.is_served else None,
        target=target_of(service, _SCHEMES[protocol]) if at.is_served else Expression((service.ident,)),
        snippets=at.fragments,
    )


class _Admission(TypedDict):
    """Who may ask, and how often."""

    denied: Variable | None
    htpasswd: str | None
    realm: str
    satisfy_all: bool
    limit: LimitView | None
    limits: tuple[Block, ...]
    gate_lines: tuple[Block, ...]


def _admission(at: Spot) -> _Admission:
    htpasswd, limit = at.service.htpasswd, _limit(at.service)
    is_sole = htpasswd is not None and not at.is_gated
    return _Admission(
        denied=denied_variable(*restricted) if (restricted := networks_of(at.service)) else None,
        htpasswd=htpasswd,
        realm="restricted",
        satisfy_all=is_sole and "satisfy" in at.said_around and "satisfy" not in at.said,
        limit=limit,
        limits=limits(at.fragments, at.outer, at.outermost) if limit else (),
        gate_lines=gate_lines(at.fragments) if at.is_gated else (),
    )


def _limit(service: Service) -> LimitView | None:
    """None for a service that is not served: without upstreams its zone is not declared, and nginx refuses everybody's
    configuration for a zone that nobody declares."""
    rate = service.options.rate
    if rate is None or service.state is not ServiceState.SERVED:
        return None
    return LimitView(zone=f"zone={zone_name(service)}", burst=rate.burst)


class _Errors(TypedDict):
    """Where a request goes that failed."""

    error_pages: tuple[Block, ...]
    has_error_page: bool
    grpc_errors: bool
    own_errors: bool


def _errors(at: Spot) -> _Errors:
    is_grpc = at.template is Template.GRPC
    return _Errors(
        error_pages=innermost("error_page", at.outer, at.outermost),
        has_error_page=is_grpc or mentions(at.fragments, _LEADING_ERRORS),
        grpc_errors=is_grpc and "error_page" not in at.said,
        own_errors=at.said_around.isdisjoint(INTERCEPTING) and "add_header" not in at.said,
    )


def _apart(service: Service, around: Surroundings) -> tuple[RequestKind, ...]:
    """Whose requests have named locations of their own. nginx has a switch for whether it sends a POST, PATCH or LOCK
    twice, but none for a PUT or a DELETE; its time-outs hold for a whole location. gRPC knows POST alone, and waits
    always."""
    options = service.options
    if service.state is not ServiceState.SERVED or template_of(service) is Template.GRPC:
        return ()
    if options.retries == 0 or or_default(options.retries_unsafe, around.requests.retries_unsafe):
        return (RequestKind.WAIT,)
    return (RequestKind.ONCE, RequestKind.WAIT)


def _open_matches(at: Spot, apart: tuple[RequestKind, ...]) -> tuple[MatchView, ...]:
    """Those of its path, without what the operator answers himself."""
    not_ours = closed(at.outer, at.outermost)
    found = _matches(at.path, apart, is_gated=at.is_gated)
    return tuple(match for match in found if not (match.exact and match.path in not_ours))


def _matches(path: str, apart: tuple[RequestKind, ...], *, is_gated: bool) -> tuple[MatchView, ...]:
    """A prefix takes whole segments: /api takes /api and /api/x, not /apix."""
    pattern = literal(path)
    by = (Variable("proxygen_apart" if RequestKind.ONCE in apart else "proxygen_waits"),) if apart else ()
    there = Expression(("@", *by, f"_{path}"))
    to, gate = (None, there) if is_gated else (there if apart else None, None)
    strip = Regex(f"^{pattern}()$")
    # (?s): a %0a in the request's path must not keep the prefix on it.
    below = Regex("^/(.*)$" if path == "/" else f"(?s)^{pattern}/(.*)$")
    either = below if path == "/" else Regex(f"(?s)^{pattern}(?:/(.*))?$")
    ways = [(path, False, below)] if path == "/" else [(path, True, strip), (f"{path}/", False, below)]
    named = [(f"@{kind.value}_{path}", kind) for kind in apart]
    if is_gated:
        named.insert(0, (f"@_{path}", RequestKind.ADMITTED))
    return (
        *(
            MatchView(path=way, exact=exact, strip=regex, apart=to, gate=gate, kind=RequestKind.ALL)
            for way, exact, regex in ways
        ),
        *(MatchView(path=name, exact=False, strip=either, apart=None, kind=kind) for name, kind in named),
    )


def _label(service: Service) -> str:
    """The name by which people know it; nginx's own for it where that could not stand in an access log as it is."""
    return service.name if _PLAIN.fullmatch(service.name) else service.ident


def _variant(service: Service) -> Value:
    """Empty where nothing is served."""
    if service.state is not ServiceState.SERVED:
        return ""
    if service.split is not None:
        return variant_variable(service)
    return service.upstreams[0].variant if service.upstreams else ""


def _sets_cookie(service: Service) -> bool:
    sticky = service.options.sticky
    return service.split is not None and sticky is not None and sticky.by is StickyBy.COOKIE
