"""Where nginx listens: a ``listen`` as nginx reads it, the operator's own servers, and what the kernel makes of both.

The rules are those of ``ngx_parse_url``, ``ngx_http_add_listen`` and ``ngx_http_init_listening`` (nginx 1.22 to 1.31),
tried by ``nginx -t`` and by starts and reloads.
"""

from __future__ import annotations

import os
import re
import socket
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Final, NamedTuple

from proxygen.proxy.nginx.conf import OperatorConf, Statement
from proxygen.proxy.nginx.names import hosts_of
from proxygen.proxy.plan.types import OperatorNames

_IPV4: Final = 4
_IPV6: Final = 6
_WILDCARDS: Final = {_IPV4: "0.0.0.0", _IPV6: "::"}  # noqa: S104
_MOST_PORTS: Final = 65535
_CONTEXTS: Final = ("http", "stream", "mail")
_DATAGRAMS: Final = frozenset({"udp", "quic"})
_PROTOCOLS: Final = ("ssl", "http2", "quic", "proxy_protocol")
_OF_ITS_OWN: Final = re.compile(
    r"bind|deferred|reuseport|multipath|(?:backlog|rcvbuf|sndbuf|setfib|fastopen|accept_filter|ipv6only|so_keepalive)=.*"
)
"""With one of these nginx binds an address even where a wildcard holds its port already."""


@lru_cache(maxsize=4096)
def _version(host: str) -> int:
    return ip_address(host).version


class Address(NamedTuple):
    """One socket address. Two listens are one to nginx exactly where these are equal."""

    host: str
    """An IP address in its canonical form, or ``unix:PATH``."""
    port: int
    """0 for a unix socket."""
    udp: bool = False

    def __str__(self) -> str:
        if not self.port:
            return self.host
        host = f"[{self.host}]" if self.family == _IPV6 else self.host
        return f"{host}:{self.port}{'/udp' if self.udp else ''}"

    @property
    def family(self) -> int:
        """4 or 6; 0 for a unix socket."""
        return _version(self.host) if self.port else 0

    @property
    def is_wildcard(self) -> bool:
        """Whether it stands for all addresses of its family."""
        return self.host == _WILDCARDS.get(self.family)

    @property
    def without_host(self) -> tuple[int, bool, int]:
        """Port, whether UDP, family: what a wildcard and an address of it have in common."""
        return (self.port, self.udp, self.family)

    def meets(self, other: Address) -> bool:
        """Whether something may arrive that is for both."""
        if self.without_host != other.without_host:
            return False
        return self.host == other.host or (self.port > 0 and (self.is_wildcard or other.is_wildcard))


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """One ``listen``."""

    addresses: frozenset[Address]
    """More than one where it names a host or a range of ports."""
    is_default: bool = False
    """Whether it says ``default_server``."""
    is_apart: bool = False
    """Whether nginx binds it even beside a wildcard of the same port."""
    takes_ipv4: bool = False
    """Whether an IPv6 wildcard is bound for IPv4 too."""
    protocols: tuple[str, ...] = ()
    """What is spoken there, as written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorServer:
    """A server of nginx.conf's own."""

    context: str
    """``http``, ``stream`` or ``mail``."""
    file: Path
    line: int
    statement: Statement | None = None
    listens: tuple[Listen, ...]
    hosts: frozenset[str] = frozenset()
    """What it serves, written as in a route."""
    patterns: tuple[str, ...] = ()
    """And by which regular expressions, without the tilde."""
    is_before_ours: bool
    """Whether nginx reads it before what proxygen writes for the same context."""

    @property
    def place(self) -> str:
        """``FILE:LINE`` of its block, for messages."""
        return f"{self.file}:{self.line}"

    @property
    def addresses(self) -> frozenset[Address]:
        """All that its ``listen`` directives stand for."""
        return frozenset(address for listen in self.listens for address in listen.addresses)

    @property
    def defaults(self) -> frozenset[Address]:
        """Where it, or another one before ours, answers what nobody claims: nginx takes the one that says so, else the
        first one that it reads."""
        firm = (listen for listen in self.listens if listen.is_default or self.is_before_ours)
        return frozenset(address for listen in firm for address in listen.addresses)


Listens = Mapping[str, Collection[Listen]]
"""By context."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clash:
    """An address of ours, and a server of the operator's that is in the way or would be wronged."""

    address: Address
    server: OperatorServer


@dataclass(frozen=True, slots=True, kw_only=True)
class Occupied:
    """What the operator's own servers hold."""

    servers: tuple[OperatorServer, ...] = ()

    def defaults(self, ours: Iterable[str]) -> frozenset[str]:
        """Return those of our listens for which a server of the operator's answers what nobody claims."""
        taken = self._defaults()
        return frozenset(text for text in ours if taken & addresses(text))

    def names(self, ours: str) -> OperatorNames:
        """Return what the operator's servers are called at the addresses of one of our listens."""
        taken = addresses(ours)
        there = [server for server in self._of("http") if server.addresses & taken]
        return OperatorNames(
            hosts=frozenset(host for server in there for host in server.hosts),
            patterns=tuple(dict.fromkeys(text for server in there for text in server.patterns)),
        )

    def overtaken(self, ours: Listens) -> Iterator[Clash]:
        """Yield the servers in whose place ours would answer what nobody claims: each is the first one for its
        address, until one of ours stands before it."""
        first = _addresses(ours.get("http", ())) - self._defaults()
        return (Clash(address=each, server=server) for server in self._of("http") for each in server.addresses & first)

    def narrowed(self, ours: Listens) -> Iterator[Clash]:
        """Yield the servers that answer on an address of ours by a wildcard: nginx asks none of them any more where
        somebody names the address."""
        named = {address for server in self._of("http") for address in server.addresses}
        for address in sorted(_addresses(ours.get("http", ())) - named):
            for server in self._of("http"):
                if any(each.meets(address) for each in server.addresses if each.is_wildcard):
                    yield Clash(address=address, server=server)

    def speaking(self, protocol: str, ours: str) -> OperatorServer | None:
        """Return a server whose ``listen`` at the addresses of one of ours names that protocol."""
        taken = addresses(ours)
        return next(
            (
                server
                for server in self._of("http")
                if any(protocol in each.protocols and each.addresses & taken for each in server.listens)
            ),
            None,
        )

    def holder(self, address: Address) -> OperatorServer | None:
        """Return the server from which anybody else who listens there takes it, or may."""
        return next((each.server for each in self._bound({}, merged=False) if each.meets(address)), None)

    def bound(self, ours: Listens = MappingProxyType({})) -> frozenset[Address]:
        """What nginx holds with ours, or without any."""
        return frozenset(each.address for each in self._bound(ours))

    def ports(self, host: str | None) -> dict[tuple[str, int], str]:
        """Return which ports are taken for whoever listens on that address, None: on any IPv4 one; by protocol and
        number, with the place of the server that has it."""
        found: dict[tuple[str, int], str] = {}
        for bound in self._bound({}, merged=False):
            asked = bound.address._replace(host=canonical(host) if host else _WILDCARDS[_IPV4])
            if bound.address.port and bound.server is not None and bound.meets(asked):
                found.setdefault(("udp" if bound.address.udp else "tcp", bound.address.port), bound.server.place)
        return found

    def clashes(self, ours: Listens) -> Iterator[Clash]:
        """Yield what nginx could neither take by a reload nor start with; ``nginx -t`` passes over it."""
        own, theirs = [], defaultdict[int, dict[tuple[str, Address, bool], _Bound]](dict)
        for bound in self._bound(ours):
            if bound.server is None:
                own.append(bound)
            else:
                theirs[bound.address.port].setdefault((bound.context, bound.address, bound.takes_ipv4), bound)
        for bound in own:
            others = (each for each in theirs[bound.address.port].values() if not each.is_one_with(bound))
            server = next((each.server for each in others if each.meets(bound.address)), None)
            if server is not None and not bound.address.udp:
                yield Clash(address=bound.address, server=server)

    def obstacles(self, ours: Listens, held: frozenset[Address]) -> Iterator[tuple[Address, Address]]:
        """Yield what nginx must restart for, and which of the addresses that it holds is in the way: what is new is
        bound before what is no longer needed is let go."""
        by_port: dict[int, list[Address]] = defaultdict(list)
        for each in sorted(held):
            by_port[each.port].append(each)
        for address in sorted(self.bound(ours) - held):
            blocker = next((each for each in by_port[address.port] if each.meets(address)), None)
            if blocker is not None and not address.udp:
                yield address, blocker

    def _bound(self, ours: Listens, *, merged: bool = True) -> Iterator[_Bound]:
        """What nginx binds: in each context a wildcard stands for all of its port, but for those with options of their
        own. ``merged`` False: as if each stood alone."""
        for context in _CONTEXTS:
            listens: list[tuple[Listen, OperatorServer | None]] = [
                (listen, server) for server in self.servers if server.context == context for listen in server.listens
            ]
            listens += [(listen, None) for listen in ours.get(context, ())]
            wild = {each.without_host for listen, _ in listens for each in listen.addresses if each.is_wildcard}
            for listen, server in listens:
                for address in sorted(listen.addresses):
                    if not merged or listen.is_apart or address.is_wildcard or address.without_host not in wild:
                        yield _Bound(context, address, listen.takes_ipv4, server)

    def _defaults(self) -> frozenset[Address]:
        return frozenset(address for server in self._of("http") for address in server.defaults)

    def _of(self, context: str) -> Sequence[OperatorServer]:
        return [server for server in self.servers if server.context == context]


class _Bound(NamedTuple):
    context: str
    address: Address
    takes_ipv4: bool
    server: OperatorServer | None
    """None: one of ours."""

    def is_one_with(self, other: _Bound) -> bool:
        return (self.context, self.address) == (other.context, other.address)

    def meets(self, address: Address) -> bool:
        return self.address.meets(address) or (self.takes_ipv4 and self.address.meets(_as_ipv6(address)))


def occupied(conf: OperatorConf | None) -> Occupied:
    """Read the operator's own servers. Names of hosts are resolved, as nginx resolves them: it may take its time."""
    return Occupied() if conf is None else Occupied(servers=tuple(_servers(conf)))


def addresses(text: str, *, udp: bool = False) -> frozenset[Address]:
    """Return the addresses that a ``listen`` stands for; none where nginx would not take it.

    ``80``, ``*:80``, ``0.0.0.0:080`` and, without a port, ``0.0.0.0`` are one and the same.
    """
    if text[:5].lower() == "unix:":
        return frozenset({Address(f"unix:{text[5:]}", 0, udp)})
    match = _TEXT.fullmatch(text)
    if match is None:
        return frozenset()
    host, ports = match["ipv6"] or match["host"], match["ports"] or match["alone"] or "80"
    hosts = [_WILDCARDS[_IPV4]] if host in (None, "*") else _resolved(host)
    first, last = int(ports.partition("-")[0]), int(ports.rpartition("-")[2])
    if not 0 < first <= last <= _MOST_PORTS:
        return frozenset()
    return frozenset(Address(each, port, udp) for each in hosts for port in range(first, last + 1))


def listen(arguments: Sequence[str]) -> Listen:
    """Read the arguments of a ``listen``."""
    text, *options = arguments
    return Listen(
        addresses=addresses(text, udp=not _DATAGRAMS.isdisjoint(options)),
        is_default=not {"default_server", "default"}.isdisjoint(options),
        is_apart=any(_OF_ITS_OWN.fullmatch(option) for option in options),
        takes_ipv4="ipv6only=off" in options,
        protocols=tuple(option for option in options if option in _PROTOCOLS),
    )


_TEXT: Final = re.compile(
    r"(?P<alone>\d+(?:-\d+)?) | (?:\[(?P<ipv6>[^\]]+)\] | (?P<host>[^\[\]:]+)) (?: :(?P<ports>\d+(?:-\d+)?))?",
    re.VERBOSE,
)


def canonical(host: str | bytes) -> str:
    """Write an IP address, given as text or packed, in the one form that `Address` has. Raise ValueError."""
    address = ip_address(host)
    # Pythons differ in how they write these.
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return f"::ffff:{address.ipv4_mapped}"
    return str(address)


def _resolved(host: str) -> list[str]:
    try:
        return [canonical(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [canonical(str(item[4][0]).partition("%")[0]) for item in found]


def _addresses(listens: Iterable[Listen]) -> frozenset[Address]:
    return frozenset(address for listen in listens for address in listen.addresses)


def _as_ipv6(address: Address) -> Address:
    """Where an IPv4 address arrives that an IPv6 wildcard takes."""
    return address._replace(host=_WILDCARDS[_IPV6]) if address.family == _IPV4 else address


def _servers(conf: OperatorConf) -> Iterator[OperatorServer]:
    """A block's own statement stands before those inside it."""
    ours_read: set[str] = set()
    found: list[_Read] = []
    for statement in conf.statements:
        directive, context = statement.directive, statement.context
        if statement.candidate is not None:
            ours_read.update(context[:1])
        elif directive.name == "server" and len(context) == 1 and context[0] in _CONTEXTS:
            found.append(_Read(context[0], statement, is_before=context[0] not in ours_read))
        elif directive.name == "listen" and context[1:] == ("server",) and directive.arguments and found:
            found[-1].listens.append(listen(directive.arguments))
        elif directive.name == "server_name" and context[1:] == ("server",) and found:
            found[-1].hosts.update(host for name in directive.arguments for host in hosts_of(name))
            found[-1].patterns += (name[1:] for name in directive.arguments if name.startswith("~"))
    for read in found:
        unsaid = [listen((_unsaid(),))] if read.context == "http" and not read.listens else []
        yield OperatorServer(
            context=read.context,
            file=read.statement.file,
            line=read.statement.directive.line,
            statement=read.statement,
            listens=(*read.listens, *unsaid),
            hosts=frozenset(read.hosts),
            patterns=tuple(read.patterns),
            is_before_ours=read.is_before,
        )


@dataclass(slots=True)
class _Read:
    context: str
    statement: Statement
    is_before: bool
    listens: list[Listen] = field(default_factory=list)
    hosts: set[str] = field(default_factory=set)
    patterns: list[str] = field(default_factory=list)


def _unsaid() -> str:
    """Where a server of ``http`` listens that does not say it; nginx's user is taken to be ours."""
    return "80" if os.geteuid() == 0 else "8000"
