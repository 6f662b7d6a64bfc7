"""Hosts in namespaces do what the tests of networks need of them, and leave nothing behind."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.frr import FrrRouter
from tests.harness.hosts import Host, Lab


def _namespaces() -> set[str]:
    return {path.name for path in Path("/run/netns").glob("*")}


def test_hosts_of_a_segment_reach_one_another_until_a_cable_is_pulled(hosts: list[Host]) -> None:
    one, two, three = hosts

    assert one.ping(two.address)
    two.cut()
    assert not one.ping(two.address)
    assert one.ping(three.address)
    two.mend()
    one.until_pings(two.address)


def test_a_container_is_reached_over_a_route_to_its_host(lab: Lab) -> None:
    """A host without containers has a bridge without carrier, as Docker's is."""
    one, two = lab.hosts(2)
    two.attach_bridge("10.99.2.0/24")
    assert "NO-CARRIER" in two.ip("link", "show", two.BRIDGE)
    container = two.container()
    assert "NO-CARRIER" not in two.ip("link", "show", two.BRIDGE)

    assert str(container.address) == "10.99.2.2"
    assert not one.ping(container.address)
    one.ip("route", "add", "10.99.2.0/24", "via", two.address)
    one.until_pings(container.address)
    assert container.ping(one.address)
    assert one.ping(container.address, size=1500)
    assert not one.ping(container.address, size=1501)

    one.bounce()
    one.until_pings(two.address)
    assert not one.routes("10.99.2.0/24"), "the kernel drops routes over a link that goes down"


def test_hosts_of_two_segments_reach_one_another_over_the_router(lab: Lab) -> None:
    near, far = lab.segment(), lab.segment()
    one, two = lab.host(segment=near), lab.host(segment=far)
    assert not one.ping(two.address)

    lab.join(near, far)

    one.until_pings(two.address)
    late = lab.host(segment=far)
    one.until_pings(late.address)


def test_multicast_is_dropped_and_counted(hosts: list[Host]) -> None:
    one, two, _ = hosts
    one.drop_multicast()
    assert one.dropped_multicast() == {"joins": 0, "other": 0}

    assert not one.succeeds("ping", "-c", "1", "-W", "1", "-I", one.LINK, "224.0.0.1")
    assert one.ping(two.address)

    assert one.dropped_multicast()["other"] > 0


def test_consul_runs_on_each_host_and_is_asked_inside_and_outside(
    hosts: list[Host], host_consuls: list[HostConsul]
) -> None:
    host_consuls[0].kv_put("who", "everybody")
    asked = json.loads(hosts[2].fetch("http://127.0.0.1:8500/v1/kv/who"))
    assert asked[0]["Key"] == "who"
    hosts[1].attach_bridge("10.99.2.0/24")
    peers = hosts[1].container().fetch(f"http://{hosts[1].address}:8500/v1/status/peers")
    assert set(json.loads(peers)) == {f"{host.address}:8300" for host in hosts}


def test_nothing_is_left_of_a_lab_that_fails(tmp_path: Path) -> None:
    """Processes end with it, and those that were started by others inside."""
    daemon = tmp_path / "pid"
    before = _namespaces()
    lab = Lab(tmp_path / "lab")
    names: set[str] = set()

    def fail() -> None:
        with lab:
            host = lab.host()
            host.start("sleep", "600")
            host.run("sh", "-c", f"setsid sleep 600 >/dev/null 2>&1 & echo $! >{daemon}")
            host.attach_bridge("10.99.1.0/24")
            names.update({host.name, host.container().name})
            host.run("false")

    with pytest.raises(RuntimeError, match="false: 1"):
        fail()

    assert names
    assert not names & _namespaces()
    assert not names & before
    left = int(daemon.read_text())
    process.wait_until(lambda: not process.is_alive(left), what="the end of what ran inside")


def test_frr_writes_where_no_other_frr_reads(lab: Lab) -> None:
    """Whatever it is told, ospfd keeps a file in /var/run/frr itself: every router has that to itself."""
    router = FrrRouter(lab.host(), "ospfd")
    own = router.place.sockets.parent
    try:
        router.start()
        router.configure("router ospf")
        process.wait_until((own / "ospfd-gr.json").exists, what="the file of ospfd")
        assert "router ospf" in router.running()
        assert not (Path("/var/run/frr") / router.host.name).exists()
    finally:
        router.stop()

    assert not own.exists()
