"""Which addresses an instance may have, in whichever form they are written."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import ServiceName
from proxygen.kit.errors import TagError
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.endpoints import embedded, endpoint_of, is_own
from proxygen.proxy.plan.types import Endpoint, Memory, Plan, Policy, PortClaim, Quarantine, ServiceState
from proxygen.settings import ProxySettings
from tests.proxy.plan.catalogs import catalog, instance, plan, service

POLICY = Policy(
    denied=tuple(map(ip_network, ProxySettings().denied_addresses)),
    denied_endpoints=frozenset({Endpoint("10.0.0.5", 8500)}),
    own_addresses=frozenset(map(ip_address, ("192.0.2.7", "2001:db8::7"))),
    own_networks=(ip_network("198.51.100.0/24"),),
    own_ports=frozenset({80, 8500}),
)

_IPV4 = st.integers(1 << 24, (1 << 32) - 1).map(IPv4Address)


def inside(address: IPv4Address) -> dict[str, IPv6Address]:
    """Every way in which an IPv6 address holds an IPv4 one."""
    number, octets = int(address), address.packed
    nat64 = int(IPv6Address("64:ff9b:1::"))
    high, low = number >> 16, number & 0xFFFF
    return {
        "mapped": IPv6Address((0xFFFF << 32) + number),
        "compatible": IPv6Address(number),
        "translated": IPv6Address((0xFFFF << 48) + number),
        "nat64": IPv6Address(int(IPv6Address("64:ff9b::")) + number),
        "6to4": IPv6Address((0x2002 << 112) + (number << 80) + 1),
        "teredo": IPv6Address((0x2001_0000 << 96) + (0xC633_6401 << 64) + (number ^ 0xFFFF_FFFF)),
        "teredo-server": IPv6Address((0x2001_0000 << 96) + (number << 64) + 0xF5FF_FFFE),
        "isatap": IPv6Address((0x2001_0DB8 << 96) + (0x5EFE << 32) + number),
        "nat64/48": IPv6Address(nat64 + (high << 64) + (low << 40)),
        "nat64/56": IPv6Address(nat64 + (octets[0] << 64) + ((number & 0xFF_FFFF) << 32)),
        "nat64/64": IPv6Address(nat64 + (number << 24)),
        "nat64/96": IPv6Address(nat64 + number),
    }


@given(_IPV4, st.sampled_from(sorted(inside(IPv4Address("10.0.0.1")))))
def test_an_ipv4_address_is_found_in_every_form(address: IPv4Address, form: str) -> None:
    written = inside(address)[form]
    assert address in (written.ipv4_mapped, *embedded(written))


def refused(address: object, port: int = 9_000, policy: Policy = POLICY) -> bool:
    try:
        endpoint_of(str(address), port, policy)
    except TagError:
        return True
    return False


METADATA = ("169.254.169.254", "169.254.170.2", "168.63.129.16", "100.100.100.200", "192.0.0.192")


@pytest.mark.incident("T51")
@pytest.mark.parametrize("address", METADATA)
def test_metadata_services_are_refused_in_every_form(address: str) -> None:
    assert refused(address)
    for form, written in inside(IPv4Address(address)).items():
        assert refused(written), form


@pytest.mark.incident("T51")
@pytest.mark.parametrize(
    "address",
    ["fd00:ec2::254", "fd00:ec2::23", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "fd00:42::42", "fe80::a9fe:a9fe"],
)
def test_metadata_services_of_ipv6_are_refused(address: str) -> None:
    assert refused(address)


@pytest.mark.incident("T51")
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "127.9.9.9", "192.0.2.7", "198.51.100.200", "10.0.0.5"])
def test_a_port_of_ours_is_refused_at_every_address_of_this_host_in_every_form(address: str) -> None:
    """Consul elsewhere has one address, and is refused there by its port."""
    for written in (address, *inside(IPv4Address(address)).values()):
        assert refused(written, 8_500), written
        assert not refused(written, 8_501), written


@pytest.mark.parametrize("address", ["::1", "2001:db8::7", "0.0.0.0", "::"])
def test_so_it_is_at_those_of_ipv6_and_at_none_in_particular(address: str) -> None:
    anything = Policy(own_addresses=POLICY.own_addresses, own_ports=POLICY.own_ports)
    assert refused(address, 80, anything)
    assert not refused(address, 81, anything)


@given(_IPV4, st.integers(1, 65_535))
def test_an_address_that_is_nobodys_in_particular_may_be_an_instance(address: IPv4Address, port: int) -> None:
    is_denied = any(address in network for network in POLICY.denied if network.version == 4)
    is_ours = is_own(address, POLICY) and port in POLICY.own_ports
    is_consul = (str(address), port) == ("10.0.0.5", 8500)
    assert refused(address, port) is (is_denied or is_ours or is_consul)


def test_an_instance_behind_a_translator_is_served_there() -> None:
    assert str(endpoint_of("64:ff9b::10.1.2.3", 80, POLICY)) == "[64:ff9b::a01:203]:80"
    assert str(endpoint_of("::ffff:10.1.2.3", 80, POLICY)) == "10.1.2.3:80"


# --- streams


def both(*, listen: int = 5_432, address: str = "192.0.2.7", held: bool = False, policy: Policy = POLICY) -> Plan:
    """A stream, and an application on this host."""
    memory = Memory(holders={PortClaim("tcp", 5_432): ServiceName("db")}) if held else Memory()
    stream = instance("db", 1, "protocol=tcp", f"listen={listen}", create_index=1)
    return plan(stream, instance("app", 2, "route=a.test", address=address, port=5_432), policy=policy, memory=memory)


@pytest.mark.incident("T51")
def test_an_instance_at_a_port_on_which_a_stream_listens_is_refused() -> None:
    """It would send the stream to itself. At another address it is an application like any other."""
    planned = both(held=True)
    assert service(planned, "app").quarantine is not None
    assert [stream.service.name for stream in planned.streams] == ["db"]
    assert both(held=True, address="192.0.2.8").quarantined == ()
    assert both(held=True, listen=5_433).quarantined == ()


@pytest.mark.incident("T51")
def test_a_new_port_is_refused_where_an_instance_is_served_on_this_host() -> None:
    """Nobody takes an application out by claiming its port."""
    planned = both()
    assert service(planned, "app").state is ServiceState.SERVED
    assert planned.streams == ()
    assert [(one.loser, one.holder) for one in planned.conflicts] == [("db", None)]
    assert "an instance of service app" in planned.conflicts[0].reason


def test_an_instance_that_is_left_out_keeps_its_port_until_it_is_usable_again() -> None:
    """Whatever its tags say by now, it is there."""
    bad = instance("app", 3, "route=a.test", "canary=lots", address="192.0.2.7", port=5_432)
    planned = plan(
        instance("db", 1, "protocol=tcp", "listen=5432"), instance("app", 2, "route=a.test"), bad, policy=POLICY
    )
    assert planned.streams == ()
    assert "an instance of service app" in planned.conflicts[0].reason


def test_streams_at_one_address_leave_the_others_to_applications() -> None:
    at_one = Policy(own_addresses=POLICY.own_addresses, stream_address=ip_address("192.0.2.7"))
    assert service(both(held=True, policy=at_one), "app").quarantine is not None
    assert both(held=True, address="127.0.0.1", policy=at_one).quarantined == ()
    assert both(address="127.0.0.1", policy=at_one).conflicts == ()


@pytest.mark.parametrize(("one", "other"), [("udp", "tcp"), ("tcp", "udp")])
def test_udp_and_tcp_may_have_one_port_on_this_host(one: str, other: str) -> None:
    """In the first plan, and in those that know of the port."""
    dns = instance("dns", 1, f"protocol={one}", "listen=5300", address="192.0.2.7", port=5_353)
    memory = Memory()
    for _ in range(3):
        planned = plan(dns, instance("db", 2, f"protocol={other}", "listen=5353"), policy=POLICY, memory=memory)
        memory = planned.memory
        assert planned.conflicts == ()
        assert planned.quarantined == ()


def test_nobody_takes_an_application_out_by_claiming_its_port_for_udp() -> None:
    app = instance("app", 1, "route=a.test", address="192.0.2.7", port=9_000)
    memory = Memory()
    for _ in range(3):
        planned = plan(app, instance("evil", 2, "protocol=udp", "listen=9000"), policy=POLICY, memory=memory)
        memory = planned.memory
        assert planned.quarantined == ()


def test_a_port_of_a_service_in_quarantine_is_not_free() -> None:
    """It would be bound, and the service could not come back."""
    app = [
        instance("app", 1, "route=a.test", address="192.0.2.7", port=9_000),
        instance("app", 2, "route=a.test", "canary=lots", address="192.0.2.7", port=9_000),
    ]
    memory = Memory()
    for _ in range(2):
        planned = plan(*app, instance("evil", 3, "protocol=tcp", "listen=9000"), policy=POLICY, memory=memory)
        memory = planned.memory
        assert [conflict.loser for conflict in planned.conflicts] == ["evil"]
    planned = plan(app[0], instance("evil", 3, "protocol=tcp", "listen=9000"), policy=POLICY, memory=memory)
    assert planned.quarantined == ()


def test_a_port_that_nginx_refused_closes_no_place() -> None:
    """Nothing listens there, though it is remembered whose it would be."""
    app = instance("app", 1, "route=a.test", address="192.0.2.7", port=9_000)
    evil, claim = instance("evil", 2, "protocol=tcp", "listen=9000"), PortClaim("tcp", 9_000)
    refused = Quarantine(service=ServiceName("evil"), place="", reason="taken", lost=frozenset({claim}))
    memory = Memory(holders={claim: ServiceName("evil")})
    planned = Planner(POLICY).plan(catalog(app, evil), memory, {ServiceName("evil"): refused})
    assert [item.service for item in planned.quarantined] == ["evil"]


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(2_000, 2_003), st.integers(2_000, 2_003)), max_size=6),
    st.sets(st.sampled_from("abc")),
)
def test_no_stream_ever_listens_where_an_instance_of_this_host_is_served(
    registered: list[tuple[str, int, int]], by_udp: set[str]
) -> None:
    """In the first plan or after it."""
    ones = [
        instance(
            name,
            n,
            f"protocol={'udp' if name in by_udp else 'tcp'}",
            f"listen={listen}",
            address="192.0.2.7",
            port=port,
        )
        for n, (name, listen, port) in enumerate(registered, 1)
    ]
    memory = Memory()
    for _ in range(3):
        planned = plan(*ones, policy=POLICY, memory=memory)
        memory = planned.memory
        listening = {(claim.protocol, claim.port) for stream in planned.streams for claim in stream.claims}
        served = {
            ("udp" if each.name in by_udp else "tcp", server.endpoint.port)
            for each in planned.services
            for upstream in each.upstreams
            for server in upstream.servers
        }
        assert not listening & served
