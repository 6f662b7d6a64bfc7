"""Plain routes: each host is the gateway to its own subnet. All hosts are on one network, with no router between."""

from __future__ import annotations

from proxygen.network.backends.on_kernel import KernelBackend
from proxygen.network.config import HostGw
from proxygen.network.fabric import Fabric, Member, Underlay, check_host, is_near, told
from proxygen.network.kernel.state import Entry, Route
from proxygen.network.records import Attributes


class HostGwBackend(KernelBackend):
    """A route to each member through the underlay, and nothing else: no overhead, no link of its own."""

    @property
    def mtu(self) -> int:
        """The underlay's: nothing is wrapped."""
        return self._underlay.mtu

    async def prepare(self) -> Attributes:
        return await self._publish(HostGw.type, None)

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        """One route for each member, by its address as gateway: they share a link."""
        wanted, problems = plan_routes(fabric, self._underlay)
        return (*problems, *await self._reconcile(wanted))


def plan_routes(fabric: Fabric, underlay: Underlay) -> tuple[dict[Entry, Member], list[str]]:
    """Return the routes, and a problem for each member that cannot be a gateway."""
    wanted: dict[Entry, Member] = {}
    problems = []
    for member in fabric.others:
        why = check_host(member, underlay)
        if not why and not is_near(member.public_ip, underlay):
            why = (
                f"its PublicIP {member.public_ip} is not on {underlay.link}'s network {underlay.address.network}; "
                "host-gw needs all hosts on one network, vxlan does not"
            )
        if why:
            problems.append(told(member, why))
        else:
            wanted[route_to(member, underlay)] = member
    return wanted, problems


def route_to(member: Member, underlay: Underlay) -> Route:
    """Return the route to a member's subnet with the member itself as the gateway."""
    return Route(destination=member.subnet, link=underlay.index, gateway=member.public_ip)
