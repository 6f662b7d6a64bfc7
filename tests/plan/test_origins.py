"""Several services under one host: told to both, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.model import ServiceName
from proxygen.plan import Planner
from proxygen.plan.types import Memory, Plan, Policy, RouteClaim
from tests.plan.catalogs import catalog, instance, plan, routes, service

WHOLE = Policy(hosts_whole=True)
APP = instance("app", 1, "route=app.example.com")
LOGIN = instance("evil", 2, "route=app.example.com/login", "route=evil.example.com")


@pytest.mark.incident("T48")
def test_shared_hosts_are_told_to_both() -> None:
    planned = plan(APP, LOGIN)
    assert routes(planned)["app.example.com/login"] == "evil"
    (to_holder,), (to_other,) = (service(planned, name).warnings for name in ("app", "evil"))
    assert to_holder.startswith("evil hold paths under app.example.com, which this service holds")
    assert to_other.startswith("it holds app.example.com/login, under a host that service app holds")
    assert all("proxy.hosts" in warning for warning in (to_holder, to_other))


@pytest.mark.incident("T48")
def test_whole_hosts_are_their_holders_alone() -> None:
    planned = plan(APP, LOGIN, policy=WHOLE)
    assert routes(planned) == {"app.example.com/": "app", "evil.example.com/": "evil"}
    assert [(str(one.claim), one.holder, one.loser) for one in planned.conflicts] == [
        ("app.example.com/login", "app", "evil")
    ]
    assert all(each.warnings == () for each in planned.services)


def test_who_held_a_host_keeps_it_whatever_older_registrations_ask_for() -> None:
    held = Memory(holders={RouteClaim("app.example.com", "/login"): ServiceName("evil")})
    assert routes(plan(APP, LOGIN, policy=WHOLE, memory=held)) == {
        "app.example.com/login": "evil",
        "evil.example.com/": "evil",
    }
    both = Memory(holders={**held.holders, RouteClaim("app.example.com", "/"): ServiceName("app")})
    late = instance("app", 90, "route=app.example.com")
    assert routes(plan(late, LOGIN, policy=WHOLE, memory=both))["app.example.com/"] == "app", "the root goes first"


def test_a_host_is_free_once_its_holder_is_gone() -> None:
    first = plan(APP, LOGIN, policy=WHOLE)
    assert routes(plan(LOGIN, policy=WHOLE, memory=first.memory))["app.example.com/login"] == "evil"


def test_a_wider_route_of_somebody_else_serves_no_path_of_a_whole_host() -> None:
    ones = (
        instance("app", 1, "route=app.example.com/own"),
        instance("wild", 2, "route=*.example.com/login"),
        instance("any", 3, "route=/admin"),
    )
    assert "app.example.com/login" in routes(plan(*ones))
    found = routes(plan(*ones, policy=WHOLE))
    assert [route for route in found if route.startswith("app.")] == ["app.example.com/own"]
    own = instance("app", 1, "route=app.example.com/own", "route=*.example.com/x")
    assert routes(plan(own, policy=WHOLE))["app.example.com/x"] == "app"


def test_a_name_under_a_wildcard_is_a_host_of_its_own_and_any_host_is_nobodys() -> None:
    ones = (
        instance("wild", 1, "route=*.example.com"),
        instance("app", 2, "route=app.example.com"),
        instance("any", 3, "route=/a"),
        instance("other", 4, "route=/b"),
    )
    planned = plan(*ones, policy=WHOLE)
    assert planned.conflicts == ()
    assert {routes(planned)[route] for route in ("/a", "/b", "app.example.com/")} == {"any", "other", "app"}
    assert all(each.warnings == () for each in plan(*ones).services)


def test_of_many_neighbours_the_first_are_told_and_the_others_counted() -> None:
    many = [instance(f"s{n:03}", n + 2, f"route=app.example.com/{n}") for n in range(100)]
    (warning,) = service(plan(APP, *many), "app").warnings
    assert warning.startswith("s000, s001, s002 and 97 more hold")


def test_a_warning_that_says_the_same_makes_no_new_service() -> None:
    planner, known = Planner(Policy()), catalog(APP, LOGIN)
    first = planner.plan(known, Memory(), {})
    second = planner.plan(known, first.memory, {})
    assert all(one is other for one, other in zip(first.services, second.services, strict=True))


_NAMES = st.sampled_from(["a", "b", "c"])
_ROUTES = st.sampled_from(["x.test", "x.test/p", "x.test/p/q", "y.test/p", "*.z.test", "a.z.test", "*.z.test/q", "/p"])


@given(st.lists(st.lists(st.tuples(_NAMES, _ROUTES, st.integers(1, 9)), max_size=8), max_size=4))
def test_a_whole_host_has_one_service_and_keeps_it_while_that_asks_for_it(
    history: list[list[tuple[str, str, int]]],
) -> None:
    memory = Memory()
    for step in history:
        before = {claim.host: name for claim, name in memory.holders.items() if isinstance(claim, RouteClaim)}
        ones = [
            instance(name, n, f"route={route}", create_index=index) for n, (name, route, index) in enumerate(step, 1)
        ]
        planned = plan(*ones, policy=WHOLE, memory=memory)
        memory = planned.memory
        for host, names in _served(planned).items():
            assert len(names) == 1
            asking = {each.name for each in planned.services if each.claims_host(host)}
            still = {
                each.name for each in planned.services for claim in each.claims if _was(claim, host, each.name, before)
            }
            if before.get(host) in still & asking:
                assert names == {before[host]}


def _was(claim: object, host: str, name: str, before: dict[str, ServiceName]) -> bool:
    return isinstance(claim, RouteClaim) and claim.host == host and before.get(host) == name


def _served(planned: Plan) -> dict[str, set[str]]:
    return {each.host: {location.service.name for location in each.locations} for each in planned.servers if each.host}
