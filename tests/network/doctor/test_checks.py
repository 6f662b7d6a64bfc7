"""Each thing that can be wrong makes one finding, of its own check and with a cure; a host that is well makes none."""

from __future__ import annotations

import shlex
from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from proxygen.network.docker import DockerVersion
from proxygen.network.doctor.checks import CHECKS
from proxygen.network.doctor.facts import AwsFacts, Direction, Facts, ForeignRoute, NetworkdFacts, ProbeFacts
from proxygen.network.doctor.finding import CheckOutcome, Severity, Unknown
from proxygen.network.doctor.iptables import read_iptables
from proxygen.network.doctor.packets import Ruleset
from proxygen.network.doctor.registry import judge
from tests.network.doctor import well
from tests.network.doctor.well import BARE, KERNEL, LEASE, MINE, OTHER, OWN, PLANE, REACHED, WELL, findings, only, view

ERROR, WARNING = Severity.ERROR, Severity.WARNING


def seen(*records: object, **changed: object) -> Facts:
    """The facts with other keys in Consul."""
    return replace(WELL, lease=replace(LEASE, view=view(*records, **changed)))  # type: ignore[arg-type]


def kernel(**changed: object) -> Facts:
    return replace(WELL, kernel=replace(KERNEL, **changed))  # type: ignore[arg-type]


def plane(**changed: object) -> Facts:
    return replace(WELL, plane=replace(PLANE, **changed))  # type: ignore[arg-type]


def probed(**changed: object) -> Facts:
    return replace(WELL, probes=ProbeFacts(reached=(replace(REACHED, **changed),), others=0))  # type: ignore[arg-type]


def docker(version: DockerVersion | None, **options: object) -> Facts:
    assert not isinstance(WELL.docker, Unknown)
    renamed = {name.replace("_", "-"): value for name, value in options.items()}
    return replace(WELL, docker=replace(WELL.docker, version=version, options=renamed))


def firewalled(*rules: str, policy: str = "ACCEPT", table: str = "filter", chain: str = "FORWARD") -> Facts:
    """A host with these rules of iptables."""
    text = "\n".join([f"*{table}", f":{chain} {policy} [0:0]", ":DOCKER-USER - [0:0]", *rules, "COMMIT"])
    return replace(WELL, firewall=Ruleset(read_iptables(text)))


def test_a_host_that_is_well_has_no_findings() -> None:
    report = judge(WELL, CHECKS)
    assert report.findings == ()
    assert report.healthy


def link(name: str, **changed: object) -> dict[str, object]:
    return {**well.LINKS, name: replace(well.LINKS[name], **changed)}  # type: ignore[arg-type]


CASES: list[tuple[str, Facts, str, Severity, str]] = [
    # what is wrong, the facts, the check, how bad, and words of the text
    ("Consul is away", replace(WELL, lease=Unknown("no connection")), "consul", ERROR, "no connection"),
    ("no config", seen(config=None, config_problem="there is no config"), "config", ERROR, "there is no config"),
    (
        "a strange key",
        seen(problems=("subnets/x: no subnet",)),
        "config",
        WARNING,
        "proxygen/network/subnets/x: no subnet",
    ),
    ("no underlay", replace(WELL, underlay=Unknown("this host has no interface eth7")), "underlay", ERROR, "eth7"),
    ("the lease is gone", seen(OTHER), "lease", ERROR, "gone from Consul"),
    ("a conflict", seen(replace(OTHER, subnet=MINE)), "lease", ERROR, "conflict"),
    ("no agent", seen(replace(OWN, session=""), OTHER), "lease", WARNING, "no agent"),
    ("a double with this host's id", replace(WELL, lease=replace(LEASE, session="mine")), "lease", ERROR, "host's id"),
    ("unconfirmed", replace(WELL, lease=replace(LEASE, silent=40.0)), "lease", WARNING, "for 40 s"),
    ("expired", replace(WELL, lease=replace(LEASE, silent=90_000.0)), "lease", ERROR, "another host"),
    (
        "one VtepMAC twice",
        seen(OWN, replace(OTHER, attributes=replace(OTHER.attributes, backend_data=OWN.attributes.backend_data))),
        "identity",
        ERROR,
        "VtepMAC 02:00:00:00:00:01",
    ),
    (
        "one PublicIP twice",
        seen(OWN, OTHER, well.record("host-three", IPv4Network("10.99.3.0/24"), "192.0.2.2", "02:00:00:00:00:03")),
        "identity",
        ERROR,
        "PublicIP 192.0.2.2",
    ),
    (
        "two leases of one host",
        seen(OWN, OTHER, well.record("host-two", IPv4Network("10.99.3.0/24"), "192.0.2.3", "02:00:00:00:00:03")),
        "identity",
        ERROR,
        "host id host-two",
    ),
    (
        "a lease that says where the host was once",
        seen(replace(OWN, attributes=replace(OWN.attributes, public_ip=IPv4Address("192.0.2.9"))), OTHER),
        "identity",
        ERROR,
        "192.0.2.9",
    ),
    (
        "another backend",
        seen(OWN, replace(OTHER, attributes=replace(OTHER.attributes, backend_type="host-gw"))),
        "members",
        ERROR,
        "host-gw",
    ),
    (
        "no PublicIP",
        seen(OWN, replace(OTHER, attributes=replace(OTHER.attributes, public_ip=None))),
        "members",
        ERROR,
        "no PublicIP",
    ),
    (
        "a PublicIP among the containers",
        seen(OWN, replace(OTHER, attributes=replace(OTHER.attributes, public_ip=IPv4Address("10.99.7.7")))),
        "members",
        ERROR,
        "containers' own network",
    ),
    (
        "a lease outside",
        seen(OWN, replace(OTHER, subnet=IPv4Network("10.98.2.0/24"))),
        "members",
        WARNING,
        "outside of Network",
    ),
    (
        "leases that overlap",
        seen(OWN, OTHER, well.record("host-three", IPv4Network("10.99.2.128/25"), "192.0.2.3", "02:00:00:00:00:03")),
        "members",
        ERROR,
        "overlaps",
    ),
    (
        "an address in Network",
        kernel(addresses=(*KERNEL.addresses, ("eth1", IPv4Interface("10.99.5.7/24")))),
        "overlap",
        ERROR,
        "eth1 has 10.99.5.7/24",
    ),
    (
        "a wide route over Network",
        kernel(routes=(*KERNEL.routes, ForeignRoute(to=IPv4Network("10.0.0.0/8"), link="eth0", protocol=4))),
        "overlap",
        ERROR,
        "10.0.0.0/8 dev eth0",
    ),
    (
        "a foreign route in Network",
        kernel(routes=(*KERNEL.routes, ForeignRoute(to=IPv4Network("10.99.2.0/25"), link="eth0", protocol=4))),
        "one-owner",
        ERROR,
        "proto static",
    ),
    ("no module", replace(WELL, module=replace(WELL.module, present=False)), "module", ERROR, "no vxlan"),  # type: ignore[type-var]
    ("no device", plane(device=None), "device", ERROR, "no device"),
    ("the device is down", plane(device=replace(well.DEVICE, is_up=False)), "device", ERROR, "pxvx1 is down"),
    (
        "another MAC",
        plane(device=replace(well.DEVICE, mac="02:00:00:00:00:77")),
        "device",
        ERROR,
        "02:00:00:00:00:77",
    ),
    ("the device's MTU is too large", plane(device=replace(well.DEVICE, mtu=1500)), "mtu", ERROR, "1500"),
    ("the device's MTU is too small", plane(device=replace(well.DEVICE, mtu=1300)), "mtu", ERROR, "1300"),
    ("the bridge's MTU is too large", kernel(links=link("docker0", mtu=1500)), "mtu", WARNING, "docker0"),
    (
        "subnet.env has another MTU",
        replace(WELL, subnet_file=replace(WELL.subnet_file, mtu=1500)),  # type: ignore[type-var]
        "mtu",
        WARNING,
        "FLANNEL_MTU=1500",
    ),
    ("no forwarding", kernel(forwards={**KERNEL.forwards, "all": False}), "forwarding", ERROR, "ip_forward is 0"),
    (
        "no forwarding by one link",
        kernel(forwards={**KERNEL.forwards, "docker0": False}),
        "forwarding",
        ERROR,
        "docker0.forwarding is 0",
    ),
    ("strict rp_filter", kernel(rp_filter={"all": 1}), "rp-filter", WARNING, "eth0, pxvx1, docker0"),
    ("a route is missing", plane(missing=("route 10.99.2.0/24",)), "data-plane", ERROR, "route 10.99.2.0/24"),
    ("a hostile lease", plane(problems=("10.99.2.0/24: no MAC",)), "data-plane", ERROR, "no MAC"),
    ("a stale route", plane(stale=("route 10.99.9.0/24",)), "stale", WARNING, "route 10.99.9.0/24"),
    (
        "a double on the link",
        replace(WELL, arp=replace(WELL.arp, macs=("52:54:00:00:00:99",))),  # type: ignore[type-var]
        "duplicate-address",
        ERROR,
        "52:54:00:00:00:99",
    ),
    ("FORWARD drops", firewalled(policy="DROP"), "firewall", ERROR, "policy of iptables filter FORWARD is drop"),
    (
        "FORWARD drops, unless",
        firewalled("-A FORWARD -m mark --mark 0x1 -j ACCEPT", policy="DROP"),
        "firewall",
        WARNING,
        "unless this lets them pass: -m mark",
    ),
    (
        "Docker 28 drops what is for a container",
        firewalled("-A PREROUTING -d 10.99.1.7/32 ! -i docker0 -j DROP", table="raw", chain="PREROUTING"),
        "firewall",
        ERROR,
        "to 10.99.1.7 are dropped",
    ),
    (
        "VXLAN's port is shut",
        firewalled("-A INPUT -p udp -m udp --dport 8472 -j DROP", chain="INPUT"),
        "backend-port",
        ERROR,
        "UDP 8472 from 192.0.2.2",
    ),
    (
        "nobody gets out by VXLAN",
        firewalled("-A OUTPUT -p udp -m udp --dport 8472 -j REJECT", chain="OUTPUT"),
        "backend-port",
        ERROR,
        "UDP 8472 to 192.0.2.2",
    ),
    (
        "lost on the way out",
        probed(carried=False, lost=Direction.OUT),
        "reach",
        ERROR,
        "from here to 192.0.2.2 is lost",
    ),
    (
        "lost on the way back",
        probed(carried=False, lost=Direction.BACK),
        "reach",
        ERROR,
        "from 192.0.2.2 to here is lost",
    ),
    ("lost somewhere", probed(carried=False, lost=Direction.UNTOLD), "reach", ERROR, "UDP 8472 does not come through"),
    ("the host is down", probed(carried=False, underlay=False), "reach", ERROR, "192.0.2.2 does not answer either"),
    (
        "a host is down whose agent is away",
        probed(carried=False, underlay=False, member=replace(REACHED.member, lives=False)),
        "reach",
        WARNING,
        "192.0.2.2 does not answer either",
    ),
    ("large packets are lost", probed(largest_carried=False), "reach", ERROR, "1450 bytes"),
    ("another bip", docker(None, bip="172.17.0.1/16"), "docker", ERROR, '"bip": "172.17.0.1/16"'),
    ("a bip that is none", docker(None, bip=5), "docker", ERROR, '"bip": "5"'),
    ("Docker's MTU is too large", docker(None, mtu=1500), "docker", WARNING, '"mtu": 1500'),
    ("Docker without a remedy", docker(DockerVersion(28, 1)), "docker", WARNING, "no option against it"),
    ("Docker that was not told", docker(DockerVersion(29, 0)), "docker", WARNING, "unless it is told otherwise"),
    (
        "docker0 has other addresses",
        kernel(addresses=(*KERNEL.addresses[:2], ("docker0", IPv4Interface("172.17.0.1/16")), KERNEL.addresses[3])),
        "docker",
        ERROR,
        "docker0 has 172.17.0.1/16",
    ),
    (
        "networkd removes routes",
        replace(WELL, networkd=NetworkdFacts(foreign_routes=True, foreign_rules=False)),
        "networkd",
        WARNING,
        "ManageForeignRoutes: on",
    ),
    (
        "NetworkManager manages the device",
        replace(WELL, manager=replace(WELL.manager, states={"pxvx1": "connected"})),  # type: ignore[type-var]
        "network-manager",
        WARNING,
        "pxvx1",
    ),
    (
        "AWS checks",
        replace(WELL, aws=AwsFacts(interface="eni-1", source_dest_check=True)),
        "aws-source-dest",
        ERROR,
        "eni-1",
    ),
]


@pytest.mark.parametrize(
    ("facts", "check", "severity", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_what_is_wrong_is_found_once_and_can_be_cured(facts: Facts, check: str, severity: Severity, words: str) -> None:
    found = only(facts)
    assert (found.check, found.severity) == (check, severity)
    assert words in found.text
    assert found.cure
    assert "\n" not in found.text + found.cure


def test_every_check_can_find_something() -> None:
    assert {case[2] for case in CASES} | {"frr"} == {check.name for check in CHECKS}


def frr(**changed: object) -> Facts:
    network = well.parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "frr-bgp"}}')
    attributes = replace(OWN.attributes, backend_type="frr-bgp", backend_data=None)
    own = replace(OWN, attributes=attributes)
    facts = seen(own, config=network)
    return replace(
        facts,
        plane=replace(PLANE, needs="", device=None),
        frr=replace(WELL.frr, **changed),  # type: ignore[type-var]
    )


def test_frr_needs_its_daemons_and_its_reload() -> None:
    assert findings(frr()) == ()
    silent = only(frr(daemons=frozenset({"zebra", "staticd", "ospfd"})))
    assert (silent.check, "bgpd=yes" in silent.cure) == ("frr", True)
    assert "frr-pythontools" in only(frr(has_reload=False)).cure


def test_with_frr_its_routes_are_the_owners_and_others_are_not() -> None:
    facts = frr()
    theirs = ForeignRoute(to=IPv4Network("10.99.2.0/24"), link="eth0", protocol=186)
    assert findings(replace(facts, kernel=replace(KERNEL, routes=(theirs,)))) == ()
    by_hand = only(replace(facts, kernel=replace(KERNEL, routes=(replace(theirs, protocol=4),))))
    assert by_hand.check == "one-owner"


def test_a_program_that_is_taken_over_from_may_have_its_routes_a_while() -> None:
    flannel = ForeignRoute(to=IPv4Network("10.99.2.0/24"), link="flannel.1", protocol=3)
    facts = kernel(routes=(*KERNEL.routes, flannel))
    assert only(facts).severity is ERROR
    assert only(replace(facts, lease=replace(LEASE, take_over=True))).severity is WARNING


def test_where_routes_are_not_the_hosts_their_absence_proves_nothing() -> None:
    on_aws = replace(OWN, attributes=replace(OWN.attributes, backend_type="aws-vpc", backend_data=None))
    network = well.parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "aws-vpc"}}')
    facts = replace(seen(on_aws, config=network), plane=replace(PLANE, needs="", device=None))
    report = judge(facts, CHECKS)
    assert report.findings == ()
    assert {one.check: one.outcome for one in report.examined}["data-plane"] is CheckOutcome.SKIPPED


def test_a_route_that_frr_did_not_make_sends_people_to_frr() -> None:
    facts = frr()
    assert not isinstance(facts.plane, Unknown)
    missing = replace(facts.plane, missing=("route 10.99.2.0/24 of FRR",), unreached=frozenset({OTHER.subnet}))
    assert "show bgp summary" in only(replace(facts, plane=missing)).cure


def test_strangers_among_leases_are_no_members() -> None:
    """A lease that cannot be read is found as a key, and everything else goes on."""
    facts = seen(
        OWN, OTHER, strangers={IPv4Network("10.99.7.0/24"): "no HostID"}, problems=("subnets/10.99.7.0-24: no HostID",)
    )
    assert only(facts).check == "config"


def test_a_rule_that_lets_the_network_pass_is_enough() -> None:
    assert (
        findings(
            firewalled("-A FORWARD -s 10.99.0.0/16 -j ACCEPT", "-A FORWARD -d 10.99.0.0/16 -j ACCEPT", policy="DROP")
        )
        == ()
    )


def test_a_rule_for_one_direction_is_not() -> None:
    facts = firewalled("-A FORWARD -s 10.99.2.0/24 -j ACCEPT", policy="DROP")
    assert "from 10.99.1.2 to 10.99.2.2" in only(facts).text


def test_the_same_rule_is_named_once_however_many_members_it_hits() -> None:
    third = well.record("host-three", IPv4Network("10.99.3.0/24"), "192.0.2.3", "02:00:00:00:00:03")
    facts = firewalled(policy="DROP")
    fabric = replace(well.FABRIC, others=(*well.FABRIC.others, well.member(third)))
    assert only(replace(facts, fabric=fabric)).check == "firewall"


@pytest.mark.parametrize("part", [field.name for field in fields(Facts) if field.name not in ("lease", "underlay")])
def test_what_cannot_be_had_is_skipped_with_the_reason_and_never_found(part: str) -> None:
    """Without Consul or an underlay there is no network: those two are found."""
    report = judge(replace(WELL, **{part: Unknown(f"no {part} here")}), CHECKS)  # type: ignore[arg-type]
    assert report.findings == ()
    reasons = [one.reason for one in report.examined if one.outcome is CheckOutcome.SKIPPED]
    # What nothing but FRR needs, and what only makes another check's finding better, are not asked for here.
    assert part in ("subnet_file", "frr") or f"no {part} here" in reasons


def test_without_consul_what_needs_no_lease_is_still_looked_at() -> None:
    broken = replace(WELL, lease=Unknown("no connection"), kernel=replace(KERNEL, forwards={"all": False}))
    assert {finding.check for finding in findings(broken)} == {"consul", "forwarding"}


def test_a_host_without_a_subnet_is_told_how_to_get_one() -> None:
    bare = kernel(addresses=KERNEL.addresses[:2])
    facts = replace(bare, lease=replace(LEASE, view=view(OTHER), live=None), fabric=Unknown("this host has no lease"))
    assert (only(facts).check, only(facts).cure) == ("lease", "proxygen network up")


def test_plain_routes_need_neither_device_nor_port() -> None:
    own = replace(OWN, attributes=replace(OWN.attributes, backend_type="host-gw"))
    other = replace(OTHER, attributes=replace(OTHER.attributes, backend_type="host-gw"))
    facts = replace(seen(own, other, config=BARE), plane=replace(PLANE, needs="", device=None))
    report = judge(facts, CHECKS)
    assert report.findings == ()
    skipped = {one.check for one in report.examined if one.outcome is CheckOutcome.SKIPPED}
    assert {"device", "module", "backend-port"} <= skipped


def test_a_member_that_nothing_leads_to_is_not_said_to_be_behind_a_firewall() -> None:
    """The fault is here, and is found as such; what a probe then says would lead people astray."""
    facts = replace(
        probed(carried=False, lost=Direction.OUT),
        plane=replace(PLANE, missing=("route 10.99.2.0/24",), unreached=frozenset({OTHER.subnet})),
    )
    assert only(facts).check == "data-plane"


def test_a_lease_that_covers_many_is_told_with_each_of_them() -> None:
    wide = well.record("host-wide", IPv4Network("10.99.0.0/22"), "192.0.2.3", "02:00:00:00:00:03")
    # This host's own conflict is the lease's matter.
    found = [one.text for one in findings(seen(wide, OWN, OTHER)) if one.check == "members"]
    assert [text.partition(" of ")[0] for text in found] == ["10.99.1.0/24", "10.99.2.0/24"]


EVIL = "x'; touch /tmp/pwned; '\x1b[2J\n"


def test_what_somebody_wrote_to_consul_is_one_harmless_line_and_never_a_command() -> None:
    """Cures are pasted into a shell of root."""
    told = {"VNI": 1, "VtepMAC": EVIL}
    own = replace(OWN, attributes=replace(OWN.attributes, backend_data=told))
    other = replace(OTHER, attributes=replace(OTHER.attributes, node=EVIL * 1000, backend_type=EVIL))
    found = findings(seen(own, other, problems=(f"subnets/{EVIL}: {EVIL}",)))
    assert {one.check for one in found} == {"config", "members", "device"}
    for one in found:
        assert (one.text + one.cure).isprintable()
        assert len(one.text) < 1000
    for one in found:
        if one.check in ("config", "device"):
            words = shlex.split(one.cure.partition("; keep")[0].rpartition("or: ")[2])
            assert not {"touch", "/tmp/pwned;"} & set(words)


@pytest.mark.parametrize("subnet", ["10.99.200.0/31", "10.99.201.0/32", "10.0.0.0/8", "0.0.0.0/0"])
def test_leases_of_odd_sizes_are_looked_at_like_any_other(subnet: str) -> None:
    odd = well.record("host-odd", IPv4Network(subnet), "192.0.2.77", "02:00:00:00:00:77")
    facts = seen(OWN, OTHER, odd)
    fabric = replace(well.FABRIC, others=(well.member(odd), *well.FABRIC.others))
    reached = replace(REACHED, member=well.member(odd))
    facts = replace(facts, fabric=fabric, probes=ProbeFacts(reached=(reached,), others=0), firewall=DROPPING)
    assert "firewall" in {one.check for one in findings(facts)}


DROPPING = Ruleset(read_iptables("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n"))


def test_a_link_of_a_vlan_keeps_its_dot() -> None:
    underlay = replace(well.UNDERLAY, link="eth0.7")
    vlan = {**well.LINKS, "eth0.7": replace(well.LINKS["eth0"], name="eth0.7")}
    facts = replace(kernel(links=vlan, forwards={"all": True, "eth0.7": False}), underlay=underlay)
    assert only(facts).cure == "sysctl -w net/ipv4/conf/eth0.7/forwarding=1"


def test_hosts_that_were_not_asked_are_counted() -> None:
    report = judge(replace(WELL, probes=ProbeFacts(reached=(REACHED,), others=800)), CHECKS)
    assert "800 more were not asked" in {one.check: one for one in report.examined}["reach"].reason


def test_every_name_is_told_apart() -> None:
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)


def test_a_finding_is_an_error_or_leaves_the_host_healthy() -> None:
    assert judge(kernel(rp_filter={"all": 1}), CHECKS).healthy
    assert not judge(kernel(forwards={"all": False}), CHECKS).healthy
