"""A host's firewall as ``nft -j list ruleset`` prints it, read into rules. Pure.

What today's iptables has made is there too: its tables are nft's, and only its rarer matches cannot be told.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network, summarize_address_range
from typing import Any, Final

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

_NEW: Final = "new"
_TRANSLATED: Final = frozenset({"dnat", "snat"})
_HARMLESS: Final = frozenset({"comment"})
"""Matches of iptables that always match."""
_IGNORED: Final = frozenset({"counter", "log", "comment", "mangle", "notrack"})
"""Statements of nft that decide nothing."""


def read_nft(text: str) -> tuple[Chain, ...]:
    """Read all chains that IPv4 packets meet. Raise ValueError for what is no listing."""
    objects = json.loads(text)["nftables"]
    sets = {(_table(one["set"]), one["set"]["name"]): one["set"].get("elem", []) for one in objects if "set" in one}
    rules: dict[tuple[str, str], list[Rule]] = {}
    for one in objects:
        if "rule" in one and _is_ipv4(one["rule"]):
            table = _table(one["rule"])
            of_table = {name: elements for (home, name), elements in sets.items() if home == table}
            read = _Expressions(of_table).read(one["rule"]["expr"])
            rules.setdefault((table, one["rule"]["chain"]), []).extend(read)
    chains = [one["chain"] for one in objects if "chain" in one and _is_ipv4(one["chain"])]
    return tuple(
        Chain(
            table=_table(chain),
            name=chain["name"],
            rules=tuple(rules.get((_table(chain), chain["name"]), ())),
            hook=_hook(chain),
            priority=chain.get("prio", 0) if isinstance(chain.get("prio", 0), int) else 0,
            drops=chain.get("policy") == "drop",
        )
        for chain in chains
    )


def _is_ipv4(one: Mapping[str, Any]) -> bool:
    return one["family"] in ("ip", "inet")


def _table(one: Mapping[str, Any]) -> str:
    name = one.get("table", one.get("name"))
    return f"{one['family']} {name}"


def _hook(chain: Mapping[str, Any]) -> Hook | None:
    hook = chain.get("hook")
    # Chains of type nat see a flow's first packet and drop nothing.
    if chain.get("type") == "nat" or hook not in {one.value for one in Hook}:
        return None
    return Hook(hook)


@dataclass(slots=True)
class _Expressions:
    """Reads one rule's expressions."""

    sets: Mapping[str, list[Any]]
    rule: Rule = field(default_factory=lambda: Rule(text=""))
    said: list[str] = field(default_factory=list)

    def read(self, expressions: list[dict[str, Any]]) -> Iterator[Rule]:
        for expression in expressions:
            ((kind, body),) = expression.items()
            if kind == "vmap":
                yield from self._choose(body)
                return
            self._take(kind, body)
        yield replace(self.rule, text=" ".join(self.said))

    def _take(self, kind: str, body: Any) -> None:
        match kind:
            case "match":
                self._match(body)
            case "accept" | "drop" | "return" | "reject":
                self.said.append(kind)
                self.rule = replace(self.rule, verdict=_VERDICTS[kind])
            case "jump" | "goto":
                self.said.append(f"{kind} {body['target']}")
                self.rule = replace(self.rule, jump=body["target"], goto=kind == "goto")
            case "xt":
                self.said.append(f"xt {body.get('type', '')} {body.get('name', '')}" if body else "xt")
                # A target such as MASQUERADE or MARK lets the packet go on.
                matches = not body or body.get("type") == "match"
                certain = not matches or (body or {}).get("name") in _HARMLESS
                self.rule = replace(self.rule, certain=self.rule.certain and certain)
            case _ if kind in _IGNORED:
                pass
            case _:
                self.said.append(kind)
                self.rule = replace(self.rule, certain=False)

    def _match(self, body: Mapping[str, Any]) -> None:
        left, right, negated = body["left"], body["right"], body["op"] == "!="
        what = _left(left)
        self.said.append(f"{what} {'!= ' if negated else ''}{_shown(right)}")
        values = self._values(right)
        known = body["op"] in ("==", "!=", "in")
        match what:
            case "ip saddr" | "ip daddr" if known and (networks := _networks(values)) is not None:
                addresses = Addresses(networks=networks, negated=negated)
                self.rule = with_addresses(self.rule, addresses, is_source=what == "ip saddr")
            case "iifname" | "iif" | "oifname" | "oif" if known and all(isinstance(one, str) for one in values):
                names = Names(names=tuple(values), negated=negated)
                self.rule = with_names(self.rule, names, is_incoming=what.startswith("i"))
            case "udp dport" if body["op"] == "==" and (ports := _ports(values)) is not None:
                self.rule = replace(self.rule, udp_ports=ports)
            case "ct state":
                self.rule = replace(self.rule, new=self.rule.new and (_NEW in values) is not negated)
            case "ct status" if set(values) <= _TRANSLATED:
                # A flow's first packet between containers was sent where it was meant to go.
                self.rule = replace(self.rule, new=self.rule.new and negated)
            case "nfproto":
                self.rule = replace(self.rule, new=self.rule.new and ("ipv4" in values) is not negated)
            case _:
                self.rule = replace(self.rule, certain=False)

    def _choose(self, body: Mapping[str, Any]) -> Iterator[Rule]:
        """Yield a rule for each way out of a verdict map that can be told."""
        what, data = _left(body["key"]), body["data"]
        pairs = data["set"] if isinstance(data, dict) and "set" in data else []
        for value, verdict in pairs:
            branch = _Expressions(self.sets, self.rule, [*self.said])
            branch._match({"left": body["key"], "right": value, "op": "=="})
            ((kind, target),) = verdict.items()
            branch._take(kind, target)
            yield replace(branch.rule, text=" ".join(branch.said))
        if not pairs:
            yield replace(self.rule, certain=False, text=f"{' '.join(self.said)} {what} vmap".strip())

    def _values(self, right: Any) -> list[Any]:
        if isinstance(right, str) and right.startswith("@"):
            return [_element(one) for one in self.sets.get(right[1:], [])]
        if isinstance(right, dict) and "set" in right:
            return [_element(one) for one in right["set"]]
        return right if isinstance(right, list) else [right]


_VERDICTS: Final = {
    "accept": RuleVerdict.ACCEPT,
    "drop": RuleVerdict.DROP,
    "reject": RuleVerdict.DROP,
    "return": RuleVerdict.RETURN,
}


def _element(one: Any) -> Any:
    # A set's element may carry a counter or a time-out.
    return one["elem"]["val"] if isinstance(one, dict) and "elem" in one else one


def _left(left: Any) -> str:
    match left:
        case {"payload": {"protocol": str(protocol), "field": str(name)}}:
            return f"{protocol} {name}"
        case {"meta": {"key": str(key)}}:
            return key
        case {"ct": {"key": str(key)}}:
            return f"ct {key}"
        case _:
            return "something"


def _shown(right: Any) -> str:
    match right:
        case {"prefix": {"addr": addr, "len": length}}:
            return f"{addr}/{length}"
        case {"set": list(elements)}:
            return "{ " + ", ".join(_shown(_element(one)) for one in elements) + " }"
        case {"range": [low, high]}:
            return f"{low}-{high}"
        case list():
            return ",".join(map(_shown, right))
        case _:
            return str(right)


def _networks(values: list[Any]) -> tuple[IPv4Network, ...] | None:
    """Return addresses, prefixes and ranges as networks; None where one of them is something else."""
    networks: list[IPv4Network] = []
    try:
        for value in values:
            networks += _covered(value)
    except ValueError:
        return None
    return tuple(networks)


def _covered(value: Any) -> Iterable[IPv4Network]:
    match value:
        case {"prefix": {"addr": addr, "len": length}}:
            return (IPv4Network((addr, length), strict=False),)
        case {"range": [low, high]}:
            return summarize_address_range(IPv4Address(low), IPv4Address(high))
        case str():
            return (IPv4Network(value, strict=False),)
    raise ValueError(f"{value!r} is no address")


def _ports(values: list[Any]) -> frozenset[int] | None:
    ports: set[int] = set()
    for value in values:
        match value:
            case int():
                ports.add(value)
            case {"range": [int(low), int(high)]}:
                ports.update(range(low, high + 1))
            case _:
                return None
    return frozenset(ports)
