"""What to change in a VPC's route tables. Pure.

A route in AWS carries no mark that says whose it is, so whose it is follows from where it lies and leads. Only routes
inside Network are looked at; of these a host's own are those of its subnet, and those to its interface.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network
from typing import Any, Final

from proxygen.kit.texts import name_some
from proxygen.network.fabric import Fabric

_NAMED: Final = 5
"""Hosts that a problem names; the others it counts."""
_TARGETS: Final = (
    "NetworkInterfaceId",
    "GatewayId",
    "NatGatewayId",
    "TransitGatewayId",
    "VpcPeeringConnectionId",
    "LocalGatewayId",
    "CarrierGatewayId",
    "CoreNetworkArn",
    "InstanceId",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class VpcRoute:
    """A route that somebody made; those that AWS makes are not for us to see."""

    destination: IPv4Network
    interface: str
    """Empty: it leads to no interface of a host."""
    target: str
    """Where it leads, for people."""
    dead: bool
    """AWS drops what it takes: its instance is stopped or gone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VpcTable:
    """A route table."""

    id: str
    routes: tuple[VpcRoute, ...]


class Ec2Call(Enum):
    """EC2's call."""

    CREATE = "CreateRoute"
    REPLACE = "ReplaceRoute"
    DELETE = "DeleteRoute"


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteStep:
    """One change of a table."""

    verb: Ec2Call
    table: str
    destination: IPv4Network


@dataclass(frozen=True, slots=True, kw_only=True)
class TablePlan:
    """What one host changes in one table, and what it finds there that others must see to, one line each."""

    steps: tuple[RouteStep, ...]
    problems: tuple[str, ...]
    waits: bool
    """Whether a change waits for Consul to confirm the lease."""


def read_table(written: Mapping[str, Any]) -> VpcTable:
    """Read a table as DescribeRouteTables gives it."""
    routes = []
    for route in written.get("Routes", ()):
        # Routes of IPv6 and of prefix lists have no such key. Those that were not created by anybody are the VPC's own
        # or come from a VPN's gateway: one that is created beside them wins.
        if "DestinationCidrBlock" in route and route.get("Origin") == "CreateRoute":
            routes.append(
                VpcRoute(
                    destination=IPv4Network(route["DestinationCidrBlock"]),
                    interface=route.get("NetworkInterfaceId", ""),
                    target=next((route[key] for key in _TARGETS if route.get(key)), "nowhere"),
                    dead=route.get("State") == "blackhole",
                )
            )
    return VpcTable(id=written["RouteTableId"], routes=tuple(routes))


def plan_table(table: VpcTable, fabric: Fabric, interface: str, *, holds: bool) -> TablePlan:
    """Bring a host's own routes in a table to its lease, and tidy up if that falls to this host.

    ``holds`` tells whether Consul confirms the lease now. A host that was away for too long may find the route of
    whoever has the subnet since, and must leave it to them.
    """
    steps, problems = _plan_own(table, fabric.own.subnet, interface)
    waits = not holds and any(step.verb is Ec2Call.REPLACE for step in steps)
    if waits:
        problems = [
            f"{table.id}: the route to {fabric.own.subnet} leads to another host; Consul must confirm the lease"
        ]
        steps = []
    steps += _plan_stale(table, fabric.config.network, interface, keep=fabric.own.subnet)
    # What a host that Consul does not answer knows of others' leases may be old.
    if holds and _is_tidier(fabric):
        dead, strays = _plan_unleased(table, fabric, interface)
        steps += dead
        problems += strays
    return TablePlan(steps=tuple(steps), problems=(*problems, *_missing(table, fabric)), waits=waits)


def plan_leaving(table: VpcTable, network: IPv4Network, interface: str) -> tuple[RouteStep, ...]:
    """Remove every route of the host from a table."""
    return tuple(_plan_stale(table, network, interface, keep=None))


def _plan_own(table: VpcTable, subnet: IPv4Network, interface: str) -> tuple[list[RouteStep], list[str]]:
    found = next((route for route in table.routes if route.destination == subnet), None)
    if found is None:
        return [RouteStep(verb=Ec2Call.CREATE, table=table.id, destination=subnet)], []
    if found.interface == interface:
        return [], []
    if found.interface or found.dead:
        # Who had the lease before. Replaced in one call: between a delete and a create packets would be lost.
        return [RouteStep(verb=Ec2Call.REPLACE, table=table.id, destination=subnet)], []
    return [], [f"{table.id}: the route to this host's {subnet} leads to {found.target}, which is no host; remove it"]


def _plan_stale(table: VpcTable, network: IPv4Network, interface: str, *, keep: IPv4Network | None) -> list[RouteStep]:
    return [
        RouteStep(verb=Ec2Call.DELETE, table=table.id, destination=route.destination)
        for route in table.routes
        if route.interface == interface and route.destination != keep and _lies_in(route, network)
    ]


def _is_tidier(fabric: Fabric) -> bool:
    """One host of those that live, the same by everybody's reckoning. That two are for a moment does no harm."""
    return all(fabric.own.host_id < other.host_id for other in fabric.others if other.lives)


def _plan_unleased(table: VpcTable, fabric: Fabric, interface: str) -> tuple[list[RouteStep], list[str]]:
    """Remove dead routes of hosts that left for good: they count against the table's quota, and carry nothing."""
    leased = [fabric.own.subnet, *(member.subnet for member in fabric.others)]
    steps, problems = [], []
    for route in table.routes:
        destination = route.destination
        if not _lies_in(route, fabric.config.network) or route.interface in ("", interface):
            continue
        if any(destination.overlaps(subnet) for subnet in leased):
            continue
        if route.dead:
            steps.append(RouteStep(verb=Ec2Call.DELETE, table=table.id, destination=destination))
        else:
            problems.append(
                f"{table.id}: {destination} leads to {route.target}, and nobody has leased it; "
                "remove the route if that host has left"
            )
    return steps, problems


def _missing(table: VpcTable, fabric: Fabric) -> list[str]:
    present = {route.destination for route in table.routes if not route.dead}
    names = [member.node or str(member.subnet) for member in fabric.others if member.subnet not in present]
    if not names:
        return []
    return [f"{table.id}: no route that works to {name_some(names, _NAMED)}; each host's own agent makes its route"]


def _lies_in(route: VpcRoute, network: IPv4Network) -> bool:
    # A route to all of Network is nobody's lease: somebody made it by hand.
    return route.destination != network and route.destination.subnet_of(network)
