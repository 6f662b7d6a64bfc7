"""The addresses of a host, from what Linux writes down about them."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from proxygen.proxy.policy.own_addresses import local_ipv4, local_ipv6, read_own_addresses

FIB_TRIE = """Main:
  +-- 0.0.0.0/0 3 0 5
     |-- 0.0.0.0
        /0 universe UNICAST
     +-- 127.0.0.0/8 2 0 2
        |-- 127.0.0.0
           /32 link BROADCAST
           /8 host LOCAL
        |-- 127.0.0.1
           /32 host LOCAL
     +-- 192.0.2.0/24 2 0 2
        |-- 192.0.2.0
           /24 link UNICAST
        |-- 192.0.2.7
           /32 host LOCAL
     |-- 198.51.100.0
        /24 host LOCAL
Local:
     |-- 192.0.2.7
        /32 host LOCAL
     |-- 192.0.2.255
        /32 link BROADCAST
"""
IF_INET6 = """fe800000000000001c6826fffe82d91d 56d 40 20 80    veth0
00000000000000000000000000000001 01 80 10 80       lo
20010db8000000000000000000000007 04 40 00 82     eth0
"""


def test_local_addresses_and_networks_are_told_from_those_of_others() -> None:
    assert set(map(str, local_ipv4(FIB_TRIE))) == {"127.0.0.0/8", "127.0.0.1/32", "192.0.2.7/32", "198.51.100.0/24"}
    assert set(map(str, local_ipv6(IF_INET6))) == {"::1/128", "2001:db8::7/128"}


def test_a_host_without_ipv6_has_the_rest(tmp_path: Path) -> None:
    (tmp_path / "fib_trie").write_text(FIB_TRIE)
    assert ip_network("192.0.2.7/32") in read_own_addresses(tmp_path)
    with pytest.raises(OSError, match="fib_trie"):
        read_own_addresses(tmp_path / "nowhere")


def test_this_host_has_the_addresses_that_it_sends_from() -> None:
    """The kernel picks one for a socket, without a packet."""
    with socket.socket(type=socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.5", 9))
        found = {sender.getsockname()[0], "127.0.0.1", "127.77.7.7"}
    for address in found:
        assert any(ip_address(address) in network for network in read_own_addresses() if network.version == 4)
