"""Several services under one host: told to both, or refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.types import Memory, Plan, Policy, RouteClaim
from tests.proxy.plan.catalogs import catalog, instance, plan, routes, service

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


WILD = instance("app", 1, "route=*.example.com")


@pytest.mark.incident("T48")
def test_a_path_under_somebody_elses_wildcard_is_told_to_both_pass_after_pass() -> None:
    memory = Memory()
    for _ in range(3):
        planned = plan(WILD, LOGIN, memory=memory)
        memory = planned.memory
        assert routes(planned)["app.example.com/login"] == "evil"
        to_holder, to_other = (service(planned, name).warnings for name in ("app", "evil"))
        assert to_holder[0].startswith("evil hold paths under app.example.com, which this service holds")
        assert to_other[0].startswith("it holds app.example.com/login, under a host that service app holds")
        assert len(to_holder) == len(to_other) == 1, "evil.example.com is evil's own: it claims the whole name"


@pytest.mark.incident("T48")
@pytest.mark.parametrize("path", ["app.example.com/login", "*.app.example.com/login"])
def test_a_path_under_a_whole_wildcard_is_refused_and_the_name_stays_the_wildcards(path: str) -> None:
    first = plan(WILD, policy=WHOLE)
    evil = instance("evil", 0, f"route={path}", "route=evil.example.com", create_index=0)
    planned = plan(WILD, evil, policy=WHOLE, memory=first.memory)
    assert routes(planned) == {"*.example.com/": "app", "evil.example.com/": "evil"}
    assert [(str(one.claim), one.holder, one.loser) for one in planned.conflicts] == [(path, "app", "evil")]
    assert routes(plan(WILD, LOGIN, policy=WHOLE)) == {"*.example.com/": "app", "evil.example.com/": "evil"}


def test_a_path_that_was_served_before_a_wildcard_came_stays_however_its_service_registers_anew() -> None:
    memory = plan(LOGIN, policy=WHOLE).memory
    for wild, login in ((0, 2), (0, 2), (0, 9), (10, 9), (10, 11)):
        ones = (
            instance("app", 1, "route=*.example.com", create_index=wild),
            instance("evil", 2, "route=app.example.com/login", create_index=login),
        )
        planned = plan(*ones, policy=WHOLE, memory=memory)
        memory = planned.memory
        assert routes(planned) == {"app.example.com/login": "evil", "*.example.com/": "app"}


@pytest.mark.incident("T48")
@pytest.mark.parametrize("whole", [False, True])
def test_a_wildcards_holder_does_not_hold_a_name_that_is_reserved_for_others(*, whole: bool) -> None:
    """It may not serve there, so it keeps nobody from a path of it."""
    policy = Policy(hosts_whole=whole, claims={"login.example.com": ("auth",)})
    edge, auth = instance("edge", 1, "route=*.example.com"), instance("auth", 2, "route=login.example.com/login")
    planned = plan(edge, auth, policy=policy)
    assert routes(planned)["login.example.com/login"] == "auth"
    assert not planned.conflicts
    assert all(each.warnings == () for each in planned.services)


def test_a_label_as_short_as_an_asterisk_is_under_its_wildcard_too() -> None:
    ones = (instance("wild", 1, "route=*.example.com"), instance("evil", 2, "route=a.example.com/login"))
    assert routes(plan(*ones, policy=WHOLE)) == {"*.example.com/": "wild"}


def test_who_holds_a_wildcard_and_a_path_under_it_shares_with_nobody() -> None:
    both = instance("app", 1, "route=*.example.com", "route=app.example.com/x")
    for policy in (Policy(), WHOLE):
        planned = plan(both, policy=policy)
        assert routes(planned)["app.example.com/x"] == routes(planned)["app.example.com/"] == "app"
        assert service(planned, "app").warnings == planned.conflicts == ()


def test_who_takes_a_whole_name_is_not_kept_from_it_by_who_asks_for_a_path() -> None:
    ones = (WILD, instance("evil", 2, "route=web.example.com/login"), instance("web", 3, "route=web.example.com"))
    assert routes(plan(*ones, policy=WHOLE)) == {"*.example.com/": "app", "web.example.com/": "web"}
    (warning,) = service(plan(*ones), "web").warnings
    assert warning.startswith("evil hold paths under web.example.com, which this service holds")


def test_of_many_names_under_a_wildcard_the_first_are_told_and_the_others_counted() -> None:
    many = [instance("evil", n + 2, f"route=h{n:02}.example.com/login") for n in range(40)]
    told = service(plan(WILD, *many), "app").warnings
    assert len(told) == 11
    assert told[-1] == "and so it is with 30 more hosts"


_NAMES = st.sampled_from(["a", "b", "c"])
_ROUTES = st.sampled_from(
    [
        "x.test",
        "x.test/p",
        "x.test/p/q",
        "y.test/p",
        "*.z.test",
        "a.z.test",
        "a.z.test/p",
        "*.z.test/q",
        "*.b.z.test/p",
        "/p",
    ]
)


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
