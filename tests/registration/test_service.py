from __future__ import annotations

import socket
from typing import Any

import pytest

from proxygen.kit.errors import BadInput, TagError
from proxygen.registration import HttpCheck, ProxyTags, Registration, TcpCheck, TtlCheck, Weights
from proxygen.registration.service import (
    Announcement,
    CompleteRegistration,
    HeldByAgent,
    changed_checks,
    changed_fields,
    missing_checks,
    stale_checks,
)


def announced(**changes: Any) -> CompleteRegistration:
    values: dict[str, Any] = {"name": "web", "port": 80, "check": [HttpCheck("/"), TtlCheck()], **changes}
    return Announcement(**values).service("10.0.0.7")


def held(service: CompleteRegistration, **changes: Any) -> HeldByAgent:
    """What an agent tells of a service that it was given."""
    body = service.body(service.checks, {})
    known = {"Service": body.pop("Name"), **body, **changes}
    checks = {check.id: {"Notes": check.notes, "Status": "passing"} for check in service.checks}
    return HeldByAgent(service=known, checks=checks)


def test_an_id_is_of_the_name_the_host_and_the_port() -> None:
    assert announced().id == announced().id == f"web-{socket.gethostname()}-80"
    assert announced(id="mine").id == "mine"


def test_what_is_held_as_announced_has_no_difference() -> None:
    service = announced(
        tags=ProxyTags(route=["a.example.com"]), meta={"k": "v"}, tagged_addresses={"wan": ("203.0.113.7", 80)}
    )
    assert changed_fields(service, held(service)) == ()
    assert changed_checks(service, held(service)) == missing_checks(service, held(service)) == ()


def test_addresses_that_consul_fills_in_are_no_difference() -> None:
    service = announced()
    filled = {"lan_ipv4": {"Address": "10.0.0.7", "Port": 80}, "wan_ipv4": {"Address": "10.0.0.7", "Port": 80}}
    assert changed_fields(service, held(service, TaggedAddresses=filled)) == ()
    left = {"edge": {"Address": "10.0.0.9", "Port": 80}}
    assert changed_fields(service, held(service, TaggedAddresses=left)) == ("tagged addresses",)


def test_empty_values_that_an_agent_leaves_out_are_no_difference() -> None:
    service = announced()
    known = held(service)
    sparse = {key: value for key, value in known.service.items() if value not in ([], {})}
    assert changed_fields(service, HeldByAgent(service=sparse, checks=known.checks)) == ()


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"tags": ProxyTags(route=["a.example.com"])}, "tags"),
        ({"plain_tags": ["v2"]}, "tags"),
        ({"meta": {"k": "v"}}, "meta"),
        ({"weights": Weights(passing=10)}, "weights"),
        ({"tagged_addresses": {"wan": ("203.0.113.7", 80)}}, "tagged addresses"),
    ],
)
def test_each_field_that_changed_is_named(changes: dict[str, Any], name: str) -> None:
    assert changed_fields(announced(**changes), held(announced())) == (name,)


@pytest.mark.parametrize(
    "check",
    [
        HttpCheck("/other"),
        HttpCheck("/", interval=6),
        HttpCheck("/", headers={"Authorization": "Bearer other"}),
        HttpCheck("/", initially="passing", tls_skip_verify=True),
    ],
)
def test_any_change_of_a_check_is_seen_though_the_agent_tells_only_its_notes(check: HttpCheck) -> None:
    before, after = announced(check=HttpCheck("/")), announced(check=check)
    assert changed_checks(after, held(before)) == after.checks


def test_notes_hold_no_value_of_a_header() -> None:
    (check,) = announced(check=HttpCheck("/", headers={"Authorization": "Bearer s3cret"})).checks
    assert "s3cret" not in check.notes


def test_checks_of_an_earlier_life_are_stale_and_those_of_others_are_not() -> None:
    before, after = announced(), announced(check=HttpCheck("/"))
    known = held(before)
    others = {"_service_maintenance:web": {}, "script-of-somebody": {}}
    assert stale_checks(after, HeldByAgent(service=known.service, checks={**known.checks, **others})) == (
        f"{after.id}:ttl",
    )


def test_checks_of_one_kind_have_ids_of_their_own() -> None:
    ids = [check.id for check in announced(id="w", check=[TcpCheck(), TcpCheck(port=81)]).checks]
    assert ids == ["w:tcp", "w:tcp-2"]


def test_every_check_has_a_time_after_which_consul_removes_the_service() -> None:
    body = announced(deregister_after="2m").body(announced(deregister_after="2m").checks, {})
    assert {check["DeregisterCriticalServiceAfter"] for check in body["Checks"]} == {"2m"}


def test_a_status_that_is_known_goes_before_the_initial_one() -> None:
    service = announced(id="w")
    body = service.body(service.checks, {"w:http": "passing"})
    assert [check["Status"] for check in body["Checks"]] == ["passing", "critical"]


def test_without_a_check_there_is_a_heartbeat() -> None:
    (check,) = Announcement(name="web", port=80).service("10.0.0.7").checks
    assert check.definition["TTL"] == "15s"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": ""}, "name = ''"),
        ({"name": "a/b"}, "name = 'a/b'"),
        ({"name": "web\n"}, "name"),
        ({"port": 0}, "port = 0"),
        ({"port": 65536}, "port = 65536"),
        ({"id": "a/b"}, "id = 'a/b'"),
        ({"id": 'a"b'}, "id = "),
        ({"address": "localhost"}, "not an IP address"),
        ({"check": []}, "there is none"),
        ({"meta": {"a b": "c"}}, "meta 'a b'"),
        ({"meta": {"a": "c" * 513}}, "meta a: 513 bytes"),
        ({"meta": {f"k{number}": "" for number in range(65)}}, "65 entries"),
        ({"deregister_after": 30}, "deregister_after = 30s is not from 60s"),
        ({"deregister_after": "soon"}, "deregister_after: 'soon'"),
        ({"plain_tags": ["proxygen.rute=a"]}, "did you mean route"),
        ({"tags": ProxyTags(canary="10%"), "plain_tags": ["proxygen.canary=20%"]}, "one value is allowed"),
        ({"tags": ProxyTags(protocol="tcp")}, "add listen"),
        ({"meta": {"proxygen-canary": "x"}}, "proxygen-canary"),
    ],
)
def test_what_consul_or_the_proxy_would_refuse_is_refused_with_the_place(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises((BadInput, TagError), match=reason):
        announced(**changes)


@pytest.mark.parametrize("weights", [(0, 1), (1, -1), (65536, 1), (1, 65536)])
def test_weights_that_consul_refuses_are_refused(weights: tuple[int, int]) -> None:
    with pytest.raises(BadInput, match="weights"):
        Weights(passing=weights[0], warning=weights[1])


def test_the_line_of_the_documentation_stands() -> None:
    registration = Registration(
        name="web", port=8080, tags=ProxyTags(route=["app.example.com"], canary="10%"), check=HttpCheck("/healthz")
    )
    assert registration.all_tags == ("proxygen.route=app.example.com", "proxygen.canary=10%")
