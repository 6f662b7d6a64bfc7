"""One instance whose registration cannot be used costs nobody but itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, Instance, ServiceName
from proxygen.kit.errors import TagError
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.admission import MAX_TRIALS, NO_PAST, admit
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.members import JudgedInstance
from proxygen.proxy.plan.types import (
    GoodTags,
    Memory,
    Plan,
    PlannedState,
    Policy,
    PortClaim,
    RouteClaim,
    Service,
    ServiceState,
)
from proxygen.proxy.plan.unusable import NAMED, describe_all
from proxygen.tags import Protocol
from tests.corpora import hostile_tags
from tests.proxy.plan.catalogs import catalog, instance, plan, routes, service, upstream

WEB = "route=web.example.com"
OLD = instance("web", 1, WEB)
POLICY = Policy(reserved_ports=frozenset({5999}))

UNUSABLE = (
    ("canary=lots",),
    ("weight=-1",),
    ("route=;",),
    ("nonsense=1",),
    ("hsts=true",),
    ("auth=nobody-has-this",),
    ("tls=nobody-has-this",),
    ("protocol=tcp", "listen=5999"),
    ("protocol=fastcgi", "strip-prefix=true"),
    tuple(f"route=many-{number}.example.com" for number in range(Bounds().routes + 1)),
)
BROKEN_ADDRESSES = ({"address": "web.internal"}, {"address": ""}, {"port": -1}, {"port": 70_000})


def memory(*served: Instance, gone: Sequence[Instance] = (), plan: Plan | None = None) -> Memory:
    known = GoodTags(served, tuple(gone))
    holders = plan.memory.holders if plan is not None else {}
    return Memory(holders=holders, good_tags={ServiceName("web"): known})


def given_to(planned: Service) -> tuple[object, ...]:
    """All that requests depend on."""
    return (
        planned.state,
        planned.options,
        planned.claims,
        planned.registered,
        planned.variants,
        planned.upstreams,
        planned.split,
        planned.elsewhere,
    )


def told(planned: Service) -> dict[str, tuple[PlannedState, str]]:
    """What is said of each instance that cannot be used as it is registered."""
    return {one.id: (one.state, one.problem.split(":")[0]) for one in planned.instances if one.problem}


def stated(draw: st.DrawFn, number: int) -> Instance:
    tags = draw(st.sampled_from(((), ("canary=10%",), ("weight=3",), ("force=header:X-Try",), ("sticky=ip",))))
    route = draw(st.sampled_from((WEB, "route=web.example.com/api", "route=*.example.com")))
    health = draw(st.sampled_from((Health.PASSING, Health.PASSING, Health.WARNING, Health.CRITICAL)))
    return instance("web", number, route, *tags, health=health)


@st.composite
def healthy_services(draw: st.DrawFn) -> tuple[Instance, ...]:
    if draw(st.booleans()):
        return tuple(stated(draw, number) for number in range(1, draw(st.integers(2, 5))))
    port = draw(st.sampled_from((5432, 5433)))
    return tuple(instance("web", number, "protocol=tcp", f"listen={port}") for number in (1, 2))


@st.composite
def newcomers(draw: st.DrawFn) -> tuple[Instance, ...]:
    """Instances that cannot be used, whatever the reason is."""
    found = []
    for number in range(90, 90 + draw(st.integers(1, 3))):
        fields = draw(st.sampled_from(({}, *BROKEN_ADDRESSES)))
        # Routes mean nothing to a stream, however many they are.
        tags = draw(st.sampled_from(UNUSABLE[:-1]))
        if fields:
            tags = tuple(tag for tag in draw(hostile_tags()) if tag.isprintable())
        one = instance("web", number, *draw(st.sampled_from(((WEB,), ("route=new.example.com",), ()))), *tags, **fields)
        found.append(replace(one, create_index=number, modify_index=draw(st.sampled_from((2, 500)))))
    return tuple(found)


# --- newcomers


@pytest.mark.incident("T57")
@given(healthy_services(), newcomers(), st.booleans())
def test_an_unusable_newcomer_never_changes_what_the_others_are_given(
    those: tuple[Instance, ...], unusable: tuple[Instance, ...], is_remembered: bool
) -> None:
    """Whatever is wrong with it, with what is known of before and without; and it is named."""
    other = instance("shop", 7, "route=shop.example.com")
    alone = plan(*those, other, policy=POLICY)
    past = memory(*those, plan=alone) if is_remembered else Memory()
    both = plan(*those, *unusable, other, policy=POLICY, memory=past)
    assert given_to(service(both, "web")) == given_to(service(alone, "web"))
    assert [replace(server, locations=()) for server in both.servers] == [
        replace(server, locations=()) for server in alone.servers
    ]
    assert routes(both) == routes(alone)
    assert [stream.claims for stream in both.streams] == [stream.claims for stream in alone.streams]
    assert both.memory == alone.memory
    assert service(both, "shop") == service(alone, "shop")
    found = told(service(both, "web"))
    assert found.keys() == {one.id for one in unusable}
    assert {state for state, _ in found.values()} == {PlannedState.LEFT_OUT}
    described = " ".join(describe_all(service(both, "web")))
    assert all(repr(one.id) in described for one in unusable)


@pytest.mark.parametrize("tags", UNUSABLE, ids=lambda tags: tags[0])
def test_an_unusable_newcomer_is_left_out_by_name_and_reason(tags: tuple[str, ...]) -> None:
    planned = service(plan(OLD, instance("web", 2, WEB, *tags), policy=POLICY), "web")
    assert planned.state is ServiceState.SERVED
    assert told(planned).keys() == {"web-2"}
    [described] = describe_all(planned)
    assert described.startswith("instance 'web-2' on 'node-2': ")
    assert described.endswith("; it is left out")


def test_of_many_that_are_left_out_some_are_named_and_all_are_counted() -> None:
    many = [instance("web", number, WEB, "canary=lots") for number in range(2, 62)]
    planned = service(plan(OLD, *many), "web")
    assert len(told(planned)) == 60
    described = list(describe_all(planned))
    assert len(described) == NAMED + 1
    assert described[-1].startswith("57 more instances")


def test_where_nothing_can_be_served_the_service_is_quarantined() -> None:
    for tags in UNUSABLE:
        planned = service(plan(instance("web", 1, WEB, *tags), policy=POLICY), "web")
        assert planned.state is ServiceState.QUARANTINED
        assert RouteClaim("web.example.com", "/") in planned.claims


def test_one_that_does_not_fit_beside_the_others_yields_to_those_that_were_served() -> None:
    """Which of them is older makes no difference then."""
    served = instance("web", 9, WEB, "protocol=fastcgi")
    newcomer = instance("web", 1, WEB, "strip-prefix=true")
    planned = service(plan(served, newcomer, memory=memory(served)), "web")
    assert told(planned) == {"web-1": (PlannedState.LEFT_OUT, "strip-prefix")}
    assert planned.options.protocol is Protocol.FASTCGI


def test_one_that_asks_for_no_requests_yields_to_those_that_do_however_old_it_is() -> None:
    stream = instance("web", 9, "protocol=tcp", "listen=5432")
    old = instance("web", 1, "tls=nobody-has-this")
    planned = service(plan(stream, old), "web")
    assert planned.claims == (PortClaim("tcp", 5432),)
    assert told(planned).keys() == {"web-1"}


def test_the_age_of_a_claim_is_that_of_the_instances_that_count() -> None:
    bad = instance("web", 2, WEB, "canary=lots", create_index=0)
    assert service(plan(OLD, bad), "web").registered == OLD.create_index


def test_all_that_fit_are_found_among_many_that_do_not() -> None:
    """Each states something else, so that none stands for another."""
    good = [instance("web", number, WEB, f"weight={number}") for number in range(1, 41)]
    bad = [instance("web", 100, WEB, "auth=a"), instance("web", 120, WEB, "auth=b", "weight=2")]
    planned = service(plan(*good, *bad), "web")
    assert told(planned).keys() == {"web-100", "web-120"}


def test_the_search_for_what_fits_is_bounded() -> None:
    """What was not tried by then is left out too, and the oldest are tried first."""
    bad = [instance("web", number, WEB, f"auth=a{number}") for number in range(2, 402)]
    trials = 0

    def find_problem(members: Sequence[JudgedInstance]) -> TagError | None:
        nonlocal trials
        trials += 1
        return TagError("auth", "unknown") if any(member.tags.auth for member in members) else None

    found = admit([OLD, *bad], Policy(), NO_PAST, find_problem)
    assert [member.instance.id for member in found.members] == ["web-1"]
    assert len(found.left_out) == len(bad)
    assert trials <= MAX_TRIALS + 10, "what is still to be halved then, and the first look"


# --- what served before


@pytest.mark.incident("T57")
@pytest.mark.parametrize("tags", UNUSABLE, ids=lambda tags: tags[0])
def test_one_that_served_keeps_the_tags_that_it_served_with(tags: tuple[str, ...]) -> None:
    before = plan(instance("web", 1, WEB, "canary=5%"), instance("web", 2, WEB), policy=POLICY)
    changed = instance("web", 1, "route=other.example.com", *tags, modify_index=50)
    planned = plan(
        changed,
        instance("web", 2, WEB),
        policy=POLICY,
        memory=memory(instance("web", 1, WEB, "canary=5%"), instance("web", 2, WEB), plan=before),
    )
    found = service(planned, "web")
    assert found.upstreams == service(before, "web").upstreams
    assert routes(planned) == routes(before)
    assert found.variants == service(before, "web").variants
    assert told(found)["web-1"][0] is PlannedState.SERVING
    assert [(one.id, one.tags) for one in found.kept] == [
        ("web-1", ("proxygen.route=web.example.com", "proxygen.canary=5%"))
    ]
    [described] = describe_all(found)
    assert described.endswith("; it is served with the tags that it had before")


def test_one_that_keeps_its_tags_has_its_own_health_and_address_of_now() -> None:
    bad = instance("web", 1, WEB, "canary=lots", address="10.0.0.77")
    planned = service(plan(bad, memory=memory(OLD)), "web")
    assert [server.endpoint.address for server in upstream(planned, "stable").servers] == ["10.0.0.77"]
    down = service(plan(replace(bad, health=Health.CRITICAL), memory=memory(OLD)), "web")
    assert down.state is ServiceState.NOBODY


def test_one_that_went_and_came_back_keeps_its_tags_too() -> None:
    bad = instance("web", 1, WEB, "canary=lots", create_index=70)
    planned = service(plan(bad, memory=memory(gone=[OLD])), "web")
    assert planned.state is ServiceState.SERVED


@pytest.mark.parametrize("fields", BROKEN_ADDRESSES)
def test_an_address_is_not_kept_since_nobody_may_be_there_any_more(fields: dict[str, object]) -> None:
    moved = instance("web", 1, WEB, **fields)
    planned = service(plan(moved, instance("web", 2, WEB), memory=memory(OLD)), "web")
    assert told(planned)["web-1"][0] is PlannedState.LEFT_OUT


def test_tags_that_are_no_longer_good_are_not_kept() -> None:
    """The operator took the password file away: who relied on it is not served without."""
    secret = instance("web", 1, WEB, "auth=team")
    planned = service(plan(instance("web", 1, WEB, "canary=lots"), memory=memory(secret)), "web")
    assert planned.state is ServiceState.QUARANTINED


def test_a_route_that_the_service_holds_stays_while_an_instance_states_it_that_is_left_out() -> None:
    """Nobody else may take it, and a free one is not taken by who is left out."""
    admin = instance("web", 2, "route=admin.example.com")
    before = plan(OLD, admin)
    bad = instance("web", 3, "route=admin.example.com", "route=more.example.com", "canary=lots")
    thief = instance("thief", 4, "route=admin.example.com", "route=more.example.com")
    after = plan(OLD, bad, thief, memory=Memory(holders=before.memory.holders))
    assert routes(after) == {
        "web.example.com/": "web",
        "admin.example.com/": "web",
        "more.example.com/": "thief",
    }


def test_a_port_that_a_stream_holds_stays_likewise_and_no_route_becomes_one() -> None:
    one, two = (instance("web", number, "protocol=tcp", f"listen=543{number}") for number in (1, 2))
    before = plan(one, two)
    bad = instance("web", 3, "protocol=tcp", "listen=5432", "route=web.example.com", "weight=x")
    holders = {**before.memory.holders, RouteClaim("web.example.com", "/"): ServiceName("web")}
    after = service(plan(one, bad, memory=Memory(holders=holders)), "web")
    assert after.claims == (PortClaim("tcp", 5431), PortClaim("tcp", 5432))


def test_a_planner_that_remembers_takes_in_what_was_served_since() -> None:
    planner, bad = Planner(Policy()), catalog(instance("web", 1, WEB, "canary=lots"))
    assert service(planner.plan(bad, Memory(), {}), "web").state is ServiceState.QUARANTINED
    assert service(planner.plan(bad, memory(OLD), {}), "web").state is ServiceState.SERVED
    assert service(planner.plan(bad, memory(OLD), {}), "web") is service(planner.plan(bad, memory(OLD), {}), "web")
    assert service(planner.plan(bad, Memory(), {}), "web").state is ServiceState.QUARANTINED
