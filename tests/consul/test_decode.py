"""Consul's JSON as typed values: the rules of facts that no API documents in one place."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from proxygen.catalog import Health, Instance
from proxygen.consul.decode import (
    CheckRecord,
    aggregate,
    carries_proxy_keys,
    decode_entries,
    decode_listing,
    decode_overrides,
    failures_of,
    instances_of,
    routed_names,
    unservable_names,
)
from proxygen.consul.names import is_askable
from proxygen.kit.errors import CatalogUnavailable


def entry(**service: Any) -> dict[str, Any]:
    checks = service.pop("Checks", [])
    node = service.pop("Node", {"Node": "n1", "Address": "10.0.0.9", "Datacenter": "dc1"})
    return {"Node": node, "Service": {"ID": "web-1", "Service": "web", "Port": 80} | service, "Checks": checks}


def instances(*entries: dict[str, Any], name: str = "web") -> tuple[Instance, ...]:
    return instances_of(name, decode_entries(json.dumps(entries).encode()))


@pytest.mark.parametrize(
    ("checks", "health"),
    [
        ([], Health.PASSING),
        ([("a", "passing")], Health.PASSING),
        ([("a", "passing"), ("b", "warning")], Health.WARNING),
        ([("a", "warning"), ("serfHealth", "critical")], Health.CRITICAL),
        ([("a", "passing"), ("b", "something new")], Health.CRITICAL),
        ([("a", "")], Health.CRITICAL),
        ([("_node_maintenance", "critical")], Health.MAINTENANCE),
        ([("_service_maintenance:web-1", "critical"), ("a", "passing")], Health.MAINTENANCE),
        ([("_service_maintenance:web-10", "critical")], Health.CRITICAL),
    ],
)
def test_the_worst_check_decides(checks: list[tuple[str, str]], health: Health) -> None:
    """An unknown status is critical; maintenance is told apart from it."""
    assert aggregate("web-1", [CheckRecord(check_id=check_id, status=status) for check_id, status in checks]) is health


SERF = {"CheckID": "serfHealth", "Status": "passing", "Output": "Agent alive and reachable"}


def check(**fields: Any) -> dict[str, Any]:
    """As Consul 1.8 lists the check of an agent that has just started."""
    return {"CheckID": "service:web-1", "Status": "critical", "Output": "", "Type": "http"} | fields


@pytest.mark.parametrize(
    ("checks", "unchecked"),
    [
        ([SERF, check()], True),
        ([SERF, check(Type="tcp"), check(CheckID="b", Type="grpc")], True),
        ([SERF, check(), check(CheckID="b", Status="passing", Output="200 OK")], True),
        ([SERF, check(), check(CheckID="b", Status="warning", Output="429")], True),
        ([SERF, check(), check(CheckID="b", Output="connection refused")], False),
        ([SERF | {"Status": "critical", "Output": "Agent not live or unreachable"}, check()], False),
        ([SERF, check(Output="connection refused")], False),
        # Registered twice, the agent remembers what the check said before it started.
        ([SERF, check(Output="HTTP GET http://10.0.0.1:80/: 200 OK Output: ok")], True),
        ([SERF, check(Output="HTTP GET http://10.0.0.1:80/: 429 Too Many Requests Output: ")], True),
        ([SERF, check(Output="HTTP GET http://10.0.0.1:80/: 500 Internal Server Error Output: a: 200 OK")], False),
        ([SERF, check(Output='Get "http://10.0.0.1:80/: 200 OK": connection refused')], False),
        ([SERF, check(Type="tcp", Output="TCP connect 10.0.0.1:80: Success")], True),
        ([SERF, check(Type="grpc", Output="gRPC check 10.0.0.1:80/web: success")], True),
        ([SERF, check(Type="h2ping", Output="HTTP2 ping was successful")], True),
        ([SERF, check(Type="script", Output="HTTP GET http://10.0.0.1:80/: 200 OK Output: ok")], False),
        ([SERF, check(Status="passing")], False),
        # A script may say nothing, an application may set its TTL without a word, and an old Consul names no type.
        ([SERF, check(Type="script")], False),
        ([SERF, check(Type="ttl")], False),
        ([SERF, check(Type="")], False),
        ([SERF, check(), check(CheckID="_service_maintenance:web-1", Type="maintenance")], False),
        ([], False),
    ],
)
def test_critical_without_a_word_is_unchecked(checks: list[dict[str, Any]], unchecked: bool) -> None:
    [found] = instances(entry(Checks=checks))
    assert found.unchecked is unchecked


@pytest.mark.parametrize(
    ("checks", "speaks"),
    [
        ([SERF, check(Status="passing", Output="TCP connect 10.0.0.1:80: Success")], True),
        ([SERF, check(Output="connection refused")], True),
        # discard_check_output = true: what ran and failed looks as if it had not run.
        ([SERF, check(Status="passing")], False),
        ([SERF, check(Type="ttl", Status="passing", Output="I am well")], False),
        ([SERF], False),
    ],
)
def test_an_agent_that_tells_outputs_is_known(checks: list[dict[str, Any]], speaks: bool) -> None:
    [found] = instances(entry(Checks=checks))
    assert found.speaks is speaks


def test_an_instance_without_an_address_has_its_nodes() -> None:
    assert instances(entry())[0].address == "10.0.0.9"
    assert instances(entry(Address="10.1.1.1"))[0].address == "10.1.1.1"


def test_weights_default_to_one_and_keep_an_explicit_zero() -> None:
    assert (instances(entry())[0].weight_passing, instances(entry())[0].weight_warning) == (1, 1)
    weighted = instances(entry(Weights={"Passing": 5, "Warning": 0}))[0]
    assert (weighted.weight_passing, weighted.weight_warning) == (5, 0)


def test_an_instance_is_identified_by_node_and_id() -> None:
    """T24: the same id on two nodes is two instances; the same id twice on one node is one."""
    other = {"Node": "n0", "Address": "10.0.0.8"}
    found = instances(entry(), entry(Node=other), entry())
    assert [instance.key for instance in found] == [("n0", "web-1"), ("n1", "web-1")]


def test_only_exactly_this_service_is_taken() -> None:
    """Consul matches names without case, and lists Connect proxies under the name that they stand for."""
    assert instances(entry(Service="Web")) == ()
    assert instances(entry(Kind="connect-proxy")) == ()
    assert instances(entry(Service="consul"), name="consul") == ()


def test_null_stands_for_nothing() -> None:
    """Consul sends null for empty lists and maps, depending on the version."""
    found = instances(entry(Tags=None, Meta=None, Weights=None, Kind=None, Checks=None))
    assert found[0].tags == ()
    assert found[0].meta == ()
    assert decode_listing(b'{"web": null}') == {"web": ()}


def test_meta_is_sorted_and_tags_keep_their_order() -> None:
    found = instances(entry(Tags=["b", "a"], Meta={"z": "1", "a": "2"}))[0]
    assert found.tags == ("b", "a")
    assert found.meta == (("a", "2"), ("z", "1"))


_SKIPPED = b'[{"Node": {"Node": "n1", "Meta": %s}}]'
"""With a field that nobody reads."""
_DEEP = b"[" * 5_000 + b"]" * 5_000


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b'[{"Node": {}}]', b'[{"Node": 1}]', b"\xff", b"[" * 10_000, _SKIPPED % _DEEP],
)
def test_what_cannot_be_read_is_a_failure_and_no_absence(body: bytes) -> None:
    with pytest.raises(CatalogUnavailable):
        decode_entries(body)


@pytest.mark.parametrize("text", [rb"\ud800", rb"a\udfff", rb"\ud83d\u0041", b"\xed\xa0\x80"])
def test_half_a_surrogate_pair_is_no_text(text: bytes) -> None:
    """Nobody could write such a name down again, into our memory or into nginx's files; Consul never sends one."""
    with pytest.raises(CatalogUnavailable):
        decode_listing(b'{"web%s": ["proxygen.route=web.example.com"]}' % text)
    with pytest.raises(CatalogUnavailable):
        decode_overrides(b'[{"Key": "p/canary/web%s", "Value": null}]' % text, "p/canary/")


def test_overrides_are_the_keys_below_the_prefix() -> None:
    value = base64.b64encode(b'{"canary": "5%"}').decode()
    pairs = [
        {"Key": "proxygen/canary/", "Value": None},
        {"Key": "proxygen/canary/web", "Value": value},
        {"Key": "proxygen/canary/empty", "Value": None},
        {"Key": "proxygen/canary/folder/", "Value": None},
    ]
    found = decode_overrides(json.dumps(pairs).encode(), "proxygen/canary/")
    assert found == {"web": '{"canary": "5%"}', "empty": ""}


@pytest.mark.parametrize("value", ["%", "a", "\u00e9", "YQ==\u00e9"])
def test_a_value_that_is_no_base64_is_no_answer(value: str) -> None:
    """Consul writes base64 alone; what stands between may not, and must not end the watch."""
    with pytest.raises(CatalogUnavailable, match="not base64"):
        decode_overrides(json.dumps([{"Key": "p/canary/web", "Value": value}]).encode(), "p/canary/")


def test_bytes_that_are_no_text_stay_one_services_trouble() -> None:
    pairs = [{"Key": "p/canary/web", "Value": base64.b64encode(b"\xff\x00").decode()}]
    assert decode_overrides(json.dumps(pairs).encode(), "p/canary/") == {"web": "�\x00"}


def test_a_route_may_stand_in_tags_or_meta() -> None:
    listing = {"a": ("proxygen.route=x",), "b": ("proxygenx.route=x",), "c": (), "consul": ("proxygen.route=x",)}
    assert routed_names(listing, "proxygen") == {"a"}
    assert carries_proxy_keys(instances(entry(Meta={"proxygen-route": "x"})), "proxygen")
    assert not carries_proxy_keys(instances(entry(Meta={"other": "x"}, Tags=["x"])), "proxygen")


@pytest.mark.incident("T34")
@pytest.mark.parametrize("name", ["", ".", "..", "/a", "a/", "a//b", "a/../b", "a/.", "a\nb", "a\x00b", "\x7f"])
def test_names_that_no_url_brings_back(name: str) -> None:
    """T34: they are not served, and named with the reason."""
    listing = {name: ("proxygen.route=x",)}
    assert not is_askable(name)
    assert routed_names(listing, "proxygen") == set()
    assert unservable_names(listing, "proxygen") == (name,)
    assert unservable_names({name: ("other",)}, "proxygen") == ()


@pytest.mark.incident("T34")
@pytest.mark.parametrize("name", ["web", "a b", "a;b", "ü", "a/b", "team/api/v1", "a%2Fb", "a?b#c", "...", "a..b"])
def test_names_that_can_be_asked_for(name: str) -> None:
    listing = {name: ("proxygen.route=x",)}
    assert is_askable(name)
    assert routed_names(listing, "proxygen") == {name}
    assert unservable_names(listing, "proxygen") == ()


def test_what_failing_checks_say_is_told_in_a_bounded_line() -> None:
    """Their output is anybody's text, of up to 4 kB, and an instance may have a thousand checks."""
    checks = [
        {"CheckID": f"c{number}", "Status": status, "Output": "HTTP 500\n\x1b[31m" + "x" * 5000}
        for number, status in enumerate(("passing", "critical", *("warning",) * 1000))
    ]
    entry = {"Node": {"Node": "n1"}, "Service": {"ID": "web-1", "Service": "web"}, "Checks": checks}
    well = {**entry, "Node": {"Node": "n2"}, "Checks": checks[:1]}
    told = failures_of(decode_entries(json.dumps([entry, well]).encode()))
    assert list(told) == [("n1", "web-1")]
    text = told["n1", "web-1"]
    assert text.startswith("c1: HTTP 500 ")
    assert text.isprintable()
    assert len(text) < 1000
