"""What Docker is told of the lease."""

from __future__ import annotations

import json
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import NetworkConfigError
from proxygen.network.docker import (
    DockerOptions,
    DockerVersion,
    Pool,
    daemon_flags,
    daemon_json,
    docker_options,
    installed_docker,
    read_docker_version,
    refuse_others,
    show_daemon_json,
)

LEASE = IPv4Network("10.99.3.0/24")
TODAY = DockerVersion(28, 2)


def options(*, divided: bool = True, masquerade: bool = True, version: DockerVersion | None = TODAY) -> DockerOptions:
    return docker_options(LEASE, mtu=1450, masquerade=masquerade, divided=divided, version=version)


def test_undivided_docker0_gets_what_flannel_gives_it() -> None:
    assert daemon_flags(options(divided=False, version=None)) == {
        "BIP": "--bip=10.99.3.1/24",
        "MTU": "--mtu=1450",
        "IPMASQ": "--ip-masq=false",
    }


def test_divided_the_halves_are_docker0s_and_composes() -> None:
    assert daemon_json(options()) == {
        "bip": "10.99.3.1/25",
        "mtu": 1450,
        "ip-masq": False,
        "default-address-pools": [{"base": "10.99.3.128/25", "size": 28}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1450"}},
        "allow-direct-routing": True,
    }


def test_flags_say_what_the_file_says() -> None:
    assert daemon_flags(options()) == {
        "BIP": "--bip=10.99.3.1/25",
        "MTU": "--mtu=1450",
        "IPMASQ": "--ip-masq=false",
        "ADDRESS_POOL": "--default-address-pool=base=10.99.3.128/25,size=28",
        "NETWORK_MTU": "--default-network-opt=bridge=com.docker.network.driver.mtu=1450",
        "DIRECT_ROUTING": "--allow-direct-routing=true",
    }


def test_exactly_one_of_us_masquerades() -> None:
    for ours in (True, False):
        assert daemon_json(options(masquerade=ours))["ip-masq"] is not ours


@given(number=st.integers(0, 255), length=st.integers(8, 27))
def test_docker0_and_the_pool_share_the_lease_and_nothing_else(number: int, length: int) -> None:
    lease = IPv4Network((number << 24 | 0x00A00000, length), strict=False)
    given_out = docker_options(lease, mtu=1500, masquerade=False, divided=True, version=None)
    assert given_out.pool is not None
    networks = [given_out.bridge.network, given_out.pool.base]
    assert not networks[0].overlaps(networks[1])
    assert all(network.subnet_of(lease) for network in networks)
    assert sum(network.num_addresses for network in networks) == lease.num_addresses
    assert given_out.pool.base.prefixlen <= given_out.pool.size <= 28


@pytest.mark.parametrize(
    ("length", "pool"),
    [
        (16, Pool(base=IPv4Network("10.99.128.0/17"), size=24)),
        (22, Pool(base=IPv4Network("10.99.2.0/23"), size=26)),
        (27, Pool(base=IPv4Network("10.99.0.16/28"), size=28)),
    ],
)
def test_networks_are_neither_tiny_nor_huge(length: int, pool: Pool) -> None:
    lease = IPv4Network(("10.99.0.0", length))
    assert docker_options(lease, mtu=1500, masquerade=False, divided=True, version=None).pool == pool


def test_a_lease_too_small_to_divide_is_refused_with_what_would_do() -> None:
    with pytest.raises(NetworkConfigError, match="SubnetLen 27"):
        docker_options(IPv4Network("10.99.3.0/28"), mtu=1500, masquerade=False, divided=True, version=None)


@pytest.mark.parametrize(
    ("version", "unknown_to_it"),
    [
        (None, {"default-network-opts", "allow-direct-routing"}),
        (DockerVersion(20, 10), {"default-network-opts", "allow-direct-routing"}),
        (DockerVersion(28, 1), {"allow-direct-routing"}),
        (DockerVersion(28, 2), set()),
        (DockerVersion(29, 0), set()),
    ],
)
def test_no_docker_is_given_an_option_that_it_does_not_know(
    version: DockerVersion | None, unknown_to_it: set[str]
) -> None:
    """dockerd does not start when daemon.json holds one."""
    assert set(daemon_json(options())) - set(daemon_json(options(version=version))) == unknown_to_it


@pytest.mark.parametrize(
    ("printed", "version"),
    [
        ("Docker version 28.0.4, build 6430e49\n", (28, 0)),
        ("Docker version 20.10.24+dfsg1, build 297e128\n", (20, 10)),
        ("29.0.0-rc.1", (29, 0)),
        ("dockerd: command not found", None),
        ("", None),
    ],
)
def test_versions_are_read_as_docker_prints_them(printed: str, version: tuple[int, int] | None) -> None:
    assert read_docker_version(printed) == version


async def test_the_daemons_own_program_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await installed_docker() is None
    (tmp_path / "dockerd").write_text("#!/bin/sh\necho 'Docker version 28.2.1, build 0'\n", encoding="ascii")
    (tmp_path / "dockerd").chmod(0o755)
    assert await installed_docker() == (28, 2)


# --- an operator's daemon.json


@pytest.mark.parametrize("text", ["", " \n", "{}"])
def test_a_file_without_anything_of_the_operators_may_be_replaced(text: str) -> None:
    refuse_others(text, options())
    refuse_others(show_daemon_json(daemon_json(options())), options())


@pytest.mark.parametrize("key", ["debug", "bridge", "fixed-cidr", "log-driver"])
def test_what_the_operator_wrote_is_not_replaced(key: str) -> None:
    with pytest.raises(NetworkConfigError, match=f"'{key}' of yours"):
        refuse_others(json.dumps({"bip": "10.99.3.1/25", key: "x"}), options())


@pytest.mark.parametrize("text", ["{", "[]", '"bip"', "{'bip': 1}"])
def test_what_is_no_object_is_refused(text: str) -> None:
    with pytest.raises(NetworkConfigError, match=r"daemon\.json"):
        refuse_others(text, options())
