"""What Docker must be told of this host's subnet."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import progress
from proxygen.kit.errors import BadInput, NetworkError
from proxygen.network.docker import (
    DockerVersion,
    daemon_json,
    docker_options,
    installed_docker,
    read_docker_version,
    refuse_others,
    show_daemon_json,
)
from proxygen.network.files import read_subnet_env, write_file
from proxygen.settings import Settings


def _refuse_merge(_context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        raise click.UsageError(
            "--merge is gone: print the options, put them into your daemon.json, and let "
            "`dockerd --validate --config-file FILE` judge it"
        )


@click.group()
def docker() -> None:
    """Tell Docker of this host's subnet."""


@docker.command(
    "render",
    cls=Command,
    short_help="Print the daemon.json that gives Docker this host's subnet.",
    examples=[
        "proxygen network docker render",
        "proxygen network docker render --network-docker-pools --output /etc/docker/daemon.json",
    ],
)
@settings_options("network")
@click.option("--merge", hidden=True, expose_value=False, callback=_refuse_merge)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write there instead of printing.")
@click.option("--docker-version", metavar="VERSION", help="Docker's version; default what dockerd says.")
def docker_render(settings: Settings, output: Path | None, docker_version: str | None) -> None:
    """Print the options of dockerd that give its containers addresses of this host's subnet, as a daemon.json.

    The subnet is read from subnet.env, which the agent writes. Docker takes the options when it is started again. What
    stands in docker_opts.env must not stand in daemon.json too: use one of the two. Exits 2 where the file to write has
    anything of the operator's; nothing is written then.
    """
    lease = read_subnet_env(_read(settings.network.subnet_file, hint="; the agent writes it (proxygen network up)"))
    options = docker_options(
        lease.subnet,
        mtu=lease.mtu,
        masquerade=lease.masquerade,
        divided=settings.network.docker_pools,
        version=_version(docker_version),
    )
    text = show_daemon_json(daemon_json(options))
    if output is None:
        click.echo(text, nl=False)
        return
    refuse_others(_existing(output), options)
    if write_file(output, text):
        progress(f"{output} written; restart Docker")


def _version(text: str | None) -> DockerVersion | None:
    if text is None:
        return asyncio.run(installed_docker())
    version = read_docker_version(text)
    if version is None:
        raise click.UsageError(f"--docker-version {text}: write it as dockerd does, such as 28.2.0")
    return version


def _existing(path: Path) -> str:
    return _read(path) if path.exists() else ""


def _read(path: Path, *, hint: str = "") -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NetworkError(f"{path} is not there{hint}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: {error}") from error
