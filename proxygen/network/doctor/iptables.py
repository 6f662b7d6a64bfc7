"""A host's firewall as ``iptables-save`` prints it, read into rules. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Network
from typing import Final

from proxygen.network.doctor.packets import (
    Addresses,
    Chain,
    Hook,
    Names,
    Rule,
    RuleVerdict,
    with_addresses,
    with_names,
)

IPTABLES: Final = "iptables"
"""Stands for the family in the names of its tables, which nft has as ``ip filter`` and so on."""
_BUILT_IN: Final = {
    ("raw", "PREROUTING"): (Hook.PREROUTING, -300),
    ("mangle", "PREROUTING"): (Hook.PREROUTING, -150),
    ("mangle", "INPUT"): (Hook.INPUT, -150),
    ("mangle", "FORWARD"): (Hook.FORWARD, -150),
    ("filter", "INPUT"): (Hook.INPUT, 0),
    ("filter", "FORWARD"): (Hook.FORWARD, 0),
    ("filter", "OUTPUT"): (Hook.OUTPUT, 0),
}


def read_iptables(text: str) -> tuple[Chain, ...]:
    """Read all tables. Raise ValueError for what is no listing."""
    chains: dict[tuple[str, str], tuple[bool, list[Rule]]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
        elif line.startswith(":"):
            name, policy = line[1:].split()[:2]
            chains[table, name] = (policy == "DROP", [])
        elif line.startswith("-A "):
            words = shlex.split(line)
            chains.setdefault((table, words[1]), (False, []))[1].append(_read_arguments(words[2:]))
    return tuple(
        Chain(
            table=f"{IPTABLES} {home}",
            name=name,
            rules=tuple(rules),
            hook=_BUILT_IN.get((home, name), (None, 0))[0],
            priority=_BUILT_IN.get((home, name), (None, 0))[1],
            drops=drops,
        )
        for (home, name), (drops, rules) in chains.items()
    )


_TARGETS: Final = {
    "ACCEPT": RuleVerdict.ACCEPT,
    "DROP": RuleVerdict.DROP,
    "REJECT": RuleVerdict.DROP,
    "RETURN": RuleVerdict.RETURN,
}


def _read_arguments(words: list[str]) -> Rule:
    rule = Rule(text=shlex.join(words))
    rest = iter(words)
    negated = False
    for word in rest:
        if word == "!":
            negated = True
            continue
        rule = _argument(rule, word, rest, negated)
        if rule.verdict is not RuleVerdict.NOTHING or rule.jump:
            # What follows a target are its own options.
            return rule
        negated = False
    return rule


def _argument(rule: Rule, word: str, rest: Iterator[str], negated: bool) -> Rule:
    value = next(rest, "")
    match word:
        case "-s" | "-d":
            addresses = Addresses(networks=(IPv4Network(value, strict=False),), negated=negated)
            return with_addresses(rule, addresses, is_source=word == "-s")
        case "-i" | "-o":
            # iptables writes + where nft writes *.
            name = f"{value[:-1]}*" if value.endswith("+") else value
            return with_names(rule, Names(names=(name,), negated=negated), is_incoming=word == "-i")
        case "--ctstate" | "--state":
            return replace(rule, new=rule.new and ("NEW" in value.split(",")) is not negated)
        case "--dport" if value.isdigit() and not negated:
            return replace(rule, udp_ports=frozenset({int(value)}))
        case "-p" if value == "udp" and not negated:
            # Not yet certain: of which port is said after it, and without one it is any.
            return rule if rule.udp_ports is not None else replace(rule, udp_ports=_ANY_PORT)
        case "-m" | "--comment":
            return rule
        case "-j" | "-g":
            verdict = _TARGETS.get(value, RuleVerdict.NOTHING)
            return replace(
                rule, verdict=verdict, jump=value if verdict is RuleVerdict.NOTHING else "", goto=word == "-g"
            )
        case _:
            return replace(rule, certain=False)


_ANY_PORT: Final = frozenset(range(65536))
