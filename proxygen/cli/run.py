"""The sidecar: everything is put together here."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import click

from proxygen import __version__
from proxygen.admin.server import serving
from proxygen.aio import Latest, retrying, start_eternal
from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.consul.acl import probe
from proxygen.consul.client import ConsulClient
from proxygen.consul.watch import CatalogWatch
from proxygen.errors import AccessDenied, CatalogUnavailable, NginxUnavailable, SettingsError
from proxygen.files import watching
from proxygen.log import get_logger
from proxygen.model import Catalog
from proxygen.nginx.publish import Output, hold_output
from proxygen.pipeline import open_pipeline
from proxygen.reconcile import Reconciler
from proxygen.settings import Settings
from proxygen.sidecar import RunningSidecar

_log = get_logger(__name__)


@click.command(
    cls=Command,
    examples=["proxygen run", "proxygen run --config /etc/proxygen.toml --log-format json"],
)
@settings_options()
def run(settings: Settings) -> int:
    """Watch Consul, and keep nginx serving what it says: the sidecar.

    Runs until SIGTERM. SIGHUP reads the operator's files (templates, certificates, snippets) again. Exits 0 after a
    clean stop, 2 when a setting cannot be used.
    """
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    with hold_output(settings.output.directory) as output:
        async with asyncio.TaskGroup() as group:
            sidecar = group.create_task(_sidecar(settings, output), name="sidecar")
            await asyncio.wait(
                {sidecar, group.create_task(stop.wait(), name="wait for the signal to stop")},
                return_when=asyncio.FIRST_COMPLETED,
            )
            stop.set()
            sidecar.cancel()
    _log.info("stopped")
    return 0


async def _sidecar(settings: Settings, output: Output) -> None:
    try:
        pipeline = await open_pipeline(settings)
    except NginxUnavailable as error:
        raise SettingsError(str(error)) from error
    _log.info(
        "starting",
        version=__version__,
        nginx=".".join(map(str, pipeline.binary.version)) if pipeline.binary else None,
        consul=settings.consul.address,
        output=str(output.directory),
    )
    for problem in pipeline.problems:
        _log.warning("file left out", reason=problem)
    catalogs: Latest[Catalog] = Latest()
    reconciler = Reconciler(settings, output, pipeline, catalogs)
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ConsulClient(settings.consul))
        watch = CatalogWatch(client, tag_prefix=settings.proxy.tag_prefix, into=catalogs)
        sidecar = RunningSidecar(settings, reconciler, watch, client)
        await stack.enter_async_context(serving(sidecar, settings.admin, output.directory))
        stack.enter_context(watching(_directories(settings), reconciler.files_changed))
        _on_hangup(stack, reconciler.files_changed)
        async with asyncio.TaskGroup() as group:
            start_eternal(group, reconciler.run(), name="reconcile")
            start_eternal(group, watch.run(), name="watch of Consul")
            group.create_task(_say_what_is_denied(client), name="probe of the token")


async def _say_what_is_denied(client: ConsulClient) -> None:
    """Ask once at start what the token may read; Consul itself would answer with nothing and no error."""

    async def attempt() -> None:
        try:
            await probe(client)
        except AccessDenied as error:
            _log.error("token lacks a rule", reason=str(error))

    await retrying(CatalogUnavailable, longest=30.0)(attempt)


def _directories(settings: Settings) -> Iterator[Path]:
    proxy = settings.proxy
    for directory in (proxy.templates, proxy.snippets, proxy.certificates, proxy.htpasswd):
        if directory is not None:
            yield directory
    yield settings.nginx.conf.parent


def _on_hangup(stack: AsyncExitStack, changed: Callable[[], None]) -> None:
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, changed)
    stack.callback(loop.remove_signal_handler, signal.SIGHUP)
