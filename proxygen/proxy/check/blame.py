"""Whose a message of nginx is: by the lines it names, or by the host, the port or the certificate that it is about."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.proxy.check.messages import Message
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.names import hosts_of
from proxygen.proxy.plan.types import Claim, PortClaim, RouteClaim, Service
from proxygen.proxy.render.rendered import Rendered

_NAME: Final = re.compile(r'^(?:conflicting server name|invalid server name or wildcard) "(?P<name>[^"]*)" on ')
_ADDRESS: Final = re.compile(
    r'^(?:conflicting server name "" on |duplicate "|(?:a )?duplicate (?:listen options|default server) for )'
    r'\S*:(?P<port>\d+)(?=[",\s]|$)'
)
_BIND: Final = re.compile(r"bind\(\) to \S*?:(?P<port>\d+) failed[^|]*")
_OPERATORS: Final = re.compile(
    r"^(?:protocol options redefined for |(?:a )?duplicate (?:listen options|default server) for "
    r'|"ssl_stapling" ignored)'
)
"""What comes of the operator's directives and settings and never of a tag, though nginx may name a service's line."""

_SERVERS: Final = "http.d/20-servers.conf"


class Blame:
    """Finds whose a message about one candidate is."""

    def __init__(self, rendered: Rendered, conf: OperatorConf) -> None:
        self._rendered: Final = rendered
        self._conf: Final = conf

    def of(self, message: Message) -> Refusal | None:
        """Return what the message refuses of some services; None where it is about none of them.

        Files of the candidate are relative in a message, as in `Rendered`.
        """
        return (
            self._about_hosts(message)
            or self._about_port(message)
            or self._about_taken_port(message)
            or self._about_lines(message)
            or self._about_certificate(message)
        )

    def _about_lines(self, message: Message) -> Refusal | None:
        if not message.file or message.file.startswith("/") or _OPERATORS.match(message.text):
            return None
        owners = self._rendered.owners_at(message.file, message.line)
        if not owners:
            return None
        return Refusal(gate="nginx -t", file=message.file, line=message.line, services=owners, reason=message.text)

    def _about_hosts(self, message: Message) -> Refusal | None:
        """nginx names no line for a host that stands in two virtual servers: the operator's own and ours."""
        found = _NAME.match(message.text)
        hosts = hosts_of(found["name"]) if found else ()
        # Not those whose route for a wider host is only answered here too.
        owners = {
            item.service.name: item.service
            for server in self._rendered.plan.servers
            if server.host in hosts
            for item in server.locations
            if any(item.service.claims_host(host) for host in hosts)
        }
        if not owners:
            return None
        return Refusal(
            gate="nginx -t",
            file=_SERVERS,
            line=0,
            services=tuple(sorted(owners)),
            reason=f"{message.text}; nginx.conf serves this host itself",
            claims=_route_claims(owners.values(), hosts),
        )

    def _about_port(self, message: Message) -> Refusal | None:
        """A port of the operator's streams; nginx may say it at his line, or ignore his server."""
        found = _ADDRESS.match(message.text)
        if found is None:
            return None
        port = int(found["port"])
        refused = _holders(port, self._rendered)
        protocols = self._protocols(port)
        claims = {claim: name for claim, name in refused.items() if not protocols or claim.protocol in protocols}
        return _port_refusal(claims, f"{message.text}; nginx.conf listens there itself")

    def _about_taken_port(self, message: Message) -> Refusal | None:
        found = _BIND.search(message.text)
        return None if found is None else _port_taken(int(found["port"]), message.text, self._rendered)

    def _protocols(self, port: int) -> frozenset[str]:
        """By which the operator's streams listen on a port."""
        return frozenset(
            "udp" if "udp" in item.directive.arguments[1:] else "tcp"
            for item in self._conf.statements
            if item.directive.name == "listen"
            and item.context[:1] == ("stream",)
            and item.directive.arguments
            and item.directive.arguments[0].rpartition(":")[2] == str(port)
        )

    def _about_certificate(self, message: Message) -> Refusal | None:
        """nginx names the file, not the line that names it. What it only warns of it serves all the same."""
        if not message.is_fatal:
            return None
        for server in self._rendered.plan.servers:
            certificate = server.certificate
            if certificate is not None and any(
                f'"{file}"' in message.text for file in (certificate.certificate, certificate.key)
            ):
                owners = {item.service.name for item in server.locations if item.service.options.tls is not None}
                if owners:
                    return Refusal(
                        gate="nginx -t", file=_SERVERS, line=0, services=tuple(sorted(owners)), reason=message.text
                    )
        return None


def blame_log(lines: Iterable[str], rendered: Rendered) -> tuple[Refusal, ...]:
    """Find the services that nginx's error log blames for a reload that it refused, such as by a taken port."""
    found = []
    for line in lines:
        for bind in _BIND.finditer(line):
            refusal = _port_taken(int(bind["port"]), bind[0], rendered)
            if refusal is not None and refusal not in found:
                found.append(refusal)
    return tuple(found)


def _route_claims(services: Iterable[Service], hosts: tuple[str, ...]) -> frozenset[Claim]:
    return frozenset(
        claim
        for service in services
        for claim in service.claims
        if isinstance(claim, RouteClaim) and claim.host in hosts
    )


def _holders(port: int, rendered: Rendered) -> dict[PortClaim, ServiceName]:
    return {
        claim: stream.service.name for stream in rendered.plan.streams for claim in stream.claims if claim.port == port
    }


def _port_taken(port: int, text: str, rendered: Rendered) -> Refusal | None:
    return _port_refusal(_holders(port, rendered), text)


def _port_refusal(claims: dict[PortClaim, ServiceName], reason: str) -> Refusal | None:
    if not claims:
        return None
    return Refusal(
        gate="nginx",
        file="stream.d/streams.conf",
        line=0,
        services=tuple(sorted(set(claims.values()))),
        reason=reason,
        claims=frozenset(claims),
    )
