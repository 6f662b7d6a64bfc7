"""The host's firewall, so that containers' packets cross hosts, and cross them as they are.

Two parts, each compared first and written only where it differs, and neither touches a rule that is not ours:

- an nftables table of our own. It keeps the source address of what goes to containers of other hosts, whoever else
  masquerades on this host, and masquerades what leaves the network if we are asked to. Docker's masquerading would
  otherwise have every container seen by the address of its host;
- two chains in iptables' tables. A verdict to drop is final for all of nftables, so an accepting table of our own
  changes nothing: what Docker's tables would drop must be accepted there, before.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from proxygen.kit.errors import ProgramUnavailable
from proxygen.kit.programs import run

TABLE: Final = "proxygen_network"
"""Our own in nftables, of family ip."""
FORWARD_CHAIN: Final = "PROXYGEN-FORWARD"
"""Ours in iptables' table filter."""
RAW_CHAIN: Final = "PROXYGEN-RAW"
"""Ours in iptables' table raw, where Docker from 28.0 drops what comes from other hosts."""

_TIMEOUT: Final = 30.0
_LOCK_WAIT: Final = "10"
"""Seconds for which iptables waits while Docker or anybody else writes."""
_MULTICAST: Final = "224.0.0.0/4"
_AFRESH: Final = f"table ip {TABLE} {{\n}}\ndelete table ip {TABLE}\n"
"""Deletes our table. It makes it first: to delete what is not there would be an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FirewallNeeds:
    """What the firewall must let through."""

    network: IPv4Network
    """Of all containers."""
    subnet: IPv4Network
    """Of this host's."""
    masquerade: bool
    """Give the host's address to what leaves the network: Docker must not do it then."""
    forward: bool
    """Accept what is forwarded from and to containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chain:
    """A chain of ours in iptables, and where packets come into it: the first of ``entrances`` that is in use."""

    table: str
    name: str
    entrances: tuple[str, ...]


_FORWARD: Final = _Chain(table="filter", name=FORWARD_CHAIN, entrances=("DOCKER-USER", "FORWARD"))
_RAW: Final = _Chain(table="raw", name=RAW_CHAIN, entrances=("PREROUTING",))


async def open_passage(passage: FirewallNeeds) -> tuple[str, ...]:
    """Bring the firewall to this. Return what could not be done, one line each; it may be called at any time."""
    problems = [await _bring_table(show_table(passage))]
    for chain, rules in _verdicts(passage).items():
        problems.append(await _bring_chain(chain, rules if passage.forward else None))
    return tuple(problem for problem in problems if problem)


async def close_passage() -> tuple[str, ...]:
    """Remove all that is ours, and nothing else. Return what could not be done, one line each."""
    problems = [await _remove_table(), await _bring_chain(_FORWARD, None), await _bring_chain(_RAW, None)]
    return tuple(problem for problem in problems if problem)


# --- nftables: addresses


def show_table(passage: FirewallNeeds) -> str:
    """Return our table as ``nft list table`` shows it."""
    network, subnet = passage.network, passage.subnet
    rules = [
        # Between the host's own bridges Docker may have to masquerade: a container that calls its own published port.
        f"ip saddr {subnet} ip daddr {subnet} return",
        # No mere return: the packet would go on to Docker's chain. An address once chosen is chosen for all chains.
        f"ip saddr {subnet} ip daddr {network} snat to ip saddr",
    ]
    if passage.masquerade:
        rules += [
            f"ip daddr {subnet} return",
            f"ip saddr {network} ip daddr != {_MULTICAST} masquerade fully-random",
            # What the host itself sends from an address that other hosts have no route to.
            f"ip saddr != {network} ip daddr {network} masquerade fully-random",
        ]
    lines = "\n".join(f"\t\t{rule}" for rule in rules)
    # Before Docker's and everybody's, who have 100 (srcnat).
    hook = "type nat hook postrouting priority srcnat - 1; policy accept;"
    return f"table ip {TABLE} {{\n\tchain postrouting {{\n\t\t{hook}\n{lines}\n\t}}\n}}\n"


async def _bring_table(wanted: str) -> str:
    """Replace our table in one transaction unless it is so already. Return why that cannot be done."""
    if shutil.which("nft") is None:
        return "nftables: nft is not installed, so other hosts may see this host's address for its containers'"
    listed = await _ask("nft", "list", "table", "ip", TABLE)
    if listed is not None and listed.strip() == wanted.strip():
        return ""
    return await _tell(("nft", "-f", "-"), f"{_AFRESH}{wanted}", place="nftables")


async def _remove_table() -> str:
    if shutil.which("nft") is None:
        return ""
    return await _tell(("nft", "-f", "-"), _AFRESH, place="nftables")


# --- iptables: verdicts


def _verdicts(passage: FirewallNeeds) -> dict[_Chain, tuple[str, ...]]:
    """Return the rules of our chains, as iptables lists them."""
    network, subnet = passage.network, passage.subnet
    return {
        _FORWARD: (
            # Docker keeps the host's own networks apart; ours to decide is only what crosses hosts.
            f"-s {subnet} -d {subnet} -j RETURN",
            f"-s {network} -j ACCEPT",
            f"-d {network} -j ACCEPT",
        ),
        _RAW: (f"-d {subnet} -j ACCEPT",),
    }


async def _bring_chain(chain: _Chain, rules: tuple[str, ...] | None) -> str:
    """Give a chain of ours these rules, or with None remove it. Return why that cannot be done."""
    if shutil.which("iptables") is None:
        # Whoever cannot write rules there has none that drop.
        return ""
    listed = await _ask("iptables", "-w", _LOCK_WAIT, "-t", chain.table, "-S")
    if listed is None:
        # A kernel without the table raw drops nothing in it; every kernel has the table filter.
        is_problem = chain == _FORWARD and rules is not None
        return f"iptables: the table {chain.table} cannot be read" if is_problem else ""
    lines = listed.splitlines()
    script = _closing(lines, chain) if rules is None else _opening(lines, chain, rules)
    if not script:
        return ""
    restore = ("iptables-restore", "-w", _LOCK_WAIT, "--noflush")
    return await _tell(restore, script, place=f"iptables, table {chain.table}")


def _opening(lines: list[str], chain: _Chain, rules: tuple[str, ...]) -> str:
    """Return iptables-restore's script that makes our chain what it should be; empty where it is."""
    wanted = [f"-A {chain.name} {rule}" for rule in rules]
    entrance = f"-A {_entrance(lines, chain)} -j {chain.name}"
    jumps = _jumps(lines, chain)
    if jumps == [entrance] and [line for line in lines if line.startswith(f"-A {chain.name} ")] == wanted:
        return ""
    return _script(
        chain.table,
        # Naming a chain of ours empties it, and makes it where there is none.
        f":{chain.name} - [0:0]",
        *wanted,
        *(f"-D {jump.removeprefix('-A ')}" for jump in jumps),
        f"-I {entrance.removeprefix('-A ')}",
    )


def _closing(lines: list[str], chain: _Chain) -> str:
    """Return iptables-restore's script that removes our chain; empty where there is none."""
    if f"-N {chain.name}" not in lines:
        return ""
    leave = (f"-D {jump.removeprefix('-A ')}" for jump in _jumps(lines, chain))
    return _script(chain.table, f":{chain.name} - [0:0]", *leave, f"-X {chain.name}")


def _entrance(lines: list[str], chain: _Chain) -> str:
    """Return the chain that leads into ours. Docker's own for the purpose is used once Docker leads into it."""
    *chosen, built_in = chain.entrances
    for name in chosen:
        if any(line.startswith(f"-A {built_in} ") and line.endswith(f" -j {name}") for line in lines):
            return name
    return built_in


def _jumps(lines: list[str], chain: _Chain) -> list[str]:
    return [line for line in lines if line.startswith("-A ") and line.endswith(f" -j {chain.name}")]


def _script(table: str, *lines: str) -> str:
    return "".join(f"{line}\n" for line in (f"*{table}", *lines, "COMMIT"))


# --- their programs


async def _ask(*argv: str) -> str | None:
    """Return what a program lists; None where it cannot: the table is not there, or not to be had."""
    try:
        asked = await run(argv, timeout=_TIMEOUT)
    except ProgramUnavailable:
        return None
    return asked.output if asked.returncode == 0 else None


async def _tell(argv: tuple[str, ...], text: str, *, place: str) -> str:
    """Give a program a text to carry out whole or not at all. Return what it said against it."""
    try:
        done = await run(argv, timeout=_TIMEOUT, stdin=text)
    except ProgramUnavailable as error:
        return f"{place}: {error}"
    said = " ".join(done.output.split())
    return "" if done.returncode == 0 else f"{place}: {said or f'{argv[0]} failed with {done.returncode}'}"
