"""Who gets a host and path, and that nobody ever gets a part of somebody else's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, ServiceName
from proxygen.proxy.plan.claims import Grounds, settle_claims
from proxygen.proxy.plan.reserved import reservations
from proxygen.proxy.plan.types import Memory, Policy, PortClaim, RouteClaim
from tests.proxy.plan.catalogs import instance, plan, routes

APP = "route=app.example.com"


def test_the_older_registration_gets_a_free_route() -> None:
    planned = plan(instance("young", 9, APP), instance("old", 3, APP))
    assert routes(planned) == {"app.example.com/": "old"}
    (conflict,) = planned.conflicts
    assert (str(conflict.claim), conflict.holder, conflict.loser) == ("app.example.com/", "old", "young")


def test_between_equals_the_name_decides() -> None:
    planned = plan(instance("b", 1, APP, create_index=5), instance("a", 2, APP, create_index=5))
    assert routes(planned) == {"app.example.com/": "a"}


def test_a_holder_keeps_its_route_through_a_rolling_deploy_and_bad_health() -> None:
    first = plan(instance("holder", 1, APP))
    redeployed = instance("holder", 50, APP, health=Health.CRITICAL)
    rival = instance("rival", 2, APP)
    assert routes(plan(redeployed, rival, memory=first.memory)) == {"app.example.com/": "holder"}
    assert routes(plan(redeployed, rival)) == {"app.example.com/": "rival"}


def test_a_route_is_free_once_its_holder_is_gone() -> None:
    first = plan(instance("holder", 1, APP), instance("rival", 2, APP))
    second = plan(instance("rival", 2, APP), memory=first.memory)
    assert routes(second) == {"app.example.com/": "rival"}
    # Who left and came back is a newcomer.
    third = plan(instance("holder", 1, APP), instance("rival", 2, APP), memory=second.memory)
    assert routes(third) == {"app.example.com/": "rival"}


def test_a_rival_keeps_what_is_only_its_own() -> None:
    planned = plan(instance("a", 1, APP), instance("b", 2, APP, "route=b.example.com"))
    assert routes(planned) == {"app.example.com/": "a", "b.example.com/": "b"}


def test_paths_of_one_host_may_belong_to_different_services() -> None:
    planned = plan(instance("a", 1, APP), instance("b", 2, f"{APP}/api"))
    assert routes(planned) == {"app.example.com/": "a", "app.example.com/api": "b"}
    assert planned.conflicts == ()


def test_two_services_never_share_a_port() -> None:
    members = [instance(name, number, "protocol=tcp", "listen=5432") for number, name in enumerate("ab", 1)]
    planned = plan(*members)
    assert [(stream.service.name, stream.claims) for stream in planned.streams] == [("a", (PortClaim("tcp", 5432),))]
    assert [conflict.loser for conflict in planned.conflicts] == ["b"]


def test_one_port_may_be_tcp_for_one_service_and_udp_for_another() -> None:
    members = [instance("a", 1, "protocol=tcp", "listen=5353"), instance("b", 2, "protocol=udp", "listen=5353")]
    planned = plan(*members)
    assert {stream.service.name for stream in planned.streams} == {"a", "b"}


def test_a_policy_says_who_may_claim_a_host() -> None:
    policy = Policy(claims={"*.example.com": ("shop-*",)})
    planned = plan(instance("evil", 1, APP, "route=free.example.org"), instance("shop-web", 9, APP), policy=policy)
    assert routes(planned) == {"app.example.com/": "shop-web", "free.example.org/": "evil"}
    (conflict,) = planned.conflicts
    assert (conflict.loser, "policy" in conflict.reason) == ("evil", True)


def test_a_host_that_several_rules_name_belongs_to_the_services_of_all_of_them() -> None:
    """Whichever rule stands first, and whichever of its patterns matches."""
    first, second = ("*.example.com", ("ops", "shop-*")), ("app.*", ("blog", "web"))
    for rules in ({first[0]: first[1], second[0]: second[1]}, {second[0]: second[1], first[0]: first[1]}):
        may = [
            name
            for name in ("ops", "shop-1", "blog", "web", "evil")
            if reservations(rules).may_claim(ServiceName(name), RouteClaim("app.example.com", "/"))
        ]
        assert may == ["ops", "shop-1", "blog", "web"]
        assert not reservations(rules).may_claim(ServiceName("web"), RouteClaim("own.example.com", "/"))
        assert reservations(rules).may_claim(ServiceName("evil"), RouteClaim("example.org", "/"))


def test_rules_are_for_hosts_and_leave_ports_to_everybody() -> None:
    assert reservations({"*": ("web",)}).may_claim(ServiceName("db"), PortClaim("tcp", 5432))
    assert not reservations({"*": ("web",)}).may_claim(ServiceName("db"), RouteClaim("", "/"))


def test_a_rule_takes_nothing_from_the_services_that_it_names() -> None:
    """Each service is judged by itself, before and after one that is refused."""
    policy = Policy(claims={"app.example.com": ("a", "c")})
    planned = plan(*(instance(name, number, APP) for number, name in enumerate("abc", 1)), policy=policy)
    assert routes(planned) == {"app.example.com/": "a"}
    assert [(each.loser, each.holder) for each in planned.conflicts] == [("b", None), ("c", "a")]


def test_the_age_of_a_claim_is_when_it_was_registered_and_not_when_it_was_changed() -> None:
    old = instance("old", 1, APP, create_index=3, modify_index=900)
    young = instance("young", 2, APP, create_index=7, modify_index=8)
    assert routes(plan(young, old)) == {"app.example.com/": "old"}


def test_the_oldest_instance_counts() -> None:
    """A rolling deploy replaces one after the other."""
    old = [instance("old", 1, APP, create_index=3), instance("old", 2, APP, create_index=90)]
    assert routes(plan(*old, instance("young", 3, APP, create_index=50))) == {"app.example.com/": "old"}


def test_the_order_in_which_services_are_judged_does_not_show() -> None:
    planned = plan(*(instance(name, 1, APP, "route=a.example.com", create_index=5) for name in "abc"))
    for services in (planned.services, planned.services[::-1]):
        assert settle_claims(services, Grounds()) == (planned.memory.holders, planned.conflicts)


def test_every_loser_is_told_in_the_order_of_claims_and_names() -> None:
    other = "route=a.example.com"
    planned = plan(instance("c", 9, APP, other), instance("b", 5, APP, other), instance("a", 7, APP))
    assert [(str(each.claim), each.holder, each.loser) for each in planned.conflicts] == [
        ("a.example.com/", "b", "c"),
        ("app.example.com/", "b", "a"),
        ("app.example.com/", "b", "c"),
    ]


def test_a_policy_takes_a_route_from_one_who_held_it_before() -> None:
    held = Memory(holders={RouteClaim("app.example.com", "/"): ServiceName("evil")})
    policy = Policy(claims={"app.example.com": ("web",)})
    planned = plan(instance("evil", 1, APP), instance("web", 9, APP), policy=policy, memory=held)
    assert routes(planned) == {"app.example.com/": "web"}


def test_a_host_that_a_policy_reserves_is_not_reached_by_a_wider_claim() -> None:
    """A wildcard, or a route for any host, serves a reserved host only where its service may claim that host."""
    policy = Policy(claims={"app.example.com": ("web",)})
    planned = plan(
        instance("web", 9, f"{APP}/own"),
        instance("wild", 1, "route=*.example.com/login"),
        instance("any", 2, "route=/admin"),
        policy=policy,
    )
    assert {route: name for route, name in routes(planned).items() if route.startswith("app.")} == {
        "app.example.com/own": "web"
    }
    assert routes(planned)["/admin"] == "any"


_NAMES = st.sampled_from(["a", "b", "c"])
_ROUTES = st.sampled_from(["x.example.com", "x.example.com/p", "y.example.com", "*.example.com", "/p", "/"])


@given(st.lists(st.lists(st.tuples(_NAMES, _ROUTES, st.integers(1, 9)), max_size=8), max_size=5))
def test_whatever_comes_and_goes_a_claim_has_one_holder_that_states_it(
    history: list[list[tuple[str, str, int]]],
) -> None:
    memory = Memory()
    for step in history:
        before = dict(memory.holders)
        members = [
            instance(name, number, f"route={route}", create_index=index)
            for number, (name, route, index) in enumerate(step, 1)
        ]
        planned = plan(*members, memory=memory)
        stated = {
            claim: {each.name for each in planned.services if claim in each.claims} for claim in _claimed(planned)
        }
        assert planned.memory.holders.keys() == stated.keys()
        for claim, names in stated.items():
            holder = planned.memory.holders[claim]
            assert holder in names
            if before.get(claim) in names:
                assert holder == before[claim]
            losers = {conflict.loser for conflict in planned.conflicts if conflict.claim == claim}
            assert losers == names - {holder}
        memory = planned.memory


def _claimed(planned: object) -> set[object]:
    return {claim for each in planned.services for claim in each.claims}  # type: ignore[attr-defined]
