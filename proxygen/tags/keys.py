"""Every key of the grammar, once: what it means, how it is written, how its text becomes a value and back."""

from __future__ import annotations

import re
from collections.abc import Callable
from types import MappingProxyType
from typing import Final

from proxygen.kit.errors import quoted
from proxygen.kit.units import format_duration, format_size, parse_duration, parse_size
from proxygen.tags.key import EVERY_PROTOCOL, STREAMS, WITH_REQUESTS, Combine, Key
from proxygen.tags.shares import format_share
from proxygen.tags.values import (
    Protocol,
    VariantTag,
    format_failover,
    format_networks,
    parse_balance,
    parse_canary,
    parse_failover,
    parse_file_name,
    parse_force,
    parse_networks,
    parse_protocol,
    parse_rate,
    parse_route,
    parse_sticky,
    parse_variant,
)

_WHOLE_NUMBER: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_LONGEST_DURATION: Final = parse_duration("24h")
_LARGEST_BODY: Final = parse_size("1024g")

_GRPC: Final = frozenset({Protocol.GRPC, Protocol.GRPCS})
_GATEWAYS: Final = frozenset({Protocol.FASTCGI, Protocol.UWSGI})
_HTTP: Final = frozenset({Protocol.HTTP, Protocol.HTTPS})


def _whole_number(lowest: int, highest: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not _WHOLE_NUMBER.fullmatch(text) or not lowest <= int(text) <= highest:
            raise ValueError(f"{quoted(text)} is not a whole number from {lowest} to {highest}")
        return int(text)

    return parse


def _boolean(text: str) -> bool:
    if text not in ("true", "false"):
        raise ValueError(f"{quoted(text)} is neither true nor false")
    return text == "true"


def _format_boolean(value: object) -> str:
    # str(True) is "True", which the grammar refuses; anything but a bool falls through to that refusal.
    return {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)


def _format_canary(value: object) -> str:
    # An application may write canary=12.5, which is no variant yet.
    return format_share(value.share) if isinstance(value, VariantTag) else str(value)


def _duration(text: str) -> int:
    milliseconds = parse_duration(text)
    if not 1 <= milliseconds <= _LONGEST_DURATION:
        raise ValueError(f"{quoted(text)} is not from 1ms to 24h")
    return milliseconds


def _size(text: str) -> int:
    size = parse_size(text)
    if size > _LARGEST_BODY:
        raise ValueError(f"{quoted(text)} is more than 1024g")
    return size


KEYS: Final = (
    Key(
        name="route",
        field="route",
        meaning="the requests that go to this service; the longest path prefix wins",
        syntax="HOST[/PATH], *.HOST[/PATH] or /PATH (any host)",
        example="app.example.com/api",
        default="the service is not proxied",
        repeatable=True,
        parse=parse_route,
        combine=Combine.UNION,
        protocols=WITH_REQUESTS,
        ignored_with=STREAMS,
    ),
    Key(
        name="canary",
        field="variant",
        meaning="this instance belongs to the variant canary, which gets this share of the service's requests, "
        "however many instances either side has",
        syntax="N% or N (0 to 100, at most two decimals)",
        example="10%",
        default="the instance belongs to stable",
        parse=parse_canary,
        format=_format_canary,
        combine=Combine.LOWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="variant",
        field="variant",
        meaning="the same for a variant of any name; what the named variants leave goes to stable",
        syntax="NAME:N%",
        example="blue:20%",
        default="the instance belongs to stable",
        parse=parse_variant,
        combine=Combine.LOWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="sticky",
        field="sticky",
        meaning="the key by which a client keeps its variant; a growing share moves clients only toward it",
        syntax="none, ip, cookie[:NAME] or header:NAME",
        example="cookie",
        default="none",
        parse=parse_sticky,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="force",
        field="force",
        meaning="requests that always get the canary; without VALUE, the values always and never decide",
        syntax="header:NAME[:VALUE] or cookie:NAME[:VALUE]",
        example="header:X-Canary:always",
        default="no request is forced",
        repeatable=True,
        parse=parse_force,
        combine=Combine.UNION,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="weight",
        field="weight",
        meaning="this instance's relative weight inside its variant; 0 drains it",
        syntax="0 to 1000",
        example="5",
        default="Consul's weight for the instance's health",
        parse=_whole_number(0, 1000),
        combine=Combine.OWN,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="balance",
        field="balance",
        meaning="how the instances of one variant take turns",
        syntax="round_robin, least_conn, ip_hash, random, hash:$uri, hash:header:NAME or hash:cookie:NAME",
        example="least_conn",
        default="round_robin",
        parse=parse_balance,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="failover",
        field="failover",
        meaning="other datacenters, in order, whose instances of this service stand behind the local ones",
        syntax="datacenters between commas (at most 8)",
        example="dc2,dc3",
        default="none; only local instances serve",
        parse=parse_failover,
        format=format_failover,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="protocol",
        field="protocol",
        meaning="how nginx speaks to the instance",
        syntax="http, https, grpc, grpcs, fastcgi, uwsgi, tcp or udp",
        example="grpc",
        default="http",
        parse=parse_protocol,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="listen",
        field="listen",
        meaning="the port on which nginx takes a tcp or udp service's streams",
        syntax="1 to 65535",
        example="5432",
        default="none; tcp and udp must state it",
        parse=_whole_number(1, 65535),
        combine=Combine.UNION,
        protocols=STREAMS,
        elsewhere="only tcp and udp have a port of their own, and the protocol is {protocol}",
    ),
    Key(
        name="strip-prefix",
        field="strip_prefix",
        meaning="take the route's path off before the request goes to the instance; the rest stays as it was written",
        syntax="true or false",
        example="true",
        default="false",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - _GATEWAYS,
        elsewhere="{protocol} passes the path in a parameter; it cannot be stripped",
    ),
    Key(
        name="redirect-https",
        field="redirect_https",
        meaning="answer plain HTTP with a redirect to HTTPS; needs tls",
        syntax="true or false",
        example="true",
        default="false",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="hsts",
        field="hsts",
        meaning="tell browsers to use only HTTPS for this host; needs tls, and that this service holds the host",
        syntax="true or false",
        example="true",
        default="false",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="websocket",
        field="websocket",
        meaning="pass WebSocket upgrades on",
        syntax="true or false",
        example="true",
        default="true",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=_HTTP,
        ignored_with=_GRPC | _GATEWAYS,
        elsewhere="nginx upgrades connections over HTTP alone",
    ),
    Key(
        name="tls",
        field="tls",
        meaning="serve the hosts over TLS, with the certificate of this name or the one whose names match",
        syntax="auto or a certificate's name",
        example="auto",
        default="plain HTTP",
        parse=parse_file_name,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="timeout",
        field="timeout",
        meaning="the longest silence between two reads from or writes to the instance",
        syntax="duration (1ms to 24h)",
        example="30s",
        default="5m; for gRPC what idle-timeout says; 10m for tcp, 30s for udp",
        parse=_duration,
        format=format_duration,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="idle-timeout",
        field="idle_timeout",
        meaning="the longest silence of long-lived requests: a WebSocket, an event stream, a request with Prefer: wait",
        syntax="duration (1ms to 24h)",
        example="10m",
        default="1h",
        parse=_duration,
        format=format_duration,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="connect-timeout",
        field="connect_timeout",
        meaning="the longest wait for a connection to the instance",
        syntax="duration (1ms to 24h)",
        example="2s",
        default="3s",
        parse=_duration,
        format=format_duration,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL - {Protocol.UDP},
        ignored_with=frozenset({Protocol.UDP}),
        elsewhere="{protocol} opens no connection to wait for",
    ),
    Key(
        name="body-size",
        field="body_size",
        meaning="the largest request body; 0 is unlimited, which gRPC's streams always are",
        syntax="size (0 to 1024g)",
        example="10m",
        default="0",
        parse=_size,
        format=format_size,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - _GRPC,
        ignored_with=_GRPC,
        elsewhere="a stream is as long as it lasts",
    ),
    Key(
        name="request-buffering",
        field="request_buffering",
        meaning="wait for a request's whole body before an instance is asked; false sends it on as it comes, to one "
        "instance only",
        syntax="true or false",
        example="false",
        default="true",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - _GRPC,
        ignored_with=_GRPC,
        elsewhere="its streams are never buffered",
    ),
    Key(
        name="response-buffering",
        field="response_buffering",
        meaning="take an answer from the instance as fast as it sends, whatever the client reads; false sends it "
        "on as it comes, as event streams always are",
        syntax="true or false",
        example="false",
        default="true",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - _GRPC,
        ignored_with=_GRPC,
        elsewhere="its streams are never buffered",
    ),
    Key(
        name="max-fails",
        field="max_fails",
        meaning="failures within fail-timeout after which an instance rests; 0 never",
        syntax="0 to 1000",
        example="3",
        default="1; an instance is left out only while another one can answer",
        parse=_whole_number(0, 1000),
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="fail-timeout",
        field="fail_timeout",
        meaning="the window in which failures count, and how long an instance then rests",
        syntax="duration (1ms to 24h)",
        example="10s",
        default="5s",
        parse=_duration,
        format=format_duration,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="retries",
        field="retries",
        meaning="how many more instances a failed request may try",
        syntax="0 to 20",
        example="2",
        default="2",
        parse=_whole_number(0, 20),
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="retries-unsafe",
        field="retries_unsafe",
        meaning="send POST, PUT, PATCH and the like to another instance too after one hung up or timed out, which may "
        "have done what they ask; without it only where nothing of the request was sent",
        syntax="true or false",
        example="true",
        default="false",
        parse=_boolean,
        format=_format_boolean,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="keepalive",
        field="keepalive",
        meaning="idle connections to the instances that each nginx worker keeps; 0 keeps none",
        syntax="0 to 10000",
        example="64",
        default="16; with fastcgi none is kept unless nginx.conf says fastcgi_keep_conn on",
        parse=_whole_number(0, 10_000),
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - {Protocol.UWSGI},
        ignored_with=frozenset({Protocol.UWSGI}),
        elsewhere="each request has a connection of its own",
    ),
    Key(
        name="keepalive-timeout",
        field="keepalive_timeout",
        meaning="how long an idle connection to an instance is kept: shorter than the instance keeps it, or a "
        "request meets its end",
        syntax="duration (1ms to 24h)",
        example="30s",
        default="1s",
        parse=_duration,
        format=format_duration,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS - {Protocol.UWSGI},
        ignored_with=frozenset({Protocol.UWSGI}),
        elsewhere="each request has a connection of its own",
    ),
    Key(
        name="rate",
        field="rate",
        meaning="how many requests a client address may send, and how many more in a burst",
        syntax="Nr/s[:BURST] or Nr/m[:BURST] (to 1000000)",
        example="10r/s:20",
        default="no limit",
        parse=parse_rate,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
    Key(
        name="allow",
        field="allow",
        meaning="the client networks that are let in; all others are not",
        syntax="CIDRs between commas",
        example="10.0.0.0/8,2001:db8::/32",
        default="everybody",
        parse=parse_networks,
        format=format_networks,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="deny",
        field="deny",
        meaning="the client networks that are turned away",
        syntax="CIDRs between commas",
        example="192.0.2.0/24",
        default="nobody",
        parse=parse_networks,
        format=format_networks,
        combine=Combine.NEWEST,
        protocols=EVERY_PROTOCOL,
    ),
    Key(
        name="auth",
        field="auth",
        meaning="ask for a password from this htpasswd file of the operator's",
        syntax="a file's name",
        example="staff.htpasswd",
        default="no password",
        parse=parse_file_name,
        combine=Combine.NEWEST,
        protocols=WITH_REQUESTS,
    ),
)
"""In the order in which tags are formatted."""

BY_NAME: Final = MappingProxyType({key.name: key for key in KEYS})
BY_FIELD: Final = MappingProxyType({key.field: key for key in KEYS})
"""Of two keys with one field, the last: ``variant``, whose syntax covers ``canary``."""

NOT_WITH: Final = MappingProxyType(
    {protocol: tuple(key for key in KEYS if protocol not in key.protocols) for protocol in Protocol}
)
"""The keys that have no effect with a protocol."""
