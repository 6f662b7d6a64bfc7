"""Keeping what Consul says now for later: `render`, `check` and `diff` read the file back."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import progress
from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import take_snapshot
from proxygen.kit.errors import BadInput
from proxygen.settings import Settings


@click.command(
    cls=Command,
    examples=["proxygen snapshot -o before.json", "proxygen snapshot | jq '.services | keys'"],
)
@settings_options("consul", "proxy.tag_prefix")
@click.option(
    "-o",
    "--output",
    "file",
    type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
    default="-",
    metavar="FILE",
    help="Where to write; standard output by default.",
)
def snapshot(settings: Settings, file: Path) -> None:
    """Write the watched part of Consul to one JSON file, which --catalog of render, check and diff reads back.

    It holds the routed services as /v1/health/service/NAME answers, and the canary shares in KV; no token.
    """
    progress(f"reading {settings.consul.address}")
    content = asyncio.run(_take(settings))
    if str(file) == "-":
        click.echo(content, nl=False)
        return
    try:
        # In place: it may be a pipe or another user's file, and a part of a snapshot is refused as no JSON.
        file.write_bytes(content)
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    progress(f"wrote {file} ({len(content)} bytes)")


async def _take(settings: Settings) -> bytes:
    async with ConsulClient(settings.consul) as client:
        return await take_snapshot(client, tag_prefix=settings.proxy.tag_prefix)
