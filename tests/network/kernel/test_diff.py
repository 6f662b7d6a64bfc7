"""Laws of the steps between two states, tried on a small kernel that does what Linux does (fib_trie.c, neighbour.c)."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st

from proxygen.network.kernel.diff import KernelRequest, KernelVerb, steps_between
from proxygen.network.kernel.state import Entry, Forward, KernelState, Neighbour, Route, state_of

UNDERLAY, OVERLAY = 2, 3
SUBNETS = [IPv4Network(f"10.99.{number}.0/24") for number in range(1, 5)]
HOSTS = [IPv4Address(f"192.0.2.{number}") for number in range(1, 4)]
MACS = [f"02:00:00:00:00:0{number}" for number in range(1, 4)]


class Refused(Exception):
    """What the kernel says instead of doing it."""


class SmallKernel:
    """Tables with several owners. Of routes with one key the first is used."""

    def __init__(self, ours: KernelState, foreign: Iterable[Route]) -> None:
        self.routes: list[tuple[Route, bool]] = [(route, False) for route in foreign]
        self.routes += [(route, True) for route in sorted(ours.routes, key=str)]
        self.entries: dict[object, Neighbour | Forward] = {
            entry.key: entry for entry in (*ours.neighbours, *ours.forwards)
        }

    @property
    def ours(self) -> KernelState:
        return state_of((*(route for route, is_ours in self.routes if is_ours), *self.entries.values()))

    @property
    def foreign(self) -> list[Route]:
        return [route for route, is_ours in self.routes if not is_ours]

    def leads(self, destination: IPv4Network) -> bool:
        return any(route.destination == destination for route, _ in self.routes)

    def take(self, step: KernelRequest) -> None:
        entry = step.entry
        if not isinstance(entry, Route):
            assert step.verb in (KernelVerb.REPLACE, KernelVerb.REMOVE)
            if step.verb is KernelVerb.REPLACE:
                self.entries[entry.key] = entry
            elif self.entries.pop(entry.key, None) != entry:
                raise Refused("no such entry")
        elif step.verb is KernelVerb.REMOVE:
            if (entry, True) not in self.routes:
                raise Refused("no such process")
            self.routes.remove((entry, True))
        elif (entry, True) in self.routes or (step.verb is KernelVerb.ADD and self._has(entry.key)):
            raise Refused("file exists")
        else:
            assert step.verb in (KernelVerb.ADD, KernelVerb.APPEND), "a replacement may hit anybody's route"
            self.routes.append((entry, True))

    def _has(self, key: object) -> bool:
        return any(route.key == key for route, _ in self.routes)


ROUTES = st.builds(
    Route,
    destination=st.sampled_from(SUBNETS),
    link=st.sampled_from([UNDERLAY, OVERLAY]),
    gateway=st.sampled_from([None, *HOSTS, *(subnet.network_address for subnet in SUBNETS)]),
    onlink=st.booleans(),
    metric=st.sampled_from([0, 0, 20]),
    table=st.sampled_from([254, 254, 100]),
)
NEIGHBOURS = st.builds(
    Neighbour,
    link=st.just(OVERLAY),
    address=st.sampled_from([subnet.network_address for subnet in SUBNETS]),
    mac=st.sampled_from(MACS),
)
FORWARDS = st.builds(Forward, link=st.just(OVERLAY), mac=st.sampled_from(MACS), host=st.sampled_from(HOSTS))


def unique(entries: st.SearchStrategy[Entry]) -> st.SearchStrategy[list[Entry]]:
    return st.lists(entries, max_size=6, unique_by=lambda entry: entry.key)


ROUTE_LISTS = st.lists(ROUTES, max_size=6, unique=True)
ACTUAL = st.builds(lambda *parts: state_of(chain(*parts)), ROUTE_LISTS, unique(NEIGHBOURS), unique(FORWARDS))
DESIRED = st.builds(lambda *parts: state_of(chain(*parts)), unique(ROUTES), unique(NEIGHBOURS), unique(FORWARDS))


@given(ACTUAL, DESIRED)
def test_the_steps_lead_to_what_is_desired(actual: KernelState, desired: KernelState) -> None:
    """Whatever was there, all steps are possible, and afterwards there is exactly what should be, and no more to do."""
    kernel = SmallKernel(actual, [])
    for step in steps_between(actual, desired):
        kernel.take(step)
    assert kernel.ours == desired
    assert steps_between(kernel.ours, desired) == ()


@given(ACTUAL, DESIRED, ROUTE_LISTS, st.data())
def test_routes_of_others_stay_as_they_are(
    actual: KernelState, desired: KernelState, foreign: list[Route], data: st.DataObject
) -> None:
    """At every moment, a crash in between included; where one is in our way, ours alone is missing."""
    kernel = SmallKernel(actual, foreign)
    steps = steps_between(actual, desired)
    refused = []
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        try:
            kernel.take(step)
        except Refused:
            refused.append(step)
        assert kernel.foreign == foreign
    keys = {route.key for route in foreign}
    assert all(step.verb is KernelVerb.ADD and step.entry.key in keys for step in refused)


@given(ACTUAL, DESIRED, st.data())
def test_a_crash_between_two_steps_does_no_harm(actual: KernelState, desired: KernelState, data: st.DataObject) -> None:
    """Whoever comes next reads what is there, and comes to the same end."""
    kernel = SmallKernel(actual, [])
    steps = steps_between(actual, desired)
    for step in steps[: data.draw(st.integers(0, len(steps)))]:
        kernel.take(step)
    for step in steps_between(kernel.ours, desired):
        kernel.take(step)
    assert kernel.ours == desired


@given(ACTUAL, DESIRED)
def test_a_subnet_that_had_a_route_and_keeps_one_is_never_without(actual: KernelState, desired: KernelState) -> None:
    """A route with another gateway comes before the old one goes: no packet takes the default route meanwhile."""
    kernel = SmallKernel(actual, [])
    kept = {route.destination for route in actual.routes} & {route.destination for route in desired.routes}
    for step in steps_between(actual, desired):
        kernel.take(step)
        assert all(kernel.leads(destination) for destination in kept)


@given(ACTUAL, DESIRED)
def test_what_a_route_needs_is_there_before_it_and_goes_after_it(actual: KernelState, desired: KernelState) -> None:
    """Neighbours and forwarding come first and go last."""
    ranks = []
    for step in steps_between(actual, desired):
        is_route = isinstance(step.entry, Route)
        ranks.append(1 if is_route else 0 if step.verb is KernelVerb.REPLACE else 2)
    assert ranks == sorted(ranks)


def test_a_host_with_another_mac_costs_no_route() -> None:
    """The way to its subnet stays; only who answers for it changes."""
    subnet = SUBNETS[0]
    route = Route(destination=subnet, link=OVERLAY, gateway=subnet.network_address, onlink=True)

    def state(mac: str) -> KernelState:
        neighbour = Neighbour(link=OVERLAY, address=subnet.network_address, mac=mac)
        return state_of([route, neighbour, Forward(link=OVERLAY, mac=mac, host=HOSTS[0])])

    assert [str(step) for step in steps_between(state(MACS[0]), state(MACS[1]))] == [
        f"replace neighbour {subnet.network_address} lladdr {MACS[1]}",
        f"replace forwarding of {MACS[1]} to {HOSTS[0]}",
        f"remove forwarding of {MACS[0]} to {HOSTS[0]}",
    ]
