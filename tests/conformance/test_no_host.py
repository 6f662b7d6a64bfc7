"""A client that names no host: HTTP/1.0 needs none. nginx would tell instances the first name of its virtual server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.case import Sent, Way
from tests.conformance.instance import Received, Record
from tests.conformance.sending import exchange, unique
from tests.conformance.site import Service, Site, pair, proxied
from tests.conformance.wire import Reply
from tests.harness.tools import NginxBinary

_HOSTS: Final = ("first.req.example.com", "second.req.example.com")
_LAYOUTS: Final = {"alone": 0, "shared": 1}
"""From how many hosts on they share virtual servers."""


@pytest.fixture(scope="module", params=_LAYOUTS)
def site(
    binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Site]:
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [Service(name="any", tags=("route=/", "redirect-https=false"), ports=ports)]
        services += [
            Service(name=f"of-{number}", tags=(f"route={host}", "tls=auto"), ports=ports)
            for number, host in enumerate(_HOSTS)
        ]
        services.append(Service(name="tls", tags=("route=/tls", "tls=all", "redirect-https=false"), ports=ports))
        services.append(Service(name="moved", tags=("route=/moved", "tls=all", "redirect-https=true"), ports=ports))
        directory: Path = tmp_path_factory.mktemp(f"no-host-{binary.name}-{request.param}")
        settings = {"proxy.share_servers_from": _LAYOUTS[request.param]}
        yield stack.enter_context(proxied(binary, directory, services, record, settings=settings))


def _ask(
    site: Site, line: bytes, *, name: str = "", way: Way = "http", host: str = ""
) -> tuple[Reply, Received | None]:
    """Send a request line, with ``{query}`` in it and a Host only where ``host`` is one."""
    header = f"Host: {host}\r\n".encode() if host else b""
    asked = unique("no-host")
    reply = exchange(site, name, Sent(raw=line + b"\r\n" + header + b"\r\n"), way, name=asked)
    received = site.record.of(asked)
    return reply, received[0] if received else None


def test_an_instance_sees_the_address_that_was_reached(site: Site) -> None:
    reply, received = _ask(site, b"GET /?{query} HTTP/1.0")
    assert reply.status == 200
    assert received is not None
    reached = f"127.0.0.1:{site.http}"
    assert (received.values("Host"), received.values("X-Forwarded-Host")) == ([reached], [reached])


def test_a_redirect_to_https_leads_to_that_address(site: Site) -> None:
    reply, _ = _ask(site, b"GET /moved?{query} HTTP/1.0")
    assert reply.status == 308
    assert reply.values("Location")[0].startswith(f"https://127.0.0.1:{site.https}/moved?")


def test_over_tls_it_is_that_address_too(site: Site) -> None:
    """nginx asks the server that answers by default, whatever the TLS greeting named."""
    reply, received = _ask(site, b"GET /tls?{query} HTTP/1.0", way="tls", name="first.req.example.com")
    assert reply.status == 200
    assert received is not None
    assert received.values("Host") == [f"127.0.0.1:{site.https}"]


def test_a_host_in_the_request_line_is_one(site: Site) -> None:
    _, received = _ask(site, b"GET http://first.req.example.com/?{query} HTTP/1.0")
    assert received is not None
    assert received.values("Host") == ["first.req.example.com"]


def test_a_host_in_a_header_is_one(site: Site) -> None:
    _, received = _ask(site, b"GET /?{query} HTTP/1.0", host="second.req.example.com")
    assert received is not None
    assert received.values("Host") == ["second.req.example.com"]
