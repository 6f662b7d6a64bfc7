from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest

from proxygen.kit.errors import BadInput
from proxygen.registration.address import (
    InterfaceAddress,
    check_form,
    choose_address,
    default_address,
    interfaces,
    read_inet6,
    route_to,
)


def found(*addresses: str) -> Sequence[InterfaceAddress]:
    return [InterfaceAddress(f"eth{number}", ipaddress.ip_address(text)) for number, text in enumerate(addresses)]


@pytest.mark.parametrize(
    ("route", "addresses", "chosen"),
    [
        ("10.0.0.7", ["192.168.0.1"], "10.0.0.7"),
        ("127.0.0.1", ["127.0.0.1", "203.0.113.5", "192.168.0.1"], "203.0.113.5"),
        (None, ["127.0.0.1", "8.8.8.8", "10.1.2.3"], "10.1.2.3"),
        (None, ["169.254.1.1", "8.8.8.8"], "8.8.8.8"),
        ("::1", ["fe80::1", "fd00::7"], "fd00::7"),
    ],
)
def test_the_default_is_the_route_then_private_then_public_and_never_loopback(
    route: str | None, addresses: list[str], chosen: str
) -> None:
    way = None if route is None else ipaddress.ip_address(route)
    assert str(default_address(found(*addresses), route=way)) == chosen


def test_a_machine_with_loopback_alone_is_told_what_to_write() -> None:
    with pytest.raises(BadInput, match="set address"):
        default_address(found("127.0.0.1", "::1", "fe80::1"), route=None)


def test_the_kernel_tells_loopback_and_its_name() -> None:
    assert InterfaceAddress("lo", ipaddress.ip_address("127.0.0.1")) in interfaces()


INET6 = """\
20010db8000000000000000000000009 03 40 00 01 eth0
20010db800000000000000000000000a 03 40 00 a0 eth0
20010db800000000000000000000000d 03 40 00 48 eth0
20010db8000000000000000000000007 03 40 00 80 eth0
fe8000000000000078001ffffe6fe51b 03 40 20 80 eth0
"""
"""Temporary, deprecated, refused as another host's, for ever, and of the link; the kernel's order means nothing."""


def test_an_address_that_is_about_to_go_is_the_last_choice() -> None:
    """The kernel goes out by a temporary one, and gives it up after a day (lldpd#521)."""
    known = tuple(read_inet6(INET6))
    assert [str(item.address)[-2:] for item in known] == [":7", "1b", ":9", ":a"]
    (steady,) = (item.address for item in known if str(item.address).endswith(":7"))
    for route in (None, *(item.address for item in known[2:])):
        assert default_address(known, route=route) == steady
    lonely = [item for item in known if item.is_passing]
    assert default_address(lonely, route=lonely[1].address) == lonely[1].address


def test_the_way_to_loopback_is_loopback_and_to_what_is_no_host_is_none() -> None:
    assert str(route_to("127.0.0.1")) == "127.0.0.1"
    assert route_to("a" * 300) is None


def test_loopback_is_announced_where_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST_IP", "127.0.0.9")
    assert choose_address("127.0.0.1", consul=None) == "127.0.0.1"
    assert choose_address("interface:lo", consul=None) == "127.0.0.1"
    assert choose_address("127.0.0.0/8", consul=None) == "127.0.0.1"
    assert choose_address("env:HOST_IP", consul=None) == "127.0.0.9"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("app.example.com", "not an IP address"),
        ("10.0.0.1; evil", "not an IP address"),
        ("0.0.0.0", "nobody could connect"),
        ("::", "nobody could connect"),
        ("fe80::1%eth0", "nobody could connect"),
        ("10.0.0.1/8", "host bits"),
        ("interface:", "not an IP address"),
        ("", "not an IP address"),
    ],
)
def test_a_text_that_can_be_no_address_is_refused_before_any_machine_is_asked(text: str, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        check_form(text)


@pytest.mark.parametrize("text", ["interface:nosuch0", "203.0.113.0/24", "env:NO_SUCH_VARIABLE"])
def test_an_address_that_this_machine_lacks_is_refused_with_what_was_asked(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_SUCH_VARIABLE", raising=False)
    with pytest.raises(BadInput, match=text):
        choose_address(text, consul=None)


def test_a_containers_own_address_needs_an_engine_that_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/engine.sock")
    for text in ("docker", "docker:front"):
        check_form(text)
        with pytest.raises(BadInput, match=r"address = docker: unix:///nowhere/engine\.sock"):
            choose_address(text, consul=None)
    with pytest.raises(BadInput, match="write an IP address"):
        check_form("docker:")
