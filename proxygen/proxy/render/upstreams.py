"""A service's upstreams, and which of them a request goes to."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from proxygen.kit.templating import Expression, Regex, Variable
from proxygen.proxy.plan.types import ForceRule, Server, Service, Split, Upstream
from proxygen.proxy.render.defaults import or_default
from proxygen.proxy.render.notation import header_variable, literal, percent
from proxygen.proxy.render.pushed import pushed_upstream
from proxygen.proxy.render.surroundings import Surroundings
from proxygen.proxy.render.views import (
    MapLine,
    MapView,
    Piece,
    ServerLine,
    ServiceLabel,
    ServiceView,
    SplitCallView,
    SplitView,
    UpstreamView,
    Value,
    Zone,
)
from proxygen.tags import BalanceBy, Protocol, ProxyTags, Sticky, StickyBy
from proxygen.tags.shares import STABLE

DEFAULT_KEEPALIVE: Final = 16
"""Idle connections to an upstream that each worker keeps."""


REST: Final = 5
"""Seconds that an instance rests after a failure, while there is another."""


def service_view(service: Service, around: Surroundings) -> ServiceView:
    """What stands in http once per service."""
    maps, splits = _division(service)
    upstreams = upstream_views(service, around)
    if around.pushed:
        upstreams = tuple(map(pushed_upstream, upstreams))
        splits = tuple(replace(split, pushed=_shares(service.split)) for split in splits if service.split)
    return ServiceView(
        service=ServiceLabel(label=service.ident),
        upstreams=upstreams,
        maps=maps,
        splits=splits,
        zones=_zones(service),
    )


def _keepalive(options: ProxyTags, around: Surroundings) -> int | None:
    size = DEFAULT_KEEPALIVE if options.keepalive is None else options.keepalive
    return size if size or around.keepalive_by_default else None


def upstream_views(service: Service, around: Surroundings) -> tuple[UpstreamView, ...]:
    keepalive = None if (service.options.protocol or Protocol.HTTP).is_stream else _keepalive(service.options, around)
    timeout = or_default(service.options.keepalive_timeout, around.requests.keepalive_timeout)
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
            return header_variable(balance.name)
        case BalanceBy.HASH_COOKIE:
            return Variable(f"cookie_{balance.name}")
    return None


def _zones(service: Service) -> tuple[Zone, ...]:
    rate = service.options.rate
    return (
        () if rate is None else (Zone(zone=f"zone={zone_name(service)}:1m", rate=f"rate={rate.requests}r/{rate.per}"),)
    )


def zone_name(service: Service) -> str:
    # One name per service, always keyed by the client's address: nginx refuses a reload that changes a zone's key.
    return f"{service.ident}_rate"


def target_of(service: Service, scheme: str) -> Expression:
    if service.split is not None:
        return Expression((scheme, target_variable(service)))
    return Expression((scheme, service.upstreams[0].name if service.upstreams else "nobody"))


def _division(service: Service) -> tuple[tuple[MapView, ...], tuple[SplitView, ...]]:
    """Force rules first, each falling to the next, the last to the split by share."""
    split = service.split
    if split is None:
        return (), ()
    splits: list[SplitView] = []
    maps, key = _key(service)
    rest: Value
    chain = [target_variable(service), *(Variable(f"{service.ident}_force{n}") for n in range(1, len(split.force)))]
    if _is_split(split):
        share = _share_variable(service, split)
        splits.append(split_view(split, Expression((key, service.ident)), share))
        rest = share
    else:
        rest = split.pieces[0][1]
    for position, rule in enumerate(split.force):
        following = chain[position + 1] if position + 1 < len(chain) else rest
        maps.append(_force(rule, chain[position], following))
    variants = tuple(MapLine(match=upstream.name, value=upstream.variant) for upstream in service.upstreams)
    maps.append(MapView(source=chain[0], variable=variant_variable(service), default="", lines=variants))
    return tuple(maps), tuple(splits)


def share_view(service: Service, around: Surroundings) -> SplitCallView | None:
    """How a request of a service is split, where shares are pushed; None where it is not, or nginx splits it."""
    if not around.pushed or service.split is None or not _is_split(service.split):
        return None
    _, key = _key(service)
    return SplitCallView(variable=_share_variable(service, service.split), key=key, salt=service.ident)


def _is_split(split: Split) -> bool:
    """With one piece too: the virtual servers then stay as they are when a share reaches 0 % or 100 %."""
    return len(split.pieces) > 1 or not split.force


def _share_variable(service: Service, split: Split) -> Variable:
    return Variable(f"{service.ident}_share") if split.force else target_variable(service)


def _shares(split: Split) -> str:
    return " ".join(f"{share}:{upstream}" for share, upstream in split.pieces)


def target_variable(service: Service) -> Variable:
    return Variable(service.ident)


def variant_variable(service: Service) -> Variable:
    return Variable(f"{service.ident}_variant")


def split_view(split: Split, key: Expression, variable: Variable) -> SplitView:
    *pieces, (_, rest) = split.pieces
    return SplitView(
        key=key,
        variable=variable,
        pieces=tuple(Piece(percent=percent(share), value=upstream) for share, upstream in pieces),
        rest=rest,
    )


def _force(rule: ForceRule, variable: Variable, otherwise: Value) -> MapView:
    source = header_variable(rule.name) if rule.source == "header" else Variable(f"cookie_{rule.name}")
    lines: tuple[MapLine, ...]
    if rule.value is not None:
        lines = (MapLine(match=Regex(f"~^{literal(rule.value)}$"), value=rule.upstream),)
    else:
        lines = (
            MapLine(match=Regex("~^always$"), value=rule.upstream),
            MapLine(match=Regex("~^never$"), value=rule.otherwise),
        )
    return MapView(source=source, variable=variable, default=otherwise, lines=lines)


def _key(service: Service) -> tuple[list[MapView], Variable]:
    """The variable by which a client keeps its variant. An empty one would put everybody into the first range
    of split_clients, so a request without the cookie or header gets a key of its own."""
    sticky = service.options.sticky
    request = Variable("request_id")
    if sticky is None or sticky.by is StickyBy.NONE:
        return [], request
    if sticky.by is StickyBy.IP:
        return [], Variable("remote_addr")
    source = header_variable(sticky.name) if sticky.by is StickyBy.HEADER else Variable(f"cookie_{sticky.name}")
    key = Variable(f"{service.ident}_key")
    maps = [MapView(source=source, variable=key, default=source, lines=(MapLine(match="", value=request),))]
    if sticky.by is StickyBy.COOKIE:
        maps.append(_cookie_map(service, sticky, source, request))
    return maps, key


def _cookie_map(service: Service, sticky: Sticky, source: Variable, request: Variable) -> MapView:
    """Sent only to a client that has none, and neither where the application sets it itself nor with a redirect."""
    answer = Expression((source, Variable(f"upstream_cookie_{sticky.name}"), Variable("proxygen_moved")))
    cookie = Expression((f"{sticky.name}=", request, "; Path=/; HttpOnly; SameSite=Lax", Variable("proxygen_secure")))
    lines = (MapLine(match="", value=cookie),)
    return MapView(source=answer, variable=cookie_variable(service), default="", lines=lines)


def cookie_variable(service: Service) -> Variable:
    return Variable(f"{service.ident}_cookie")
