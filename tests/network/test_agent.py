from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Final

import pytest

from proxygen.kit.errors import NetworkConfigError, NetworkError
from proxygen.network.agent.backends import must_be_left
from proxygen.network.agent.begin import choose_config
from proxygen.network.agent.handover import Handover
from proxygen.network.agent.known import KnownNetwork, keep_known, recall_known, write_config
from proxygen.network.agent.place import StateDirectory
from proxygen.network.agent.plane import DataPlane
from proxygen.network.agent.status import AgentStatus, HostState, read_status, write_status
from proxygen.network.config import NetworkConfig, parse_config
from proxygen.network.fabric import Fabric, Member, Underlay
from proxygen.network.files import hinted_subnet
from proxygen.network.records import Attributes, KeyEntry, View, read_view
from proxygen.settings import NetworkSettings

CONFIG: Final = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "DirectRouting": true}}')
LIVE: Final = IPv4Network("10.99.3.0/24")
MEMBER: Final = Member(
    host_id="other",
    node="h2",
    subnet=IPv4Network("10.99.2.0/24"),
    public_ip=IPv4Address("192.0.2.2"),
    backend_type="vxlan",
    backend_data={"VNI": 1, "VtepMAC": "0a:00:00:00:00:02"},
)
KNOWN: Final = KnownNetwork(config=CONFIG, members=(MEMBER,))
UNDERLAY: Final = Underlay(
    link="eth0", index=2, address=IPv4Interface("192.0.2.1/24"), mtu=1500, mac="0a:00:00:00:00:01"
)


def view(config: str | None) -> View:
    entries = (
        [] if config is None else [KeyEntry(key="p/config", value=config.encode(), create_index=7, modify_index=7)]
    )
    return read_view("p", entries)


# --- which config an agent starts with


def test_a_host_without_containers_takes_the_config_that_there_is_or_waits() -> None:
    assert choose_config(view('{"Network": "10.1.0.0/16"}'), None, KNOWN) == parse_config('{"Network": "10.1.0.0/16"}')
    assert choose_config(view(None), None, KNOWN) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ('{"Network": "10.1.0.0/29"}', "too small"),
        ('{"Network": "10.1.0.0/16", "Backend": {"Type": "udp"}}', "none of"),
        ("no JSON", "cannot be read"),
    ],
)
def test_a_host_without_containers_is_refused_by_a_config_that_cannot_be_used(config: str, said: str) -> None:
    with pytest.raises(NetworkConfigError, match=said):
        choose_config(view(config), None, KNOWN)


@pytest.mark.parametrize("config", [None, "no JSON", '{"Network": "10.1.0.0/16"}'])
def test_a_host_with_containers_goes_on_with_the_config_they_came_under(config: str | None) -> None:
    assert choose_config(view(config), LIVE, KNOWN) == CONFIG


def test_a_host_whose_containers_cannot_be_in_the_network_and_that_knows_no_other_is_refused() -> None:
    with pytest.raises(NetworkConfigError, match=r"10\.99\.3\.0/24.*release"):
        choose_config(view('{"Network": "10.1.0.0/16"}'), LIVE, None)


def test_another_backend_counts_once_the_agent_is_started_again() -> None:
    text = '{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}'
    assert choose_config(view(text), LIVE, KNOWN) == parse_config(text)


@pytest.mark.parametrize(
    ("past", "now", "left"),
    [
        ("vxlan", "vxlan", False),
        ("vxlan", "host-gw", False),
        ("frr-bgp", "host-gw", True),
        ("frr-bgp", "frr-ospf", True),
        ("vxlan", "alloc", True),
        ("host-gw", "frr-bgp", True),
    ],
)
def test_a_backend_is_left_where_the_next_one_would_not_see_what_it_made(past: str, now: str, left: bool) -> None:
    def backend(name: str) -> NetworkConfig:
        return parse_config(json.dumps({"Network": "10.99.0.0/16", "Backend": {"Type": name}}))

    assert must_be_left(backend(past).backend, backend(now).backend) is left


# --- what it leaves on disk


@pytest.mark.parametrize(
    "text",
    [
        '{"Network": "10.99.0.0/16"}',
        '{"Network": "10.99.0.0/16", "SubnetLen": 26, "SubnetMin": "10.99.4.0", "Backend": {"Type": "host-gw"}}',
        '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "VNI": 7, "MTU": 1400, "DirectRouting": true}}',
        '{"Network": "10.99.0.0/16", "Backend": {"Type": "aws-vpc", "RouteTableID": ["rtb-1", "rtb-2"]}}',
        '{"Network": "10.99.0.0/16", "Backend": {"Type": "wireguard", "PSK": "secret"}}',
    ],
)
def test_a_config_is_the_same_after_it_was_written(text: str) -> None:
    config = parse_config(text)
    assert parse_config(write_config(config)) == config


def test_the_next_agent_of_the_boot_knows_the_network_and_one_of_another_boot_does_not(tmp_path: Path) -> None:
    path = tmp_path / "known.json"
    keep_known(path, KNOWN, boot="one")
    assert recall_known(path, boot="one") == replace(KNOWN, members=(replace(MEMBER, lives=False),))
    assert recall_known(path, boot="two") is None
    assert recall_known(path, boot=None) is not None
    path.write_text("{")
    assert recall_known(path, boot="one") is None


def test_what_may_hold_a_secret_is_for_its_owner_alone(tmp_path: Path) -> None:
    """WireGuard's PSK stands in the network's config. A file that an earlier version left open is closed."""
    path = tmp_path / "known.json"
    path.write_text("{}")
    path.chmod(0o644)
    keep_known(path, KNOWN, boot="one")
    assert path.stat().st_mode & 0o777 == 0o600


def test_one_agent_at_a_time_whatever_became_of_the_one_before(tmp_path: Path) -> None:
    directory = StateDirectory(path=tmp_path / "state")
    assert not directory.is_held()
    with directory.held():
        assert directory.is_held()
        with pytest.raises(NetworkError, match=f"process {os.getpid()}"), directory.held():
            pass
    assert not directory.is_held()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from proxygen.network.agent.place import StateDirectory\n"
            "with StateDirectory(path=Path(sys.argv[1])).held(): print('held', flush=True); sys.stdin.read()",
            str(directory.path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert directory.is_held()
        holder.kill()
    with directory.held():
        pass


def a_status(**changed: object) -> AgentStatus:
    facts: dict[str, object] = {
        "version": "1",
        "pid": 1,
        "at": time.time(),
        "state": HostState.READY,
        "host_id": "own",
        "node": "h1",
        "standing": "held",
        "reason": "",
        "network": "10.99.0.0/16",
        "subnet": "10.99.3.0/24",
        "backend": "vxlan",
        "mtu": 1450,
        "interface": "eth0",
        "public_ip": "192.0.2.1",
        "consul_answered": None,
        "members": (),
        "problems": (),
        "carried": None,
        **changed,
    }
    return AgentStatus(**facts)  # type: ignore[arg-type]


def test_a_status_counts_only_while_its_agent_runs_and_only_while_it_is_new(tmp_path: Path) -> None:
    directory = StateDirectory(path=tmp_path)
    write_status(directory.status, a_status())
    assert read_status(directory) is None
    with directory.held():
        found = read_status(directory)
        assert found is not None
        assert found.state is HostState.READY
        write_status(directory.status, a_status(at=time.time() - 3600))
        silent = read_status(directory)
        assert silent is not None
        assert silent.state is HostState.SILENT
        assert "said nothing for 3600 s" in silent.problems[0]


def test_a_status_from_the_future_counts_for_no_longer_than_one_from_the_past(tmp_path: Path) -> None:
    """The clock was set back; an agent that hangs since then would otherwise look well until it is that late again."""
    directory = StateDirectory(path=tmp_path)
    with directory.held():
        write_status(directory.status, a_status(at=time.time() + 3600))
        found = read_status(directory)
        assert found is not None
        assert found.state is HostState.SILENT


# --- what it hands on


@pytest.fixture
def settings(tmp_path: Path) -> NetworkSettings:
    return NetworkSettings(
        state=tmp_path, subnet_file=tmp_path / "run" / "subnet.env", docker_file=tmp_path / "run" / "docker_opts.env"
    )


def test_the_subnet_is_handed_on(settings: NetworkSettings) -> None:
    handover = Handover(settings, None)
    assert not handover.done
    handover.write(CONFIG.network, LIVE, 1450)
    assert handover.done
    assert handover.problem == ""
    assert settings.subnet_file.read_text() == (
        "FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET=10.99.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=false\n"
    )
    assert "--bip=10.99.3.1/24" in settings.docker_file.read_text()


def test_another_mtu_is_handed_on_and_another_subnet_is_not(settings: NetworkSettings) -> None:
    """Containers have addresses of the subnet that stands there, as long as the host has not booted since."""
    Handover(settings, None).write(CONFIG.network, LIVE, 1450)
    handover = Handover(settings, None)
    handover.write(CONFIG.network, LIVE, 1400)
    assert "FLANNEL_MTU=1400" in settings.subnet_file.read_text()
    handover.write(CONFIG.network, IPv4Network("10.99.4.0/24"), 1400)
    assert hinted_subnet(settings.subnet_file) == LIVE
    assert "10.99.3.0/24" in handover.problem
    long_ago = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) - 60
    os.utime(settings.subnet_file, (long_ago, long_ago))
    handover.write(CONFIG.network, IPv4Network("10.99.4.0/24"), 1400)
    assert hinted_subnet(settings.subnet_file) == IPv4Network("10.99.4.0/24")
    assert handover.problem == ""


def test_a_lease_too_small_to_divide_is_a_problem_and_no_end(settings: NetworkSettings) -> None:
    handover = Handover(settings.model_copy(update={"docker_pools": True}), None)
    handover.write(CONFIG.network, IPv4Network("10.99.3.0/28"), 1450)
    assert "too small" in handover.problem
    assert not settings.subnet_file.exists()


# --- the data plane's loop


class Recording:
    """A backend that keeps what it is told; the kernel's part is played by the test."""

    mtu = 1450

    def __init__(self, underlay: Underlay) -> None:
        self.underlay = underlay
        self.carried: list[Fabric] = []
        self.stir = asyncio.Event()
        self.failure = ""
        self.pause = 0.0
        self.ended = 0

    async def prepare(self) -> Attributes:
        return Attributes(node="h1")

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        self.carried.append(fabric)
        await asyncio.sleep(self.pause)
        self.ended += 1
        if self.failure:
            raise NetworkError(self.failure)
        return ()

    async def stirred(self) -> None:
        await self.stir.wait()
        self.stir.clear()

    async def withdraw(self) -> None:
        return


class Bench:
    """A data plane with recording backends."""

    def __init__(self, *, resync: float = 60.0) -> None:
        self.underlay = UNDERLAY
        self.backends: list[Recording] = []
        self.announced: list[Underlay] = []

        async def find() -> Underlay:
            return self.underlay

        def make(underlay: Underlay) -> Recording:
            self.backends.append(Recording(underlay))
            return self.backends[-1]

        async def follow(fabric: Fabric) -> tuple[str, ...]:
            return ()

        self.plane = DataPlane(
            find, make, follow, resync=resync, announce=lambda attributes, underlay: self.announced.append(underlay)
        )

    @property
    def backend(self) -> Recording:
        return self.backends[-1]

    async def until(self, condition: Callable[[], object]) -> None:
        async with asyncio.timeout(20):
            while not condition():  # noqa: ASYNC110 - it may be about anything
                await asyncio.sleep(0.005)


def fabric(*members: Member) -> Fabric:
    own = replace(MEMBER, host_id="own", subnet=LIVE, public_ip=IPv4Address("192.0.2.1"))
    return Fabric(config=CONFIG, own=own, others=members)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's own setting is none of a test's business."""
    monkeypatch.setattr("proxygen.network.agent.plane.let_forward", lambda: "")


@pytest.mark.usefixtures("forwards")
class TestDataPlane:
    async def test_nothing_is_carried_before_anything_is_believed(self, bench: Bench) -> None:
        await bench.plane.prepare()
        running = asyncio.create_task(bench.plane.run())
        await asyncio.sleep(0.05)
        assert bench.backend.carried == []
        bench.plane.fabrics.put(fabric(MEMBER))
        await bench.until(lambda: bench.backend.ended == 1)
        running.cancel()

    async def test_what_stirs_the_kernel_is_mended_at_once(self, bench: Bench) -> None:
        await bench.plane.prepare()
        bench.plane.fabrics.put(fabric(MEMBER))
        running = asyncio.create_task(bench.plane.run())
        await bench.until(lambda: bench.backend.ended == 1)
        bench.backend.stir.set()
        await bench.until(lambda: bench.backend.ended == 2)
        assert bench.backend.carried == [fabric(MEMBER)] * 2
        running.cancel()

    async def test_what_nobody_tells_of_is_mended_at_the_next_resync(self) -> None:
        bench = Bench(resync=0.05)
        await bench.plane.prepare()
        bench.plane.fabrics.put(fabric(MEMBER))
        running = asyncio.create_task(bench.plane.run())
        await bench.until(lambda: bench.backend.ended >= 3)
        running.cancel()

    async def test_what_fails_is_reported_and_tried_again(self, bench: Bench) -> None:
        await bench.plane.prepare()
        bench.backend.failure = "no such device"
        bench.plane.fabrics.put(fabric(MEMBER))
        running = asyncio.create_task(bench.plane.run())
        await bench.until(lambda: bench.plane.carried is not None and bench.plane.carried.error == "no such device")
        bench.backend.failure = ""
        await bench.until(lambda: bench.plane.carried is not None and not bench.plane.carried.error)
        running.cancel()

    async def test_another_underlay_has_another_backend_and_others_are_told(self, bench: Bench) -> None:
        await bench.plane.prepare()
        bench.plane.fabrics.put(fabric(MEMBER))
        running = asyncio.create_task(bench.plane.run())
        await bench.until(lambda: bench.backend.ended == 1)
        bench.underlay = replace(UNDERLAY, address=IPv4Interface("192.0.2.77/24"))
        bench.backend.stir.set()
        await bench.until(lambda: len(bench.backends) == 2 and bench.backend.ended == 1)
        assert bench.announced == [UNDERLAY, bench.underlay]
        running.cancel()

    async def test_a_pass_that_was_begun_is_ended(self, bench: Bench) -> None:
        """Half a data plane may carry nothing, and nobody mends it while the agent is stopped."""
        await bench.plane.prepare()
        bench.backend.pause = 0.2
        bench.plane.fabrics.put(fabric(MEMBER))
        running = asyncio.create_task(bench.plane.run())
        await bench.until(lambda: bench.backend.carried)
        running.cancel()
        await asyncio.wait({running})
        assert bench.backend.ended == 1
