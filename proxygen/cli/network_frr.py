"""FRR's configuration, shown or applied once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import printable
from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import NetworkConfigError, NetworkError
from proxygen.network.agent.backends import frr_place, make_backend
from proxygen.network.agent.begin import identify, name_of, store_of, wish_of
from proxygen.network.agent.place import StateDirectory
from proxygen.network.config import FrrBgp, FrrOspf, NetworkConfig
from proxygen.network.fabric import Fabric, Member, Underlay, see_fabric
from proxygen.network.frr.daemons import Frr
from proxygen.network.frr.render import render_for
from proxygen.network.frr.version import FrrVersion
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.records import View
from proxygen.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sight:
    """The network as this host sees it now."""

    kernel: Kernel
    config: NetworkConfig
    underlay: Underlay
    fabric: Fabric


@click.group()
def frr() -> None:
    """Show or apply FRR's configuration for the backends frr-bgp and frr-ospf."""


@frr.command(
    "render",
    cls=Command,
    short_help="Print what FRR is to be told.",
    examples=[
        "proxygen network frr render",
        "proxygen network frr render --frr-version 10.1",
        "proxygen network frr render --syntax quagga",
    ],
)
@settings_options("consul", "network")
@click.option(
    "--syntax", type=click.Choice(["frr", "quagga"]), default="frr", help="FRR's integrated file, or Quagga's files."
)
@click.option("--frr-version", metavar="VERSION", help="Write for this version; default what the running FRR says.")
def render(settings: Settings, syntax: Literal["frr", "quagga"], frr_version: str | None) -> None:
    """Print this host's part of FRR's configuration, or all of Quagga's, as of what Consul holds now.

    Exits 2 when the network's backend is none of FRR's, 3 when Consul does not answer.
    """

    async def look() -> dict[str, str]:
        async with _seeing(settings) as sight:
            version = await _version(settings, frr_version, asked=syntax == "frr")
            return render_for(sight.fabric, sight.underlay, version, syntax=syntax)

    files = asyncio.run(look())
    for name, text in files.items():
        if len(files) > 1:
            click.echo(f"! {name}")
        click.echo(text, nl=not text.endswith("\n"))


async def _version(settings: Settings, given: str | None, *, asked: bool) -> FrrVersion:
    if given is not None:
        try:
            return FrrVersion.parse(given)
        except ValueError as error:
            raise click.UsageError(f"--frr-version: {error}") from error
    return await Frr(frr_place(settings.network)).version() if asked else FrrVersion.parse("8.4.4")


@frr.command(
    "apply",
    cls=Command,
    short_help="Bring FRR to it once.",
    examples=["proxygen network frr apply"],
)
@settings_options("consul", "network")
def apply(settings: Settings) -> int:
    """Bring FRR to what Consul holds now, once, without an agent: checked first, proven after, taken back otherwise.

    Exits 1 when the agent runs, which does the same all the time, or when FRR does not take it; 2 when the network's
    backend is none of FRR's, 3 when Consul does not answer.
    """

    async def bring() -> tuple[str, ...]:
        async with _seeing(settings) as sight:
            backend = make_backend(
                sight.config,
                sight.underlay,
                sight.kernel,
                settings.network,
                node=name_of(settings.network),
                host_id=identify(settings.network),
            )
            await backend.prepare()
            return (*sight.fabric.problems, *await backend.carry(sight.fabric))

    with StateDirectory(path=settings.network.state).held():
        problems = asyncio.run(bring())
    for problem in problems:
        click.echo(printable(problem), err=True)
    return 1 if problems else 0


@asynccontextmanager
async def _seeing(settings: Settings) -> AsyncIterator[_Sight]:
    async with ConsulClient(settings.consul) as client, Kernel() as kernel:
        store = store_of(settings.network, client)
        view = await store.look()
        if view.config is None:
            raise NetworkConfigError(f"{store.prefix}/config: {view.config_problem}")
        if not isinstance(view.config.backend, FrrBgp | FrrOspf):
            raise NetworkConfigError(f"Backend.Type is {view.config.backend.type}, which does without FRR")
        underlay = await kernel.find_underlay(wish_of(settings.network))
        own = _own(view, identify(settings.network), underlay)
        yield _Sight(kernel=kernel, config=view.config, underlay=underlay, fabric=see_fabric(view, view.config, own))


def _own(view: View, host_id: str, underlay: Underlay) -> Member:
    records = view.records_of(host_id)
    if not records:
        raise NetworkError(f"this host ({host_id}) has no lease; its agent gets one (proxygen network up)")
    attributes = records[0].attributes
    return Member(
        host_id=host_id,
        node=attributes.node,
        subnet=records[0].subnet,
        public_ip=underlay.public_ip,
        backend_type=attributes.backend_type,
        backend_data=attributes.backend_data or {},
    )
