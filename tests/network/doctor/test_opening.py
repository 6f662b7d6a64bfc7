"""Cures speak to whoever keeps the host's rules: what goes past them is gone at their next reload."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from proxygen.network.doctor.opening import open_forwarding, open_port
from proxygen.network.doctor.packets import Addresses, Chain, Dropped, Hook, Rule, Ruleset, RuleVerdict

NETWORK = IPv4Network("10.99.0.0/16")
UFW = Chain(table="iptables filter", name="ufw-before-forward")


def dropped(table: str, name: str, hook: Hook, rule: Rule | None = None) -> Dropped:
    base = Chain(table=table, name=name, hook=hook, drops=True)
    return Dropped(base=base, chain=base, rule=rule)


@pytest.mark.parametrize(
    ("table", "chain", "others", "cure"),
    [
        ("inet firewalld", "filter_FORWARD", (), "firewall-cmd --permanent --zone=trusted --add-source=10.99.0.0/16"),
        ("iptables filter", "FORWARD", (UFW,), "ufw route allow from 10.99.0.0/16 && ufw route allow to 10.99.0.0/16"),
        ("iptables filter", "FORWARD", (), "iptables -t filter -I FORWARD -s 10.99.0.0/16 -j ACCEPT && iptables"),
        ("inet own", "f w", (), "nft insert rule inet own 'f w' ip saddr 10.99.0.0/16 accept && nft"),
    ],
)
def test_forwarding_is_opened_where_the_rules_are_kept(
    table: str, chain: str, others: tuple[Chain, ...], cure: str
) -> None:
    assert open_forwarding(Ruleset(others), dropped(table, chain, Hook.FORWARD), NETWORK).startswith(cure)


@pytest.mark.parametrize(
    ("table", "chain", "hook", "others", "cure"),
    [
        ("inet firewalld", "filter_INPUT", Hook.INPUT, (), "firewall-cmd --permanent --add-port=8472/udp"),
        ("iptables filter", "INPUT", Hook.INPUT, (UFW,), "ufw allow 8472/udp"),
        ("iptables filter", "OUTPUT", Hook.OUTPUT, (UFW,), "ufw allow out 8472/udp"),
        ("iptables raw", "PREROUTING", Hook.PREROUTING, (UFW,), "iptables -t raw -I PREROUTING -p udp --dport 8472"),
        ("inet own", "in", Hook.INPUT, (), "nft insert rule inet own in udp dport 8472 accept"),
    ],
)
def test_a_port_is_opened_where_the_rules_are_kept(
    table: str, chain: str, hook: Hook, others: tuple[Chain, ...], cure: str
) -> None:
    assert open_port(Ruleset(others), dropped(table, chain, hook), 8472).startswith(cure)


def test_only_what_docker_drops_for_a_container_is_dockers_to_open() -> None:
    rule = Rule(text="", verdict=RuleVerdict.DROP, destination=Addresses(networks=(IPv4Network("10.99.1.7/32"),)))
    in_raw = ("iptables raw", "PREROUTING", Hook.PREROUTING)
    assert "allow-direct-routing" in open_forwarding(Ruleset(()), dropped(*in_raw, rule), NETWORK)
    assert "iptables -t raw" in open_forwarding(Ruleset(()), dropped(*in_raw), NETWORK)
