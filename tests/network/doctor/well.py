"""A host that is well, as facts; tests break one of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from proxygen.network.config import parse_config
from proxygen.network.docker import DockerVersion
from proxygen.network.doctor.checks import CHECKS
from proxygen.network.doctor.facts import (
    ArpFacts,
    DockerFacts,
    Facts,
    ForeignRoute,
    FrrFacts,
    KernelFacts,
    LeaseFacts,
    ManagerFacts,
    ModuleFacts,
    NetworkdFacts,
    PlaneFacts,
    ProbeFacts,
    ProbeResult,
)
from proxygen.network.doctor.finding import Finding, Unknown
from proxygen.network.doctor.packets import Ruleset
from proxygen.network.doctor.registry import judge
from proxygen.network.fabric import Fabric, Member, Underlay, see_fabric
from proxygen.network.files import SubnetFile
from proxygen.network.kernel.state import Link
from proxygen.network.records import Attributes, Record, View

CONFIG = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan"}}')
BARE = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}')

ME, YOU = "host-one", "host-two"
MINE, YOURS = IPv4Network("10.99.1.0/24"), IPv4Network("10.99.2.0/24")


def record(host_id: str, subnet: IPv4Network, address: str, mac: str, **changed: object) -> Record:
    attributes = Attributes(
        node=host_id.removeprefix("host-"),
        public_ip=IPv4Address(address),
        backend_type="vxlan",
        backend_data={"VNI": 1, "VtepMAC": mac},
    )
    made = Record(
        subnet=subnet, host_id=host_id, attributes=attributes, generation=1, session=f"session of {host_id}", index=7
    )
    return replace(made, **changed)  # type: ignore[arg-type]


OWN = record(ME, MINE, "192.0.2.1", "02:00:00:00:00:01")
OTHER = record(YOU, YOURS, "192.0.2.2", "02:00:00:00:00:02")


def view(*records: Record, **changed: object) -> View:
    made = View(
        config=CONFIG,
        config_problem="",
        config_index=1,
        config_created=1,
        settled=True,
        records={one.subnet: one for one in records or (OWN, OTHER)},
        pointers={},
        strangers={},
        reservations={},
        problems=(),
    )
    return replace(made, **changed)  # type: ignore[arg-type]


LEASE = LeaseFacts(
    host_id=ME,
    prefix="proxygen/network",
    view=view(),
    live=MINE,
    session="session of host-one",
    silent=3.0,
    ttl=30.0,
    grace=86_400.0,
    take_over=False,
)
UNDERLAY = Underlay(link="eth0", index=2, address=IPv4Interface("192.0.2.1/24"), mtu=1500, mac="52:54:00:00:00:01")
DEVICE = Link(index=5, name="pxvx1", mtu=1450, mac="02:00:00:00:00:01", is_up=True, kind="vxlan", group=225)
LINKS = {
    "eth0": Link(index=2, name="eth0", mtu=1500, mac="52:54:00:00:00:01", is_up=True),
    "docker0": Link(index=3, name="docker0", mtu=1450, mac="02:42:00:00:00:01", is_up=True, kind="bridge"),
    "pxvx1": DEVICE,
}
KERNEL = KernelFacts(
    links=LINKS,
    addresses=(
        ("lo", IPv4Interface("127.0.0.1/8")),
        ("eth0", IPv4Interface("192.0.2.1/24")),
        ("docker0", IPv4Interface("10.99.1.1/24")),
        ("pxvx1", IPv4Interface("10.99.1.0/32")),
    ),
    routes=(
        ForeignRoute(to=IPv4Network("192.0.2.0/24"), link="eth0", protocol=2),
        ForeignRoute(to=MINE, link="docker0", protocol=2),
        ForeignRoute(to=IPv4Network("172.20.0.0/16"), link="eth0", protocol=4),
    ),
    forwards={"all": True, "default": True, "eth0": True, "docker0": True, "pxvx1": True},
    rp_filter={"all": 0, "default": 2, "eth0": 2, "docker0": 0, "pxvx1": 0},
)
PLANE = PlaneFacts(needs="vxlan", device=DEVICE, mtu=1450, problems=(), missing=(), unreached=frozenset(), stale=())


def member(of: Record) -> Member:
    assert of.attributes.public_ip is not None
    return Member(
        host_id=of.host_id,
        node=of.attributes.node,
        subnet=of.subnet,
        public_ip=of.attributes.public_ip,
        backend_type=of.attributes.backend_type,
        backend_data=of.attributes.backend_data or {},
        lives=bool(of.session),
    )


FABRIC: Fabric = see_fabric(view(), CONFIG, member(OWN))
REACHED = ProbeResult(
    member=member(OTHER),
    target=IPv4Address("10.99.2.0"),
    carried=True,
    largest=1450,
    largest_carried=True,
    underlay=True,
    lost=None,
)

WELL = Facts(
    lease=LEASE,
    kernel=KERNEL,
    underlay=UNDERLAY,
    fabric=FABRIC,
    plane=PLANE,
    probes=ProbeFacts(reached=(REACHED,), others=0),
    arp=ArpFacts(address=IPv4Address("192.0.2.1"), link="eth0", macs=()),
    firewall=Ruleset(()),
    docker=DockerFacts(
        version=DockerVersion(28, 3),
        options={"bip": "10.99.1.1/24", "mtu": 1450, "allow-direct-routing": True},
        file="/etc/docker/daemon.json",
    ),
    networkd=NetworkdFacts(foreign_routes=False, foreign_rules=False),
    manager=ManagerFacts(states={"eth0": "connected", "docker0": "connected (externally)", "pxvx1": "unmanaged"}),
    frr=FrrFacts(
        daemons=frozenset({"zebra", "staticd", "bgpd", "ospfd"}), has_reload=True, reload_path="/frr-reload.py"
    ),
    module=ModuleFacts(module="vxlan", present=True),
    aws=Unknown("the backend is not aws-vpc"),
    subnet_file=SubnetFile(network=CONFIG.network, subnet=MINE, mtu=1450, masquerade=False),
)


def findings(facts: Facts) -> tuple[Finding, ...]:
    return judge(facts, CHECKS).findings


def only(facts: Facts) -> Finding:
    """Return the one finding that there is."""
    found = findings(facts)
    assert len(found) == 1, found
    return found[0]
