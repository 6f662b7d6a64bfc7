"""Collects the facts. Whatever fails costs only the facts that depend on it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from contextlib import suppress
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final, TypeVar

from proxygen.kit.errors import CatalogUnavailable, NetworkConfigError, ProxygenError
from proxygen.network.config import FrrBgp, FrrOspf, Vxlan, WireGuard
from proxygen.network.doctor import beside
from proxygen.network.doctor.arp import who_has
from proxygen.network.doctor.aws import read_aws
from proxygen.network.doctor.facts import (
    ArpFacts,
    Facts,
    ForeignRoute,
    FrrFacts,
    KernelFacts,
    LeaseFacts,
    ModuleFacts,
    PlaneFacts,
    ProbeFacts,
    known,
)
from proxygen.network.doctor.finding import Skipped, Unknown
from proxygen.network.doctor.place import ExaminedHost
from proxygen.network.doctor.plane import read_plane
from proxygen.network.doctor.probe import Prober, find_source
from proxygen.network.fabric import Fabric, Member, Underlay, see_fabric
from proxygen.network.files import SubnetFile, read_subnet_env
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.underlay import UnderlayWish
from proxygen.settings import NetworkSettings

T = TypeVar("T")

_SYSCTLS: Final = Path("/proc/sys/net/ipv4/conf")


async def gather(place: ExaminedHost) -> Facts:
    """Collect everything. It takes some seconds where other hosts do not answer."""
    lease, firewall, docker, networkd, manager, subnet_file = await asyncio.gather(
        _told(_read_lease(place)),
        _told(beside.read_firewall()),
        _told(beside.read_docker(place.daemon_json)),
        _told(asyncio.to_thread(beside.read_networkd)),
        _told(beside.read_manager()),
        _told(_read_subnet_file(place.settings.subnet_file)),
    )
    async with Kernel() as door:
        kernel = await _told(_read_kernel(door))
        wish = _wish(place.settings)
        underlay = await _told(door.find_underlay(wish))
        fabric = await _told(_see_fabric(lease, underlay))
        plane = await _told(_read_plane(door, fabric, underlay))
    arp, probes, frr, module, aws = await asyncio.gather(
        _told(_ask_for_address(underlay, kernel)),
        _told(_probe(fabric, underlay, kernel, plane)),
        _told(_read_frr(place, lease)),
        _told(_read_module(lease, plane)),
        _told(read_aws(lease, underlay)),
    )
    return Facts(
        lease=lease,
        kernel=kernel,
        underlay=underlay,
        fabric=fabric,
        plane=plane,
        probes=probes,
        arp=arp,
        firewall=firewall,
        docker=docker,
        networkd=networkd,
        manager=manager,
        frr=frr,
        module=module,
        aws=aws,
        subnet_file=subnet_file,
    )


def _wish(settings: NetworkSettings) -> UnderlayWish:
    address = None if settings.public_ip is None else IPv4Address(settings.public_ip)
    return UnderlayWish(interface=settings.interface, address=address)


async def _told(asked: Awaitable[T | Unknown]) -> T | Unknown:
    """Return the fact, or why there is none."""
    try:
        return await asked
    except Skipped as skipped:
        return Unknown(str(skipped))
    except (ProxygenError, OSError) as error:
        return Unknown(str(error))


async def _read_lease(place: ExaminedHost) -> LeaseFacts | Unknown:
    try:
        view = await place.store.look()
    except CatalogUnavailable as error:
        return Unknown(str(error), short="Consul does not answer")
    past = place.memory.recall(place.host_id)
    return LeaseFacts(
        host_id=place.host_id,
        prefix=place.store.prefix,
        view=view,
        live=past.live,
        session=past.session,
        silent=None if past.confirmed is None else time.monotonic() - past.confirmed,
        ttl=place.terms.ttl,
        grace=place.terms.grace,
        take_over=place.settings.take_over,
    )


async def _read_subnet_file(path: Path) -> SubnetFile | Unknown:
    try:
        return read_subnet_env(await asyncio.to_thread(path.read_text, encoding="utf-8"))
    except FileNotFoundError:
        return Unknown(f"there is no {path}")
    except (ValueError, NetworkConfigError) as error:
        return Unknown(f"{path}: {error}")


# --- the kernel


async def _read_kernel(door: Kernel) -> KernelFacts:
    links = {link.index: link for link in await door.links()}
    return KernelFacts(
        links={link.name: link for link in links.values()},
        addresses=tuple((links[one.link].name, one.interface) for one in await door.addresses() if one.link in links),
        routes=tuple(
            ForeignRoute(to=one.network, link=one.link, protocol=one.protocol) for one in await door.reached()
        ),
        forwards={link: value != 0 for link, value in _sysctl("forwarding").items()},
        rp_filter=_sysctl("rp_filter"),
    )


def _sysctl(name: str) -> Mapping[str, int]:
    """Return a switch of every link, and of ``all``."""
    found: dict[str, int] = {}
    for path in _SYSCTLS.glob(f"*/{name}"):
        # Containers' links come and go all the time.
        with suppress(OSError):
            found[path.parent.name] = int(path.read_text(encoding="ascii"))
    return found


async def _see_fabric(lease: LeaseFacts | Unknown, underlay: Underlay | Unknown) -> Fabric:
    """Return what this host's agent would see, if it has a lease."""
    found, here = known(lease), known(underlay)
    config, own = found.view.config, found.own
    if config is None:
        raise Skipped(found.view.config_problem)
    subnet = found.live or (own.subnet if own is not None else None)
    if subnet is None:
        raise Skipped("this host has no lease")
    member = Member(
        host_id=found.host_id,
        node=own.attributes.node if own is not None else "",
        subnet=subnet,
        public_ip=here.address.ip,
        backend_type=config.backend.type,
        backend_data=(own.attributes.backend_data if own is not None else None) or {},
    )
    return see_fabric(found.view, config, member)


async def _read_plane(door: Kernel, fabric: Fabric | Unknown, underlay: Underlay | Unknown) -> PlaneFacts:
    return await read_plane(door, known(fabric), known(underlay))


# --- probes


async def _ask_for_address(underlay: Underlay | Unknown, kernel: KernelFacts | Unknown) -> ArpFacts:
    here, links = known(underlay), known(kernel).links
    answering = await asyncio.to_thread(who_has, here.address.ip, here.link, here.mac)
    # A host with two links on one Ethernet may answer itself by the other.
    own = {link.mac.lower() for link in links.values()}
    return ArpFacts(address=here.address.ip, link=here.link, macs=tuple(sorted(answering - own)))


async def _probe(
    fabric: Fabric | Unknown,
    underlay: Underlay | Unknown,
    kernel: KernelFacts | Unknown,
    plane: PlaneFacts | Unknown,
) -> ProbeFacts:
    seen, here, largest = known(fabric), known(underlay), known(plane).mtu
    source = find_source(seen, known(kernel))
    if source is None:
        raise Skipped(f"no link of this host has an address of {seen.own.subnet} yet, to which answers could come")
    return await Prober(seen, here, source=source, largest=largest).probe()


# --- what the backend needs


async def _read_frr(place: ExaminedHost, lease: LeaseFacts | Unknown) -> FrrFacts:
    config = known(lease).view.config
    if config is None or not isinstance(config.backend, FrrBgp | FrrOspf):
        raise Skipped("the network does without FRR")
    return await beside.read_frr(place.settings)


async def _read_module(lease: LeaseFacts | Unknown, plane: PlaneFacts | Unknown) -> ModuleFacts:
    config = known(lease).view.config
    if config is None or not isinstance(config.backend, Vxlan | WireGuard):
        raise Skipped("the backend needs no module")
    exists = not isinstance(plane, Unknown) and plane.device is not None
    return await beside.read_module(config.backend.type, exists=exists)
