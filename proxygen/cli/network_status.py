"""The commands that only look: at this host's agent, at the network, at everything that could be wrong."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from ipaddress import IPv4Network

import click
import msgspec

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, print_table, printable
from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import CatalogUnavailable
from proxygen.network.agent.begin import identify, store_of, terms_of
from proxygen.network.agent.place import StateDirectory
from proxygen.network.agent.status import AgentStatus, HostState, read_status
from proxygen.network.choice import SubnetUsage, tally
from proxygen.network.doctor import ExaminedHost, describe, examine
from proxygen.settings import Settings


class _Report(msgspec.Struct, kw_only=True):
    """What ``--json`` prints."""

    agent: AgentStatus | None
    network: SubnetUsage | None
    problem: str
    """Why there is no tally; empty where there is one."""


@click.command(cls=Command, examples=["proxygen network status", "proxygen network status --json | jq .agent.subnet"])
@settings_options("consul", "network")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def status(settings: Settings, as_json: bool) -> int:
    """Show this host's agent: its lease, its backend, the other hosts, what is wrong; and how the network is used.

    Exits 0 when the agent is ready, 1 when it is not or no agent runs, 3 when no agent runs and Consul does not answer.
    """
    agent = read_status(StateDirectory(path=settings.network.state))
    unreachable, network, problem = False, None, ""
    try:
        network = asyncio.run(_tally(settings))
    except CatalogUnavailable as error:
        unreachable, problem = True, str(error)
    if as_json:
        print_json(_Report(agent=agent, network=network, problem=problem))
    else:
        _print(agent, network, problem)
    if agent is None:
        return CatalogUnavailable.exit_code if unreachable else 1
    return 0 if agent.state is HostState.READY else 1


async def _tally(settings: Settings) -> SubnetUsage:
    async with ConsulClient(settings.consul) as client:
        return tally(await store_of(settings.network, client).look())


def _print(agent: AgentStatus | None, network: SubnetUsage | None, problem: str) -> None:
    facts = [*_facts(agent), ("network", problem if network is None else _network(network))]
    for label, text in facts:
        click.echo(f"{label + ':':<12} {printable(text)}")
    if agent is not None and agent.members:
        click.echo("\nhosts")
        members = sorted(agent.members, key=lambda member: IPv4Network(member.subnet))
        print_table(
            ("SUBNET", "HOST", "ADDRESS", "STATE"),
            (
                (one.subnet, one.node or one.host_id, one.public_ip, "live" if one.lives else "orphaned")
                for one in members
            ),
        )


def _facts(agent: AgentStatus | None) -> Iterator[tuple[str, str]]:
    if agent is None:
        yield "agent", "none runs on this host (proxygen network up)"
        return
    yield "agent", f"{agent.state.value} (process {agent.pid}, proxygen {agent.version})"
    yield (
        "host",
        f"{agent.node}, id {agent.host_id}, {agent.public_ip or 'no address'} on {agent.interface or 'no link'}",
    )
    yield (
        "lease",
        " ".join(filter(None, (agent.subnet or "none", agent.standing, agent.reason and f"({agent.reason})"))),
    )
    if agent.backend:
        yield "data plane", f"{agent.backend} in {agent.network}, MTU {agent.mtu or 'unknown'}; {_carried(agent)}"
    if agent.consul_answered is not None:
        yield "consul", f"answered {_ago(agent.consul_answered)}"
    for problem in agent.problems:
        yield "problem", problem


def _carried(agent: AgentStatus) -> str:
    if agent.carried is None:
        return "not carried yet"
    how = f"failed: {agent.carried.error}" if agent.carried.error else f"in {agent.carried.seconds * 1000:.0f} ms"
    return f"last carried {_ago(agent.carried.at)}, {how}"


def _ago(at: float) -> str:
    return f"{max(0.0, time.time() - at):.0f} s ago"


def _network(network: SubnetUsage) -> str:
    return f"{network.live} live, {network.orphaned} orphaned, {network.reserved} reserved, {network.free} free" + (
        f", {network.unreadable} unreadable" if network.unreadable else ""
    )


@click.command(cls=Command, examples=["proxygen network doctor", "proxygen network doctor --json | jq .findings"])
@settings_options("consul", "network")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def doctor(settings: Settings, as_json: bool) -> int:
    """Look for everything that keeps containers from each other: each finding with its cure.

    It changes nothing; it sends pings and one ARP request. Exits 1 when a finding is an error.
    """

    async def look() -> int:
        async with ConsulClient(settings.consul) as client:
            place = ExaminedHost(
                store=store_of(settings.network, client),
                settings=settings.network,
                host_id=identify(settings.network),
                memory=StateDirectory(path=settings.network.state).memory(),
                terms=terms_of(settings.network),
            )
            found = await examine(place)
        if as_json:
            print_json(found)
        else:
            click.echo(describe(found))
        return 0 if found.healthy else 1

    return asyncio.run(look())
