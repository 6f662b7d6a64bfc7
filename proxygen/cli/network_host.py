"""The commands that change this host's part of the network, or the network itself."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import printable
from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import BadInput
from proxygen.kit.log import get_logger
from proxygen.kit.metrics import serving
from proxygen.kit.notify import CommandState, Notifier, work_until
from proxygen.network.agent.begin import store_of
from proxygen.network.agent.host import HostAgent
from proxygen.network.agent.known import write_config
from proxygen.network.agent.leaving import clean_up, release_lease
from proxygen.network.agent.metrics import readings
from proxygen.network.agent.place import StateDirectory
from proxygen.network.config import NetworkConfig
from proxygen.network.store import create_network
from proxygen.settings import Settings

_LOG = get_logger(__name__)


@click.command(
    cls=Command,
    examples=[
        "proxygen network init --network 10.99.0.0/16",
        "proxygen network init --network 10.99.0.0/16 --backend host-gw",
        "proxygen network init --network 10.99.0.0/16 --backend vxlan --option DirectRouting=true",
        "etcdctl get /coreos.com/network/config --print-value-only | proxygen network init -",
    ],
)
@settings_options("consul", "network.prefix")
@click.option("--network", metavar="CIDR", help="The network of all containers, such as 10.99.0.0/16.")
@click.option("--subnet-len", type=int, metavar="BITS", help="Prefix length of each host's subnet; default 24.")
@click.option("--subnet-min", metavar="ADDRESS", help="The first subnet to lease; default the network's second.")
@click.option("--subnet-max", metavar="ADDRESS", help="The last subnet to lease; default the network's last.")
@click.option(
    "--backend",
    metavar="TYPE",
    help="vxlan (default), host-gw, wireguard, aws-vpc, frr-bgp, frr-ospf or alloc.",
)
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", help="An option of the backend. May repeat.")
@click.argument("file", required=False, type=click.Path(path_type=Path, allow_dash=True))
def init(settings: Settings, file: Path | None, options: Sequence[str], **given: str | int | None) -> None:
    """Write the config of a new network, from flags or from flannel's JSON in FILE (- for standard input).

    It is checked first. After a loss of Consul's data write the config back by "consul kv put" instead: hosts that
    live on must come forward before a newcomer may take their subnets. Exits 1 when there is a network already, 2 when
    the config cannot be used, 3 when Consul does not answer.
    """
    written = {key: value for key, value in given.items() if value is not None}
    if file is not None and (written or options):
        raise click.UsageError("either FILE or flags: the file holds the whole config")
    text = _read(file) if file is not None else _config_text(written, options)
    config = asyncio.run(_init(settings, text))
    click.echo(f"{settings.network.prefix}/config: {write_config(config)}")
    click.echo(f"{config.subnets} hosts; next, on each: proxygen network up", err=True)


_KEYS = {"network": "Network", "subnet_len": "SubnetLen", "subnet_min": "SubnetMin", "subnet_max": "SubnetMax"}


def _config_text(written: dict[str, str | int], options: Sequence[str]) -> str:
    if "network" not in written:
        raise click.UsageError("--network is missing, such as --network 10.99.0.0/16; or name a FILE")
    backend: dict[str, object] = {"Type": written.pop("backend", "vxlan")}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise click.UsageError(f"--option {option}: write KEY=VALUE, such as VNI=42")
        backend[key] = _value(value)
    return json.dumps({**{_KEYS[key]: value for key, value in written.items()}, "Backend": backend})


def _value(text: str) -> object:
    """Return a number, true or false as such; everything else is text."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | list) else text


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{file}: {error}") from error


async def _init(settings: Settings, text: str) -> NetworkConfig:
    async with ConsulClient(settings.consul) as client:
        return await create_network(store_of(settings.network, client), text)


@click.command(
    cls=Command,
    examples=[
        "proxygen network up",
        "proxygen network up --network-interface eth1 --network-masquerade",
        "proxygen network up --network-subnet-file /run/flannel/subnet.env",
    ],
)
@settings_options("consul", "network")
def up(settings: Settings) -> int:
    """Lease a subnet for this host and carry packets to all others' until SIGTERM: the host's agent.

    It takes root. subnet.env and docker_opts.env are written once the subnet is this host's; a unit of Type=notify is
    ready then. While Consul does not answer, and after the agent's end, routes stay as they are: a host leaves for good
    by "proxygen network release". Exits 2 when the network's config cannot be used on this host.
    """
    with StateDirectory(path=settings.network.state).held():
        asyncio.run(_up(settings))
    return 0


async def _up(settings: Settings) -> None:
    notifier, stop = Notifier.adopt(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ConsulClient(settings.consul) as client:
        agent = HostAgent(settings.network, client)
        page = serving(
            settings.network.metrics, lambda: readings(agent.status(), client.statistics), setting="network.metrics"
        )
        with page:
            try:
                await work_until(stop, agent.run(), notifier, lambda: _condition(agent))
            finally:
                await agent.close()
    _LOG.info("stopped, lease and routes stay")


def _condition(agent: HostAgent) -> CommandState:
    status = agent.status()
    subnet = f"subnet {status.subnet}" if status.subnet else status.reason
    text = "; ".join(filter(None, (status.state.value, subnet, *status.problems)))
    return CommandState(is_ready=agent.is_handed_on, text=text)


@click.command(cls=Command, examples=["proxygen network release", "proxygen network release --keep-routes"])
@settings_options("consul", "network")
@click.option("--keep-routes", is_flag=True, help="Leave routes, rules and files on this host as they are.")
def release(settings: Settings, keep_routes: bool) -> int:
    """Give this host's subnet back and remove what was made on it: the host leaves for good.

    Stop its containers and its agent first. Other hosts withdraw their routes at once. Exits 1 when the agent runs, the
    lease is locked by somebody else, or something could not be removed; 3 when Consul does not answer: nothing is done
    then.
    """
    directory = StateDirectory(path=settings.network.state)
    with directory.held():
        released = asyncio.run(_release(settings))
        said = ", ".join(map(str, released)) or "this host had no lease"
        click.echo(f"released: {said}" if released else said)
        if keep_routes:
            return 0
        directory.wireguard_key.unlink(missing_ok=True)
        return _clean_up(settings)


async def _release(settings: Settings) -> list[object]:
    async with ConsulClient(settings.consul) as client:
        return [*await release_lease(settings.network, client)]


@click.command(cls=Command, examples=["proxygen network cleanup"])
@settings_options("network")
def cleanup(settings: Settings) -> int:
    """Remove routes, links, firewall rules and files that were made on this host. Consul is not asked.

    The lease stays this host's: the next "proxygen network up" gets the same subnet. Nothing of anybody else is
    touched. Exits 1 when the agent runs or something could not be removed.
    """
    with StateDirectory(path=settings.network.state).held():
        return _clean_up(settings)


def _clean_up(settings: Settings) -> int:
    problems = asyncio.run(clean_up(settings.network))
    for problem in problems:
        click.echo(f"not removed: {printable(problem)}", err=True)
    return 1 if problems else 0
