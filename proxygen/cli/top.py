"""The status page in a terminal."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AbstractAsyncContextManager

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_table
from proxygen.kit.errors import BadInput, install_command
from proxygen.proxy.admin.client import AdminClient, connect
from proxygen.proxy.admin.report import State, StatusReport
from proxygen.proxy.admin.service_report import ServiceSummary
from proxygen.settings import Settings
from proxygen.top import rows


@click.command(cls=Command, examples=["proxygen top", "proxygen top --once"])
@settings_options("admin", "output")
@click.option("--once", is_flag=True, help="Print one look and end, for pipes and scripts.")
def top(settings: Settings, once: bool) -> int:
    """Watch what nginx serves, and how well, in a terminal: problems, services, variants, instances, events.

    Asks the running sidecar of this host, as "proxygen status" does. Needs the extra "top", but --once
    does not. With --once it exits 0 when the sidecar is ready, else 1.
    """
    if once:
        return asyncio.run(_once(settings))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise click.UsageError("proxygen top needs a terminal; in a pipe take --once")
    return _watch(settings)


def _watch(settings: Settings) -> int:
    try:
        # An extra: nothing else needs it.
        from proxygen.top.app import Top
    except ImportError as error:
        raise BadInput(f"proxygen top needs Textual; --once does not. Run: {install_command('top')}") from error
    Top(lambda: _connect(settings)).run()
    return 0


async def _once(settings: Settings) -> int:
    async with _connect(settings) as sidecar:
        status, services = await sidecar.status(), await sidecar.services()
    _print(status, services)
    return 0 if status.state is State.READY else 1


def _print(status: StatusReport, services: tuple[ServiceSummary, ...]) -> None:
    head = rows.headline(status)
    click.echo(head.title)
    for line in (*head.lines, *head.problems):
        click.echo(f"  {line}")
    click.echo()
    shown = rows.arrange(services, query="", order=rows.Order.TROUBLE)
    print_table(rows.COLUMNS, (rows.service_cells(service) for service in shown))


def _connect(settings: Settings) -> AbstractAsyncContextManager[AdminClient]:
    return connect(settings.admin, settings.output.directory)
