"""What to tell a host's firewall so that it lets packets pass, in the words of whoever keeps its rules. Pure."""

from __future__ import annotations

from ipaddress import IPv4Network
from shlex import quote
from typing import Final

from proxygen.network.doctor.iptables import IPTABLES
from proxygen.network.doctor.packets import Dropped, Hook, Ruleset

_FIREWALLD: Final = "inet firewalld"
_UFW: Final = "ufw-"
"""How the names of ufw's chains begin."""


def open_forwarding(rules: Ruleset, dropped: Dropped, network: IPv4Network) -> str:
    """Return the commands that let a network's packets be forwarded."""
    base = dropped.base
    if base.hook is Hook.PREROUTING and _is_dockers(dropped):
        return (
            'Docker from 28.2: "allow-direct-routing": true in daemon.json, then restart dockerd '
            "(proxygen network docker render prints it)"
        )
    if base.table == _FIREWALLD:
        return f"firewall-cmd --permanent --zone=trusted --add-source={network} && firewall-cmd --reload"
    if _is_ufws(rules, dropped):
        return f"ufw route allow from {network} && ufw route allow to {network}"
    if base.table.startswith(IPTABLES):
        table, chain = quote(base.table.partition(" ")[2]), quote(base.name)
        return " && ".join(f"iptables -t {table} -I {chain} {side} {network} -j ACCEPT" for side in ("-s", "-d"))
    return " && ".join(f"{_inserted(dropped)} ip {side} {network} accept" for side in ("saddr", "daddr"))


def open_port(rules: Ruleset, dropped: Dropped, port: int) -> str:
    """Return the command that lets UDP of a port in or out."""
    base = dropped.base
    if base.table == _FIREWALLD:
        return f"firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload"
    if _is_ufws(rules, dropped):
        return f"ufw allow {'out ' if base.hook is Hook.OUTPUT else ''}{port}/udp"
    if base.table.startswith(IPTABLES):
        table = quote(base.table.partition(" ")[2])
        return f"iptables -t {table} -I {quote(base.name)} -p udp --dport {port} -j ACCEPT"
    return f"{_inserted(dropped)} udp dport {port} accept"


def _is_dockers(dropped: Dropped) -> bool:
    """Docker's own rule is about one container."""
    rule = dropped.rule
    networks = () if rule is None or rule.destination is None else rule.destination.networks
    return [network.prefixlen for network in networks] == [32]


def _is_ufws(rules: Ruleset, dropped: Dropped) -> bool:
    home = dropped.base.table
    return home == f"{IPTABLES} filter" and any(
        chain.table == home and chain.name.startswith(_UFW) for chain in rules.chains
    )


def _inserted(dropped: Dropped) -> str:
    family, _, table = dropped.base.table.partition(" ")
    return f"nft insert rule {family} {quote(table)} {quote(dropped.base.name)}"
