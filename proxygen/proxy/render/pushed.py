"""What of a service's upstreams can be pushed: its servers and its shares, in the words of a document.

A server is ``ADDRESS:PORT/WEIGHT/MAX_FAILS/FAIL_TIMEOUT/MAX_CONNS/p``, with ``b`` in place of ``p`` for a backup; a
share is ``BASIS_POINTS:UPSTREAM``. ``templates/lua/push.lua`` reads both.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from proxygen.proxy.render.views import ServerLine, ServiceView, UpstreamView

_NGINX_REST: Final = 10
"""Seconds of nginx's own ``fail_timeout``."""

SPLIT: Final = "_split"
"""What follows a split's variable in the name of the one that holds its shares."""

Entries = tuple[tuple[str, str], ...]
"""By name: what a document says of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushable:
    """A service's part of a generation, divided into what can be pushed and what cannot."""

    fixed: ServiceView
    """All that takes a reload."""
    upstreams: Entries
    splits: Entries


def pushable_of(view: ServiceView) -> Pushable:
    """Divide a view whose servers and shares are pushed."""
    fixed = replace(
        view,
        upstreams=tuple(replace(_without_method(each), servers=(), pushed=()) for each in view.upstreams),
        splits=tuple(replace(each, pieces=(), rest="", pushed="") for each in view.splits),
    )
    return Pushable(
        fixed=fixed,
        upstreams=tuple((each.name, " ".join(each.pushed)) for each in view.upstreams),
        splits=tuple((each.variable.name, each.pushed) for each in view.splits),
    )


def pushed_upstream(view: UpstreamView) -> UpstreamView:
    """The same, with servers that can be pushed."""
    key = "-" if view.hash is None else view.hash.name
    return replace(view, pushed=(f"{_method(view)} {key}", *map(_peer, view.servers)))


def _without_method(view: UpstreamView) -> UpstreamView:
    return replace(view, least_conn=False, random=False, ip_hash=False, hash=None)


def _method(view: UpstreamView) -> str:
    if view.hash is not None:
        return "hash"
    named = {"least_conn": view.least_conn, "random": view.random, "ip_hash": view.ip_hash}
    return next((name for name, is_it in named.items() if is_it), "round_robin")


def _peer(server: ServerLine) -> str:
    rest = _NGINX_REST if server.fail_timeout is None else server.fail_timeout
    return f"{server.address}/{server.weight}/{server.max_fails}/{rest}/0/{'b' if server.backup else 'p'}"
