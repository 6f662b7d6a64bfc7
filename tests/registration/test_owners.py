from __future__ import annotations

from typing import Any

import pytest

from proxygen.registration.owners import LEAVING, OWNER, held_endpoint, is_leaving, other_owner
from proxygen.registration.service import CompleteRegistration, HeldByAgent
from tests.registration.test_service import announced

MAINTENANCE = "_service_maintenance:web-1"


def service(*, owner: str | None = None, **changes: Any) -> CompleteRegistration:
    meta = {} if owner is None else {OWNER: owner}
    return announced(**{"id": "web-1", "meta": meta, **changes})


def held(checks: dict[str, dict[str, Any]] | None = None, **changes: Any) -> HeldByAgent:
    """An entry of our name, address and port, without a check of our form."""
    entry = {"Service": "web", "Address": "10.0.0.7", "Port": 80, "Meta": {}, **changes}
    return HeldByAgent(service=entry, checks=checks or {})


def ours(**changes: Any) -> HeldByAgent:
    return held({"web-1:http": {"Notes": "GET / [0123abcd]"}}, **changes)


OTHER_CHECK: dict[str, dict[str, Any]] = {"service:web-1": {"Notes": "GET / [0123abcd]"}}
MANUAL: dict[str, dict[str, Any]] = {MAINTENANCE: {"Notes": "by hand"}}
FAREWELL: dict[str, dict[str, Any]] = {MAINTENANCE: {"Notes": LEAVING}}


@pytest.mark.parametrize(
    "entry",
    [
        ours(),
        ours(Address="10.0.0.8", Port=81),
        held(),
        held(MANUAL),
        held(Meta=None),
        held(FAREWELL, Address="10.0.0.8"),
        held(OTHER_CHECK | FAREWELL),
        held({**OTHER_CHECK, "web-1:http": {"Notes": "[ffffffff] [0123abcd]"}}),
    ],
)
def test_an_entry_of_our_form_is_ours(entry: HeldByAgent) -> None:
    assert other_owner(service(), entry) is None


def test_an_entry_of_our_form_at_our_very_place_is_ours_whatever_its_name() -> None:
    """We listen there now, so who wrote it is gone."""
    assert other_owner(service(), ours(Service="billing")) is None
    assert other_owner(service(), held(FAREWELL, Service="billing")) is None


@pytest.mark.parametrize(
    "entry",
    [
        ours(Service="billing", Port=81),
        ours(Service="billing", Address="10.0.0.8"),
        held(Service="billing"),
        held(MANUAL, Service="billing"),
        held(OTHER_CHECK, Service="billing"),
        held(OTHER_CHECK),
        held(OTHER_CHECK | MANUAL),
        held(MANUAL, Port=81),
        held(Port=81),
        held(Port=None),
        held(Address=""),
        held({"web-1:http": {}}),
        held({"web-1:http": {"Notes": None}}),
        held({"web-1:http": {"Notes": "GET / [0123abc]"}}),
        held({"web-1:http": {"Notes": "GET / [0123abcd] "}}),
        held({"web-1:http": {"Notes": "GET / [0123ABCD]"}}),
        held({"web-11:http": {"Notes": "GET / [0123abcd]"}}),
        HeldByAgent(service={}, checks={}),
    ],
)
def test_all_else_is_anothers(entry: HeldByAgent) -> None:
    said = other_owner(service(), entry)
    name, address, port = held_endpoint(entry)
    assert said == f"service {name} at {address}:{port}, which proxygen did not register for service web"


def test_a_containers_entry_is_no_applications() -> None:
    """Though it has our form, and even in its farewell."""
    said = "a container of the registrator on far (service web at 10.0.0.7:80)"
    assert other_owner(service(), ours(Meta={OWNER: "far"})) == said
    assert other_owner(service(), held(FAREWELL, Meta={OWNER: "far"})) == said


def test_a_registrators_own_mark_is_enough() -> None:
    """Whatever its container is now: an id goes from one to the next."""
    assert (
        other_owner(service(owner="here"), held(OTHER_CHECK, Service="billing", Port=1, Meta={OWNER: "here"})) is None
    )


def test_a_registrator_takes_what_it_left_without_a_mark_and_nothing_else_without_one() -> None:
    assert other_owner(service(owner="here"), held(OTHER_CHECK)) is None
    assert other_owner(service(owner="here"), ours(Port=81)) is not None


def test_of_two_registrators_each_has_its_own() -> None:
    said = other_owner(service(owner="here"), held(Meta={OWNER: "far"}, Port=81))
    assert said == "a container of the registrator on far (service web at 10.0.0.7:81)"


def test_what_a_registrator_left_under_the_hosts_former_name_is_its_own() -> None:
    assert other_owner(service(owner="here"), held(Meta={OWNER: "far"})) is None


def test_a_mark_that_is_empty_is_an_owner_too() -> None:
    assert other_owner(service(), held(Meta={OWNER: ""})) is not None
    assert other_owner(service(owner=""), held(Meta={OWNER: ""})) is None


def test_only_our_own_maintenance_is_a_farewell() -> None:
    assert is_leaving(held(FAREWELL), "web-1")
    assert not is_leaving(held(MANUAL), "web-1")
    assert not is_leaving(held(FAREWELL), "web-2")
    assert not is_leaving(held({MAINTENANCE: {}}), "web-1")
