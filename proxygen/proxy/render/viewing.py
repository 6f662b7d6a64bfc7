"""From the plan's types to the templates' views: where a default or a directive is decided."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, TypedDict, TypeVar

from proxygen.kit.templating import Block, Expression, Regex, Variable
from proxygen.proxy.plan.types import (
    ForceRule,
    Location,
    Server,
    Service,
    ServiceState,
    Split,
    StreamServer,
    Upstream,
    VirtualServer,
)
from proxygen.proxy.render.access import denied_variable, stream_access
from proxygen.proxy.render.defaults import innermost, lines_of, mentions, server_lines, stated, tls_lines
from proxygen.proxy.render.inherited import added_headers, gate_lines, ignored_headers, limits, parameters
from proxygen.proxy.render.rawpaths import kept_variable, rest_variable
from proxygen.proxy.render.subrequests import closed, subrequests
from proxygen.proxy.render.surroundings import Snippets, Surroundings, TrafficLog
from proxygen.proxy.render.views import (
    CertificateView,
    ClientView,
    DefaultLine,
    LimitView,
    ListenView,
    LocationView,
    MapLine,
    MapView,
    MatchView,
    Piece,
    RequestKind,
    Rewrite,
    Said,
    ServerLine,
    ServiceLabel,
    ServiceView,
    SplitView,
    StreamView,
    Template,
    TrafficView,
    TrustView,
    UpstreamView,
    Value,
    VirtualServerView,
    VouchedHeader,
    Zone,
)
from proxygen.tags import BalanceBy, IPNetwork, Protocol, ProxyTags, StickyBy
from proxygen.tags.shares import STABLE, WHOLE, Share

_PLAIN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")

DEFAULT_KEEPALIVE: Final = 16
"""Idle connections to an upstream that each worker keeps."""

CONNECT_TIMEOUT: Final = 3_000
"""Milliseconds; nginx's own minute would keep a request waiting for a host that is gone."""

TRIES: Final = 3

REST: Final = 5
"""Seconds that an instance rests after a failure, while there is another."""

STREAM_TIMEOUT: Final = {Protocol.TCP: 600_000, Protocol.UDP: 30_000}
"""Milliseconds; nginx's own 10 minutes would keep a session per UDP client for that long."""

_TEMPLATES: Final = {
    Protocol.HTTP: Template.PROXY,
    Protocol.HTTPS: Template.PROXY,
    Protocol.GRPC: Template.GRPC,
    Protocol.GRPCS: Template.GRPC,
    Protocol.FASTCGI: Template.FASTCGI,
    Protocol.UWSGI: Template.UWSGI,
}
_SCHEMES: Final = {
    Protocol.HTTP: "http://",
    Protocol.HTTPS: "https://",
    Protocol.GRPC: "grpc://",
    Protocol.GRPCS: "grpcs://",
    Protocol.FASTCGI: "",
    Protocol.UWSGI: "",
}


# --- what the sidecar is told


def traffic_view(traffic: TrafficLog) -> TrafficView:
    upstream, heard, sampled = (Variable(f"proxygen_{name}") for name in ("upstream", "heard", "sampled"))
    splits: tuple[SplitView, ...] = ()
    source, both = Expression((heard,)), "1"
    if traffic.sample < WHOLE:
        # Not the key of any service's split, by which a variant would be told of more often than another.
        key = Expression((Variable("request_id"), "proxygen_traffic"))
        piece = Piece(percent=_percent(traffic.sample), value="1")
        splits = (SplitView(key=key, variable=sampled, pieces=(piece,), rest=""),)
        source, both = Expression((heard, sampled)), "11"
    status, times, servers = (Variable(name) for name in ("status", "upstream_response_time", "upstream_addr"))
    fields = (f"{traffic.sample} ", upstream, " ", status, " ", times, " | ", servers)
    return TrafficView(
        line=Expression(fields),
        splits=splits,
        told=MapView(
            source=source,
            variable=Variable("proxygen_told"),
            default="",
            lines=(MapLine(match=both, value=upstream),),
        ),
        default_logs=() if traffic.default_log is None else (traffic.default_log,),
        log=f"syslog:server=unix:{traffic.socket},nohostname,tag=proxygen",
    )


# --- a service's upstreams, maps and split


def service_view(service: Service, around: Surroundings) -> ServiceView:
    """What stands in http once per service."""
    maps, splits = _division(service)
    return ServiceView(
        service=ServiceLabel(label=service.ident),
        upstreams=_upstreams(service, around),
        maps=maps,
        splits=splits,
        zones=_zones(service),
    )


def _keepalive(options: ProxyTags, around: Surroundings) -> int | None:
    size = DEFAULT_KEEPALIVE if options.keepalive is None else options.keepalive
    return size if size or around.keepalive_by_default else None


def _upstreams(service: Service, around: Surroundings) -> tuple[UpstreamView, ...]:
    keepalive = None if (service.options.protocol or Protocol.HTTP).is_stream else _keepalive(service.options, around)
    timeout = _or(service.options.keepalive_timeout, around.requests.keepalive_timeout)
    return tuple(_upstream(upstream, service.options, keepalive, timeout) for upstream in service.upstreams)


def _upstream(upstream: Upstream, options: ProxyTags, keepalive: int | None, keepalive_timeout: int) -> UpstreamView:
    balance = options.balance
    method = balance.by if balance and upstream.balanced else BalanceBy.ROUND_ROBIN
    return UpstreamView(
        name=upstream.name,
        least_conn=method is BalanceBy.LEAST_CONN,
        random=method is BalanceBy.RANDOM,
        ip_hash=method is BalanceBy.IP_HASH,
        hash=_hash_key(options) if upstream.balanced else None,
        servers=_server_lines(upstream, options, may_rest=method.may_back_up),
        keepalive=keepalive,
        keepalive_timeout=keepalive_timeout,
    )


def _server_lines(upstream: Upstream, options: ProxyTags, *, may_rest: bool) -> tuple[ServerLine, ...]:
    """A server that failed rests for a while; the last ones to ask never do.

    Where all of them have failed, nginx would answer 502 without asking anybody: to everybody, for the failures of one
    client's requests. So each stands in the upstream once more, as a backup that never rests. Behind a named variant
    stable does.
    """
    if not may_rest or options.max_fails == 0 or len(upstream.servers) == 1:
        return tuple(_server_line(server) for server in upstream.servers)
    fails = 1 if options.max_fails is None else options.max_fails
    # nginx counts it in whole seconds.
    rest = REST if options.fail_timeout is None else -(-options.fail_timeout // 1000)
    own = [server for server in upstream.servers if not server.backup]
    behind = [server for server in upstream.servers if server.backup]
    if upstream.variant == STABLE or not behind:
        behind += [replace(server, backup=True) for server in own]
    lines = [replace(_server_line(server), max_fails=fails, fail_timeout=rest) for server in own]
    return (*lines, *map(_server_line, behind))


def _server_line(server: Server) -> ServerLine:
    return ServerLine(
        address=str(server.endpoint), weight=server.weight, max_fails=0, fail_timeout=None, backup=server.backup
    )


def _hash_key(options: ProxyTags) -> Variable | None:
    balance = options.balance
    if balance is None:
        return None
    match balance.by:
        case BalanceBy.HASH_URI:
            return Variable("request_uri")
        case BalanceBy.HASH_HEADER:
            return _header(balance.name)
        case BalanceBy.HASH_COOKIE:
            return Variable(f"cookie_{balance.name}")
    return None


def _header(name: str | None) -> Variable:
    return Variable(f"http_{(name or '').lower().replace('-', '_')}")


def _zones(service: Service) -> tuple[Zone, ...]:
    rate = service.options.rate
    return () if rate is None else (Zone(zone=f"zone={_zone(service)}:1m", rate=f"rate={rate.requests}r/{rate.per}"),)


def _zone(service: Service) -> str:
    # One name per service, always keyed by the client's address: nginx refuses a reload that changes a zone's key.
    return f"{service.ident}_rate"


def _division(service: Service) -> tuple[tuple[MapView, ...], tuple[SplitView, ...]]:
    """Force rules first, each falling to the next, the last to the split by share."""
    split = service.split
    if split is None:
        return (), ()
    maps: list[MapView] = []
    splits: list[SplitView] = []
    key_maps, key = _key(service)
    maps += key_maps
    rest: Value
    chain = [_target_variable(service), *(Variable(f"{service.ident}_force{n}") for n in range(1, len(split.force)))]
    if len(split.pieces) > 1 or not split.force:
        # With one piece too: the virtual servers then stay as they are when a share reaches 0 % or 100 %.
        share = Variable(f"{service.ident}_share") if split.force else chain[0]
        splits.append(_split(split, Expression((key, service.ident)), share))
        rest = share
    else:
        rest = split.pieces[0][1]
    for position, rule in enumerate(split.force):
        following = chain[position + 1] if position + 1 < len(chain) else rest
        maps.append(_force(rule, chain[position], following))
    variants = tuple(MapLine(match=upstream.name, value=upstream.variant) for upstream in service.upstreams)
    maps.append(MapView(source=chain[0], variable=_variant_variable(service), default="", lines=variants))
    return tuple(maps), tuple(splits)


def _target_variable(service: Service) -> Variable:
    return Variable(service.ident)


def _variant_variable(service: Service) -> Variable:
    return Variable(f"{service.ident}_variant")


def _split(split: Split, key: Expression, variable: Variable) -> SplitView:
    *pieces, (_, rest) = split.pieces
    return SplitView(
        key=key,
        variable=variable,
        pieces=tuple(Piece(percent=_percent(share), value=upstream) for share, upstream in pieces),
        rest=rest,
    )


def _percent(share: Share) -> str:
    return f"{share // 100}.{share % 100:02}%"


def _force(rule: ForceRule, variable: Variable, otherwise: Value) -> MapView:
    source = _header(rule.name) if rule.source == "header" else Variable(f"cookie_{rule.name}")
    lines: tuple[MapLine, ...]
    if rule.value is not None:
        lines = (MapLine(match=Regex(f"~^{_literal(rule.value)}$"), value=rule.upstream),)
    else:
        lines = (
            MapLine(match=Regex("~^always$"), value=rule.upstream),
            MapLine(match=Regex("~^never$"), value=rule.otherwise),
        )
    return MapView(source=source, variable=variable, default=otherwise, lines=lines)


def _literal(text: str) -> str:
    """A regular expression for exactly this text, without backslashes, which nginx would want doubled."""
    return "".join(character if character.isalnum() or character in "/_-" else f"[{character}]" for character in text)


def _key(service: Service) -> tuple[list[MapView], Variable]:
    """The variable by which a client keeps its variant. An empty one would put everybody into the first range
    of split_clients, so a request without the cookie or header gets a key of its own."""
    sticky = service.options.sticky
    request = Variable("request_id")
    if sticky is None or sticky.by is StickyBy.NONE:
        return [], request
    if sticky.by is StickyBy.IP:
        return [], Variable("remote_addr")
    source = _header(sticky.name) if sticky.by is StickyBy.HEADER else Variable(f"cookie_{sticky.name}")
    key = Variable(f"{service.ident}_key")
    maps = [MapView(source=source, variable=key, default=source, lines=(MapLine(match="", value=request),))]
    if sticky.by is StickyBy.COOKIE:
        # Sent only to a client that has none, and neither where the application sets it itself nor with a redirect.
        answer = Expression((source, Variable(f"upstream_cookie_{sticky.name}"), Variable("proxygen_moved")))
        cookie = Expression(
            (f"{sticky.name}=", request, "; Path=/; HttpOnly; SameSite=Lax", Variable("proxygen_secure"))
        )
        maps.append(
            MapView(
                source=answer, variable=_cookie_variable(service), default="", lines=(MapLine(match="", value=cookie),)
            )
        )
    return maps, key


def _cookie_variable(service: Service) -> Variable:
    return Variable(f"{service.ident}_cookie")


# --- virtual servers and their locations


def server_view(server: VirtualServer, around: Surroundings, snippets: Snippets) -> VirtualServerView:
    default = server.host is None
    certificate = server.certificate
    listens = around.http_listens(default=default)
    if certificate is not None:
        listens += around.https_listens(default=default)
    listens = tuple(listen for listen in listens if listen.address not in server.without)
    fragments = snippets["server.conf"] + (snippets[f"server-{server.host}.conf"] if server.host else ())
    outermost = _outermost(around, snippets)
    said = _said_of_server(fragments, around, snippets)
    of_services = stated(
        fragment for location in server.locations for fragment in snippets[f"location-{location.service.name}.conf"]
    )
    spoken = {_template(location.service) for location in server.locations}
    return VirtualServerView(
        names=(server.host or "_",),
        targets=None,
        labels=None,
        listens=listens,
        http2=around.http2_directive,
        certificate=None
        if certificate is None
        else CertificateView(
            certificate=certificate.certificate, key=certificate.key, fingerprint=certificate.fingerprint
        ),
        tls_defaults=() if certificate is None else tls_lines(said),
        keepalive_min_timeout=around.keepalive_min_timeout,
        trusted_proxies=around.trusted_proxies,
        heard=None if around.traffic is None else around.traffic.mark,
        trust=_trust(server, around),
        defaults=(
            *server_lines(around, spoken, said, of_services),
            *_ignored(around, {Template.PROXY, *spoken}, fragments, outermost),
        ),
        grpc=Template.GRPC in spoken,
        client=client_view(around, is_stripped=any(map(strips, server.locations))),
        vouched=vouched_headers(around),
        other_spellings=other_spellings(around),
        hsts=certificate is not None and any(location.service.name == server.hsts for location in server.locations),
        error_headers=added_headers((), fragments, outermost),
        error_pages=() if lines_of("error_page", fragments) else lines_of("error_page", outermost),
        passed_headers=parameters("proxy_set_header", fragments, outermost, ours=our_headers(around)),
        passed_grpc_headers=parameters("grpc_set_header", fragments, outermost, ours=our_headers(around)),
        own_errors=said.isdisjoint(_INTERCEPTING),
        has_root=any(location.path == "/" for location in server.locations),
        strips=any(_rest(location, around, fragments, snippets) is not None for location in server.locations),
        subrequests=subrequests(fragments, outermost, {each.path for each in server.locations if each.path != "/"}),
        snippets=fragments,
    )


def _trust(server: VirtualServer, around: Surroundings) -> TrustView | None:
    """Stands in the virtual server, so that a fragment for one service can say otherwise."""
    spoken = {location.service.options.protocol for location in server.locations}
    if around.upstream_ca is None or not spoken & {Protocol.HTTPS, Protocol.GRPCS}:
        return None
    return TrustView(
        file=around.upstream_ca.file,
        fingerprint=around.upstream_ca.fingerprint,
        https=Protocol.HTTPS in spoken,
        grpcs=Protocol.GRPCS in spoken,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Spot:
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


def _spot(location: Location, server: VirtualServer, around: Surroundings, snippets: Snippets) -> _Spot:
    service = location.service
    fragments = snippets[f"location-{service.name}.conf"] if service.state is not ServiceState.QUARANTINED else ()
    outer = snippets["server.conf"] + (snippets[f"server-{server.host}.conf"] if server.host else ())
    said = stated(fragments)
    return _Spot(
        path=location.path,
        service=service,
        template=_template(service),
        around=around,
        fragments=fragments,
        outer=outer,
        outermost=_outermost(around, snippets),
        said=said,
        said_around=said | _said_of_server(outer, around, snippets),
        rest=_rest(location, around, outer, snippets),
        strip=strips(location),
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


def _admission(at: _Spot) -> _Admission:
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


class _Prefix(TypedDict):
    """What becomes of the path's prefix, there and back."""

    strip: bool
    rest: Variable | None
    kept: Variable | None
    prefix: str
    redirects: tuple[Rewrite, ...]
    cookie_paths: tuple[Rewrite, ...]


def _prefix(at: _Spot) -> _Prefix:
    return _Prefix(
        strip=at.strip,
        rest=at.rest,
        kept=None if at.rest is None else kept_variable(at.path),
        prefix=at.path,
        redirects=_redirects(at.path, at.around) if at.strip and "proxy_redirect" not in at.said_around else (),
        cookie_paths=_cookie_paths(at.path) if at.strip and "proxy_cookie_path" not in at.said_around else (),
    )


class _Effort(TypedDict):
    """How long and how often instances are asked."""

    connect_timeout: int
    timeout: int | None
    idle_timeout: int
    again: Variable | None
    no_retries: bool
    retries_unsafe: bool
    tries: int


def _effort(at: _Spot) -> _Effort:
    options, most = at.service.options, tries(at.service)
    is_once = _is_unbuffered(options, at.around, at.template, at.said_around)
    return _Effort(
        connect_timeout=_connect_timeout(options),
        timeout=options.timeout,
        idle_timeout=_idle_timeout(options, at.around),
        again=None if is_once else Variable(f"proxygen_again_{min(most, MOST_AGAIN)}"),
        no_retries=options.retries == 0,
        retries_unsafe=_or(options.retries_unsafe, at.around.requests.retries_unsafe),
        tries=most,
    )


class _Errors(TypedDict):
    """Where a request goes that failed."""

    error_pages: tuple[Block, ...]
    has_error_page: bool
    grpc_errors: bool
    own_errors: bool


def _errors(at: _Spot) -> _Errors:
    is_grpc = at.template is Template.GRPC
    return _Errors(
        error_pages=innermost("error_page", at.outer, at.outermost),
        has_error_page=is_grpc or mentions(at.fragments, _LEADING_ERRORS),
        grpc_errors=is_grpc and "error_page" not in at.said,
        own_errors=at.said_around.isdisjoint(_INTERCEPTING) and "add_header" not in at.said,
    )


def location_view(location: Location, server: VirtualServer, around: Surroundings, snippets: Snippets) -> LocationView:
    """What stands in a virtual server for one route."""
    at = _spot(location, server, around, snippets)
    service, options, template = at.service, at.service.options, at.template
    protocol = options.protocol or Protocol.HTTP
    is_secure = server.certificate is not None
    apart = _apart(service, around) if at.may_be_named else ()
    cookie = _cookie_variable(service) if _sets_cookie(service) else None
    hsts = is_secure and service.name == server.hsts
    return LocationView(
        **_admission(at),
        **_prefix(at),
        **_effort(at),
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
        ignored=_ignored(around, {template}, at.fragments) if f"{template.module}_ignore_headers" in at.said else (),
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
        target=_target(service, _SCHEMES[protocol]) if at.is_served else Expression((service.ident,)),
        snippets=at.fragments,
    )


_TO_HTTPS: Final = Expression(
    ("https://", Variable("proxygen_asked_name"), Variable("proxygen_https_port"), Variable("request_uri"))
)


def _open_matches(at: _Spot, apart: tuple[RequestKind, ...]) -> tuple[MatchView, ...]:
    """Those of its path, without what the operator answers himself."""
    not_ours = closed(at.outer, at.outermost)
    found = _matches(at.path, apart, is_gated=at.is_gated)
    return tuple(match for match in found if not (match.exact and match.path in not_ours))


def _label(service: Service) -> str:
    """The name by which people know it; nginx's own for it where that could not stand in an access log as it is."""
    return service.name if _PLAIN.fullmatch(service.name) else service.ident


def _variant(service: Service) -> Value:
    """Empty where nothing is served."""
    if service.state is not ServiceState.SERVED:
        return ""
    if service.split is not None:
        return _variant_variable(service)
    return service.upstreams[0].variant if service.upstreams else ""


def _connect_timeout(options: ProxyTags) -> int:
    return CONNECT_TIMEOUT if options.connect_timeout is None else options.connect_timeout


def tries(service: Service) -> int:
    """How many servers may be asked for one request: by default enough to get past dead canaries to the backup."""
    retries = service.options.retries
    if retries is not None:
        return retries + 1
    # Behind stable its own servers stand once more, beside those of other datacenters.
    fails_over = any(upstream.variant == STABLE and upstream.servers[-1].backup for upstream in service.upstreams)
    return max(TRIES, (2 if fails_over else 1) * service.before_backup + 1)


MOST_AGAIN: Final = 9
"""nginx follows ten redirections of a request, the one to its page included."""


def again_views() -> tuple[MapView, ...]:
    """Where a request goes that failed and must not be sent twice: to its location once more while nothing of it was
    sent and tries are left, else to the page. nginx writes ``a : b`` of what was asked one after the other."""
    asked, sent, status = (Variable(f"upstream_{name}") for name in ("addr", "bytes_sent", "status"))

    def ended(regex: str, status: int) -> MapLine:
        return MapLine(match=Regex(f"~^{regex}.*504$" if status == 504 else f"~^{regex}"), value=f"@proxygen_{status}")

    return tuple(
        MapView(
            source=Expression((asked, "|", sent, "|", status)),
            variable=Variable(f"proxygen_again_{tries}"),
            default=Variable("proxygen_once"),
            lines=tuple(
                ended(regex, status)
                for regex in (f"([^| ]* ){{{2 * tries - 2}}}", "[^|]*[|][^|]*[1-9]")
                for status in (504, 502)
            ),
        )
        for tries in range(2, MOST_AGAIN + 1)
    )


def _limit(service: Service) -> LimitView | None:
    """None for a service that is not served: without upstreams its zone is not declared, and nginx refuses everybody's
    configuration for a zone that nobody declares."""
    rate = service.options.rate
    if rate is None or service.state is not ServiceState.SERVED:
        return None
    return LimitView(zone=f"zone={_zone(service)}", burst=rate.burst)


def _sets_cookie(service: Service) -> bool:
    sticky = service.options.sticky
    return service.split is not None and sticky is not None and sticky.by is StickyBy.COOKIE


def _target(service: Service, scheme: str) -> Expression:
    if service.split is not None:
        return Expression((scheme, _target_variable(service)))
    return Expression((scheme, service.upstreams[0].name if service.upstreams else "nobody"))


def _apart(service: Service, around: Surroundings) -> tuple[RequestKind, ...]:
    """Whose requests have named locations of their own. nginx has a switch for whether it sends a POST, PATCH or LOCK
    twice, but none for a PUT or a DELETE; its time-outs hold for a whole location. gRPC knows POST alone, and waits
    always."""
    options = service.options
    if service.state is not ServiceState.SERVED or _template(service) is Template.GRPC:
        return ()
    if options.retries == 0 or _or(options.retries_unsafe, around.requests.retries_unsafe):
        return (RequestKind.WAIT,)
    return (RequestKind.ONCE, RequestKind.WAIT)


_NEVER_NAMED: Final = frozenset({"location", "alias", "limit_except", "include"})
"""What nginx refuses in a named location, or what passes by it; a fragment of the operator's may say it."""


def ungated(snippets: Snippets, around: Surroundings) -> frozenset[str]:
    """The services whose fragment keeps them from standing behind a gate, where the operator asks for anything himself:
    in the fragment, or in any virtual server, since hosts come and go."""
    servers = (text for name in snippets.files if name.startswith("server") for text in snippets[name])
    asked = not _said_of_server(servers, around, snippets).isdisjoint(_ASKING)
    names = (name for name in snippets.files if name.startswith("location-"))
    return frozenset(
        name.removeprefix("location-").removesuffix(".conf")
        for name in names
        if not (said := stated(snippets[name])).isdisjoint(_NEVER_NAMED) and (asked or not said.isdisjoint(_ASKING))
    )


_INTERCEPTING: Final = frozenset(f"{template.module}_intercept_errors" for template in Template) | {"include"}
"""With it an instance's own errors lead to whatever pages are named, and the operator means his."""


def _said_of_server(fragments: Iterable[Block], around: Surroundings, snippets: Snippets) -> frozenset[str]:
    """What the operator says in a virtual server or around it."""
    return stated(fragments) | stated(snippets["http.conf"]) | around.operator_says


def _outermost(around: Surroundings, snippets: Snippets) -> tuple[Block, ...]:
    """What the operator says for all virtual servers."""
    return around.operator_lines + snippets["http.conf"]


_LEADING_ERRORS: Final = frozenset({"error_page", "include"})

_ASKING: Final = frozenset({"auth_basic", "auth_basic_user_file", "satisfy", "include"})
"""With one of these the operator may ask for a password too: a request then needs what he asks for and the tag's."""


def _ignored(
    around: Surroundings, templates: Iterable[Template], within: Iterable[Block], *levels: Iterable[Block]
) -> tuple[DefaultLine, ...]:
    """By which instances' orders to nginx are ignored."""
    if around.requests.accel_headers:
        return ()
    lines = (ignored_headers(template, within, *levels) for template in Template if template in templates)
    return tuple(line for line in lines if line is not None)


def networks_of(service: Service) -> tuple[tuple[IPNetwork, ...], tuple[IPNetwork, ...]] | None:
    """The networks that its tags let in and turn away; None where nobody is turned away by them."""
    allow, deny = service.options.allow or (), service.options.deny or ()
    return (allow, deny) if (allow or deny) and service.state is ServiceState.SERVED else None


def strips(location: Location) -> bool:
    return bool(location.service.options.strip_prefix) and location.path != "/"


_LEADING: Final = frozenset({"rewrite", "rewrite_by_lua_block", "rewrite_by_lua_file", "include"})
"""By which a fragment may have led a request to another path than the one that the client wrote."""


def _rest(location: Location, around: Surroundings, outer: tuple[Block, ...], snippets: Snippets) -> Variable | None:
    """None where nginx is to choose the path: gRPC cannot be told one."""
    service = location.service
    fragments = outer + snippets[f"location-{service.name}.conf"]
    if not strips(location) or _template(service) is not Template.PROXY or mentions(fragments, _LEADING):
        return None
    return rest_variable(location.path)


def _is_unbuffered(options: ProxyTags, around: Surroundings, template: Template, said: frozenset[str]) -> bool:
    """Whether a request's body may be on its way still when an instance fails: nginx cannot begin it anew then."""
    if f"{template.module}_request_buffering" in said:
        return True
    return not _or(options.request_buffering, around.requests.request_buffering)


def _matches(path: str, apart: tuple[RequestKind, ...], *, is_gated: bool) -> tuple[MatchView, ...]:
    """A prefix takes whole segments: /api takes /api and /api/x, not /apix."""
    pattern = _literal(path)
    by = (Variable("proxygen_apart" if RequestKind.ONCE in apart else "proxygen_waits"),) if apart else ()
    named = Expression(("@", *by, f"_{path}"))
    to, gate = (None, named) if is_gated else (named if apart else None, None)
    strip = Regex(f"^{pattern}()$")
    # (?s): a %0a in the request's path must not keep the prefix on it.
    below = Regex("^/(.*)$" if path == "/" else f"(?s)^{pattern}/(.*)$")
    either = below if path == "/" else Regex(f"(?s)^{pattern}(?:/(.*))?$")
    ways = [(path, False, below)] if path == "/" else [(path, True, strip), (f"{path}/", False, below)]
    return (
        *(
            MatchView(path=way, exact=exact, strip=regex, apart=to, gate=gate, kind=RequestKind.ALL)
            for way, exact, regex in ways
        ),
        *(
            [MatchView(path=f"@_{path}", exact=False, strip=either, apart=None, kind=RequestKind.ADMITTED)]
            if is_gated
            else []
        ),
        *(MatchView(path=f"@{kind.value}_{path}", exact=False, strip=either, apart=None, kind=kind) for kind in apart),
    )


_REST_OF_PATH: Final = Variable("proxygen_rest")


def _redirects(prefix: str, around: Surroundings) -> tuple[Rewrite, ...]:
    """Where an answer leads, with the prefix that the instance did not see; not twice where it knows it after all. The
    first that matches counts."""
    pattern = _literal(prefix)
    kept = Variable("proxygen_kept")
    knows_it = Regex(f"~^(?<{kept.name}>https?://[^/?#]+{pattern}(?:[/?#].*)?)$")
    unprefixed = Regex(f"~^/(?!{pattern[1:]}(?:[/?#]|$)|/)(?<{_REST_OF_PATH.name}>.*)$")
    hosts = [_ASKED_FOR]
    if around.trusted_proxies:
        hosts.append(Variable("proxygen_asked_host"))
    return (
        Rewrite(match=knows_it, value=kept),
        *(
            Rewrite(match=Expression((scheme, host, "/")), value=Expression((scheme, host, f"{prefix}/")))
            for host in hosts
            for scheme in ("http://", "https://")
        ),
        Rewrite(match=unprefixed, value=Expression((f"{prefix}/", _REST_OF_PATH))),
    )


def _cookie_paths(prefix: str) -> tuple[Rewrite, ...]:
    unprefixed = Regex(f"~^/(?!{_literal(prefix[1:])}(?:/|$))(?<proxygen_rest>.+)$")
    return (
        Rewrite(match=Regex("~^/$"), value=prefix),
        Rewrite(match=unprefixed, value=Expression((f"{prefix}/", _REST_OF_PATH))),
    )


VOUCHED: Final = (
    "CF-Connecting-IP",
    "Client-IP",
    "Front-End-Https",
    "True-Client-IP",
    "X-Client-IP",
    "X-Cluster-Client-IP",
    "X-Forwarded",
    "X-Forwarded-Client-Cert",
    "X-Forwarded-Email",
    "X-Forwarded-Groups",
    "X-Forwarded-Method",
    "X-Forwarded-Path",
    "X-Forwarded-Protocol",
    "X-Forwarded-Scheme",
    "X-Forwarded-Server",
    "X-Forwarded-Ssl",
    "X-Forwarded-Uri",
    "X-Forwarded-User",
    "X-Host",
    "X-HTTP-Host-Override",
    "X-Original-Forwarded-For",
    "X-Original-Host",
    "X-Original-Method",
    "X-Original-URI",
    "X-Original-URL",
    "X-Originating-IP",
    "X-Remote-IP",
    "X-Rewrite-URL",
    "X-Url-Scheme",
)
"""What proxies tell instances, and instances believe: from a stranger it is forged."""


_ASKED_FOR: Final = Variable("proxygen_authority")
"""The host that a client asked this nginx for, with its port."""


def client_view(around: Surroundings, *, is_stripped: bool = True) -> ClientView:
    """Where nobody is trusted there is nothing to decide, and no map to be asked at every request; nor for a prefix
    where no location takes one off."""
    if around.trusted_proxies:
        names = {"address": "for", "host": "asked_host"}
        return ClientView(
            **{
                field.name: Variable(f"proxygen_{names.get(field.name, field.name)}")
                for field in dataclasses.fields(ClientView)
            }
        )
    return ClientView(
        address=Variable("remote_addr"),
        scheme=Variable("scheme"),
        host=_ASKED_FOR,
        port=Variable("server_port"),
        forwarded="",
        prefix=Variable("proxygen_stripped") if is_stripped else "",
        request_id=Variable("request_id"),
    )


def vouched_headers(around: Surroundings) -> tuple[VouchedHeader, ...]:
    def view(name: str) -> VouchedHeader:
        variable = name.lower().replace("-", "_")
        given: Value = Variable(f"proxygen_given_{variable}") if around.trusted_proxies else ""
        return VouchedHeader(
            name=name, parameter=f"HTTP_{variable.upper()}", sent=Variable(f"http_{variable}"), given=given
        )

    return tuple(map(view, VOUCHED))


def other_spellings(around: Surroundings) -> tuple[str, ...]:
    """With underscores, names that an instance which reads them as CGI does takes for the ones that we answer for."""
    if not around.requests.any_header_names:
        return ()
    names = (*_OURS, *VOUCHED)
    return tuple(
        spelling
        for name in names
        for hyphens in itertools.product("-_", repeat=name.count("-"))
        if "_" in hyphens
        for spelling in ["".join(itertools.chain(*itertools.zip_longest(name.split("-"), hyphens, fillvalue="")))]
    )


def our_headers(around: Surroundings) -> frozenset[str]:
    """Names, in small letters, of what server.conf.j2 passes to instances."""
    names = (*_OURS, *_HOPS, *VOUCHED, *other_spellings(around))
    return frozenset(name.lower() for name in names)


_HOPS: Final = (
    "Connection",
    "Upgrade",
    "Host",
    "Forwarded",
    "CDN-Loop",
    "Proxy",
    "Keep-Alive",
    "Proxy-Connection",
    "TE",
    "HTTP2-Settings",
)
_OURS: Final = (
    *(f"X-Forwarded-{part}" for part in ("For", "Proto", "Host", "Port", "Prefix")),
    *("X-Real-IP", "X-Request-ID"),
)


def _template(service: Service) -> Template:
    return _TEMPLATES.get(service.options.protocol or Protocol.HTTP, Template.PROXY)


def _idle_timeout(options: ProxyTags, around: Surroundings) -> int:
    """gRPC has one time-out for all its calls."""
    is_grpc = options.protocol in (Protocol.GRPC, Protocol.GRPCS)
    stated_here = _or(options.idle_timeout, options.timeout) if is_grpc else options.idle_timeout
    return _or(stated_here, around.requests.idle_timeout)


_T = TypeVar("_T")


def _or(stated_here: _T | None, otherwise: _T) -> _T:
    return otherwise if stated_here is None else stated_here


# --- streams


def stream_view(stream: StreamServer, around: Surroundings, snippets: Snippets) -> StreamView:
    service, options = stream.service, stream.service.options
    protocol = Protocol(stream.claims[0].protocol)
    split = service.split
    splits: tuple[SplitView, ...] = ()
    if split is not None:
        splits = (_split(split, Expression((*_stream_key(options), service.ident)), _target_variable(service)),)
    address = around.stream_address
    return StreamView(
        service=ServiceLabel(label=service.ident),
        upstreams=_upstreams(service, around),
        splits=splits,
        listens=tuple(
            ListenView(
                address=f"{address}:{claim.port}" if address else str(claim.port),
                udp=protocol is Protocol.UDP,
            )
            for claim in stream.claims
        ),
        access=stream_access(
            options.allow or (), options.deny or (), snippets["stream.conf"], around.operator_stream_lines
        ),
        connect_timeout=_connect_timeout(options),
        timeout=options.timeout if options.timeout is not None else STREAM_TIMEOUT[protocol],
        no_retries=options.retries == 0,
        tries=tries(service),
        unavailable=service.state is not ServiceState.SERVED,
        target=_target(service, ""),
        snippets=snippets["stream.conf"],
    )


def _stream_key(options: ProxyTags) -> tuple[str | Variable, ...]:
    """A session's key: its client's address where it is sticky, else something new for every session."""
    if options.sticky is not None and options.sticky.by is StickyBy.IP:
        return (Variable("remote_addr"),)
    return tuple(Variable(name) for name in ("remote_addr", "remote_port", "connection", "msec"))
