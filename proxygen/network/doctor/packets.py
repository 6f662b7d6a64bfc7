"""What a host's firewall does to a packet, found by walking its rules as the kernel would. Pure.

Only matches whose meaning is certain count: of a rule with any other match nobody can say whether it meets the packet,
so that it is passed over. An accept that is passed over can blame a rule that is harmless, which is why a finding
names the rule.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from typing import Final

_DEEPEST: Final = 32
"""Chains that call each other; the kernel refuses loops, a text need not."""


class Hook(Enum):
    """Where in a packet's way a chain stands."""

    PREROUTING = "prerouting"
    INPUT = "input"
    FORWARD = "forward"
    OUTPUT = "output"


@dataclass(frozen=True, slots=True, kw_only=True)
class Packet:
    """The first packet of a flow."""

    source: IPv4Address
    destination: IPv4Address
    comes_by: str
    """The link; empty for what this host sends."""
    leaves_by: str
    """The link; empty for what this host takes."""
    udp_port: int | None = None
    """Its destination; None: it is of no protocol in particular."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Any of these, or any but these."""

    networks: tuple[IPv4Network, ...]
    negated: bool = False

    def meet(self, address: IPv4Address) -> bool:
        """Whether a packet's address is one of them; with ``!`` in the rule, whether it is none."""
        return any(address in network for network in self.networks) is not self.negated


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """Any of these links, or any but these; a trailing ``*`` stands for any ending."""

    names: tuple[str, ...]
    negated: bool = False

    def meet(self, link: str) -> bool:
        """Whether a link is one of them; ``+`` at the end of iptables' names was read as ``*``."""
        found = any(link.startswith(name[:-1]) if name.endswith("*") else link == name for name in self.names)
        return found is not self.negated


class RuleVerdict(Enum):
    """What a rule does at its end."""

    ACCEPT = "accept"
    DROP = "drop"
    RETURN = "return"
    NOTHING = "nothing"
    """It counts, marks or logs, and the next rule follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule of a chain; what is None matches anything."""

    text: str
    """As an operator would know it."""
    source: Addresses | None = None
    destination: Addresses | None = None
    comes_by: Names | None = None
    leaves_by: Names | None = None
    udp_ports: frozenset[int] | None = None
    certain: bool = True
    """False: it matches by more than can be told here."""
    new: bool = True
    """False: it is for packets of flows that are known already."""
    verdict: RuleVerdict = RuleVerdict.NOTHING
    jump: str = ""
    """The chain that follows; empty: none does."""
    goto: bool = False

    def meets(self, packet: Packet) -> bool:
        """Never for a rule with a match that was not understood: it is not blamed."""
        return self.certain and self._fits(packet)

    def might_accept(self, packet: Packet) -> bool:
        """Nothing that can be told speaks against it."""
        accepts = self.verdict is RuleVerdict.ACCEPT or bool(self.jump)
        return not self.certain and accepts and self._fits(packet)

    def _fits(self, packet: Packet) -> bool:
        return (
            self.new
            and (self.source is None or self.source.meet(packet.source))
            and (self.destination is None or self.destination.meet(packet.destination))
            and (self.comes_by is None or self.comes_by.meet(packet.comes_by))
            and (self.leaves_by is None or self.leaves_by.meet(packet.leaves_by))
            and (self.udp_ports is None or packet.udp_port in self.udp_ports)
        )


def with_addresses(rule: Rule, addresses: Addresses, *, is_source: bool) -> Rule:
    """The same rule for packets from, or to, these addresses."""
    return replace(rule, source=addresses) if is_source else replace(rule, destination=addresses)


def with_names(rule: Rule, names: Names, *, is_incoming: bool) -> Rule:
    """The same rule for packets that come, or leave, by these links."""
    return replace(rule, comes_by=names) if is_incoming else replace(rule, leaves_by=names)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A chain with its rules."""

    table: str
    """Such as ``ip raw``."""
    name: str
    rules: tuple[Rule, ...] = ()
    hook: Hook | None = None
    """None: only other chains lead here."""
    priority: int = 0
    drops: bool = False
    """What it does at its end with what no rule has decided on; of chains with a hook only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropped:
    """A packet's end."""

    base: Chain
    """Of the hook where it ended."""
    chain: Chain
    """Which has the rule."""
    rule: Rule | None
    """None: it was the policy."""
    unless: str = ""
    """A rule before it that might have let the packet pass: nobody can tell from here."""

    @property
    def why(self) -> str:
        """For people, with the rule as its own tool prints it."""
        where = f"{self.chain.table} {self.chain.name}"
        return f"the policy of {where} is drop" if self.rule is None else f"{where} has: {self.rule.text}"


class Ruleset:
    """All chains of a host."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self.chains: Final = tuple(chains)
        self._by_name: Mapping[tuple[str, str], Chain] = {(one.table, one.name): one for one in chains}

    def drops(self, packet: Packet, *hooks: Hook) -> Iterator[Dropped]:
        """Yield all that would end a packet on its way by the hooks, as far as that can be told.

        The first one does; who removes it meets the next. An accept ends one base chain only.
        """
        for hook in hooks:
            based = [chain for chain in self.chains if chain.hook is hook]
            for base in sorted(based, key=lambda one: one.priority):
                unsure: list[Rule] = []
                decided = self._walk(base, packet, unsure, _DEEPEST)
                unless = unsure[0].text if unsure else ""
                if isinstance(decided, _End):
                    yield Dropped(base=base, chain=decided.chain, rule=decided.rule, unless=unless)
                elif decided is RuleVerdict.NOTHING and base.drops:
                    yield Dropped(base=base, chain=base, rule=None, unless=unless)

    def _walk(self, chain: Chain, packet: Packet, unsure: list[Rule], depth: int) -> RuleVerdict | _End:
        for rule in chain.rules:
            if not rule.meets(packet):
                if rule.might_accept(packet):
                    unsure.append(rule)
                continue
            decided: RuleVerdict | _End = rule.verdict
            if rule.verdict is RuleVerdict.DROP:
                return _End(chain=chain, rule=rule)
            if rule.verdict is RuleVerdict.RETURN:
                return RuleVerdict.NOTHING
            target = self._by_name.get((chain.table, rule.jump))
            if target is not None and depth:
                decided = self._walk(target, packet, unsure, depth - 1)
            if decided is not RuleVerdict.NOTHING or rule.goto:
                return decided
        return RuleVerdict.NOTHING


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    chain: Chain
    rule: Rule
