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

from proxygen.errors import ProgramUnavailable
from proxygen.programs import run

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
_UNREADABLE: Final = "no such table"


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
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
    rules: tuple[str, ...]


async def open_passage(passage: Passage) -> tuple[str, ...]:
    """Bring the firewall to this. Return what could not be done, one line each; it may be called at any time."""
    problems = [await _bring_table(show_table(passage))]
    for chain in _chains(passage):
        problems.append(await _bring_chain(chain, wanted=passage.forward))
    return tuple(problem for problem in problems if problem)


async def close_passage() -> tuple[str, ...]:
    """Remove all that is ours, and nothing else. Return what could not be done, one line each."""
    nobody = IPv4Network("0.0.0.0/32")
    nothing = Passage(network=nobody, subnet=nobody, masquerade=False, forward=False)
    problems = [await _remove_table()]
    for chain in _chains(nothing):
        problems.append(await _bring_chain(chain, wanted=False))
    return tuple(problem for problem in problems if problem)


# --- nftables: addresses


def show_table(passage: Passage) -> str:
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
    if listed.strip() == wanted.strip():
        return ""
    return await _tell(("nft", "-f", "-"), f"{_AFRESH}{wanted}", place="nftables")


async def _remove_table() -> str:
    if shutil.which("nft") is None:
        return ""
    return await _tell(("nft", "-f", "-"), _AFRESH, place="nftables")


_AFRESH: Final = f"table ip {TABLE} {{\n}}\ndelete table ip {TABLE}\n"
"""Deleting what is not there would be an error."""


# --- iptables: verdicts


def _chains(passage: Passage) -> tuple[_Chain, ...]:
    network, subnet = passage.network, passage.subnet
    forward = (
        # Docker keeps the host's own networks apart; ours to decide is only what crosses hosts.
        f"-s {subnet} -d {subnet} -j RETURN",
        f"-s {network} -j ACCEPT",
        f"-d {network} -j ACCEPT",
    )
    return (
        _Chain(table="filter", name=FORWARD_CHAIN, entrances=("DOCKER-USER", "FORWARD"), rules=forward),
        _Chain(table="raw", name=RAW_CHAIN, entrances=("PREROUTING",), rules=(f"-d {subnet} -j ACCEPT",)),
    )


async def _bring_chain(chain: _Chain, *, wanted: bool) -> str:
    if shutil.which("iptables") is None:
        # Whoever cannot write rules there has none that drop.
        return ""
    listed = await _ask("iptables", "-w", _LOCK_WAIT, "-t", chain.table, "-S")
    if listed == _UNREADABLE:
        # A kernel without the table drops nothing in it; all have the table filter.
        return f"iptables: the table {chain.table} cannot be read" if chain.table == "filter" and wanted else ""
    script = _opening(listed, chain) if wanted else _closing(listed, chain)
    if not script:
        return ""
    restore = ("iptables-restore", "-w", _LOCK_WAIT, "--noflush")
    return await _tell(restore, script, place=f"iptables, table {chain.table}")


def _opening(listed: str, chain: _Chain) -> str:
    """Return iptables-restore's script that makes our chain what it should be; empty where it is."""
    lines = listed.splitlines()
    rules = [f"-A {chain.name} {rule}" for rule in chain.rules]
    entrance = _entrance(lines, chain)
    surplus = _jumps(lines, chain)
    if entrance_is_there := f"-A {entrance} -j {chain.name}" in surplus:
        surplus.remove(f"-A {entrance} -j {chain.name}")
        if not surplus and [line for line in lines if line.startswith(f"-A {chain.name} ")] == rules:
            return ""
    return _script(
        chain.table,
        # Naming a chain of ours empties it, and makes it where there is none.
        f":{chain.name} - [0:0]",
        *rules,
        *(f"-D {jump.removeprefix('-A ')}" for jump in surplus),
        *(() if entrance_is_there else (f"-I {entrance} 1 -j {chain.name}",)),
    )


def _closing(listed: str, chain: _Chain) -> str:
    lines = listed.splitlines()
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


async def _ask(*argv: str) -> str:
    try:
        asked = await run(argv, timeout=_TIMEOUT)
    except ProgramUnavailable:
        return _UNREADABLE
    return asked.output if asked.returncode == 0 else _UNREADABLE


async def _tell(argv: tuple[str, ...], text: str, *, place: str) -> str:
    """Give a program a text to carry out whole or not at all. Return what it said against it."""
    try:
        done = await run(argv, timeout=_TIMEOUT, stdin=text)
    except ProgramUnavailable as error:
        return f"{place}: {error}"
    said = " ".join(done.output.split())
    return "" if done.returncode == 0 else f"{place}: {said or f'{argv[0]} failed with {done.returncode}'}"
