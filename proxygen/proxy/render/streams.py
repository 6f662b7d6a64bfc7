"""From a stream server of the plan to what its template sees."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from proxygen.kit.templating import Expression, Variable
from proxygen.proxy.plan.types import ServiceState, StreamServer
from proxygen.proxy.render.access import stream_access
from proxygen.proxy.render.efforts import connect_timeout, tries
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.upstreams import split_view, target_of, target_variable, upstream_views
from proxygen.proxy.render.views import ListenView, ServiceLabel, SplitView, StreamView
from proxygen.tags import Protocol, ProxyTags, StickyBy

STREAM_TIMEOUT: Final = {Protocol.TCP: 600_000, Protocol.UDP: 30_000}
"""Milliseconds; nginx's own 10 minutes would keep a session per UDP client for that long."""


def stream_view(stream: StreamServer, around: Surroundings, snippets: Snippets) -> StreamView:
    service, options = stream.service, stream.service.options
    protocol = Protocol(stream.claims[0].protocol)
    split = service.split
    splits: tuple[SplitView, ...] = ()
    if split is not None:
        splits = (split_view(split, Expression((*_stream_key(options), service.ident)), target_variable(service)),)
    return StreamView(
        service=ServiceLabel(label=service.ident),
        upstreams=upstream_views(service, around),
        splits=splits,
        listens=tuple(_listens(stream, around.stream_address)),
        access=stream_access(
            options.allow or (), options.deny or (), snippets["stream.conf"], around.operator_stream_lines
        ),
        connect_timeout=connect_timeout(options),
        timeout=options.timeout if options.timeout is not None else STREAM_TIMEOUT[protocol],
        no_retries=options.retries == 0,
        tries=tries(service),
        unavailable=service.state is not ServiceState.SERVED,
        target=target_of(service, ""),
        snippets=snippets["stream.conf"],
    )


def _listens(stream: StreamServer, address: str | None) -> Iterator[ListenView]:
    for claim in stream.claims:
        place = f"{address}:{claim.port}" if address else str(claim.port)
        yield ListenView(address=place, udp=Protocol(claim.protocol) is Protocol.UDP)


def _stream_key(options: ProxyTags) -> tuple[str | Variable, ...]:
    """A session's key: its client's address where it is sticky, else something new for every session."""
    if options.sticky is not None and options.sticky.by is StickyBy.IP:
        return (Variable("remote_addr"),)
    return tuple(Variable(name) for name in ("remote_addr", "remote_port", "connection", "msec"))
