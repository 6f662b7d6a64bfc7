"""What one registration may cost all others, counted before any work is done."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.errors import TagError
from proxygen.proxy.plan import Planner, members
from proxygen.proxy.plan.bounds import Bounds, check_tags, within
from proxygen.proxy.plan.types import GoodTags, Memory, PlannedState, Policy, PortClaim, RouteClaim, Service
from proxygen.settings import BoundsSettings
from proxygen.tags import lint_tags, texts
from tests.proxy.plan.catalogs import catalog, instance, plan, service

SMALL = Bounds(
    instances=5,
    tags=8,
    tag_bytes=1_024,
    service_tag_bytes=4_096,
    routes=4,
    wide_routes=2,
    force_rules=2,
    variants=2,
    ports=3,
    all_ports=4,
)


OVER_A_BOUND: Final = (
    tuple(f"junk{n}=x" for n in range(9)),
    tuple(f"route=h{n}.example.com" for n in range(4)),
    tuple(f"route=/{n}" for n in range(3)),
    tuple(f"force=header:X-{n}" for n in range(3)),
    ("request-header=" + "x" * 1_024,),
)


def greedy(*tags: str, bounds: Bounds = SMALL) -> Service:
    return service(plan(instance("greedy", 1, *tags), policy=Policy(bounds=bounds)), "greedy")


def test_what_settings_say_by_default_is_what_a_plan_allows_by_default() -> None:
    settings = BoundsSettings()
    assert {field.name: getattr(settings, field.name) for field in fields(Bounds)} == settings.model_dump()
    assert Bounds(**settings.model_dump()) == Bounds()


# --- claims in quarantine


@pytest.mark.incident("T46")
def test_a_thousand_routes_of_one_registration_cost_no_more_than_those_that_it_may_have() -> None:
    planned = plan(
        instance("greedy", 1, *(f"route=h{n}.example.com" for n in range(200))),
        instance("web", 2, "route=w.example.com"),
    )
    assert [found.service for found in planned.quarantined] == ["greedy"]
    assert len(service(planned, "greedy").claims) == Bounds().routes
    assert len(planned.servers) == 1 + Bounds().routes + 1


@pytest.mark.incident("T46")
def test_eleven_hundred_ports_of_one_service_open_no_more_than_it_may_have() -> None:
    ones = [instance("greedy", n, "protocol=tcp", f"listen={20_000 + n}") for n in range(1, 1_101)]
    planned = plan(*ones, policy=Policy(bounds=Bounds(instances=2_000)))
    assert sum(len(stream.claims) for stream in planned.streams) == Bounds().ports
    left_out = [one for one in service(planned, "greedy").instances if one.state is PlannedState.LEFT_OUT]
    assert len(left_out) == len(ones) - Bounds().ports
    assert "ports are more than the 20" in left_out[0].problem


_TEXTS = st.one_of(
    st.builds(lambda n: f"route=h{n}.example.com", st.integers(0, 99)),
    st.builds(lambda n: f"route=/p{n}", st.integers(0, 99)),
    st.builds(lambda n: f"listen={2_000 + n}", st.integers(0, 99)),
    st.sampled_from(["protocol=tcp", "protocol=udp", "weight=x", "nonsense"]),
)


@given(st.lists(st.lists(_TEXTS, max_size=12, unique=True), max_size=12))
def test_whatever_is_registered_no_service_holds_more_than_the_bounds(said: list[list[str]]) -> None:
    planned = plan(*(instance("one", n, *tags) for n, tags in enumerate(said, 1)), policy=Policy(bounds=SMALL))
    for each in planned.services:
        routes = [claim for claim in each.claims if isinstance(claim, RouteClaim)]
        assert len(routes) <= SMALL.routes
        assert sum(claim.is_wide for claim in routes) <= SMALL.wide_routes
        assert len(each.claims) - len(routes) <= SMALL.ports


def test_what_a_newer_instance_adds_takes_no_route_from_a_service_in_quarantine() -> None:
    old = instance("web", 1, "route=z.example.com", "weight=x", create_index=1)
    new = instance("web", 2, *(f"route=a{n}.example.com" for n in range(6)), create_index=9)
    for order in ((old, new), (new, old)):
        held = service(plan(*order, policy=Policy(bounds=SMALL)), "web").claims
        assert RouteClaim("z.example.com", "/") in held
        assert len(held) == SMALL.routes


@given(st.lists(st.sampled_from(OVER_A_BOUND), min_size=1, max_size=3, unique=True), st.integers(2, 4))
def test_an_instance_over_a_bound_is_left_out_alone(said: list[tuple[str, ...]], others: int) -> None:
    good = [instance("web", n, "route=w.example.com", create_index=n) for n in range(1, others)]
    bad = [instance("web", 10 + n, "route=w.example.com", *tags) for n, tags in enumerate(said)]
    policy = Policy(bounds=replace(SMALL, instances=10))
    planned, alone = (plan(*ones, policy=policy) for ones in ([*good, *bad], good))
    assert planned.memory == alone.memory
    assert service(planned, "web").upstreams == service(alone, "web").upstreams
    left_out = [one for one in service(planned, "web").instances if one.state is PlannedState.LEFT_OUT]
    assert [one.id for one in left_out] == [one.id for one in bad]
    assert all("bounds" in one.problem for one in left_out)


def test_in_quarantine_a_route_that_is_one_too_wide_leaves_room_for_the_others() -> None:
    held = greedy("route=/a", "route=/b", "route=/c", "route=d.example.com", "weight=x").claims
    assert [str(claim) for claim in held] == ["*any host*/a", "*any host*/b", "d.example.com/"]


@pytest.mark.parametrize("meta", [(("proxygen-protocol", "tcp"), ("proxygen-listen", "2001")), ()])
def test_in_quarantine_a_port_is_held_that_tags_or_meta_name(meta: tuple[tuple[str, str], ...]) -> None:
    tags = () if meta else ("protocol=tcp", "listen=2001")
    planned = plan(instance("db", 1, *tags, "weight=x", meta=meta), policy=Policy(bounds=SMALL))
    assert planned.memory.holders == {PortClaim("tcp", 2_001): ServiceName("db")}
    listening = plan(instance("web", 1, "protocol=http", "listen=2001", "weight=x"), policy=Policy(bounds=SMALL))
    assert listening.memory.holders == {}


def test_what_is_held_of_an_instance_that_is_left_out_counts_towards_the_bounds() -> None:
    old = instance("web", 1, "route=z.example.com", "route=y.example.com")
    bad = instance("web", 2, *(f"route=a{n}.example.com" for n in range(4)), "weight=x")
    holders = {RouteClaim(f"a{n}.example.com", "/"): ServiceName("web") for n in range(4)}
    planned = plan(old, bad, policy=Policy(bounds=SMALL), memory=Memory(holders=holders))
    assert [str(claim) for claim in service(planned, "web").claims] == [
        "a0.example.com/",
        "a1.example.com/",
        "y.example.com/",
        "z.example.com/",
    ]


# --- ports of all services together


def streams(*numbers: int, memory: Memory | None = None) -> tuple[dict[PortClaim, ServiceName], list[str]]:
    ones = [instance(f"s{n}", n, "protocol=tcp", f"listen={2_000 + n}") for n in numbers]
    planned = plan(*ones, policy=Policy(bounds=SMALL), memory=memory)
    return dict(planned.memory.holders), [each.loser for each in planned.conflicts]  # type: ignore[arg-type]


def test_all_ports_together_are_bounded_and_the_older_registrations_have_them() -> None:
    holders, losers = streams(6, 5, 4, 3, 2, 1)
    assert sorted(holders.values()) == ["s1", "s2", "s3", "s4"]
    assert losers == ["s5", "s6"]


def test_who_holds_a_port_keeps_it_when_older_registrations_ask_for_more() -> None:
    before = Memory(holders={PortClaim("tcp", 2_009): ServiceName("s9")})
    holders, losers = streams(1, 2, 3, 4, 9, memory=before)
    assert "s9" in holders.values()
    assert losers == ["s4"]


# --- tags


def test_what_an_instance_says_to_others_is_not_counted() -> None:
    ours = tuple(f"proxygen.x{n}" for n in range(SMALL.tags))
    others = tuple(f"traefik.x{n}" for n in range(1_000))
    one = Instance(service=ServiceName("a"), id="a", node="n", datacenter="d", address="", port=1, tags=ours + others)
    check_tags(one, "proxygen", SMALL)


@pytest.mark.parametrize(
    ("tags", "meta", "key"),
    [
        (9, (), "bounds.tags"),
        (8, (("proxygen-timeout", "1s"),), "bounds.tags"),
        (1, (("proxygen-timeout", "é" * 512),), "bounds.tag_bytes"),
    ],
)
def test_an_instance_with_more_tags_or_bytes_is_refused_before_they_are_read(
    tags: int, meta: tuple[tuple[str, str], ...], key: str
) -> None:
    one = instance("web", 1, *(f"route=h{n}.example.com" for n in range(tags)), meta=meta)
    with pytest.raises(TagError, match=key):
        check_tags(one, "proxygen", SMALL)
    check_tags(one, "other", SMALL)


@pytest.mark.incident("T53")
def test_ten_thousand_unknown_tags_of_sixty_instances_are_never_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """And a newcomer beside them is the only service that is planned, in this pass and the next."""
    ones = [
        instance("greedy", n, "route=g.example.com", *(f"junk{n}-{k}=x" for k in range(10_000))) for n in range(1, 61)
    ]
    parsed: list[object] = []
    real = members.parse_tags
    monkeypatch.setattr(members, "parse_tags", lambda *said: (parsed.append(said), real(*said))[1])
    planner = Planner(Policy())
    before = planner.plan(catalog(*ones), Memory(), {})
    assert parsed == []
    assert "bounds.tags" in before.quarantined[0].reason
    assert len(before.quarantined[0].reason) < 200
    after = planner.plan(catalog(*ones, instance("web", 90, "route=w.example.com")), before.memory, {})
    assert len(parsed) == 1
    assert [str(claim) for claim in service(after, "greedy").claims] == ["g.example.com/"]


def test_tags_that_many_instances_share_are_read_once_right_or_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []
    real = members.parse_tags
    monkeypatch.setattr(members, "parse_tags", lambda *said: (reads.append(said), real(*said))[1])
    found, problems = members.judge([instance("web", n, "weight=heavy") for n in range(1, 40)], Policy())
    assert (len(found), len(problems), len(reads)) == (0, 39, 1)


@pytest.mark.incident("T53")
def test_of_a_thousand_instances_with_tags_of_their_own_no_more_is_read_than_a_service_may_say(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The oldest are served; what an instance says to others, and what others say too, costs nothing."""
    read: list[str] = []
    real = members.parse_tags
    monkeypatch.setattr(members, "parse_tags", lambda tags, *rest: (read.extend(tags), real(tags, *rest))[1])
    ones = [
        instance("greedy", n, "route=g.example.com", *(f"force=header:X-{n}-{k}" for k in range(19)), create_index=n)
        for n in range(1, 1_001)
    ]
    others = [replace(ones[0], id=f"other-{n}", node=f"z{n}", tags=(f"v{n}", *ones[0].tags)) for n in range(100)]
    size = sum(len(tag) for one in ones[:10] for tag in one.tags)
    policy = Policy(bounds=Bounds(instances=2_000, force_rules=1_000, service_tag_bytes=size))
    found = service(plan(*reversed(ones), *others, policy=policy), "greedy")
    assert sum(map(len, read)) <= size + len("v99")
    assert found.quarantine is None
    served = {one.id for one in found.instances if one.state is not PlannedState.LEFT_OUT}
    assert served == {one.id for one in (*ones[:10], *others)}
    assert sum("bounds.service_tag_bytes" in one.problem for one in found.instances) == 990


def test_who_was_served_stays_though_an_older_instance_says_more_than_before() -> None:
    bounds = Bounds(service_tag_bytes=120)
    old, young = (instance("web", n, f"route=w{n}.example.com", "timeout=5s") for n in (1, 2))
    past = Memory(good_tags={ServiceName("web"): GoodTags(there=(old, young))})
    grown = instance("web", 1, "route=w1.example.com", "timeout=5s", "route=w1.example.com/" + "x" * 30)
    found = service(plan(grown, young, policy=Policy(bounds=bounds), memory=past), "web")
    assert [one.state for one in found.instances] == [PlannedState.SERVING] * 2
    assert RouteClaim("w2.example.com", "/") in found.claims
    newcomer = service(plan(grown, young, policy=Policy(bounds=bounds)), "web")
    assert [one.state for one in newcomer.instances] == [PlannedState.SERVING, PlannedState.LEFT_OUT]


@pytest.mark.incident("T53")
def test_of_many_unknown_keys_the_first_are_told_and_the_others_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(texts, "get_close_matches", lambda name, *_, **__: (asked.append(name), [])[1])
    problems = lint_tags([f"proxygen.junk{n}=x" for n in range(10_000)])
    assert len(asked) == texts.MOST_NAMED
    assert len(problems) == texts.MOST_NAMED + 1
    assert f"{10_000 - texts.MOST_NAMED} more" in str(problems[-1])


def test_of_many_values_for_a_key_that_may_have_one_the_first_are_told() -> None:
    (problem,) = lint_tags([f"proxygen.timeout={n}s" for n in range(1, 1_000)])
    assert len(str(problem)) < 500
    assert f"and {999 - texts.MOST_NAMED} more" in str(problem)


# --- instances


@given(st.lists(st.integers(1, 30), unique=True, max_size=20), st.randoms(use_true_random=False))
def test_the_instances_that_are_looked_at_are_the_oldest_in_the_order_given(ages: list[int], random: object) -> None:
    ones = [instance("web", age, create_index=age) for age in ages]
    kept = list(within(ones, SMALL))
    assert kept == [one for one in ones if one in kept]
    assert sorted(one.create_index for one in kept) == sorted(ages)[: SMALL.instances]


def test_a_service_with_more_instances_goes_on_with_the_oldest_and_says_so() -> None:
    ones = [instance("web", n, "route=w.example.com", create_index=n) for n in range(1, 8)]
    found = service(plan(*ones, policy=Policy(bounds=SMALL)), "web")
    assert found.quarantine is None
    assert [each.id for each in found.instances] == [f"web-{n}" for n in range(1, 6)]
    assert any("2 instances are left out" in warning for warning in found.warnings)


def test_a_catalog_of_services_that_ask_for_nothing_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members, "parse_tags", pytest.fail)
    many = tuple(instance("redis", n) for n in range(1, 2_000))
    assert plan(*many) == plan(*many[:1])
    assert isinstance(catalog(*many), Catalog)
