"""The demo: everything on one machine, and the split measured."""

from __future__ import annotations

import asyncio
import json
import signal

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import progress
from proxygen.demo.load import Count, is_within_tolerance, send
from proxygen.demo.system import CANARY, HOST, SERVICE, STABLE, Demo, running
from proxygen.kit.errors import BadInput
from proxygen.settings import Settings
from proxygen.tags.shares import WHOLE, Share, format_share, parse_share

FIRST_LOOK = 3_000
"""Requests for the split that an endless demo shows; enough to tell 10 % from 12 %."""


@click.command(cls=Command, examples=["proxygen demo", "proxygen demo --seconds 10", "proxygen demo --canary 25%"])
@settings_options("log")
@click.option("--seconds", type=click.FloatRange(min=0.5, max=3600), help="Send load for so long, then end.")
@click.option("--canary", default="10%", metavar="SHARE", help="The canary's share.", show_default=True)
@click.option("--port", type=click.IntRange(1, 65535), help="nginx's port; 8080 where it is free.")
def demo(settings: Settings, seconds: float | None, canary: str, port: int | None) -> int:
    """Run the whole system on this machine: a dev Consul, three instances (one a canary), nginx and the sidecar.

    Prints the URLs and the measured split; Ctrl-C removes it all. With --seconds it sends load for so long and ends;
    the last line is JSON, and the exit code is 0 only if no request failed and the split is within tolerance.
    """
    try:
        share = parse_share(canary)
    except ValueError as error:
        raise BadInput(f"--canary: {error}") from error
    return asyncio.run(_demo(seconds, share, port))


async def _demo(seconds: float | None, share: Share, port: int | None) -> int:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    show = asyncio.create_task(_show(seconds, share, port, stop), name="demo")
    await asyncio.wait(
        {show, asyncio.create_task(stop.wait(), name="wait for Ctrl-C")}, return_when=asyncio.FIRST_COMPLETED
    )
    if not show.done():
        show.cancel()
        await asyncio.gather(show, return_exceptions=True)
        click.echo("removed: Consul, nginx, the sidecar and the instances have ended")
        return 0 if seconds is None else 1
    return show.result()


async def _show(seconds: float | None, share: Share, port: int | None, stop: asyncio.Event) -> int:
    progress("starting Consul, nginx, three instances and the sidecar")
    async with running(port=port, canary=format_share(share)) as demo:
        _print_places(demo)
        if seconds is not None:
            count = await send(demo.http, HOST, seconds=seconds)
            _print_split(count, share)
            return _conclude(count, share)
        _print_split(await send(demo.http, HOST, seconds=30, requests=FIRST_LOOK), share)
        click.echo("Ctrl-C ends it all.")
        await stop.wait()
    return 0


def _print_places(demo: Demo) -> None:
    # The address with its scheme, as a flag: CONSUL_HTTP_ADDR in the user's shell would win over the file.
    own = f"--config {demo.settings_file} --consul-address {demo.consul.removesuffix('/ui/')}"
    click.echo(f"application   curl -H 'Host: {HOST}' http://127.0.0.1:{demo.http}/")
    click.echo(f"Consul        {demo.consul}")
    click.echo(f"status page   {demo.page}")
    click.echo(f"steer it      there, with the token {demo.token}")
    click.echo(f"              or: proxygen canary set {SERVICE} 50% {own}")


def _print_split(count: Count, share: Share) -> None:
    asked = {CANARY: share / WHOLE, **dict.fromkeys(STABLE, (WHOLE - share) / WHOLE / len(STABLE))}
    click.echo(f"\n{count.requests} requests, {count.failures.total()} failed")
    for name, part in asked.items():
        measured = count.share(name)
        click.echo(f"  {name:<10} asked {part:6.1%}  measured {measured:6.1%}  {'#' * round(measured * 40)}")
    for kind, number in count.failures.most_common():
        click.echo(f"  failed: {number} x {kind}")


def _conclude(count: Count, share: Share) -> int:
    failed = count.failures.total()
    summary = {
        "requests": count.requests,
        "failed": failed,
        "canary_share_asked": share / WHOLE,
        "canary_share_measured": round(count.share(CANARY), 4),
    }
    click.echo(json.dumps(summary))
    return 0 if failed == 0 and is_within_tolerance(count, CANARY, share) else 1
