"""Laws of one planned service: shares, weights, upstreams, what is quarantined and what is told."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, ServiceName
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.service import (
    MAX_HASH_WEIGHT_SUM,
    MAX_WEIGHT_SUM,
    ident_of,
    plan_service,
    upstream_name,
)
from proxygen.proxy.plan.types import Certificate, PlannedState, Policy, PortClaim, RouteClaim, Service, ServiceState
from proxygen.tags import Protocol
from proxygen.tags.shares import WHOLE
from tests.proxy.plan.catalogs import addresses, instance, plan, routes, service, shares, upstream

WEB = "route=web.example.com"


# --- shares


def test_a_share_does_not_depend_on_how_many_instances_either_side_has() -> None:
    for stable in (1, 2, 5, 20):
        for canaries in (1, 3):
            members = [instance("web", number, WEB) for number in range(1, stable + 1)]
            members += [instance("web", 100 + number, WEB, "canary=5%") for number in range(canaries)]
            assert shares(service(plan(*members), "web")) == {"stable": 9500, "canary": 500}


@given(st.lists(st.tuples(st.sampled_from(["canary=", "variant=blue:", ""]), st.integers(0, 100), st.booleans())))
def test_shares_sum_to_the_whole_or_nobody_is_served(members: list[tuple[str, int, bool]]) -> None:
    planned = plan(
        *(
            instance(
                "web",
                number,
                WEB,
                *([f"{key}{share}%"] if key else []),
                health=Health.PASSING if healthy else Health.CRITICAL,
            )
            for number, (key, share, healthy) in enumerate(members, 1)
        )
    )
    for each in planned.services:
        total = sum(shares(each).values())
        assert total == (WHOLE if each.state is ServiceState.SERVED else 0)
        alive = {found.variant for found in each.upstreams}
        assert all(share == 0 for name, share in shares(each).items() if name not in alive)
        if each.split is not None:
            assert sum(size for size, _ in each.split.pieces) == WHOLE


@pytest.mark.parametrize(
    ("canary", "stable_is_there", "expected"),
    [
        ("100%", True, {"stable": 0, "canary": 10_000}),
        ("100%", False, {"stable": 0, "canary": 10_000}),
        ("10%", False, {"stable": 0, "canary": 10_000}),
        ("0%", True, {"stable": 10_000, "canary": 0}),
        ("0.01%", True, {"stable": 9_999, "canary": 1}),
    ],
)
def test_whoever_is_there_serves(canary: str, stable_is_there: bool, expected: dict[str, int]) -> None:
    """T27: a canary without stable instances, and the two ends of the scale."""
    stable = [instance("web", 1, WEB)] if stable_is_there else []
    planned = service(plan(*stable, instance("web", 2, WEB, f"canary={canary}")), "web")
    assert shares(planned) == expected
    assert planned.state is ServiceState.SERVED


def test_a_canary_at_zero_gets_nothing_even_when_it_is_alone() -> None:
    planned = service(plan(instance("web", 1, WEB, "canary=0")), "web")
    assert shares(planned) == {"stable": 0, "canary": 0}
    assert planned.state is ServiceState.NOBODY


def test_stable_alone_gets_everything_though_a_canary_is_down() -> None:
    down = instance("web", 2, WEB, "canary=30%", health=Health.CRITICAL)
    planned = service(plan(instance("web", 1, WEB), down), "web")
    assert shares(planned) == {"stable": 10_000, "canary": 0}
    assert [variant.asked for variant in planned.variants] == [7_000, 3_000]


def test_instances_that_disagree_on_a_share_get_the_lowest_and_a_warning() -> None:
    canaries = [instance("web", number, WEB, f"canary={share}%") for number, share in ((2, 30), (3, 10), (4, 20))]
    planned = service(plan(instance("web", 1, WEB), *canaries), "web")
    assert shares(planned)["canary"] == 1_000
    assert any("disagree on its share" in warning for warning in planned.warnings)


def test_what_serves_unchecked_is_named() -> None:
    kept = [instance("web", number, WEB, unchecked=True) for number in range(1, 6)]
    new = instance("web", 6, WEB, unchecked=True, health=Health.CRITICAL)
    planned = service(plan(*kept, new), "web")
    [warning] = planned.warnings
    assert "web-1 on node-1, web-2 on node-2, web-3 on node-3 and 2 more" in warning
    assert [one.state for one in planned.instances if one.id == "web-6"] == [PlannedState.UNHEALTHY]
    assert all(one.unchecked for one in planned.instances)


def test_an_override_wins_over_the_tags() -> None:
    members = [instance("web", 1, WEB), instance("web", 2, WEB, "canary=10%")]
    assert shares(service(plan(*members, web='{"canary": "12.5%"}'), "web"))["canary"] == 1_250


def test_an_override_for_a_variant_that_nobody_registers_changes_nothing() -> None:
    assert plan(instance("web", 1, WEB), web='{"canary": "50%"}').services == plan(instance("web", 1, WEB)).services


def test_an_override_that_does_not_parse_leaves_the_last_one_in_force_and_says_so() -> None:
    members = [instance("web", 1, WEB), instance("web", 2, WEB, "canary=10%")]
    good = plan(*members, web='{"canary": "40%"}')
    bad = plan(*members, memory=good.memory, web='{"canary": "fourty"}')
    assert shares(service(bad, "web"))["canary"] == 4_000
    assert any("fourty" in warning for warning in service(bad, "web").warnings)
    still_bad = plan(*members, memory=bad.memory, web="{")
    assert shares(service(still_bad, "web"))["canary"] == 4_000


def test_variants_stand_with_stable_first_then_the_canary_then_by_name() -> None:
    planned = service(
        plan(
            instance("web", 1, WEB),
            instance("web", 2, WEB, "variant=red:7%"),
            instance("web", 3, WEB, "variant=blue:5%"),
            instance("web", 4, WEB, "canary=20%"),
        ),
        "web",
    )
    assert [(each.name, each.asked, each.effective) for each in planned.variants] == [
        ("stable", 6800, 6800),
        ("canary", 2000, 2000),
        ("blue", 500, 500),
        ("red", 700, 700),
    ]
    assert [each.variant for each in planned.upstreams] == ["stable", "canary", "blue", "red"]
    assert planned.split is not None
    assert [(size, _variant(planned, name)) for size, name in planned.split.pieces] == [
        (2000, "canary"),
        (6800, "stable"),
        (700, "red"),
        (500, "blue"),
    ]


def _variant(planned: Service, name: str) -> str:
    return next(each.variant for each in planned.upstreams if each.name == name)


def test_stable_is_asked_for_nothing_below_zero() -> None:
    planned = service(
        plan(instance("web", 1, WEB), instance("web", 2, WEB, "canary=70%"), instance("web", 3, WEB, "variant=b:60%")),
        "web",
    )
    assert [(each.name, each.asked) for each in planned.variants] == [("stable", 0), ("canary", 7000), ("b", 6000)]


def test_an_override_may_raise_a_share_and_changes_the_others_not() -> None:
    members = [instance("web", 1, WEB), instance("web", 2, WEB, "canary=10%"), instance("web", 3, WEB, "variant=b:5%")]
    planned = service(plan(*members, web='{"canary": "60%", "unknown": "3%"}'), "web")
    assert shares(planned) == {"stable": 3500, "canary": 6000, "b": 500}


def test_a_disagreement_on_a_share_is_told_once_for_each_variant() -> None:
    members = [
        instance("web", number, WEB, f"variant={name}:{share}%")
        for number, (name, share) in enumerate([("b", 3), ("a", 1), ("b", 2), ("a", 1), ("b", 4), ("c", 9), ("c", 8)])
    ]
    planned = service(plan(*members), "web")
    assert [warning.split()[3] for warning in planned.warnings] == ["b", "c"]
    assert {each.name: each.asked for each in planned.variants} == {"stable": 8900, "a": 100, "b": 200, "c": 800}


# --- where requests are divided


def test_one_variant_that_nothing_forces_needs_no_split() -> None:
    assert service(plan(instance("web", 1, WEB), instance("web", 2, WEB)), "web").split is None


@pytest.mark.parametrize(
    "more", [("force=header:X-Canary",), ("canary=0%",), ("canary=100%",), ("canary=0%", "force=header:X-Canary")]
)
def test_a_second_upstream_or_a_rule_that_forces_needs_one(more: tuple[str, ...]) -> None:
    """At 0 % and at 100 % too: the virtual servers then stay as they are when a share gets there."""
    split = service(plan(instance("web", 1, WEB), instance("web", 2, WEB, *more)), "web").split
    assert split is not None
    assert sum(size for size, _ in split.pieces) == WHOLE


def test_a_rule_leads_to_the_variant_of_the_instance_that_states_it() -> None:
    planned = service(
        plan(
            instance("web", 1, WEB, "force=header:X-Stable:yes", "force=header:X-All"),
            instance("web", 2, WEB, "canary=10%", "force=cookie:canary", "force=header:X-All"),
            instance("web", 3, WEB, "variant=blue:5%", "force=header:X-Blue:b", "force=header:X-All"),
            instance("web", 4, WEB, "variant=amber:5%", "force=header:X-Both:1"),
            instance("web", 5, WEB, "variant=blue:5%", "force=header:X-Both:1"),
        ),
        "web",
    )
    assert planned.split is not None
    assert [
        (rule.source, rule.name, rule.value, _variant(planned, rule.upstream), _variant(planned, rule.otherwise))
        for rule in planned.split.force
    ] == [
        ("header", "x-all", None, "canary", "stable"),
        ("header", "x-blue", "b", "blue", "stable"),
        ("header", "x-both", "1", "amber", "stable"),
        ("header", "x-stable", "yes", "canary", "stable"),
        ("cookie", "canary", None, "canary", "stable"),
    ]


def test_rules_for_one_name_stand_by_value_and_the_bare_one_first() -> None:
    forces = ("force=header:X-To:b", "force=header:X-To", "force=header:X-To:a", "force=cookie:a")
    planned = service(plan(instance("web", 1, WEB), instance("web", 2, WEB, "canary=1%", *forces)), "web")
    assert planned.split is not None
    assert [(rule.source, rule.value) for rule in planned.split.force] == [
        ("header", None),
        ("header", "a"),
        ("header", "b"),
        ("cookie", None),
    ]


def test_a_named_variant_goes_before_stable_where_both_state_a_rule() -> None:
    members = [
        instance("web", 1, WEB, "force=header:X-To"),
        instance("web", 2, WEB, "variant=zeta:5%", "force=header:X-To"),
    ]
    planned = service(plan(*members, instance("web", 3, WEB, "canary=5%")), "web")
    assert planned.split is not None
    assert [_variant(planned, rule.upstream) for rule in planned.split.force] == ["zeta"]


def test_rules_of_several_variants_stand_sorted_and_one_name_of_a_cookie_is_one_in_any_case() -> None:
    """nginx's variables know no case."""
    members = [
        instance("web", 2, WEB, "canary=5%", "force=header:X-To:b", "force=cookie:Sid"),
        instance("web", 3, WEB, "variant=blue:5%", "force=header:X-To:a", "force=cookie:sid"),
    ]
    planned = service(plan(instance("web", 1, WEB), *members), "web")
    assert planned.split is not None
    assert [(rule.name, rule.value, _variant(planned, rule.upstream)) for rule in planned.split.force] == [
        ("x-to", "a", "blue"),
        ("x-to", "b", "canary"),
        ("Sid", None, "canary"),
    ]


def test_a_rule_for_a_variant_that_is_down_leads_to_stable() -> None:
    down = instance("web", 2, WEB, "canary=10%", "force=header:X-Canary", health=Health.CRITICAL)
    planned = service(plan(instance("web", 1, WEB), down, instance("web", 3, WEB, "variant=b:1%")), "web")
    assert planned.split is not None
    [rule] = planned.split.force
    assert (_variant(planned, rule.upstream), _variant(planned, rule.otherwise)) == ("stable", "stable")


def test_where_stable_is_down_what_is_not_forced_goes_to_one_that_is_there() -> None:
    down = instance("web", 1, WEB, health=Health.CRITICAL)
    members = [instance("web", 2, WEB, "canary=10%", "force=header:X-C"), instance("web", 3, WEB, "variant=b:30%")]
    planned = service(plan(down, *members), "web")
    assert planned.split is not None
    [rule] = planned.split.force
    assert (_variant(planned, rule.upstream), _variant(planned, rule.otherwise)) == ("canary", "b")


# --- upstreams


@pytest.mark.parametrize(
    ("method", "canaries", "backups", "balanced"),
    [
        ("round_robin", 1, {"10.0.0.1", "10.0.0.2"}, True),
        ("round_robin", 2, {"10.0.0.1", "10.0.0.2"}, True),
        ("least_conn", 2, {"10.0.0.1", "10.0.0.2"}, True),
        *(
            (method, count, {"10.0.0.1", "10.0.0.2"} if count == 1 else set(), count > 1)
            for method in ("ip_hash", "random", "hash:$uri", "hash:header:X-User", "hash:cookie:sid")
            for count in (1, 2)
        ),
    ],
)
def test_a_method_that_knows_no_backup_is_left_out_where_there_is_one_server_to_choose_from(
    method: str, canaries: int, backups: set[str], *, balanced: bool
) -> None:
    """nginx refuses the backup, and with it everybody's configuration; one dead canary without a backup is an error for
    its whole share."""
    tags = (WEB, f"balance={method}")
    members = [instance("web", number, *tags) for number in (1, 2)]
    members += [instance("web", 10 + number, *tags, "canary=5%") for number in range(canaries)]
    planned = service(plan(*members), "web")
    assert addresses(upstream(planned, "canary"), backup=True) == backups
    assert upstream(planned, "canary").balanced is balanced
    assert upstream(planned, "stable").balanced


def test_what_stands_behind_a_variant_has_stables_weights() -> None:
    members = [instance("web", 1, WEB, "weight=6"), instance("web", 2, WEB, "weight=9"), instance("web", 3, WEB)]
    canary = upstream(service(plan(*members, instance("web", 4, WEB, "canary=5%", "weight=7")), "web"), "canary")
    assert {(server.endpoint.address, server.weight, server.backup) for server in canary.servers} == {
        ("10.0.0.4", 1, False),
        ("10.0.0.1", 6, True),
        ("10.0.0.2", 9, True),
        ("10.0.0.3", 1, True),
    }
    assert [server.backup for server in canary.servers] == [False, True, True, True], "own servers first"


def _weights(*weights: int, tags: tuple[str, ...] = ()) -> list[int]:
    members = [instance("web", number, WEB, *tags, weight_passing=each) for number, each in enumerate(weights, 1)]
    servers = upstream(service(plan(*members), "web"), "stable").servers
    return [server.weight for server in sorted(servers, key=lambda server: server.endpoint)]


def test_weights_are_written_as_small_as_they_can_be() -> None:
    assert _weights(4, 6, 10) == [2, 3, 5]
    assert _weights(3, 4) == [3, 4]
    assert _weights(5000, 5000) == [1, 1]


def test_weights_are_scaled_down_only_where_their_sum_is_too_much() -> None:
    assert _weights(MAX_WEIGHT_SUM - 1, 1) == [MAX_WEIGHT_SUM - 1, 1]
    assert _weights(30_001, 10_000, 1) == [7499, 2499, 1]
    hashed = ("balance=hash:header:X-User",)
    assert _weights(MAX_HASH_WEIGHT_SUM - 1, 1, tags=hashed) == [MAX_HASH_WEIGHT_SUM - 1, 1]
    assert _weights(300, 101, tags=hashed) == [74, 25]
    assert _weights(300, 101, tags=("balance=ip_hash",)) == [300, 101]


def test_more_servers_than_a_hash_has_units_keep_their_proportion_still() -> None:
    weights = _weights(*[2] * MAX_HASH_WEIGHT_SUM, 1, tags=("balance=hash:$uri",))
    assert set(weights) == {1}
    assert len(weights) == MAX_HASH_WEIGHT_SUM + 1
    assert max(_weights(50, *[1] * 149, tags=("balance=hash:$uri",))) == 50 * 150 // 199


def test_an_upstreams_name_tells_service_and_variant_apart() -> None:
    names = {
        upstream_name(ident_of(ServiceName(name)), variant) for name in ("a", "b") for variant in ("x-y", "x", "y")
    }
    assert len(names) == 6
    assert upstream_name(ident_of(ServiceName("a")), "x-y").endswith("_x_y")


def test_a_request_gets_past_the_servers_of_the_largest_variant_that_has_a_backup() -> None:
    members = [instance("web", number, WEB) for number in (1, 2, 3, 4, 5)]
    assert service(plan(*members), "web").before_backup == 0
    members += [instance("web", 10 + number, WEB, "canary=5%") for number in range(2)]
    members += [instance("web", 20 + number, WEB, "variant=b:5%") for number in range(4)]
    members += [instance("web", 30, WEB, "variant=c:5%")]
    assert service(plan(*members), "web").before_backup == 4


def test_stable_stands_behind_the_canary_and_never_the_canary_behind_stable() -> None:
    planned = service(plan(instance("web", 1, WEB), instance("web", 2, WEB, "canary=5%")), "web")
    assert addresses(upstream(planned, "canary")) == {"10.0.0.2"}
    assert addresses(upstream(planned, "canary"), backup=True) == {"10.0.0.1"}
    assert addresses(upstream(planned, "stable"), backup=True) == set()


def test_one_address_on_two_agents_is_one_server_until_both_are_gone() -> None:
    """T24."""
    same = {"address": "10.0.0.9", "port": 80}
    first, second = (instance("web", number, WEB, **same) for number in (1, 2))
    for members in ((first, second), (first,), (second,)):
        servers = upstream(service(plan(*members), "web"), "stable").servers
        assert [str(server.endpoint) for server in servers] == ["10.0.0.9:80"]
        assert servers[0].weight == 1


def test_one_address_as_canary_and_stable_is_no_backup_of_itself() -> None:
    members = [instance("web", 1, WEB), instance("web", 2, WEB, "canary=5%", address="10.0.0.1")]
    canary = upstream(service(plan(*members), "web"), "canary")
    assert len(canary.servers) == 1


@given(st.lists(st.integers(-5, 70_000), min_size=1, max_size=30))
def test_weights_keep_their_order_and_none_that_is_positive_becomes_zero(weights: list[int]) -> None:
    members = [instance("web", number, WEB, weight_passing=weight) for number, weight in enumerate(weights, 1)]
    planned = service(plan(*members), "web")
    asked = {f"10.0.0.{number}": weight for number, weight in enumerate(weights, 1) if weight > 0}
    if not asked:
        assert planned.upstreams == ()
        return
    servers = upstream(planned, "stable").servers
    got = {server.endpoint.address: server.weight for server in servers}
    assert got.keys() == asked.keys()
    assert all(weight >= 1 for weight in got.values())
    assert sum(got.values()) <= MAX_WEIGHT_SUM + len(got)
    ordered = sorted(asked, key=lambda address: asked[address])
    assert [got[address] for address in ordered] == sorted(got.values())


@pytest.mark.parametrize(
    ("health", "tags", "expected"),
    [
        (Health.PASSING, (), 5),
        (Health.WARNING, (), 2),
        (Health.CRITICAL, (), 0),
        (Health.MAINTENANCE, (), 0),
        (Health.PASSING, ("weight=7",), 7),
        (Health.CRITICAL, ("weight=7",), 0),
        (Health.PASSING, ("weight=0",), 0),
    ],
)
def test_health_and_tags_decide_the_weight(health: Health, tags: tuple[str, ...], expected: int) -> None:
    one = instance("web", 1, WEB, *tags, health=health, weight_passing=5, weight_warning=2)
    planned = service(plan(one), "web")
    assert planned.instances[0].weight == expected
    assert (planned.state is ServiceState.SERVED) is (expected > 0)


def test_every_instance_that_gets_nothing_says_why() -> None:
    members = [
        instance("web", 1, WEB),
        instance("web", 2, WEB, "weight=0"),
        instance("web", 3, WEB, health=Health.CRITICAL),
        instance("web", 4, WEB, port=0),
    ]
    states = {each.id: each.state for each in service(plan(*members), "web").instances}
    assert list(states.values()) == [
        PlannedState.SERVING,
        PlannedState.DRAINED,
        PlannedState.UNHEALTHY,
        PlannedState.NO_PORT,
    ]


def test_servers_stand_in_an_order_of_each_proxys_own_that_does_not_change() -> None:
    members = [instance("web", number, WEB) for number in range(1, 9)]
    orders = {
        seed: [server.endpoint.address for server in upstream(service(planned, "web"), "stable").servers]
        for seed in ("a", "b", "c")
        if (planned := plan(*members, policy=Policy(seed=seed)))
    }
    assert len({tuple(order) for order in orders.values()}) > 1
    again = plan(*reversed(members), policy=Policy(seed="a"))
    assert [each.endpoint.address for each in upstream(service(again, "web"), "stable").servers] == orders["a"]


# --- what instances state together


def test_the_newest_registration_decides_an_option_and_a_disagreement_is_told() -> None:
    old = instance("web", 1, WEB, "timeout=10s", modify_index=10)
    new = instance("web", 2, WEB, "timeout=20s", modify_index=20)
    for members in ((old, new), (new, old)):
        planned = service(plan(*members), "web")
        assert planned.options.timeout == 20_000
        assert any("timeout" in warning for warning in planned.warnings)


def test_the_newest_is_the_one_that_was_changed_last_and_not_the_one_that_came_last() -> None:
    first = instance("web", 1, WEB, "timeout=10s", create_index=5, modify_index=90)
    last = instance("web", 2, WEB, "timeout=20s", create_index=50, modify_index=60)
    for members in ((first, last), (last, first)):
        planned = service(plan(*members), "web")
        assert planned.options.timeout == 10_000
        assert planned.registered == 5


def test_between_registrations_of_one_moment_node_and_id_decide() -> None:
    ones = [instance("web", number, WEB, f"retries={number}", modify_index=7) for number in (3, 1, 2)]
    for instances in (ones, ones[::-1]):
        found = plan_service(ones[0].service, instances, {}, None, Policy())
        assert found is not None
        assert found.options.retries == 1


def test_each_option_is_taken_from_the_newest_that_states_it() -> None:
    members = [
        instance("web", 1, WEB, "timeout=1s", "retries=1", "keepalive=1", modify_index=10),
        instance("web", 2, WEB, "timeout=2s", "retries=2", modify_index=20),
        instance("web", 3, WEB, "timeout=3s", "websocket=false", modify_index=30),
    ]
    options = service(plan(*members), "web").options
    assert (options.timeout, options.retries, options.keepalive, options.websocket) == (3000, 2, 1, False)


def test_what_is_an_instances_own_is_no_option_of_the_service_and_no_disagreement() -> None:
    members = [
        instance("web", 1, WEB, "weight=1", "force=header:X-A"),
        instance("web", 2, WEB, "route=b.example.com", "canary=3%", "weight=2", "force=header:X-B"),
    ]
    planned = service(plan(*members), "web")
    assert (planned.options.route, planned.options.variant, planned.options.weight) == ((), None, None)
    assert planned.options.force == ()
    assert planned.warnings == ()


def test_a_disagreement_names_the_key_and_silence_is_none() -> None:
    members = [
        instance("web", 1, WEB, "connect-timeout=1s", "retries=4"),
        instance("web", 2, WEB, "connect-timeout=2s", "retries=4"),
        instance("web", 3, WEB, "connect-timeout=2s"),
    ]
    assert service(plan(*members), "web").warnings == (
        "instances disagree on connect-timeout; the newest registration's value is used",
    )


def test_ports_on_which_instances_disagree_are_all_served_and_said_to_be() -> None:
    members = [instance("db", number, "protocol=tcp", f"listen={5430 + number}") for number in (1, 2)]
    planned = plan(*members)
    assert [claim.port for stream in planned.streams for claim in stream.claims] == [5431, 5432]
    assert service(planned, "db").warnings == ("instances disagree on listen; streams are taken on each of the ports",)


def test_of_exactly_three_unchecked_ones_none_is_left_unnamed() -> None:
    kept = [instance("web", number, WEB, unchecked=True) for number in (1, 2, 3)]
    [warning] = service(plan(*kept, instance("web", 4, WEB)), "web").warnings
    assert warning.endswith("web-1 on node-1, web-2 on node-2, web-3 on node-3")


def test_a_password_file_is_the_one_that_the_tag_names() -> None:
    policy = Policy(htpasswd={"staff": "/h/staff", "boss": "/h/boss"})
    assert service(plan(instance("web", 1, WEB, "auth=boss"), policy=policy), "web").htpasswd == "/h/boss"
    assert service(plan(instance("web", 1, WEB), policy=policy), "web").htpasswd is None


def test_silence_does_not_take_an_option_away() -> None:
    """An instance that says nothing about ``auth`` must not open the service."""
    policy = Policy(htpasswd={"staff": "/etc/htpasswd/staff"})
    members = [instance("web", 1, WEB, "auth=staff"), instance("web", 2, WEB, modify_index=99)]
    assert service(plan(*members, policy=policy), "web").htpasswd == "/etc/htpasswd/staff"


def test_a_tag_that_changes_on_one_instance_after_the_other_never_takes_a_route_away() -> None:
    """T26: a rolling deploy moves the route from /old to /new."""
    steps = [("old", "old", "old"), ("new", "old", "old"), ("new", "new", "old"), ("new", "new", "new")]
    for step in steps:
        members = [instance("web", number, f"route=web.example.com/{path}") for number, path in enumerate(step, 1)]
        found = routes(plan(*members))
        assert found == {f"web.example.com/{path}": "web" for path in set(step)}


def test_a_port_that_changes_on_one_instance_after_the_other_stays_open_with_the_new_one() -> None:
    members = [instance("db", number, "protocol=tcp", f"listen={5430 + number}") for number in (1, 2)]
    planned = plan(*members)
    assert [stream.claims for stream in planned.streams] == [(PortClaim("tcp", 5431), PortClaim("tcp", 5432))]


# --- quarantine


@pytest.mark.parametrize(
    ("tag", "place"),
    [
        ("canary=ten", "proxygen.canary"),
        ("weight=-1", "proxygen.weight"),
        ("listen=5432", "proxygen.listen"),
        ("hsts=true", "proxygen.hsts"),
        ("nonsense=1", "proxygen.nonsense"),
        ("auth=nobody-has-this", "auth"),
        ("tls=nobody-has-this", "tls"),
    ],
)
def test_a_bad_tag_quarantines_its_own_service_and_leaves_the_others_as_they_were(tag: str, place: str) -> None:
    """T6."""
    good = instance("good", 1, "route=good.example.com")
    planned = plan(good, instance("bad", 2, "route=bad.example.com", tag))
    assert service(planned, "good") == service(plan(good), "good")
    bad = service(planned, "bad")
    assert bad.state is ServiceState.QUARANTINED
    assert bad.quarantine is not None
    assert place in bad.quarantine.place
    assert bad.upstreams == ()
    assert routes(planned)["bad.example.com/"] == "bad"


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ({"address": "localhost"}, "address"),
        ({"address": "10.0.0.1:80; server 192.0.2.6"}, "address"),
        ({"address": "unix:/run/docker.sock"}, "address"),
        ({"address": "fe80::1%eth0"}, "address"),
        ({"address": ""}, "address"),
        ({"port": -1}, "port"),
        ({"port": 65536}, "port"),
    ],
)
def test_an_address_that_is_none_quarantines_the_service(fields: dict[str, object], place: str) -> None:
    bad = service(plan(instance("web", 1, WEB, **fields)), "web")
    assert bad.quarantine is not None
    assert bad.quarantine.place.endswith(place)


def test_an_instance_may_not_point_at_what_only_the_proxy_may_reach() -> None:
    policy = Policy(denied_endpoints=frozenset(), denied=())
    one = instance("web", 1, WEB, address="127.0.0.1", port=8500)
    assert service(plan(one, policy=policy), "web").state is ServiceState.SERVED
    endpoint = upstream(service(plan(one, policy=policy), "web"), "stable").servers[0].endpoint
    guarded = Policy(denied_endpoints=frozenset({endpoint}))
    for address in ("127.0.0.1", "::ffff:127.0.0.1"):
        asking = instance("web", 1, WEB, address=address, port=8500)
        assert service(plan(asking, policy=guarded), "web").state is ServiceState.QUARANTINED


def test_a_quarantined_service_keeps_its_routes_so_that_nobody_takes_them() -> None:
    bad = instance("bad", 1, WEB, "weight=x")
    in_meta = instance("meta", 2, "weight=x", meta=(("proxygen-route", "meta.example.com meta.example.org"),))
    thief = instance("thief", 3, WEB, "route=meta.example.org")
    planned = plan(bad, in_meta, thief)
    assert routes(planned) == {
        "web.example.com/": "bad",
        "meta.example.com/": "meta",
        "meta.example.org/": "meta",
    }
    assert {conflict.loser for conflict in planned.conflicts} == {"thief"}


@pytest.mark.parametrize("port", [80, 22])
def test_a_port_that_nobody_may_have_is_never_planned(port: int) -> None:
    """A virtual server's port or one below the range: nginx would fail to bind it, and refuse everybody's reload."""
    policy = Policy(reserved_ports=frozenset({80}))
    planned = plan(instance("db", 1, "protocol=tcp", f"listen={port}"), policy=policy)
    assert service(planned, "db").state is ServiceState.QUARANTINED
    assert planned.streams == ()


def test_a_service_without_proxy_tags_is_not_judged() -> None:
    assert plan(instance("redis", 1, address="redis.internal", port=-1)).services == ()


def test_a_service_with_proxy_tags_but_no_route_is_not_proxied() -> None:
    assert plan(instance("web", 1, "weight=3")).services == ()


def test_a_quarantined_service_keeps_what_all_its_instances_state() -> None:
    members = [
        instance("web", 1, "route=a.example.com", "weight=x"),
        instance("web", 2, "route=b.example.com", "auth=nobody-has-this"),
        instance("web", 3, "weight=x", meta=(("proxygen-route", "c.example.com ; d.example.com"), ("other", "x"))),
        instance("web", 4, "route=e.example.com", "route=;", "weight=x", meta=(("proxygen-route", "f.example.com"),)),
    ]
    planned = service(plan(*members), "web")
    assert planned.quarantine is not None
    assert [str(claim) for claim in planned.claims] == [f"{host}.example.com/" for host in "abcde"]


def test_a_quarantined_stream_holds_the_ports_of_all_its_instances_but_none_that_nobody_may_have() -> None:
    members = [
        instance("db", 1, "protocol=tcp", "listen=5431", "weight=x"),
        instance("db", 2, "protocol=tcp", "listen=5432", "hsts=true"),
        instance("db", 3, "protocol=udp", "listen=22", "weight=x"),
        instance("db", 4, "protocol=udp", "weight=x"),
    ]
    planned = service(plan(*members), "db")
    assert planned.claims == (PortClaim("tcp", 5431), PortClaim("tcp", 5432))


@pytest.mark.parametrize(
    ("port", "reason"), [(1023, "not in"), (1024, ""), (2000, ""), (2001, "not in"), (1500, "use")]
)
def test_the_range_of_ports_has_both_its_ends(port: int, reason: str) -> None:
    policy = Policy(stream_ports=range(1024, 2001), reserved_ports=frozenset({1500}))
    found = service(plan(instance("db", 1, "protocol=tcp", f"listen={port}"), policy=policy), "db").quarantine
    assert (found is None) is (reason == "")
    assert found is None or (found.place == "listen" and reason in found.reason)
    assert found is None or reason != "not in" or "1024-2000" in found.reason


def test_a_quarantined_stream_holds_a_port_that_stands_in_meta() -> None:
    in_meta = instance(
        "db", 1, meta=(("proxygen-hsts", "true"), ("proxygen-listen", "5432"), ("proxygen-protocol", "tcp"))
    )
    bad = instance("db", 2, "protocol=tcp", "listen=5433", "weight=x")
    assert service(plan(in_meta, bad), "db").claims == (PortClaim("tcp", 5432), PortClaim("tcp", 5433))


def test_of_several_problems_the_first_is_told_whole() -> None:
    found = service(plan(instance("web", 1, WEB, "tls=nowhere", "auth=nobody")), "web").quarantine
    assert found is not None
    assert (found.place, "htpasswd" in found.reason) == ("auth", True)


def test_what_instances_state_together_must_make_sense_too() -> None:
    """Each of them does by itself: the older registration stays, whichever was changed last."""
    members = [
        instance("web", 1, WEB, "protocol=fastcgi", modify_index=5),
        instance("web", 2, WEB, "strip-prefix=true", modify_index=9),
    ]
    planned = service(plan(*members), "web")
    assert planned.options.protocol is Protocol.FASTCGI
    assert [one.problem.split(":")[0] for one in planned.instances] == ["", "strip-prefix"]


def test_without_a_place_for_streams_in_nginx_there_are_none_and_http_goes_on() -> None:
    policy = Policy(streams=False)
    planned = plan(instance("db", 1, "protocol=tcp", "listen=5432"), instance("web", 2, WEB), policy=policy)
    assert [found.service for found in planned.quarantined] == ["db"]
    assert "stream.d" in planned.quarantined[0].reason
    assert planned.streams == ()


def test_each_host_of_a_service_with_tls_needs_its_certificate() -> None:
    known = Certificate(name="c", hosts=("a.example.com",), certificate="/c", key="/k", fingerprint="f")
    both = instance("web", 1, "route=a.example.com", "route=b.example.org", "tls=auto")
    [found] = plan(both, policy=Policy(certificates=(known,))).quarantined
    assert found.place == "tls"
    assert "holds 'b.example.org'; known: c" in found.reason
    [found] = plan(instance("web", 1, WEB, "tls=d"), policy=Policy(certificates=(known,))).quarantined
    assert "named 'd'" in found.reason


@pytest.mark.parametrize("count", [Bounds().variants, Bounds().variants + 1])
def test_a_service_has_so_many_variants_and_no_more(count: int) -> None:
    members = [instance("web", 1, WEB)]
    members += [instance("web", number, WEB, f"variant=v{number}:1%") for number in range(2, count + 1)]
    planned = service(plan(*members), "web")
    assert len(planned.variants) == Bounds().variants
    assert [one.id for one in planned.instances if one.problem] == [f"web-{count}"] * (count > Bounds().variants)


# --- names


def test_names_that_look_alike_to_nginx_get_different_idents() -> None:
    names = ["web", "Web", "WEB", "w.e.b", "w_e_b", "w-e-b", "web ", "web\n", "w\ud800eb", "wеb", "", "_", "x" * 5000]
    idents = [ident_of(ServiceName(name)) for name in names]
    assert len({ident.lower() for ident in idents}) == len(names)
    assert all(len(ident) < 64 and ident.isascii() and ident.replace("_", "a").isalnum() for ident in idents)


def test_an_instance_that_appears_does_not_change_what_others_are_called() -> None:
    before = service(plan(instance("web", 1, WEB)), "web")
    after = service(plan(instance("web", 1, WEB), instance("web", 2, WEB)), "web")
    assert [each.name for each in before.upstreams] == [each.name for each in after.upstreams]


def test_a_route_is_claimed_once_however_many_instances_state_it() -> None:
    planned = service(plan(*(instance("web", number, WEB) for number in range(1, 4))), "web")
    assert planned.claims == (RouteClaim("web.example.com", "/"),)


@pytest.mark.parametrize(
    ("tags", "said"),
    [
        (("balance=ip_hash", "max-fails=3"), "max-fails has no effect with balance=ip_hash"),
        (("balance=random", "fail-timeout=9s"), "fail-timeout has no effect with balance=random"),
        (("protocol=grpc", "body-size=1m"), "body-size has no effect with protocol=grpc"),
        (("protocol=grpc", "request-buffering=false"), "request-buffering has no effect with protocol=grpc"),
        (("protocol=grpcs", "response-buffering=true"), "response-buffering has no effect with protocol=grpcs"),
        (
            ("protocol=grpc", "timeout=9s", "idle-timeout=9s"),
            "timeout has no effect with protocol=grpc and idle-timeout",
        ),
        (("protocol=grpc", "websocket=true"), "websocket has no effect with protocol=grpc"),
        (("protocol=uwsgi", "keepalive=4"), "keepalive has no effect with protocol=uwsgi"),
        (("protocol=uwsgi", "keepalive-timeout=9s"), "keepalive-timeout has no effect with protocol=uwsgi"),
        (("protocol=fastcgi", "strip-prefix=false"), "strip-prefix has no effect with protocol=fastcgi"),
        (("protocol=tcp", "listen=5432"), "route has no effect with protocol=tcp: tcp has no requests to apply it to"),
        (("retries=0", "retries-unsafe=true"), "retries-unsafe has no effect with retries=0"),
        (("keepalive=0", "keepalive-timeout=9s"), "keepalive-timeout has no effect with keepalive=0"),
        (("max-fails=0", "fail-timeout=9s"), "fail-timeout has no effect with max-fails=0"),
    ],
    ids=str,
)
def test_a_tag_that_changes_nothing_is_told_of(tags: tuple[str, ...], said: str) -> None:
    [warning] = service(plan(instance("web", 1, "route=web.example.com", *tags)), "web").warnings
    assert warning.startswith(said)


def test_a_tag_that_only_another_instance_states_is_told_of_too() -> None:
    """The newest one's protocol counts, and a route or a forced request of an older one is nothing to it."""
    old = instance("web", 1, WEB, "force=header:X-A")
    new = instance("web", 2, "protocol=tcp", "listen=5432")
    planned = service(plan(old, new), "web")
    assert [warning.partition(":")[0] for warning in planned.warnings] == [
        "route has no effect with protocol=tcp",
        "force has no effect with protocol=tcp",
    ]
    assert planned.quarantine is None
    assert planned.state is ServiceState.SERVED


@pytest.mark.parametrize("tags", [("balance=least_conn", "max-fails=3"), ("keepalive-timeout=9s",), ("body-size=1m",)])
def test_a_tag_that_changes_something_is_not(tags: tuple[str, ...]) -> None:
    assert service(plan(instance("web", 1, "route=web.example.com", *tags)), "web").warnings == ()


@pytest.mark.incident("T41")
def test_who_cannot_stand_behind_the_operators_gate_is_not_let_through_it() -> None:
    policy = Policy(htpasswd={"staff": "/h/staff"}, ungated=frozenset({"web"}))
    refused = service(plan(instance("web", 1, WEB, "auth=staff"), policy=policy), "web")
    assert refused.quarantine is not None
    assert "auth" in refused.quarantine.place + refused.quarantine.reason
    assert service(plan(instance("web", 1, WEB), policy=policy), "web").quarantine is None
    other = plan(instance("shop", 1, WEB, "auth=staff"), policy=policy)
    assert service(other, "shop").quarantine is None
