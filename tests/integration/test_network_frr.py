"""FRR's real daemons on hosts in namespaces: containers reach each other by BGP, and by OSPF without multicast."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import time
from collections.abc import Awaitable, Callable, Iterator
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from proxygen.kit.errors import NetworkError
from proxygen.network.fabric import Member
from proxygen.network.frr.apply import Untaken, bring
from proxygen.network.frr.backend import BgpBackend, OspfBackend
from proxygen.network.frr.daemons import Frr, FrrPlace
from proxygen.network.frr.design import design_bgp
from proxygen.network.frr.render import render_for
from proxygen.network.frr.sections import says_the_same
from proxygen.network.frr.version import FrrVersion
from tests.harness.frr_network import FrrNetwork, Station
from tests.harness.hosts import Lab
from tests.harness.tools import missing
from tests.network.frr.fabrics import networks, seen_by, underlay

Kind = type[BgpBackend] | type[OspfBackend]
BOTH = pytest.mark.parametrize("kind", [BgpBackend, OspfBackend], ids=["frr-bgp", "frr-ospf"])
Make = Callable[[Kind], FrrNetwork]
Three = Callable[[Kind], Awaitable[FrrNetwork]]

# All of the module in one place: networks are shared.
pytestmark = [pytest.mark.timeout(900), pytest.mark.xdist_group("frr")]


@pytest.fixture
def make_network(lab: Lab) -> Iterator[Make]:
    """Make networks of the test's own, on which no host is yet."""
    networks: list[FrrNetwork] = []

    def make(kind: Kind) -> FrrNetwork:
        networks.append(FrrNetwork(lab, kind))
        return networks[-1]

    yield make
    for network in networks:
        network.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Make]:
    """One network of each kind, made for the first test that asks for it."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def get(kind: Kind) -> FrrNetwork:
            network = FrrNetwork(stack.enter_context(Lab(tmp_path_factory.mktemp(kind.type) / "lab")), kind)
            stack.callback(network.stop)
            return network

        yield get


@pytest.fixture
def three(shared: Make) -> Three:
    """A network of three hosts that know each other, whatever the tests before did to it."""

    async def restored(kind: Kind) -> FrrNetwork:
        network = shared(kind)
        await network.restore(3)
        return network

    return restored


def _stranger(number: int, address: str) -> Member:
    return Member(
        host_id=f"stranger{number}",
        node="stranger",
        subnet=IPv4Network(f"10.99.{100 + number}.0/24"),
        public_ip=IPv4Address(address),
        backend_type="frr-bgp",
        backend_data={"Since": 1 << 40, "FRR": "8.4.4"},
    )


def _uptime(station: Station, of: Station) -> int:
    peer = station.router.peers().get(str(of.host.address), {})
    return int(peer["peerUptimeMsec"]) if peer.get("state") == "Established" else -1


# --- the whole of it


@pytest.mark.slow
@BOTH
async def test_containers_reach_each_other_newcomers_are_reached_and_leavers_forgotten(
    three: Three, kind: Kind
) -> None:
    """All of 224.0.0.0/4 is dropped on every host. The kernel's joins of groups (IGMP) are all that anybody tries.

    Whom Consul does not reach hears of the newcomer from the hubs, and nobody's session is disturbed.
    """
    network = await three(kind)
    first, second, third = network.stations
    network.until_all_reach_all()
    for one, other in network.pairs():
        assert one.container.ping(other.container.address, size=one.backend.mtu)
        assert not one.container.ping(other.container.address, size=one.backend.mtu + 1)
    sessions = _sessions(network.stations)
    newcomer = await network.join()
    await network.tell(first, second, newcomer)
    third.until_knows(newcomer)
    newcomer.until_knows(third)
    third.container.until_pings(newcomer.container.address)
    await network.tell()
    network.until_all_reach_all()
    assert _sessions([first, second, third]).items() >= sessions.items()
    assert {station.host.dropped_multicast()["other"] for station in network.stations} == {0}
    await network.leave(newcomer)
    for station in network.stations:
        # Well before the two minutes of a graceful restart, and before anybody else knows that it left.
        station.until_forgets(newcomer)
    await network.tell()
    network.until_all_reach_all()
    assert not newcomer.router.place.config.read_text().count("PROXYGEN")


def _sessions(stations: list[Station]) -> dict[tuple[str, str], tuple[int, int]]:
    """Return how often each of BGP's sessions was made and was lost, by both ends."""
    return {
        (station.host.label, address): (peer["connectionsEstablished"], peer["connectionsDropped"])
        for station in stations
        if isinstance(station.backend, BgpBackend)
        for address, peer in station.router.peers().items()
    }


@pytest.mark.slow
@BOTH
async def test_neither_a_host_that_does_not_answer_nor_a_subnet_without_containers_holds_anybody_up(
    make_network: Make, kind: Kind
) -> None:
    """The silent one's lease lives on for a day: a restart that is graceful must not wait for it. A bridge without
    containers has no carrier, and FRR no route of it: it is announced all the same."""
    network = make_network(kind)
    full, bare = await network.join(), await network.join()
    bare.container.ip("link", "set", "eth0", "down")
    silent = _stranger(1, "192.0.2.201")
    for station in network.stations:
        assert await station.backend.carry(network.seen_by(station, silent)) == ()
    full.until_knows(bare)
    bare.until_knows(full)
    bare.container.ip("link", "set", "eth0", "up")
    bare.container.ip("route", "replace", "default", "via", str(bare.host.bridge.ip) if bare.host.bridge else "")
    full.container.until_pings(bare.container.address)


@BOTH
async def test_frr_prints_back_what_it_was_told(three: Three, kind: Kind) -> None:
    """Or frr-reload.py would find a difference for ever. A second telling touches nothing."""
    network = await three(kind)
    for station in network.stations:
        assert station.router.delta(station.router.place.config) == ""
    one = network.stations[0]
    changed = one.router.place.directory / "changed.conf"
    changed.write_text(one.router.place.config.read_text() + "ip route 198.51.100.0/24 blackhole\n")
    assert "198.51.100.0/24" in one.router.delta(changed)
    before = one.router.place.candidate.stat()
    await network.tell()
    assert one.router.place.candidate.stat().st_ino == before.st_ino


# --- whose configuration it is


@BOTH
async def test_an_operators_lines_stay_through_joining_and_leaving(three: Three, kind: Kind) -> None:
    """Those that FRR runs and those in its file that were not loaded yet."""
    network = await three(kind)
    one = await network.join()
    one.router.configure("ip route 198.51.100.0/24 blackhole", "interface eth0", "description uplink")
    config = one.router.place.config
    config.write_text("# by hand\nip route 203.0.113.0/24 blackhole\n")
    before = one.router.running()
    await network.tell(one)
    assert "ip route 198.51.100.0/24 blackhole" in one.router.running()
    assert "description uplink" in one.router.running()
    assert config.read_text().startswith("# by hand\nip route 203.0.113.0/24 blackhole\n")
    assert f"ip route {one.subnet} blackhole" in config.read_text()
    await one.backend.withdraw()
    assert one.router.running() == before
    assert config.read_text().rstrip("!\n") == "# by hand\nip route 203.0.113.0/24 blackhole"


@pytest.mark.parametrize(
    ("kind", "line"), [(BgpBackend, "router bgp 65000"), (OspfBackend, "router ospf")], ids=["frr-bgp", "frr-ospf"]
)
async def test_a_routing_process_of_somebody_else_is_refused_and_stays(
    make_network: Make, kind: type[BgpBackend] | type[OspfBackend], line: str
) -> None:
    network = make_network(kind)
    one = await network.join()
    one.router.configure(line)
    before = one.router.running()
    with pytest.raises(NetworkError, match=line):
        await one.backend.carry(network.seen_by(one))
    assert one.router.running() == before


@pytest.mark.slow
async def test_what_somebody_takes_out_is_seen_and_put_back(three: Three) -> None:
    network = await three(BgpBackend)
    one = network.stations[0]
    stirred = asyncio.create_task(one.backend.stirred())
    await asyncio.sleep(0.5)
    assert not stirred.done()
    one.router.configure(f"no ip route {one.subnet} blackhole tag 225 250")
    await asyncio.wait_for(stirred, 60)
    await network.tell()
    assert f"ip route {one.subnet} blackhole" in one.router.running()


# --- faults


@pytest.mark.slow
async def test_a_neighbour_that_frr_refuses_is_left_out_and_the_others_kept(three: Three) -> None:
    """A lease names an address that this host has beside its own: FRR takes it for itself, which no check foresees."""
    network = await three(BgpBackend)
    one, other, _ = network.stations
    drops = one.router.peers()[str(other.host.address)]["connectionsDropped"]
    one.host.ip("address", "add", "192.0.2.200/24", "dev", "eth0")
    broken, sound = _stranger(1, "192.0.2.200"), _stranger(2, "192.0.2.201")
    problems = await one.backend.carry(network.seen_by(one, broken, sound))
    assert [problem for problem in problems if "192.0.2.200" in problem] == list(problems) != []
    assert "192.0.2.201" in one.router.peers()
    assert one.knows(other)
    assert one.router.peers()[str(other.host.address)]["connectionsDropped"] == drops
    before = one.router.place.candidate.stat()
    assert await one.backend.carry(network.seen_by(one, broken, sound)) == problems
    assert one.router.place.candidate.stat().st_ino == before.st_ino, "it is not told again at every look"
    one.host.ip("address", "del", "192.0.2.200/24", "dev", "eth0")
    assert await one.backend.carry(network.seen_by(one, broken)) == ()


async def test_a_configuration_that_frr_takes_in_part_is_taken_back(three: Three) -> None:
    """Every line that it took of it goes again, and it is said which neighbours it did not take."""
    network = await three(BgpBackend)
    one, other, _ = network.stations
    before = one.router.running()
    drops = one.router.peers()[str(other.host.address)]["connectionsDropped"]
    one.host.ip("address", "add", "192.0.2.200/24", "dev", "eth0")
    fabric = network.seen_by(one, _stranger(1, "192.0.2.200"), _stranger(2, "192.0.2.201"))
    design, problems = design_bgp(fabric, one.underlay)
    assert not problems
    with pytest.raises(Untaken, match="local system") as caught:
        await bring(Frr(one.router.place), design, "eth0")
    assert caught.value.refused == (IPv4Address("192.0.2.200"),)
    assert one.router.running() == before
    assert says_the_same(one.router.place.good.read_text() + "service integrated-vtysh-config\n", before)
    assert one.router.peers()[str(other.host.address)]["connectionsDropped"] == drops
    one.host.ip("address", "del", "192.0.2.200/24", "dev", "eth0")


async def test_a_daemon_that_is_not_there_is_named_with_the_cure(three: Three) -> None:
    one = (await three(BgpBackend)).stations[0]
    wrong = OspfBackend(one.underlay, one.router.place, node="")
    with pytest.raises(NetworkError, match="ospfd=yes"):
        await wrong.prepare()


@pytest.mark.slow
@pytest.mark.faults
async def test_when_bgpd_is_killed_its_peers_keep_the_routes(three: Three) -> None:
    """Longer than the nine seconds after which a silent neighbour would be given up, and while it starts anew."""
    network = await three(BgpBackend)
    one, *others = network.stations
    one.router.kill_daemon("bgpd")
    silence = time.monotonic() + 12
    while time.monotonic() < silence:
        assert all(other.knows(one) for other in others)
        await asyncio.sleep(0.2)
    with pytest.raises(NetworkError, match="bgpd"):
        await one.backend.carry(network.seen_by(one))
    one.router.start_daemon("bgpd")
    one.router.load()
    await network.tell()
    patience = time.monotonic() + 60
    while not all(_uptime(one, other) >= 0 for other in others):
        assert all(other.knows(one) for other in others)
        assert time.monotonic() < patience
        await asyncio.sleep(0.2)
    network.until_all_reach_all()


@pytest.mark.slow
@pytest.mark.faults
@BOTH
async def test_the_others_reach_each_other_when_a_hub_is_gone(three: Three, kind: Kind) -> None:
    """The hub is cut off for longer than it takes both protocols to give it up."""
    network = await three(kind)
    hub, second, third = network.stations
    network.until_all_reach_all()
    assert all(other.has_session(hub) for other in (second, third))
    hub.host.cut()
    for other in (second, third):
        other.until_gives_up(hub)
    second.container.until_pings(third.container.address)
    third.container.until_pings(second.container.address)
    hub.host.mend()
    network.until_all_reach_all()


# --- what FRR understands


@pytest.fixture(scope="module")
def syntax(tmp_path_factory: pytest.TempPathFactory) -> Frr:
    """FRR's own reader, which needs no daemon."""
    if shutil.which("vtysh") is None:
        missing("FRR")
    frr = Frr(FrrPlace(state=tmp_path_factory.mktemp("state"), directory=tmp_path_factory.mktemp("frr")))
    frr.settle()
    return frr


@pytest.mark.parametrize("kind", ["frr-bgp", "frr-ospf"])
def test_whatever_the_leases_say_frr_understands_what_becomes_of_it(syntax: Frr, kind: str, tmp_path: Path) -> None:
    @settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
    @given(networks(kind=kind))
    def check(everybody: list[Member]) -> None:
        own = everybody[0]
        file = tmp_path / "candidate.conf"
        file.write_text(render_for(seen_by(own, everybody), underlay(own), FrrVersion(8, 4, 4))["frr.conf"])
        asyncio.run(syntax.check(file))

    check()


async def test_what_frr_does_not_understand_is_refused_with_its_words(syntax: Frr, tmp_path: Path) -> None:
    file = tmp_path / "candidate.conf"
    file.write_text("router bgp 4200000000\n neighbor web.example.com peer-group\n nonsense\n")
    with pytest.raises(NetworkError, match="nonsense"):
        await syntax.check(file)
