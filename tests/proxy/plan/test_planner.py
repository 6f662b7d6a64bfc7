"""Planning one catalog after the other: what is remembered never shows, and what a gate or KV says is taken in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest

from proxygen.catalog import Catalog, ServiceName
from proxygen.proxy.plan import Planner, plan_routes
from proxygen.proxy.plan.types import Memory, Plan, Policy, PortClaim, Quarantine, RouteClaim, ServiceState
from tests.proxy.plan.catalogs import catalog, instance, plan, routes, service, shares

WEB, SHOP, DB = ServiceName("web"), ServiceName("shop"), ServiceName("db")
ONE = instance("web", 1, "route=web.example.com")
CANARY = instance("web", 2, "route=web.example.com", "canary=10%")
OTHER = instance("shop", 3, "route=shop.example.com")
STREAM = instance("db", 4, "protocol=tcp", "listen=5432")


def refusal(name: ServiceName, *lost: object, withdrawn: bool = False) -> Mapping[ServiceName, Quarantine]:
    return {
        name: Quarantine(service=name, place="http.d:1", reason="nginx", lost=frozenset(lost), withdrawn=withdrawn)  # type: ignore[arg-type]
    }


# --- what is remembered


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (catalog(ONE, CANARY), catalog(ONE, CANARY, overrides={"web": '{"canary": "40%"}'})),
        (
            catalog(ONE, CANARY, overrides={"web": '{"canary": "40%"}'}),
            catalog(ONE, CANARY, overrides={"web": '{"canary": "50%"}'}),
        ),
        (catalog(ONE, CANARY, overrides={"web": '{"canary": "40%"}'}), catalog(ONE, CANARY)),
        (catalog(ONE), catalog(replace(ONE, create_index=77))),
        (catalog(ONE), catalog(replace(ONE, modify_index=77))),
        (catalog(ONE, OTHER), catalog(ONE)),
        (catalog(instance("web", 1)), catalog(ONE)),
        (catalog(ONE), catalog(instance("web", 1))),
    ],
)
def test_a_plan_after_another_is_the_plan_alone(before: Catalog, after: Catalog) -> None:
    planner = Planner(Policy())
    planner.plan(before, Memory(), {})
    assert planner.plan(after, Memory(), {}) == plan_routes(after, Policy())


def test_what_did_not_change_is_the_same_object_and_what_changed_is_not() -> None:
    planner = Planner(Policy())
    first = planner.plan(catalog(ONE, OTHER), Memory(), {})
    second = planner.plan(catalog(ONE, CANARY, OTHER), Memory(), {})
    assert service(second, "shop") is service(first, "shop")
    assert service(second, "web") is not service(first, "web")


def test_a_service_that_is_refused_no_longer_is_served_again() -> None:
    """What is remembered of it is what was planned, not what became of it."""
    planner, seen = Planner(Policy()), catalog(ONE, CANARY, OTHER)
    before = planner.plan(seen, Memory(), {})
    refused = planner.plan(seen, Memory(), refusal(WEB))
    assert service(refused, "web").state is ServiceState.QUARANTINED
    assert planner.plan(seen, Memory(), {}) == before


# --- what a gate refused


def test_what_a_gate_refused_holds_its_routes_and_sends_no_request_anywhere() -> None:
    refused = plan_routes(catalog(ONE, CANARY, OTHER), Policy(), refused=refusal(WEB))
    found = service(refused, "web")
    assert (found.upstreams, found.split, found.quarantine) == ((), None, refusal(WEB)[WEB])
    assert routes(refused) == {"web.example.com/": "web", "shop.example.com/": "shop"}
    assert service(refused, "shop") == service(plan(OTHER), "shop")


def test_its_own_mistake_is_told_before_a_gates_refusal_unless_that_takes_more_away() -> None:
    bad = catalog(replace(ONE, tags=(*ONE.tags, "proxygen.weight=x")))

    def place(refused: Mapping[ServiceName, Quarantine]) -> str:
        found = service(plan_routes(bad, Policy(), refused=refused), "web").quarantine
        assert found is not None
        return found.place

    assert "weight" in place(refusal(WEB))
    assert place(refusal(WEB, withdrawn=True)) == "http.d:1"
    assert place(refusal(WEB, RouteClaim("web.example.com", "/"))) == "http.d:1"


def test_what_is_withdrawn_is_answered_nowhere_and_still_held() -> None:
    seen = catalog(ONE, OTHER, STREAM, instance("thief", 9, "route=web.example.com"))
    for name, gone in ((WEB, "web.example.com/"), (DB, "")):
        left = plan_routes(seen, Policy(), refused=refusal(name, withdrawn=True))
        assert gone not in routes(left)
        assert [stream.service.name for stream in left.streams] == ([] if name == DB else ["db"])
        assert left.memory.holders[RouteClaim("web.example.com", "/")] == "web"


def test_of_what_a_gate_lost_only_those_claims_are_not_answered() -> None:
    members = [instance("db", number, "protocol=tcp", f"listen={5430 + number}") for number in (1, 2)]
    left = plan_routes(catalog(*members, ONE), Policy(), refused=refusal(DB, PortClaim("tcp", 5431)))
    assert [stream.claims for stream in left.streams] == [(PortClaim("tcp", 5432),)]
    assert routes(left) == {"web.example.com/": "web"}


def test_a_refusal_of_a_service_that_is_gone_is_nobodys() -> None:
    assert plan_routes(catalog(ONE), Policy(), refused=refusal(SHOP)) == plan(ONE)


# --- the operator's override


def test_each_service_has_its_own_override() -> None:
    members = [
        instance(name, number, f"route={name}.example.com", "canary=10%") for number, name in ((1, "a"), (2, "b"))
    ]
    members += [instance(name, 10 + number, f"route={name}.example.com") for number, name in ((1, "a"), (2, "b"))]
    planned = plan(*members, b='{"canary": "30%"}')
    assert (shares(service(planned, "a"))["canary"], shares(service(planned, "b"))["canary"]) == (1000, 3000)
    assert planned.memory.overrides == {"b": '{"canary": "30%"}'}


def test_an_override_that_does_not_parse_says_what_stays_in_force() -> None:
    planned = plan(ONE, CANARY, web="{")
    assert shares(service(planned, "web"))["canary"] == 1000
    assert planned.memory.overrides == {}
    [warning] = service(planned, "web").warnings
    assert warning.startswith("the override in KV is ignored and the tags stay in force: ")
    good = plan(ONE, CANARY, web='{"canary": "40%"}')
    bad = plan(ONE, CANARY, memory=good.memory, web="{")
    assert shares(service(bad, "web"))["canary"] == 4000
    assert bad.memory.overrides == good.memory.overrides
    [warning] = service(bad, "web").warnings
    assert warning.startswith('the override in KV is ignored and {"canary": "40%"} stays in force: ')


def test_an_override_that_was_taken_away_is_not_remembered() -> None:
    good = plan(ONE, CANARY, web='{"canary": "40%"}')
    none = plan(ONE, CANARY, memory=good.memory)
    assert (shares(service(none, "web"))["canary"], none.memory.overrides) == (1000, {})
    assert shares(service(plan(ONE, CANARY, memory=none.memory, web="{"), "web"))["canary"] == 1000


def test_an_override_that_does_not_parse_is_told_beside_the_other_warnings() -> None:
    disagreeing = instance("web", 5, "route=web.example.com", "canary=20%")
    assert len(service(plan(ONE, CANARY, disagreeing, web="{"), "web").warnings) == 2


# --- the order of things


def test_services_streams_and_ports_stand_sorted() -> None:
    seen = Catalog(
        datacenter="dc1",
        services={
            each.service: (each,)
            for each in (
                instance("z", 1, "route=z.example.com"),
                instance("udp", 5, "protocol=udp", "listen=5000"),
                STREAM,
                instance("a", 9, "route=a.example.com"),
            )
        },
    )
    planned: Plan = plan_routes(seen, Policy())
    assert [each.name for each in planned.services] == ["a", "db", "udp", "z"]
    assert [stream.service.name for stream in planned.streams] == ["db", "udp"]


def test_what_a_quarantined_service_asks_for_in_two_protocols_is_held_in_each() -> None:
    """A udp port that were opened for tcp would stand beside the service that has it, and nginx refuses two."""
    bad = [
        instance("db", 1, "protocol=tcp", "listen=9000", "weight=x"),
        instance("db", 2, "protocol=udp", "listen=5432", "weight=x"),
        instance("db", 3, "protocol=tcp", "listen=10000", "weight=x"),
    ]
    planned = plan(*bad, instance("other", 4, "protocol=tcp", "listen=5432"))
    assert [(stream.service.name, stream.claims) for stream in planned.streams] == [
        ("db", (PortClaim("tcp", 9000), PortClaim("tcp", 10000))),
        ("db", (PortClaim("udp", 5432),)),
        ("other", (PortClaim("tcp", 5432),)),
    ]
