"""Routes of any host or a wildcard under narrower hosts: as many as a service may have, and never at others' cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.proxy.plan import Planner, copies
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.copies import is_covered
from proxygen.proxy.plan.types import Copy, Memory, Plan, Policy, RouteClaim
from proxygen.tags import Path
from tests.proxy.plan.catalogs import catalog, instance, plan, routes, service

MOST: Final = 3
POLICY: Final = Policy(bounds=Bounds(copies=MOST))


def lent(planned: Plan) -> Counter[str]:
    """How many places each service has that it does not claim."""
    claims = {(claim, each.name) for each in planned.services for claim in each.claims}
    return Counter(
        location.service.name
        for server in planned.servers
        for location in server.locations
        if (RouteClaim(server.host or "", location.path), location.service.name) not in claims
    )


@pytest.mark.incident("T46")
def test_a_thousand_paths_of_any_host_under_a_thousand_hosts_are_no_million_places() -> None:
    policy = Policy(bounds=Bounds(routes=1_000, wide_routes=1_000))
    planned = plan(
        instance("any", 1, *(f"route=/p{n}" for n in range(250)), *(f"route=/q{n}" for n in range(250))),
        instance("hosts", 2, *(f"route=a{n}.ex.test/x" for n in range(250))),
        instance("hosts", 3, *(f"route=b{n}.ex.test/x" for n in range(250))),
        policy=policy,
    )
    assert lent(planned) == {"any": policy.bounds.copies}
    assert "bounds.copies" in service(planned, "any").warnings[0]
    assert len(planned.memory.holders) == 1_000, "every claim is held all the same"


def test_a_host_that_is_one_too_many_costs_those_before_it_nothing() -> None:
    """Though it is of an older registration, and the wide route's service registers anew; it has its own routes."""
    old = [instance("any", 5, "route=/m"), *(instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST))]
    first = plan(*old, policy=POLICY)
    assert lent(first) == {"any": MOST}
    older = instance("older", 1, "route=older.ex.test/x")
    ones = [older, instance("any", 99, "route=/m"), *old[1:]]
    memory = first.memory
    for _ in range(3):
        planned = plan(*ones, policy=POLICY, memory=memory)
        memory = planned.memory
        assert routes(planned) == routes(first) | {"older.ex.test/x": "older"}
        assert any("older.ex.test/m" in warning for warning in service(planned, "any").warnings)


def test_a_wider_route_that_finds_no_place_takes_none_from_others() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST + 1)]
    before = plan(instance("rest", 1, "route=/"), *hosts, policy=Policy())
    ones = [instance("rest", 1, "route=/"), instance("any", 2, "route=/m", "route=*.ex.test/n"), *hosts]
    planned = plan(*ones, policy=replace(POLICY, bounds=Bounds(copies=MOST)), memory=before.memory)
    assert lent(planned) == {"any": MOST, "rest": MOST}
    generous = plan(*ones, policy=Policy(bounds=Bounds(copies=2 * MOST + 1)), memory=before.memory)
    assert lent(generous) == {"any": 2 * MOST + 1, "rest": MOST + 2}, "the wildcard has the rest too"
    assert routes(generous).items() >= routes(before).items()


def test_a_host_whose_own_route_for_all_paths_goes_is_a_newcomer_among_those_that_need_copies() -> None:
    old = [instance("any", 5, "route=/m"), *(instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST))]
    first = plan(*old, instance("own", 1, "route=own.ex.test", "route=own.ex.test/x"), policy=POLICY)
    second = plan(*old, instance("own", 1, "route=own.ex.test/x"), policy=POLICY, memory=first.memory)
    assert routes(second).items() >= {f"h{n}.ex.test/m": "any" for n in range(MOST)}.items()
    assert "own.ex.test/m" not in routes(second)


def test_of_hosts_that_come_together_the_older_have_the_places() -> None:
    hosts = [instance(f"h{n}", 20 - n, f"route=h{n}.ex.test/x") for n in range(MOST + 2)]
    planned = plan(instance("any", 1, "route=/m"), *hosts, policy=POLICY)
    assert {copy.host for copy in planned.memory.copies} == {f"h{n}.ex.test" for n in range(2, MOST + 2)}


def test_a_path_that_a_hosts_own_routes_cover_takes_no_place() -> None:
    covering = [instance(f"c{n}", n, f"route=c{n}.ex.test/m") for n in range(2, 9)]
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST)]
    assert lent(plan(instance("any", 1, "route=/m/deep"), *covering, *hosts, policy=POLICY)) == {"any": MOST}


def test_what_is_left_out_of_one_service_is_left_out_of_no_other() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST)]
    greedy = instance("greedy", 1, *(f"route=/g{n}" for n in range(9)))
    planned = plan(greedy, instance("any", 2, "route=/m"), *hosts, policy=POLICY)
    assert lent(planned) == {"greedy": MOST, "any": MOST}
    assert service(planned, "any").warnings == ()


def test_a_place_is_free_again_when_its_host_goes() -> None:
    ones = [
        instance("any", 5, "route=/m"),
        *(instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST + 1)),
    ]
    first = plan(*ones, policy=POLICY)
    assert f"h{MOST}.ex.test/m" not in routes(first)
    second = plan(ones[0], *ones[2:], policy=POLICY, memory=first.memory)
    assert f"h{MOST}.ex.test/m" in routes(second)
    assert service(second, "any").warnings == ()


def test_the_next_pass_says_the_same_and_makes_no_new_service() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST + 3)]
    known, planner = catalog(instance("any", 1, "route=/m"), *hosts), Planner(POLICY)
    first = planner.plan(known, Memory(), {})
    second = planner.plan(known, first.memory, {})
    assert second == first
    assert all(one is other for one, other in zip(first.services, second.services, strict=True))


def test_places_that_were_not_looked_at_are_not_said_to_be_lost() -> None:
    covering = [instance(f"h{n:02}", 10 + n, f"route=h{n:02}.ex.test/x") for n in range(60)]
    last = instance("last", 99, "route=last.ex.test/y")
    planned = plan(instance("any", 1, "route=/x"), *covering, last, policy=Policy(bounds=Bounds(copies=1)))
    (said,) = service(planned, "any").warnings
    assert "not served" not in said
    assert "no more than 40 others are looked at (bounds.copies: 1)" in said
    assert "; not looked at: h40.ex.test/x and what comes after it" in said


def test_a_path_that_every_host_has_itself_is_not_looked_for_and_has_no_warning() -> None:
    hosts = [instance(f"h{n:02}", 10 + n, f"route=h{n:02}.ex.test/x", f"route=h{n:02}.ex.test/{n}") for n in range(60)]
    wide = instance("any", 1, "route=/x", "route=/x/deep")
    policy = Policy(bounds=Bounds(copies=1))
    assert service(plan(wide, *hosts, policy=policy), "any").warnings == ()
    free = instance("free", 99, "route=free.ex.test/y")
    more = plan(wide, instance("any", 1, "route=/m"), *hosts[:2], free, policy=policy)
    assert "/m" in service(more, "any").warnings[0], "other paths are looked for"


def test_what_comes_after_a_place_that_is_lost_is_lost_only_where_it_is_open() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST + 1)]
    covering = instance("covering", 99, "route=covering.ex.test/m")
    planned = plan(instance("any", 1, "route=/m"), *hosts, covering, policy=POLICY)
    (said,) = service(planned, "any").warnings
    assert f"not served: h{MOST}.ex.test/m and what comes after it, except where a host has the path itself" in said


# --- all services together


ALL: Final = Policy(bounds=Bounds(copies=MOST, all_copies=MOST + 2))


@pytest.mark.incident("T46")
def test_all_services_together_have_a_bound_and_the_oldest_are_served_first() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST)]
    wide = [instance(f"any{n}", n, f"route=/m{n}") for n in (3, 1, 2)]
    planned = plan(*hosts, *wide, policy=ALL)
    assert lent(planned) == {"any1": MOST, "any2": 2}
    assert service(planned, "any1").warnings == ()
    for name, served, place in (("any2", 2, "h2.ex.test/m2"), ("any3", 0, "h0.ex.test/m3")):
        (said,) = service(planned, name).warnings
        assert f"serve {served} places" in said
        assert f"(bounds.all_copies: {MOST + 2}); not served: {place}" in said


def test_nobody_older_that_comes_later_takes_a_place_from_anybody() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST)]
    first = plan(*hosts, instance("any2", 9, "route=/m2"), instance("any3", 9, "route=/m3"), policy=ALL)
    older = instance("any1", 1, "route=/m1", "route=*.ex.test/m1")
    later = [instance("any2", 90, "route=/m2"), instance("any3", 91, "route=/m3")]
    second = plan(*hosts, older, *later, policy=ALL, memory=first.memory)
    assert second.memory.copies == first.memory.copies
    assert any("bounds.all_copies" in said for said in service(second, "any1").warnings)
    third = plan(*hosts, older, later[1], policy=ALL, memory=second.memory)
    assert lent(third) == {"any1": MOST, "any3": 2}, "a place that is free again goes to the oldest"


def test_a_bound_that_the_operator_lowers_leaves_the_oldest_what_they_have() -> None:
    hosts = [instance(f"h{n}", 10 + n, f"route=h{n}.ex.test/x") for n in range(MOST)]
    ones = [*hosts, *(instance(f"any{n}", n, f"route=/m{n}") for n in (1, 2, 3))]
    before = plan(*ones, policy=POLICY)
    assert lent(before) == {"any1": MOST, "any2": MOST, "any3": MOST}
    assert lent(plan(*ones, policy=ALL, memory=before.memory)) == {"any1": MOST, "any2": 2}


# --- what a pass costs


@pytest.fixture
def looked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The places that were looked at."""
    places: list[Path] = []

    def counting(path: Path, routes: Container[str]) -> bool:
        places.append(path)
        return is_covered(path, routes)

    monkeypatch.setattr(copies, "is_covered", counting)
    return places


@pytest.mark.incident("T46")
@pytest.mark.parametrize(
    ("policy", "path", "is_open_at_last"),
    [
        (replace(POLICY, hosts_whole=True), "/p", False),
        (replace(POLICY, claims={"*.ex.test": ("h*",)}), "/p", False),
        (POLICY, "/x/p", False),
        (POLICY, "/x/p", True),
    ],
    ids=["whole", "reserved", "covered", "covered but for one"],
)
def test_hosts_that_are_closed_to_a_wider_route_make_no_pass_long(
    looked: list[Path], policy: Policy, path: str, *, is_open_at_last: bool
) -> None:
    hosts = [instance(f"h{n}", 100 + n, f"route=h{n}.ex.test/x") for n in range(200)]
    hosts += [instance("h200", 999, "route=h200.ex.test/y")] * is_open_at_last
    wide = [instance(f"w{n}", n, *(f"route={path}{n}-{m}" for m in range(10))) for n in range(1, 4)]
    planner, known = Planner(policy), catalog(*hosts, *wide)
    first = planner.plan(known, Memory(), {})
    assert first.memory.copies == frozenset()
    assert len(looked) <= len(wide) * (20 * (MOST + 1) + 10) < 200 * 10
    assert bool(service(first, "w1").warnings) is is_open_at_last, "what is not looked at is said"
    looked.clear()
    planner.plan(known, first.memory, {})
    moved = catalog(*(replace(each, address="10.9.0.1") for each in (*hosts, *wide)))
    assert planner.plan(moved, first.memory, {}).memory == first.memory
    assert looked == [], "nothing is looked at again while routes are the same"


def test_what_is_remembered_of_a_pass_ends_with_any_route(looked: list[Path]) -> None:
    ones = [instance("any", 1, "route=/m"), instance("h1", 2, "route=h1.ex.test/x")]
    planner = Planner(POLICY)
    first = planner.plan(catalog(*ones), Memory(), {})
    second = planner.plan(catalog(*ones, instance("h2", 3, "route=h2.ex.test/x")), first.memory, {})
    assert {copy.host for copy in second.memory.copies} == {"h1.ex.test", "h2.ex.test"}
    assert looked


_NAMES = st.sampled_from(["a", "b", "c"])
_ROUTES = st.sampled_from(
    [
        "/p",
        "/q",
        "/",
        "*.ex.test/p",
        "*.ex.test/q/r",
        "*.b.ex.test",
        "a.ex.test/x",
        "b.ex.test/q",
        "c.ex.test",
        "a.b.ex.test/y",
        "d.b.ex.test/p",
    ]
)
_STEPS = st.lists(st.tuples(_NAMES, _ROUTES, st.integers(1, 9)), max_size=12)


@given(history=st.lists(_STEPS, max_size=5), whole=st.booleans())
def test_whoever_comes_and_goes_copies_are_bounded_and_kept(
    history: list[list[tuple[str, str, int]]], *, whole: bool
) -> None:
    """A copy goes only with its route, or with its host, or because a route of that host takes its path."""
    policy = replace(POLICY, hosts_whole=whole, bounds=Bounds(copies=MOST, all_copies=MOST + 1))
    memory = Memory()
    for step in history:
        ones = [
            instance(name, n, f"route={route}", create_index=index) for n, (name, route, index) in enumerate(step, 1)
        ]
        planned = plan(*ones, policy=policy, memory=memory)
        assert all(count <= MOST for count in lent(planned).values())
        assert lent(planned).total() <= MOST + 1
        holders = planned.memory.holders
        for copy in memory.copies:
            route = RouteClaim(copy.wider, copy.path)
            name = holders.get(route)
            own = {
                claim.path: each
                for claim, each in holders.items()
                if isinstance(claim, RouteClaim) and claim.host == copy.host
            }
            is_open = own and not is_covered(Path(copy.path), own) and not (whole and name not in own.values())
            if is_open and name is not None and name == memory.holders[route]:
                had = [each for each in memory.copies if holders.get(RouteClaim(each.wider, each.path)) == name]
                assert copy in planned.memory.copies or len(had) > MOST, "unless it took over others' routes"
        memory = planned.memory


@given(
    step=_STEPS,
    rules=st.sampled_from([{}, {"a.ex.test": ("a",)}, {"*.ex.test": ("b", "c")}]),
    whole=st.booleans(),
)
def test_within_the_bound_a_request_goes_where_the_closest_host_and_the_longest_path_lead(
    step: list[tuple[str, str, int]], rules: dict[str, tuple[str, ...]], *, whole: bool
) -> None:
    ones = [instance(name, n, f"route={route}", create_index=index) for n, (name, route, index) in enumerate(step, 1)]
    planned = plan(*ones, policy=Policy(claims=rules, hosts_whole=whole))
    held = [(claim, name) for claim, name in planned.memory.holders.items() if isinstance(claim, RouteClaim)]
    for server in planned.servers:
        host = server.host or ""
        found = {str(location.path): location.service.name for location in server.locations}
        taken: set[str] = set()
        own = {name for claim, name in held if claim.host == host}
        levels = {claim.host for claim, _ in held if _reaches(claim.host, host)} | {host}
        for level in sorted(levels, key=lambda each: (each == host, len(each)), reverse=True):
            here = {claim.path: name for claim, name in held if claim.host == level}
            lends = {
                path: name
                for path, name in here.items()
                if level == host
                or (_lets(rules, host, name) and not (whole and own and name not in own) and not _over(taken, path))
            }
            assert found.items() >= lends.items()
            taken |= lends.keys()
        assert found.keys() == taken


def _reaches(level: str, host: str) -> bool:
    return level == host or not level or (level.startswith("*.") and host.removeprefix("*").endswith(level[1:]))


def _lets(rules: dict[str, tuple[str, ...]], host: str, name: ServiceName) -> bool:
    named = [names for pattern, names in rules.items() if fnmatchcase(host, pattern)]
    return not named or any(name in names for names in named)


def _over(taken: set[str], path: str) -> bool:
    return any(one == "/" or path == one or path.startswith(f"{one}/") for one in taken)


@given(st.sets(st.text("/ab", max_size=4).map("/{}".format)), st.text("/ab", max_size=5).map("/{}".format))
def test_a_path_is_covered_by_whole_segments(taken: set[str], path: str) -> None:
    assert is_covered(Path(path), taken) is _over(taken, path)


def test_a_copy_is_told_by_the_place_where_it_serves() -> None:
    assert str(Copy("a.ex.test", "", "/m")) == "a.ex.test/m"
