"""FastCGI and uwsgi: the same as over HTTP, where an instance reads headers as variables."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.case import BALANCER, STRANGER, Sent
from tests.conformance.instance import Hanging, Record
from tests.conformance.sending import exchange
from tests.conformance.site import Service, Site, proxied
from tests.harness.gateways import FastCgi, Uwsgi
from tests.harness.tools import NginxBinary

PROTOCOLS = ("fastcgi", "uwsgi")


class _Gateways:
    def __init__(
        self, site: Site, live: dict[str, FastCgi | Uwsgi], hanging: dict[str, tuple[Hanging, Hanging]]
    ) -> None:
        self.site = site
        self.live = live
        self.hanging = hanging

    def seen(self, protocol: str, sent: Sent) -> dict[str, str]:
        """The variables that the instance was given."""
        reply = exchange(self.site, f"{protocol}.req.example.com", sent, "http")
        assert reply.status == 200, reply
        parameters: dict[str, str] = json.loads(reply.body)["parameters"]
        return parameters


@pytest.fixture(scope="module")
def gateways(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Gateways]:
    with ExitStack() as stack:
        live: dict[str, FastCgi | Uwsgi] = {
            "fastcgi": stack.enter_context(FastCgi("one")),
            "uwsgi": stack.enter_context(Uwsgi("one")),
        }
        hanging = {protocol: (stack.enter_context(Hanging()), stack.enter_context(Hanging())) for protocol in PROTOCOLS}
        services = [
            Service(name=name, tags=(f"route={name}.req.example.com", f"protocol={protocol}"), ports=ports)
            for protocol in PROTOCOLS
            for name, ports in (
                (protocol, (live[protocol].port,)),
                (f"hung-{protocol}", tuple(instance.port for instance in hanging[protocol])),
            )
        ]
        directory = tmp_path_factory.mktemp(f"gateways-{binary.name}")
        settings = {"proxy.trusted_proxies": f"{BALANCER}/32"}
        site = stack.enter_context(proxied(binary, directory, services, Record(), settings=settings))
        yield _Gateways(site, live, hanging)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_stranger_does_not_say_who_it_is(gateways: _Gateways, protocol: str) -> None:
    """T81; HTTP_PROXY is httpoxy."""
    forged = ("Proxy", "X-Original-URL", "X-Rewrite-URL", "X-Client-IP", "X-Forwarded-Prefix")
    replaced = {
        "X-Forwarded-For": STRANGER,
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": f"{protocol}.req.example.com",
        "X-Real-IP": STRANGER,
    }
    sent = Sent(headers=tuple(f"{name}: forged" for name in (*forged, *replaced)))
    seen = {name.upper(): value for name, value in gateways.seen(protocol, sent).items()}
    assert [name for name in forged if seen.get(_variable(name))] == []
    assert {name: seen.get(_variable(name)) for name in replaced} == replaced


def _variable(name: str) -> str:
    return f"HTTP_{name.upper().replace('-', '_')}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_balancer_is_believed(gateways: _Gateways, protocol: str) -> None:
    """T77: and HTTPS goes by what the client saw."""
    sent = Sent(headers=("X-Forwarded-For: 203.0.113.9", "X-Forwarded-Proto: https"), source=BALANCER)
    seen = gateways.seen(protocol, sent)
    assert seen["HTTP_X_FORWARDED_FOR"] == f"203.0.113.9, {BALANCER}"
    assert (seen["HTTP_X_FORWARDED_PROTO"], seen["REMOTE_ADDR"], seen.get("HTTPS")) == ("https", "203.0.113.9", "on")


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_host_has_the_port_that_the_client_wrote(gateways: _Gateways, protocol: str) -> None:
    """T78."""
    host = f"{protocol}.req.example.com:20000"
    assert gateways.seen(protocol, Sent(headers=(f"Host: {host}",)))["HTTP_HOST"] == host


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_upload_and_long_headers_pass(gateways: _Gateways, protocol: str) -> None:
    """T74, T79: a body that fits the harness's instances, above nginx's own limit."""
    reply = exchange(
        gateways.site,
        f"{protocol}.req.example.com",
        Sent(method="POST", body=b"u" * 1_100_000, headers=("Cookie: c=" + "c" * 20_000,)),
        "http",
    )
    assert reply.status == 200
    assert len(json.loads(reply.body)["body"]) == 1_100_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_each_request_has_a_connection_of_its_own(gateways: _Gateways, protocol: str) -> None:
    """So `keepalive` has no effect with uwsgi, and with FastCGI only where the operator says so: nginx asks for each
    connection to be closed."""
    before = gateways.live[protocol].served
    for _ in range(3):
        gateways.seen(protocol, Sent())
    assert (gateways.live[protocol].served, gateways.live[protocol].kept) == (before + 3, 0)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_what_changes_something_is_sent_once(gateways: _Gateways, protocol: str, method: str) -> None:
    """T85, T73: each of two instances hangs up, and is asked again by the next client."""
    for _ in range(3):
        before = _asked(gateways, protocol)
        sent = Sent(method=method, body=b"x")
        assert exchange(gateways.site, f"hung-{protocol}.req.example.com", sent, "http").status == 502
        assert _asked(gateways, protocol) == before + 1


def _asked(gateways: _Gateways, protocol: str) -> int:
    return sum(instance.asked for instance in gateways.hanging[protocol])
