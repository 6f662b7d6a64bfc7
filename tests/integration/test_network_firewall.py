"""The firewall of real hosts, with rules on them as Docker writes them."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import pytest

from proxygen.network.firewall import FirewallNeeds, close_passage, open_passage
from tests.harness import process
from tests.harness.hosts import Container, Host, Lab, Namespace
from tests.harness.tools import missing

NETWORK: Final = IPv4Network("10.99.0.0/16")
_WHO_CALLS: Final = """
import socket
with socket.create_server(("0.0.0.0", 8080)) as server:
    while True:
        connection, (address, _) = server.accept()
        connection.sendall(address.encode())
        connection.close()
"""
_CALL: Final = """
import socket, sys
with socket.create_connection((sys.argv[1], 8080), timeout=5) as connection:
    print(connection.recv(64).decode(), end="")
"""


def open_on(host: Host, *, subnet: IPv4Network | None = None, masquerade: bool = False, forward: bool = True) -> None:
    """Open the way for the bridge's network, or for another."""
    assert host.bridge is not None
    passage = FirewallNeeds(
        network=NETWORK, subnet=subnet or host.bridge.network, masquerade=masquerade, forward=forward
    )
    with host.entered():
        assert asyncio.run(open_passage(passage)) == ()


def close_on(host: Host) -> None:
    with host.entered():
        assert asyncio.run(close_passage()) == ()


def rules(host: Host) -> str:
    """Everything there is but counters, with the numbers that the kernel gave it: what is written again gets others."""
    return host.run("nft", "-a", "-s", "list", "ruleset")


def foreign_rules(host: Host) -> list[str]:
    """Everything in iptables' tables, and an operator's own table. Tables of iptables that are empty do not count."""
    listed = [host.run("iptables", "-t", table, "-S") for table in ("filter", "raw", "nat")]
    return [*listed, host.run("nft", "-a", "-s", "list", "table", "ip", "operator")]


def start_docker(host: Host, *, masquerade: bool = True) -> None:
    """Write the rules that Docker 28 has with one container whose ports are not published."""
    assert host.bridge is not None
    for rule in (
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-N DOCKER-FORWARD",
        "-N DOCKER",
        "-I FORWARD -j DOCKER-FORWARD",
        "-I FORWARD -j DOCKER-USER",
        "-A DOCKER-FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A DOCKER-FORWARD -o docker0 -j DOCKER",
        "-A DOCKER-FORWARD -i docker0 -j ACCEPT",
        "-A DOCKER ! -i docker0 -o docker0 -j DROP",
        *(f"-t raw -A PREROUTING -d {one.address}/32 ! -i docker0 -j DROP" for one in host.containers),
        *([f"-t nat -A POSTROUTING -s {host.bridge.network} ! -o docker0 -j MASQUERADE"] if masquerade else ()),
    ):
        host.run("iptables", *rule.split())


def seen_by(server: Namespace, address: IPv4Address, *, client: Namespace) -> str:
    """Return the address that a server sees a client by."""
    server.start(sys.executable, "-c", _WHO_CALLS)
    # Over its own loopback, which no rule is about.
    process.wait_until(
        lambda: server.succeeds(sys.executable, "-c", _CALL, "127.0.0.1"), what="a server that listens", timeout=30
    )
    return client.run(sys.executable, "-c", _CALL, str(address))


@pytest.fixture
def pair(lab: Lab) -> tuple[Container, Container]:
    """Containers of two hosts that route to each other's subnets."""
    if shutil.which("iptables") is None:
        missing("iptables")
    first, second = lab.hosts(2)
    for host, other, number in ((first, second, 1), (second, first, 2)):
        host.attach_bridge(f"10.99.{number}.0/24")
        host.ip("route", "add", f"10.99.{3 - number}.0/24", "via", str(other.address))
    return first.container(), second.container()


@pytest.fixture(params=["xtables-nft-multi", "xtables-legacy-multi"])
def kind_of_iptables(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have iptables write where Docker does that uses this kind: a host may have both."""
    program = shutil.which(request.param)
    if program is None:
        missing(request.param)
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("iptables", "iptables-restore"):
        (directory / name).symlink_to(program)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.usefixtures("kind_of_iptables")
def test_containers_reach_each_other_past_dockers_drops(pair: tuple[Container, Container]) -> None:
    one, two = pair
    for container in pair:
        start_docker(container.host)
    assert not one.ping(two.address), "Docker's rules drop nothing here, so nothing is shown"
    for container in pair:
        open_on(container.host)
    assert one.ping(two.address)
    assert two.ping(one.address)
    assert one.host.ping(two.address), "a proxy on a host reaches containers of others"
    close_on(two.host)
    assert not one.ping(two.address), "closed, Docker's drops count again"


def test_rules_that_are_so_are_not_written_again(pair: tuple[Container, Container]) -> None:
    host = pair[0].host
    start_docker(host)
    open_on(host, masquerade=True)
    before = rules(host)
    open_on(host, masquerade=True)
    assert rules(host) == before


@pytest.mark.parametrize("docker", [True, False], ids=["beside Docker", "alone"])
def test_closing_leaves_what_others_wrote(pair: tuple[Container, Container], docker: bool) -> None:
    host = pair[0].host
    if docker:
        start_docker(host)
    host.run("nft", "table ip operator { chain forward { type filter hook forward priority 5; }; }")
    before = foreign_rules(host)
    open_on(host, masquerade=True)
    assert foreign_rules(host) != before
    for _ in range(2):
        close_on(host)
        assert foreign_rules(host) == before
        assert "proxygen" not in rules(host).lower()


def test_closing_where_nothing_was_opened_writes_nothing(pair: tuple[Container, Container]) -> None:
    host = pair[0].host
    before = rules(host)
    close_on(host)
    assert rules(host) == before == ""


def test_a_docker_that_starts_later_is_passed_too(pair: tuple[Container, Container]) -> None:
    """It puts its chains before ours; the next comparison puts ours where Docker looks first."""
    one, two = pair
    for container in pair:
        open_on(container.host)
        assert "-A FORWARD -j PROXYGEN-FORWARD" in container.host.run("iptables", "-S")
        start_docker(container.host)
        open_on(container.host)
    listed = one.host.run("iptables", "-S")
    assert "-A DOCKER-USER -j PROXYGEN-FORWARD" in listed
    assert "-A FORWARD -j PROXYGEN-FORWARD" not in listed
    assert one.ping(two.address)


def test_what_stays_on_the_host_is_left_to_docker(pair: tuple[Container, Container]) -> None:
    """It keeps the host's own networks apart, after its chain for users."""
    host = pair[0].host
    open_on(host)
    assert host.run("iptables", "-S", "PROXYGEN-FORWARD").splitlines() == [
        "-N PROXYGEN-FORWARD",
        "-A PROXYGEN-FORWARD -s 10.99.1.0/24 -d 10.99.1.0/24 -j RETURN",
        "-A PROXYGEN-FORWARD -s 10.99.0.0/16 -j ACCEPT",
        "-A PROXYGEN-FORWARD -d 10.99.0.0/16 -j ACCEPT",
    ]


@pytest.mark.parametrize(
    "damage",
    [
        "iptables -F FORWARD",
        "iptables -F PROXYGEN-FORWARD",
        "iptables -I PROXYGEN-FORWARD -j DROP",
        "iptables -t raw -F",
        "nft flush ruleset",
        "nft add rule ip proxygen_network postrouting masquerade",
    ],
)
def test_what_somebody_changed_is_mended(pair: tuple[Container, Container], damage: str) -> None:
    host = pair[0].host
    open_on(host, masquerade=True)
    whole = [host.run("iptables", "-t", table, "-S") for table in ("filter", "raw")]
    table = host.run("nft", "list", "table", "ip", "proxygen_network")
    host.run(*damage.split())
    open_on(host, masquerade=True)
    assert [host.run("iptables", "-t", table, "-S") for table in ("filter", "raw")] == whole
    assert host.run("nft", "list", "table", "ip", "proxygen_network") == table


def test_another_subnet_replaces_the_one_before(pair: tuple[Container, Container]) -> None:
    one, _ = pair
    open_on(one.host, masquerade=True)
    open_on(one.host, subnet=IPv4Network("10.99.77.0/24"), masquerade=True, forward=False)
    assert "10.99.1.0" not in rules(one.host)
    assert "PROXYGEN" not in rules(one.host), "forwarding is the operator's own matter from now on"


def test_between_hosts_containers_are_seen_by_their_own_address(pair: tuple[Container, Container]) -> None:
    """Docker's masquerading would show the host's: without us it does."""
    one, two = pair
    one.host.run(
        "iptables", "-t", "nat", "-A", "POSTROUTING", "-s", "10.99.1.0/24", "!", "-o", "docker0", "-j", "MASQUERADE"
    )
    assert seen_by(two, two.address, client=one) == str(one.host.address)
    open_on(one.host)
    assert one.run(sys.executable, "-c", _CALL, str(two.address)) == str(one.address)


def test_outside_of_the_network_masquerading_shows_the_host(lab: Lab, pair: tuple[Container, Container]) -> None:
    one, two = pair
    outside = lab.host("outside")
    outside.ip("route", "add", "10.99.1.0/24", "via", str(one.host.address))
    open_on(one.host)
    assert seen_by(outside, outside.address, client=one) == str(one.address)
    open_on(one.host, masquerade=True)
    assert one.run(sys.executable, "-c", _CALL, str(outside.address)) == str(one.host.address)
    assert seen_by(two, two.address, client=one) == str(one.address), "inside of it nothing changes"
