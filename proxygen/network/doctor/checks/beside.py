"""What else runs on the host and has its own ideas: Docker, systemd-networkd, NetworkManager, FRR, AWS."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Interface, IPv4Network
from shlex import quote
from typing import Final

from proxygen.network.config import FrrBgp, FrrOspf
from proxygen.network.docker import DockerVersion
from proxygen.network.doctor.facts import Facts, known
from proxygen.network.doctor.finding import Fault, Skipped, Unknown, error, warning
from proxygen.network.doctor.registry import check

_DROPS: Final = DockerVersion(28, 0)
"""From here on Docker drops what comes from another host for a container's address."""
_ALLOWS: Final = DockerVersion(28, 2)
"""From here on that can be allowed."""
_RENDER: Final = "proxygen network docker render"


@check("docker", "Docker's bridge lies in the lease, and its version and options let other hosts' packets in")
def docker(facts: Facts) -> Iterator[Fault]:
    found, subnet = known(facts.docker), facts.subnet()
    cure = f"{_RENDER} prints what {found.file} should say; then restart dockerd"
    bip = found.options.get("bip")
    if bip is not None and not _lies_in(str(bip), subnet):
        yield error(f'{found.file} has "bip": "{bip}", and this host\'s subnet is {subnet}', cure=cure)
    mtu = found.options.get("mtu")
    if not isinstance(facts.plane, Unknown) and isinstance(mtu, int) and mtu > facts.plane.mtu:
        yield warning(
            f'{found.file} has "mtu": {mtu}, and {facts.plane.mtu} is the most that reaches other hosts',
            cure=cure,
        )
    if isinstance(facts.kernel, Unknown):
        return
    for link, address in facts.kernel.addresses:
        if link == "docker0" and address.ip not in subnet:
            yield error(
                f"docker0 has {address}, which is not of this host's subnet {subnet}: no other host has a route to it",
                cure="start dockerd with the options of docker_opts.env, or of proxygen network docker render",
            )
    version = found.version
    if version is None or version < _DROPS:
        return
    if version < _ALLOWS:
        yield warning(
            f"{_docker(version)} drops what other hosts send to containers, and has no option against it",
            cure="update Docker to 28.2 or later, or go back to 27",
        )
    elif found.options.get("allow-direct-routing") is not True:
        yield warning(
            f"{_docker(version)} drops what other hosts send to containers unless it is told otherwise",
            cure=cure,
        )


def _docker(version: DockerVersion) -> str:
    return f"Docker {version.major}.{version.minor}"


def _lies_in(text: str, subnet: IPv4Network) -> bool:
    try:
        return IPv4Interface(text).network.subnet_of(subnet)
    except ValueError:
        return False


@check("networkd", "systemd-networkd leaves routes and rules alone that are not its own")
def networkd(facts: Facts) -> Iterator[Fault]:
    found = known(facts.networkd)
    keys = {"ManageForeignRoutes": found.foreign_routes, "ManageForeignRoutingPolicyRules": found.foreign_rules}
    removing = [key for key, on in keys.items() if on]
    if removing:
        lines = "\\n".join(["[Network]", *(f"{key}=no" for key in removing)])
        yield warning(
            f"{' and '.join(removing)}: on, so that a restart of systemd-networkd removes this network's routes",
            cure="mkdir -p /etc/systemd/networkd.conf.d && "
            f"printf '{lines}\\n' > /etc/systemd/networkd.conf.d/proxygen.conf && systemctl restart systemd-networkd",
        )


@check("network-manager", "NetworkManager leaves the backend's device and the bridge alone")
def network_manager(facts: Facts) -> Iterator[Fault]:
    states = known(facts.manager).states
    device = None if isinstance(facts.plane, Unknown) else facts.plane.device
    own = () if device is None else (device.name,)
    taken = [link for link in (*own, "docker0") if _is_managed(states.get(link, "unmanaged"))]
    if taken:
        names = ";".join(f"interface-name:{link}" for link in taken)
        yield warning(
            f"NetworkManager manages {', '.join(taken)}, and may take addresses and routes away",
            cure="printf '[keyfile]\\nunmanaged-devices+="
            + names
            + "\\n' > /etc/NetworkManager/conf.d/proxygen.conf && "
            "systemctl reload NetworkManager",
        )


def _is_managed(state: str) -> bool:
    # It says "connected (externally)" of what it only looks at.
    return state not in ("unmanaged", "unavailable") and "externally" not in state


@check("frr", "FRR's daemons answer, and frr-reload.py is there")
def frr(facts: Facts) -> Iterator[Fault]:
    backend = facts.config().backend
    if not isinstance(backend, FrrBgp | FrrOspf):
        raise Skipped(f"the backend {backend.type} does without FRR")
    found = known(facts.frr)
    routing = "bgpd" if isinstance(backend, FrrBgp) else "ospfd"
    silent = [daemon for daemon in ("zebra", "staticd", routing) if daemon not in found.daemons]
    if silent:
        yield error(
            f"FRR's {', '.join(silent)} {'do' if len(silent) > 1 else 'does'} not answer",
            cure=f"put {routing}=yes into /etc/frr/daemons, then: systemctl restart frr",
        )
    if not found.has_reload:
        yield error(
            f"there is no {found.reload_path}: FRR's configuration cannot be changed without a restart",
            cure="apt-get install frr-pythontools (dnf install frr-pythontools), or set network.frr_reload",
        )


@check("aws-source-dest", "AWS lets this instance send and receive for its containers")
def aws_source_dest(facts: Facts) -> Iterator[Fault]:
    found = known(facts.aws)
    if found.source_dest_check:
        yield error(
            f"the source/destination check of {found.interface} is on: AWS drops packets of containers' addresses",
            cure="aws ec2 modify-network-interface-attribute --no-source-dest-check "
            f"--network-interface-id {quote(found.interface)}",
        )
