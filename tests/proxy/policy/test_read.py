"""What the operator allows: from settings, from nginx.conf, and from what this host is."""

from __future__ import annotations

import asyncio
import threading
from ipaddress import ip_network
from pathlib import Path

import pytest

from proxygen.kit.errors import TagError
from proxygen.proxy import pipeline
from proxygen.proxy.nginx.addresses import Occupied, occupied
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.plan.endpoints import endpoint_of
from proxygen.proxy.plan.types import Endpoint, OperatorNames, Policy
from proxygen.proxy.policy import read as policy
from proxygen.settings import ProxySettings, load
from proxygen.tags import IPNetwork
from tests.proxy.conftest import ReadConf, binary, etc, output, read_conf

__all__ = ["binary", "etc", "output", "read_conf"]

OWN = frozenset(map(ip_network, ("127.0.0.0/8", "192.0.2.7/32", "198.51.100.0/24", "2001:db8::7/128")))


def allowed(own: frozenset[IPNetwork] = OWN, **knobs: str) -> Policy:
    values = {name.replace("__", "."): value for name, value in knobs.items()}
    return policy.read_policy(load(values, environment={}), None, Occupied(), certificates=(), own=own)[0]


def test_an_address_of_this_host_is_an_address_and_a_network_a_network() -> None:
    found = allowed()
    assert set(map(str, found.own_addresses)) == {"192.0.2.7", "2001:db8::7"}
    assert set(map(str, found.own_networks)) == {"127.0.0.0/8", "198.51.100.0/24"}


@pytest.mark.incident("T51")
@pytest.mark.parametrize(
    ("knob", "value", "port", "is_closed"),
    [
        ("proxy__http_listen", "8080", 8080, True),
        ("proxy__http_listen", "0.0.0.0:8080", 8080, True),
        ("proxy__https_listen", "[::]:8443", 8443, True),
        ("proxy__http_listen", "127.0.0.1:8080", 8080, True),
        ("proxy__http_listen", "192.0.2.7:8080", 8080, False),
        ("nginx__stamp", "127.0.0.1:8082", 8082, True),
        ("admin__listen", "[::1]:8081", 8081, True),
        ("consul__address", "192.0.2.7:8501", 8501, True),
        ("consul__address", "10.0.0.5:8501", 8501, False),
        ("consul__address", "unix:///run/consul.sock", 8500, True),
        ("consul__address", "https://localhost/consul", 443, True),
        ("nginx__docker_host", "tcp://127.0.0.1:2375", 2375, True),
        ("nginx__docker_host", "unix:///var/run/docker.sock", 2375, False),
    ],
)
def test_a_port_of_ours_is_closed_at_all_addresses_of_this_host(
    knob: str, value: str, port: int, *, is_closed: bool
) -> None:
    """Unless we listen at one address alone: an application may have the port at another."""
    assert (port in allowed(**{knob: value}).own_ports) is is_closed


def test_what_has_one_address_is_closed_there() -> None:
    found = allowed(consul__address="10.0.0.5:8501", proxy__http_listen="192.0.2.7:8080")
    assert {Endpoint("10.0.0.5", 8501), Endpoint("10.0.0.5", 8500), Endpoint("192.0.2.7", 8080)} <= (
        found.denied_endpoints
    )


@pytest.mark.incident("T51")
@pytest.mark.parametrize(
    ("listen", "closed", "free"),
    [
        ("127.0.0.1:9113", ("127.0.0.1", "0.0.0.0", "64:ff9b::7f00:1"), ("192.0.2.7", "127.0.0.2", "::1")),
        ("[::1]:9113", ("::1", "::"), ("127.0.0.1", "2001:db8::7")),
        ("[::ffff:127.0.0.1]:9113", ("127.0.0.1", "::ffff:127.0.0.1"), ("::1",)),
        ("192.0.2.7:9113", ("192.0.2.7",), ("127.0.0.1", "198.51.100.200")),
        ("9113", ("127.0.0.1", "127.0.0.2", "192.0.2.7", "0.0.0.0"), ("192.0.2.8",)),
        ("[::]:9113", ("::1", "2001:db8::7"), ("2001:db8::8",)),
    ],
)
@pytest.mark.parametrize("context", ["http", "stream"])
def test_where_the_operators_own_servers_listen_no_instance_is(
    read_conf: ReadConf, context: str, listen: str, closed: tuple[str, ...], free: tuple[str, ...]
) -> None:
    """An application may have the port at another address, unless his server listens at all of them."""
    conf = read_conf(
        f"http {{ include OUTPUT/current/http.d/*.conf; }}"
        f" {context} {{ server {{ listen {listen}; allow 127.0.0.1; deny all; }} }}"
    )
    settings = load({"proxy.denied_addresses": "192.0.2.99/32"}, environment={})
    made = policy.read_policy(settings, conf, occupied(conf), certificates=(), own=OWN)[0]
    for address in closed:
        with pytest.raises(TagError, match="belongs to the proxy's own host"):
            endpoint_of(address, 9113, made)
    for address in free:
        assert endpoint_of(address, 9113, made) is not None


def test_at_a_server_of_the_operators_that_is_for_everybody_an_instance_may_be(read_conf: ReadConf) -> None:
    """nginx itself may be the application."""
    conf = read_conf(
        "http { include OUTPUT/current/http.d/*.conf; server { listen 127.0.0.1:9113; return 200; }"
        " server { listen 127.0.0.1:9114; location /status { stub_status; } } }"
    )
    made = policy.read_policy(load({}, environment={}), conf, occupied(conf), certificates=(), own=OWN)[0]
    assert endpoint_of("127.0.0.1", 9113, made) is not None
    with pytest.raises(TagError, match="belongs to the proxy's own host"):
        endpoint_of("127.0.0.1", 9114, made)


def test_hosts_are_reserved_in_whichever_case_they_are_written() -> None:
    settings = load({}, environment={})
    claims = {"App.Example.com": ("web",), "app.example.com": ("shop",)}
    proxy = settings.proxy.model_copy(update={"claims": claims, "hosts": "whole"})
    found = policy.read_claim_policy(settings.model_copy(update={"proxy": proxy}))
    assert found.claims == {"app.example.com": ("web", "shop")}
    assert found.hosts_whole
    assert not allowed().hosts_whole


def test_what_nginx_conf_serves_is_known_for_each_place_where_ours_listen(read_conf: ReadConf, tmp_path: Path) -> None:
    """One that it serves on some of those ports alone must stay reserved on the others."""
    conf = read_conf(
        """http {
            include OUTPUT/current/http.d/*.conf;
            server { server_name one.test .two.test www.* ~^b; }
            server { listen 127.0.0.1:8080; server_name elsewhere.test; }
            server { server_name THREE.test ~^A(?<x>.)$; listen *:443 ssl; listen 80; }
            server { server_name four.test; listen *:443 ssl; }
            upstream x { server 127.0.0.1:1; }
            server { listen 80; }
        }"""
    )

    def known(**settings: str) -> dict[str, OperatorNames]:
        made = policy.read_policy(load(settings, environment={}), conf, occupied(conf), certificates=(), own=OWN)[0]
        assert [each.is_tls for each in made.listens] == [False, True][: len(made.listens)]
        return {each.text: each.names for each in made.listens}

    names = frozenset({"one.test", "two.test", "*.two.test", "three.test", "www.*"})
    plain = OperatorNames(hosts=names, patterns=("^b", "^A(?<x>.)$"))
    assert known() == {"80": plain}
    secure = OperatorNames(hosts=frozenset({"three.test", "four.test"}), patterns=("^A(?<x>.)$",))
    assert known(**{"proxy.certificates": str(tmp_path)}) == {"80": plain, "443": secure}


def test_what_a_reserved_host_does_to_the_operators_names_is_said_once(read_conf: ReadConf) -> None:
    conf = read_conf(
        r"http { include OUTPUT/current/http.d/*.conf; "
        r"server { server_name www.* ~\.example\.com$ ~\.example\.org$ ~^(?R)$; } "
        r"server { server_name ~^(?R)$ *.org; } }"
    )

    def said(*reserved: str) -> tuple[str, ...]:
        settings = load({}, environment={})
        proxy = settings.proxy.model_copy(update={"claims": dict.fromkeys(reserved, ("web",))})
        settings = settings.model_copy(update={"proxy": proxy})
        return policy.read_policy(settings, conf, occupied(conf), certificates=(), own=OWN)[1]

    assert said() == ()
    (alone,) = said("a.example.com", "*.example.org")
    assert "~^(?R)$" in alone
    assert "cannot be read" in alone
    assert [text.partition(": nginx")[0] for text in said("*.example.com")[1:]] == [
        rf"*.example.com, which proxy.claims reserves, takes requests from server_name {name} of nginx.conf"
        for name in ("www.*", r"~\.example\.com$")
    ]


def test_every_metadata_service_is_denied_by_default() -> None:
    denied = [ip_network(text) for text in ProxySettings().denied_addresses]
    for address in ("169.254.0.0/16", "fd00:ec2::/32", "fd20:ce::254/128", "168.63.129.16/32"):
        assert ip_network(address) in denied


# --- names


@pytest.mark.incident("T64")
async def test_a_dns_server_that_does_not_answer_never_stops_the_event_loop(
    monkeypatch: pytest.MonkeyPatch, read_conf: ReadConf, binary: Binary
) -> None:
    """The loop goes on while the name is looked up: it is what lets the look-up end."""
    conf = read_conf("http { include OUTPUT/current/http.d/*.conf; }\n")
    asked, answered = threading.Event(), threading.Event()
    released: list[bool] = []

    def hang(*_: object, **__: object) -> list[object]:
        asked.set()
        released.append(answered.wait(20))
        return [(0, 0, 0, "", ("10.0.0.5", 0))]

    async def inspect(_settings: object) -> Binary:
        return binary

    monkeypatch.setattr(policy, "PATIENCE", 60)
    monkeypatch.setattr("socket.getaddrinfo", hang)
    monkeypatch.setattr(pipeline, "inspect_binary", inspect)
    monkeypatch.setattr(pipeline, "read_operator_conf", lambda *_: conf)
    opening = asyncio.create_task(pipeline.open_pipeline(load({"consul.address": "consul.test"}, environment={})))
    await asyncio.to_thread(asked.wait, 20)
    answered.set()
    made = await opening
    assert released
    assert all(released)
    assert made.ground.problems == ()


@pytest.mark.incident("T64")
def test_a_name_that_is_not_looked_up_in_time_is_told_and_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    ended = threading.Event()
    monkeypatch.setattr(policy, "PATIENCE", 0.001)
    monkeypatch.setattr("socket.getaddrinfo", lambda *_, **__: ended.wait(60) and ())
    settings = load({"consul.address": "consul.test:8501"}, environment={})
    made, problems = policy.read_policy(settings, None, Occupied(), certificates=(), own=OWN)
    ended.set()
    assert {8500, 8501} <= made.own_ports
    assert [problem.split(" cannot")[0] for problem in problems] == ["consul.test"]


def test_a_host_whose_addresses_cannot_be_read_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(policy, "read_own_addresses", fail)
    found, (problem,) = policy.own_networks()
    assert found == frozenset()
    assert "Permission denied" in problem


def test_a_host_that_gets_another_address_makes_a_pipeline_outdated(monkeypatch: pytest.MonkeyPatch) -> None:
    made = pipeline.Pipeline(load({}, environment={}), binary=None, conf=None)
    assert not made.has_moved()
    monkeypatch.setattr(policy, "read_own_addresses", lambda: OWN)
    assert made.has_moved()
