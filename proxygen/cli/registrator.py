"""Registering the containers of the local Docker or Podman engine."""

from __future__ import annotations

import asyncio
import signal
from functools import partial
from ipaddress import ip_network
from typing import NoReturn

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.consul.address import parse_address
from proxygen.consul.client import ConsulClient
from proxygen.kit.aio import start_eternal
from proxygen.kit.log import get_logger
from proxygen.kit.metrics import serving
from proxygen.kit.notify import CommandState, Notifier, work_until
from proxygen.network.files import hinted_subnet
from proxygen.registration.agent import Agent
from proxygen.registration.described import ContainerDefaults
from proxygen.registration.docker import require_library
from proxygen.registration.following import FollowedAddress
from proxygen.registration.lease import LOOK
from proxygen.registration.metrics import readings
from proxygen.registration.registrator import Registrator
from proxygen.settings import Settings

_LOG = get_logger(__name__)


@click.command(
    cls=Command,
    short_help="Register the containers of the local Docker or Podman engine by their labels.",
    examples=[
        "proxygen registrator",
        "proxygen registrator --registrator-engine unix:///run/podman/podman.sock --registrator-announce container",
        "docker run --label proxygen.name=web --label proxygen.route=app.example.com --publish 8080 web",
    ],
)
@settings_options("consul", "registrator", "proxy.tag_prefix", "network.subnet_file")
def registrator(settings: Settings) -> int:
    """Register and deregister the containers of the local engine, until SIGTERM.

    A label proxygen.KEY is the flag --KEY of `proxygen register`, or a key of the proxy tags; labels and variables
    SERVICE_* are read as registrator does. On a host of a network (`proxygen network up`) containers are announced with
    their own addresses, which all of its hosts reach; elsewhere by the ports that they publish.

    Wrong labels leave out their own container. Registrations stay when this command ends: the containers run on. It
    removes what an earlier run of the same host left behind, and nothing else.
    """
    require_library()
    asyncio.run(_run(settings))
    return 0


async def _run(settings: Settings) -> None:
    notifier, stop = Notifier.adopt(), asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with ConsulClient(settings.consul) as client:
        chosen = settings.registrator
        address = await asyncio.to_thread(_find_address, settings)
        policy = _policy(settings, address.current)
        leased = partial(hinted_subnet, settings.network.subnet_file)
        registrator = Registrator(
            Agent(client.http), engine=chosen.engine, policy=policy, leased=leased, resync=chosen.resync
        )
        page = serving(
            chosen.metrics, lambda: readings(registrator.figures(), client.statistics), setting="registrator.metrics"
        )
        with page:
            await work_until(stop, _work(registrator, address), notifier, lambda: _condition(registrator))
    _LOG.info("stopped, registrations stay")


async def _work(registrator: Registrator, address: FollowedAddress) -> NoReturn:
    async with asyncio.TaskGroup() as group:
        start_eternal(group, registrator.run(), name="registration of containers")
        start_eternal(group, address.follow(LOOK, registrator.move), name="address of the host")
    raise AssertionError("it is only ever cancelled")


def _condition(registrator: Registrator) -> CommandState:
    """Ready after the first look at the engine, or once it is known why there can be none yet."""
    figures, trouble = registrator.figures(), registrator.trouble
    counts = f"{figures.registered} containers registered, {figures.skipped} left out"
    return CommandState(
        is_ready=figures.synced is not None or bool(trouble), text=f"{trouble}; {counts}" if trouble else counts
    )


def _find_address(settings: Settings) -> FollowedAddress:
    consul = parse_address(settings.consul.address, ssl=settings.consul.ssl)
    return FollowedAddress(settings.registrator.address, consul=None if consul.socket is not None else consul.host)


def _policy(settings: Settings, address: str) -> ContainerDefaults:
    chosen = settings.registrator
    return ContainerDefaults(
        tag_prefix=settings.proxy.tag_prefix,
        owner=chosen.host,
        address=address,
        announce=chosen.announce,
        leased=None,
        network=chosen.network,
        unlabelled=chosen.containers == "all",
        ttl=chosen.ttl,
        variables=chosen.containers != "labelled",
        any_checks=chosen.checks == "any",
        never=tuple(ip_network(text) for text in settings.proxy.denied_addresses),
    )
