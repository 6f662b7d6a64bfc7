"""What keys in Consul say, each with numbers of its own."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from proxygen.network.records import Attributes, KeyEntry, Pointer, View, read_view, subnet_key, write_value

PREFIX = "proxygen/network"
CONFIG = b'{"Network": "10.9.0.0/16"}'
THREE = IPv4Network("10.9.3.0/24")
ATTRIBUTES = Attributes(
    node="node-7", public_ip=IPv4Address("192.0.2.7"), backend_type="vxlan", backend_data={"VNI": 1, "VtepMAC": "aa"}
)


def entry(name: str, value: bytes | str | None = None, **fields: Any) -> KeyEntry:
    content = value.encode() if isinstance(value, str) else value
    return KeyEntry(key=f"{PREFIX}/{name}", value=content, **{"create_index": 3, "modify_index": 8, **fields})


def read(*entries: KeyEntry) -> View:
    return read_view(PREFIX, entries)


def test_a_lease_is_read_as_it_was_written() -> None:
    value = write_value("host-seven", ATTRIBUTES, 12)
    seen = read(entry("subnets/10.9.3.0-24", value, session="its session", modify_index=41))
    (record,) = seen.records.values()
    assert list(seen.records) == [THREE]
    assert (record.subnet, record.host_id, record.attributes) == (THREE, "host-seven", ATTRIBUTES)
    assert (record.generation, record.session, record.index) == (12, "its session", 41)
    assert record.holder == "host host-seven (node-7)"
    assert seen.problems == ()
    assert subnet_key(THREE) == "subnets/10.9.3.0-24"


def test_a_lease_in_consul_is_flannels_with_three_keys_more() -> None:
    assert json.loads(write_value("host-seven", ATTRIBUTES, 12)) == {
        "PublicIP": "192.0.2.7",
        "BackendType": "vxlan",
        "BackendData": {"VNI": 1, "VtepMAC": "aa"},
        "HostID": "host-seven",
        "Node": "node-7",
        "Gen": 12,
    }
    bare = write_value("h", Attributes(node=""), 0)
    assert json.loads(bare) == {"HostID": "h"}
    (record,) = read(entry("subnets/10.9.3.0-24", bare)).records.values()
    assert (record.attributes, record.generation, record.session) == (Attributes(node=""), 0, "")
    assert record.holder == "host h (no name)"


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ('{"PublicIP": "192.0.2.7"}', "it has no HostID"),
        ('{"HostID": "x", "PublicIP": "many"}', "many"),
        ("{", "truncated"),
        (None, "truncated"),
        ('{"HostID": "x", "BackendData": {"a": [1]}}', "str | "),
    ],
)
def test_a_lease_that_nobody_of_ours_wrote_is_taken_and_told(value: str | None, said: str) -> None:
    seen = read(entry("subnets/10.9.3.0-24", value), entry("subnets/10.9.4.0-24", write_value("x", ATTRIBUTES, 1)))
    assert list(seen.strangers) == [THREE]
    assert said in seen.strangers[THREE]
    assert seen.problems == (f"subnets/10.9.3.0-24: {seen.strangers[THREE]}",)
    assert len(seen.records) == 1


def test_the_config_is_told_with_when_it_was_written_and_when_it_was_made() -> None:
    seen = read(entry("config", CONFIG, create_index=17, modify_index=31))
    assert seen.config is not None
    assert (seen.config_problem, seen.config_index, seen.config_created) == ("", 31, 17)
    torn = read(entry("config", "{", create_index=17, modify_index=31))
    assert (torn.config, torn.config_index, torn.config_created) == (None, 31, 17)
    assert torn.config_problem
    assert torn.config_problem != read().config_problem == "there is no config"
    assert (read().config_index, read().config_created, read().settled) == (0, 0, False)


def test_a_hosts_key_names_its_subnet_at_its_own_index() -> None:
    seen = read(entry("hosts/host-seven", "10.9.3.0/24\n", modify_index=53), entry("settled", "waited"))
    assert seen.pointers == {"host-seven": Pointer(subnet=THREE, index=53)}
    assert seen.settled


def test_reservations_are_written_by_host_or_by_subnet_and_add_up() -> None:
    seen = read(
        entry("reservations/host-a", "10.9.3.0/24"),
        entry("reservations/10.9.3.0-24", "host-b"),
        entry("reservations/10.9.4.0-24", ""),
    )
    assert seen.reservations == {THREE: {"host-a", "host-b"}, IPv4Network("10.9.4.0/24"): frozenset()}


def test_what_means_nothing_is_told_and_folders_are_nothing() -> None:
    """Consul's own page makes a key for a folder."""
    seen = read(
        entry("subnets/"),
        entry("hosts/"),
        entry("reservations/"),
        entry("gc", session="s"),
        entry("of somebody else", "x"),
        entry("subnets/nonsense", "x"),
        entry("hosts/host-a", "nonsense"),
        entry("reservations/host-b", "10.9.3.0-99"),
        entry("reservations/host-c", "10.9.3.1-24"),
    )
    assert [problem.split(":")[0] for problem in seen.problems] == [
        "subnets/nonsense",
        "hosts/host-a",
        "reservations/host-b",
        "reservations/host-c",
    ]
    assert (seen.records, seen.pointers, seen.strangers, seen.reservations) == ({}, {}, {}, {})


def test_a_view_without_a_lease_is_without_its_hosts_key_too() -> None:
    seen = read(
        entry("subnets/10.9.3.0-24", write_value("a", ATTRIBUTES, 1)),
        entry("subnets/10.9.4.0-24", write_value("b", ATTRIBUTES, 1)),
        entry("hosts/a", "10.9.3.0-24"),
        entry("hosts/b", "10.9.4.0-24"),
    )
    left = seen.without(seen.records[THREE])
    assert [one.host_id for one in left.records.values()] == list(left.pointers) == ["b"]
    assert len(seen.records) == len(seen.pointers) == 2


def test_who_takes_a_subnet_is_named_once_each_and_its_own_host_never() -> None:
    seen = read(
        entry("subnets/10.9.3.0-24", write_value("a", ATTRIBUTES, 1)),
        entry("hosts/a", "10.9.3.0-24"),
        entry("hosts/b", "10.9.3.0-25"),
        entry("subnets/10.9.3.128-25", "{"),
        entry("subnets/10.9.4.0-24", write_value("c", ATTRIBUTES, 1)),
    )
    told = seen.takers(THREE, but="nobody")
    assert told[0] == "10.9.3.0/24 is leased to host a (node-7)"
    assert told[1].startswith("10.9.3.128/25 is a lease that cannot be read: ")
    assert told[2:] == ["hosts/b names 10.9.3.0/25"]
    assert len(seen.takers(THREE, but="a")) == 2
    assert len(seen.takers(THREE, but="b")) == 2
    assert {*seen.taken()} == {
        THREE,
        IPv4Network("10.9.3.0/25"),
        IPv4Network("10.9.3.128/25"),
        IPv4Network("10.9.4.0/24"),
    }
