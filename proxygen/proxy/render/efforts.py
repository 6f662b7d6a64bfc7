"""How long an instance may take, and how many of them one request may ask."""

from __future__ import annotations

from typing import Final, TypedDict

from proxygen.kit.templating import Expression, Regex, Variable
from proxygen.proxy.plan.types import Service
from proxygen.proxy.render.defaults import or_default
from proxygen.proxy.render.spots import Spot
from proxygen.proxy.render.surroundings import Surroundings
from proxygen.proxy.render.views import MapLine, MapView, Template
from proxygen.tags import Protocol, ProxyTags
from proxygen.tags.shares import STABLE

CONNECT_TIMEOUT: Final = 3_000
"""Milliseconds; nginx's own minute would keep a request waiting for a host that is gone."""


TRIES: Final = 3


MOST_AGAIN: Final = 9
"""nginx follows ten redirections of a request, the one to its page included."""


class Effort(TypedDict):
    """How long an instance may take, and how many of them one request may ask."""

    connect_timeout: int
    timeout: int | None
    idle_timeout: int
    again: Variable | None
    no_retries: bool
    retries_unsafe: bool
    tries: int


def effort_of(at: Spot) -> Effort:
    options, most = at.service.options, tries(at.service)
    is_unbuffered = _is_unbuffered(options, at.around, at.template, at.said_around)
    return Effort(
        connect_timeout=connect_timeout(options),
        timeout=options.timeout,
        idle_timeout=_idle_timeout(options, at.around),
        again=None if is_unbuffered else Variable(f"proxygen_again_{min(most, MOST_AGAIN)}"),
        no_retries=options.retries == 0,
        retries_unsafe=or_default(options.retries_unsafe, at.around.requests.retries_unsafe),
        tries=most,
    )


def connect_timeout(options: ProxyTags) -> int:
    return CONNECT_TIMEOUT if options.connect_timeout is None else options.connect_timeout


def _idle_timeout(options: ProxyTags, around: Surroundings) -> int:
    """gRPC has one time-out for all its calls."""
    is_grpc = options.protocol in (Protocol.GRPC, Protocol.GRPCS)
    stated_here = or_default(options.idle_timeout, options.timeout) if is_grpc else options.idle_timeout
    return or_default(stated_here, around.requests.idle_timeout)


def _is_unbuffered(options: ProxyTags, around: Surroundings, template: Template, said: frozenset[str]) -> bool:
    """Whether a request's body may be on its way still when an instance fails: nginx cannot begin it anew then."""
    if f"{template.module}_request_buffering" in said:
        return True
    return not or_default(options.request_buffering, around.requests.request_buffering)


def tries(service: Service) -> int:
    """How many servers may be asked for one request: by default enough to get past dead canaries to the backup."""
    retries = service.options.retries
    if retries is not None:
        return retries + 1
    # Behind stable its own servers stand once more, beside those of other datacenters.
    fails_over = any(upstream.variant == STABLE and upstream.servers[-1].backup for upstream in service.upstreams)
    return max(TRIES, (2 if fails_over else 1) * service.before_backup + 1)


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
