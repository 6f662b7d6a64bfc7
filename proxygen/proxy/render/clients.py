"""Who the client is, and what an instance learns about it."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Final

from proxygen.kit.templating import Variable
from proxygen.proxy.render.surroundings import Surroundings
from proxygen.proxy.render.views import ClientView, Value, VouchedHeader

ASKED_FOR: Final = Variable("proxygen_authority")
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
        host=ASKED_FOR,
        port=Variable("server_port"),
        forwarded="",
        prefix=Variable("proxygen_stripped") if is_stripped else "",
        request_id=Variable("request_id"),
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


def vouched_headers(around: Surroundings) -> tuple[VouchedHeader, ...]:
    def view(name: str) -> VouchedHeader:
        variable = name.lower().replace("-", "_")
        given: Value = Variable(f"proxygen_given_{variable}") if around.trusted_proxies else ""
        return VouchedHeader(
            name=name, parameter=f"HTTP_{variable.upper()}", sent=Variable(f"http_{variable}"), given=given
        )

    return tuple(map(view, VOUCHED))


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
