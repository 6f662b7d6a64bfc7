"""What Docker's daemon must be told so that its containers live in the host's lease. Nothing here writes a file.

Where only docker0 is to have addresses of the lease, it gets all of it, as flannel has it. Networks that Compose or
people make then come from Docker's own pools, which no other host has a route to. So the lease can be divided: docker0
gets the first half, and Docker cuts such networks out of the second.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from typing import Final, NamedTuple

from proxygen.kit.errors import NetworkConfigError, ProgramUnavailable, quoted
from proxygen.kit.programs import run

_MTU_OPTION: Final = "com.docker.network.driver.mtu"
_SMALLEST_NETWORK: Final = 28
"""A bridge and thirteen containers."""
_LARGEST_NETWORK: Final = 24
_SHARE: Final = 4
"""Bits between the lease and a network out of it: eight of them fit into the second half."""


class DockerVersion(NamedTuple):
    """The parts of dockerd's version that options depend on."""

    major: int
    minor: int


_NETWORK_OPTIONS_SINCE: Final = DockerVersion(24, 0)
"""dockerd does not start on an option that it does not know."""
_DIRECT_ROUTING_SINCE: Final = DockerVersion(28, 2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """Where Docker takes the networks from that nobody gave a subnet."""

    base: IPv4Network
    size: int
    """The prefix length of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DockerOptions:
    """The daemon's options. Everything else of its configuration is the operator's."""

    bridge: IPv4Interface
    """The address of docker0, with its network."""
    mtu: int
    masquerade: bool
    """Whether Docker hides docker0's containers behind the host's address; not if we do."""
    pool: Pool | None
    network_mtu: bool
    """Whether new networks can be given the MTU: ``mtu`` is for docker0 alone."""
    direct_routing: bool
    """Docker from 28.0 drops what comes from another host for a container's address; from 28.2 this allows it."""


def docker_options(
    subnet: IPv4Network, *, mtu: int, masquerade: bool, divided: bool, version: DockerVersion | None
) -> DockerOptions:
    """Work out the options for a lease. Raise NetworkConfigError where it is too small to be divided.

    ``masquerade`` tells whether we do it; ``version`` None is a Docker nobody knows, which gets no option that an older
    one would refuse.
    """
    pool = _pool(subnet) if divided else None
    own = IPv4Network((subnet.network_address, subnet.prefixlen + 1)) if divided else subnet
    return DockerOptions(
        bridge=IPv4Interface((int(own.network_address) + 1, own.prefixlen)),
        mtu=mtu,
        masquerade=not masquerade,
        pool=pool,
        network_mtu=version is not None and version >= _NETWORK_OPTIONS_SINCE,
        direct_routing=version is not None and version >= _DIRECT_ROUTING_SINCE,
    )


def _pool(subnet: IPv4Network) -> Pool:
    if subnet.prefixlen >= _SMALLEST_NETWORK:
        raise NetworkConfigError(
            f"the lease {subnet} is too small to be divided between docker0 and other networks of Docker; "
            f"that needs SubnetLen {_SMALLEST_NETWORK - 1} or less"
        )
    size = min(_SMALLEST_NETWORK, max(_LARGEST_NETWORK, subnet.prefixlen + _SHARE))
    return Pool(base=list(subnet.subnets())[1], size=size)


def daemon_json(options: DockerOptions) -> dict[str, object]:
    """Return the options by their names in ``daemon.json``."""
    written: dict[str, object] = {"bip": str(options.bridge), "mtu": options.mtu, "ip-masq": options.masquerade}
    if options.pool is not None:
        written["default-address-pools"] = [{"base": str(options.pool.base), "size": options.pool.size}]
    if options.network_mtu:
        written["default-network-opts"] = {"bridge": {_MTU_OPTION: str(options.mtu)}}
    if options.direct_routing:
        written["allow-direct-routing"] = True
    return written


def daemon_flags(options: DockerOptions) -> dict[str, str]:
    """Return the options as dockerd's flags, by the names that ``docker_opts.env`` gives them.

    dockerd refuses an option that stands both here and in ``daemon.json``: a host uses one of the two.
    """
    flags = {
        "BIP": f"--bip={options.bridge}",
        "IPMASQ": f"--ip-masq={str(options.masquerade).lower()}",
        "MTU": f"--mtu={options.mtu}",
    }
    if options.pool is not None:
        flags["ADDRESS_POOL"] = f"--default-address-pool=base={options.pool.base},size={options.pool.size}"
    if options.network_mtu:
        flags["NETWORK_MTU"] = f"--default-network-opt=bridge={_MTU_OPTION}={options.mtu}"
    if options.direct_routing:
        flags["DIRECT_ROUTING"] = "--allow-direct-routing=true"
    return flags


def show_daemon_json(written: Mapping[str, object]) -> str:
    """Return the text of a ``daemon.json``."""
    return json.dumps(written, indent=2, ensure_ascii=False) + "\n"


def refuse_others(text: str, options: DockerOptions) -> None:
    """Raise NetworkConfigError where a ``daemon.json`` has anything that is not ours to write: it is the operator's."""
    try:
        found = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError) as error:
        raise NetworkConfigError(f"daemon.json is no JSON: {error}") from error
    if not isinstance(found, dict):
        raise NetworkConfigError("daemon.json is no JSON object")
    if others := sorted(found.keys() - daemon_json(options).keys()):
        yours = ", ".join(map(quoted, others))
        raise NetworkConfigError(f"daemon.json has {yours} of yours; print the options, and put them into it yourself")


def read_docker_version(text: str) -> DockerVersion | None:
    """Find the version in what ``dockerd --version`` prints, or in the bare number; None where there is none."""
    found = re.search(r"(?:^|version )([0-9]{1,4})\.([0-9]{1,4})\.", text.strip())
    return DockerVersion(int(found[1]), int(found[2])) if found else None


async def installed_docker() -> DockerVersion | None:
    """Ask the daemon's program for its version: Docker need not run, it starts after us. None where there is none."""
    try:
        asked = await run(("dockerd", "--version"), timeout=10)
    except ProgramUnavailable:
        return None
    return read_docker_version(asked.output) if asked.returncode == 0 else None
