"""The values of proxy tags as types. Whatever is one of these is safe to stand in nginx's configuration.

Every parser takes one text, accepts it by an allow-list and raises ValueError with what is wrong, the text and
what is allowed; ``str()`` of a value, or its formatter, gives the normal form that the parser reads back.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Final, NewType

from proxygen.kit.errors import quoted
from proxygen.tags.shares import CANARY, Share, format_share, parse_share, parse_variant_name

Host = NewType("Host", str)
"""Lower-case RFC 1123 labels, at most 253 characters, perhaps with a leading ``*.``."""
Path = NewType("Path", str)
"""A prefix of a request's path, whole segments, without a trailing slash except for ``/``."""
FileName = NewType("FileName", str)
"""The name of a file in a directory that the operator chose: no slash, no leading dot."""

Datacenter = NewType("Datacenter", str)
"""A datacenter's name as Consul allows it."""

IPNetwork = IPv4Network | IPv6Network

AUTO: Final = FileName("auto")
"""As a certificate's name: the one whose names match the host."""
CLIENT_COOKIE: Final = "proxygen_client"

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST: Final = re.compile(rf"(?:{_LABEL}(?:\.{_LABEL})*|\*(?:\.{_LABEL}){{2,}})")
_PATH: Final = re.compile(r"/[A-Za-z0-9._~!&()*+,=:@/-]*")
_HEADER_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}")
_COOKIE_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_FORCE_VALUE: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
_FILE_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RATE: Final = re.compile(r"([1-9][0-9]{0,6})r/([sm])(?::(0|[1-9][0-9]{0,6}))?")
_DATACENTER: Final = re.compile(r"[a-z0-9_-]{1,64}")
_NETWORK: Final = re.compile(r"[0-9A-Fa-f.:]{1,45}(?:/[0-9]{1,3})?")

_LONGEST_HOST: Final = 253
_LONGEST_PATH: Final = 254
"""Seen on nginx 1.22.1: a location's name of 257 characters takes the requests for / (its length seems to be kept in
one byte). A slash is added at the end."""
_MOST_REQUESTS: Final = 1_000_000
_MOST_DATACENTERS: Final = 8


class Protocol(StrEnum):
    """How nginx speaks to an instance."""

    HTTP = "http"
    HTTPS = "https"
    GRPC = "grpc"
    GRPCS = "grpcs"
    FASTCGI = "fastcgi"
    UWSGI = "uwsgi"
    TCP = "tcp"
    UDP = "udp"

    @property
    def is_stream(self) -> bool:
        """Whether nginx's stream module carries it: a port of its own, without hosts or paths."""
        return self in (Protocol.TCP, Protocol.UDP)


class Source(StrEnum):
    """Where in a request a name is looked up."""

    HEADER = "header"
    COOKIE = "cookie"


class StickyBy(StrEnum):
    """What keeps a client on its variant."""

    NONE = "none"
    IP = "ip"
    COOKIE = "cookie"
    HEADER = "header"


class BalanceBy(StrEnum):
    """How one variant's servers take turns."""

    ROUND_ROBIN = "round_robin"
    LEAST_CONN = "least_conn"
    IP_HASH = "ip_hash"
    RANDOM = "random"
    HASH_URI = "hash:$uri"
    HASH_HEADER = "hash:header"
    HASH_COOKIE = "hash:cookie"

    @property
    def may_back_up(self) -> bool:
        """Whether nginx takes ``backup`` with it."""
        return self in (BalanceBy.ROUND_ROBIN, BalanceBy.LEAST_CONN)


@dataclass(frozen=True, slots=True)
class RouteTag:
    """The requests that go to a service: a host (None: any) and a path prefix."""

    host: Host | None
    path: Path = Path("/")

    def __str__(self) -> str:
        return f"{self.host or ''}{'' if self.host and self.path == '/' else self.path}"


@dataclass(frozen=True, slots=True)
class VariantTag:
    """The variant that an instance belongs to, and the share asked for it."""

    name: str
    share: Share

    def __str__(self) -> str:
        return f"{self.name}:{format_share(self.share)}"


@dataclass(frozen=True, slots=True)
class Sticky:
    """The key by which a client keeps its variant."""

    by: StickyBy
    name: str | None = None
    """Of the cookie, or of the header in lower case; None for the other kinds."""

    def __str__(self) -> str:
        return f"{self.by}:{self.name}" if self.name else self.by.value


@dataclass(frozen=True, slots=True)
class Force:
    """Requests that always get the canary."""

    source: Source
    name: str
    """A header's is in lower case."""
    value: str | None = None
    """The exact value that matches; None: ``always`` gets the canary, ``never`` does not."""

    def __str__(self) -> str:
        return f"{self.source}:{self.name}" + (f":{self.value}" if self.value else "")


@dataclass(frozen=True, slots=True)
class Balance:
    """The method by which one variant's servers take turns."""

    by: BalanceBy
    name: str | None = None
    """Of the cookie, or of the header in lower case, that is hashed; None for the other methods."""

    def __str__(self) -> str:
        return f"{self.by}:{self.name}" if self.name else self.by.value


@dataclass(frozen=True, slots=True)
class Rate:
    """How many requests a client address may send."""

    requests: int
    per: str
    """``s`` or ``m``."""
    burst: int = 0

    def __str__(self) -> str:
        return f"{self.requests}r/{self.per}" + (f":{self.burst}" if self.burst else "")


def parse_host(text: str) -> Host:
    """Read a host, in small letters. Raise ValueError, which says what is allowed."""
    # isascii comes first: lower() would turn the Kelvin sign into a plain k.
    if not text.isascii():
        raise ValueError(f"{quoted(text)} is not a host; write an international name in its ASCII form (xn--…)")
    host = text.lower()
    if len(host) > _LONGEST_HOST or not _HOST.fullmatch(host):
        raise ValueError(
            f"{quoted(text)} is not a host; write labels of letters, digits and inner hyphens between dots, each at "
            "most 63 characters and 253 in all, without port or trailing dot; *. may stand before at least two labels"
        )
    return Host(host)


def parse_path(text: str) -> Path:
    """Read a path that nginx would not normalise. Raise ValueError, which says what is allowed."""
    if not _PATH.fullmatch(text):
        raise ValueError(f"{quoted(text)} is not a path; write / and then only letters, digits and ._~!&()*+,=:@/-")
    if len(text) > _LONGEST_PATH:
        raise ValueError(f"{quoted(text)} is longer than the {_LONGEST_PATH} characters that a path may have")
    segments = text.split("/")[1:]
    if "" in segments[:-1] or "." in segments or ".." in segments:
        raise ValueError(f"{quoted(text)} holds //, /./ or /../; nginx removes those from a request before it looks")
    if segments[0] == ".proxygen":
        raise ValueError(f"{quoted(text)} is where errors lead to; write another path")
    return Path(text.rstrip("/") or "/")


def parse_route(text: str) -> RouteTag:
    """Read HOST, HOST/PATH or /PATH, which is for any host. Raise ValueError."""
    host, slash, path = text.partition("/")
    if not text:
        raise ValueError("a route is empty; write HOST, HOST/PATH, or /PATH for any host")
    return RouteTag(parse_host(host) if host else None, parse_path(slash + path) if slash else Path("/"))


def parse_canary(text: str) -> VariantTag:
    """Read a share such as ``10%``; the variant's name is fixed. Raise ValueError."""
    return VariantTag(CANARY, parse_share(text))


def parse_variant(text: str) -> VariantTag:
    """Read ``NAME:N%``. Raise ValueError."""
    name, colon, share = text.partition(":")
    if not colon:
        raise ValueError(f"{quoted(text)} names no share; write NAME:N%, such as blue:20%")
    return VariantTag(parse_variant_name(name), parse_share(share))


def _parse_name(source: Source | StickyBy | BalanceBy, name: str) -> str:
    """Return a header's or cookie's name as it may stand in a variable of nginx, ``$http_…`` or ``$cookie_…``."""
    if source in (Source.COOKIE, BalanceBy.HASH_COOKIE):
        if not _COOKIE_NAME.fullmatch(name):
            raise ValueError(
                f"{quoted(name)} is not a cookie's name; write a letter, then at most 63 letters, digits or underscores"
            )
        return name
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(
            f"{quoted(name)} is not a header's name; write a letter, then at most 63 letters, digits or hyphens"
        )
    return name.lower()


def parse_sticky(text: str) -> Sticky:
    """Read by what a client stays with its variant. Raise ValueError, which lists the ways."""
    kind, colon, name = text.partition(":")
    if text in (StickyBy.NONE, StickyBy.IP):
        return Sticky(StickyBy(text))
    if text == StickyBy.COOKIE:
        return Sticky(StickyBy.COOKIE, CLIENT_COOKIE)
    if colon and kind in (StickyBy.COOKIE, StickyBy.HEADER):
        return Sticky(StickyBy(kind), _parse_name(Source(kind), name))
    raise ValueError(f"{quoted(text)} is not a way to stick; write none, ip, cookie, cookie:NAME or header:NAME")


def parse_force(text: str) -> Force:
    """Read the header or cookie that forces a variant, and its value where one is written. Raise ValueError."""
    kind, colon, rest = text.partition(":")
    name, valued, value = rest.partition(":")
    if not colon or kind not in tuple(Source):
        raise ValueError(
            f"{quoted(text)} does not say what forces; write header:NAME, header:NAME:VALUE, cookie:NAME or "
            "cookie:NAME:VALUE"
        )
    if valued and not _FORCE_VALUE.fullmatch(value):
        raise ValueError(
            f"{quoted(value)} cannot be matched; write 1 to 128 letters, digits, dots, underscores or hyphens"
        )
    return Force(Source(kind), _parse_name(Source(kind), name), value if valued else None)


def parse_balance(text: str) -> Balance:
    """Read one of nginx's balancing methods; those that hash name what they hash. Raise ValueError."""
    for by in (BalanceBy.HASH_HEADER, BalanceBy.HASH_COOKIE):
        if text.startswith(f"{by}:"):
            return Balance(by, _parse_name(by, text.removeprefix(f"{by}:")))
    if text not in tuple(BalanceBy) or text in (BalanceBy.HASH_HEADER, BalanceBy.HASH_COOKIE):
        raise ValueError(
            f"{quoted(text)} is not a method; write round_robin, least_conn, ip_hash, random, hash:$uri, "
            "hash:header:NAME or hash:cookie:NAME"
        )
    return Balance(BalanceBy(text))


def parse_protocol(text: str) -> Protocol:
    """Read one of `Protocol`, in small letters. Raise ValueError."""
    if text not in tuple(Protocol):
        raise ValueError(f"{quoted(text)} is not a protocol; write one of {', '.join(Protocol)}")
    return Protocol(text)


def parse_file_name(text: str) -> FileName:
    """Read the name of a file without a folder. Raise ValueError."""
    if not _FILE_NAME.fullmatch(text):
        raise ValueError(
            f"{quoted(text)} is not a file's name; write a letter, digit or underscore, then at most 127 letters, "
            "digits, dots, underscores or hyphens"
        )
    return FileName(text)


def parse_rate(text: str) -> Rate:
    """Read requests per second or minute, and the burst after a colon. Raise ValueError."""
    match = _RATE.fullmatch(text)
    if match is None or max(int(match[1]), int(match[3] or 0)) > _MOST_REQUESTS:
        raise ValueError(
            f"{quoted(text)} is not a rate; write a number from 1 to {_MOST_REQUESTS} and r/s or r/m, and perhaps a "
            "burst after a colon, such as 10r/s:20"
        )
    return Rate(int(match[1]), match[2], int(match[3] or 0))


def parse_networks(text: str) -> tuple[IPNetwork, ...]:
    """Return the networks of a comma-separated list, sorted, each once."""
    networks = {_parse_network(item) for item in text.split(",")}
    return tuple(sorted(networks, key=lambda net: (net.version, int(net.network_address), net.prefixlen)))


def _parse_network(text: str) -> IPNetwork:
    if not _NETWORK.fullmatch(text):
        raise ValueError(
            f"{quoted(text)} is not a network; write CIDRs between commas, without spaces, such as "
            "10.0.0.0/8,2001:db8::/32"
        )
    try:
        return ip_network(text)
    except ValueError as error:
        raise ValueError(f"{quoted(text)} is not a network ({error}); write CIDRs such as 10.0.0.0/8") from None


def format_networks(networks: tuple[IPNetwork, ...]) -> str:
    """Write networks as a tag does: between commas, without spaces."""
    return ",".join(map(str, networks))


def parse_failover(text: str) -> tuple[Datacenter, ...]:
    """Return the datacenters of a comma-separated list, in the order in which they are written."""
    names = text.split(",")
    for name in names:
        if not _DATACENTER.fullmatch(name):
            raise ValueError(
                f"{quoted(name)} is not a datacenter; write names between commas, without spaces, each of 1 to 64 "
                "lower-case letters, digits, underscores or hyphens, such as dc2,dc3"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"{quoted(text)} names a datacenter twice")
    if len(names) > _MOST_DATACENTERS:
        raise ValueError(f"{quoted(text)} names more than {_MOST_DATACENTERS} datacenters")
    return tuple(map(Datacenter, names))


def format_failover(datacenters: tuple[Datacenter, ...]) -> str:
    """Write datacenters in the order in which they are tried, between commas."""
    return ",".join(map(str, datacenters))
