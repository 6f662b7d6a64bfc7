"""Commands that ask the running sidecar: status, rollback, release-hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Sequence

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, print_table, printable
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.report import ApplyReport, State, StatusReport
from proxygen.proxy.admin.service_report import InstanceReport, InstanceState, ServiceReport
from proxygen.proxy.admin.summary import apply_text, facts, listings, named, share_text
from proxygen.proxy.apply.outcome import DONE
from proxygen.settings import Settings


@click.command(cls=Command, examples=["proxygen status", "proxygen status --json | jq .services"])
@settings_options("admin", "output")
@click.option("--json", "as_json", is_flag=True, help="Print the whole report as JSON.")
def status(settings: Settings, as_json: bool) -> int:
    """Show what the running sidecar serves and why.

    Exits 0 when it is ready, 1 when it is starting or degraded, or when no sidecar answers.
    """
    report = asyncio.run(_status(settings))
    if as_json:
        print_json(report)
    else:
        _print_status(report)
    return 0 if report.state is State.READY else 1


@click.command(cls=Command, examples=["proxygen rollback", "proxygen rollback 41"])
@settings_options("admin", "output")
@click.argument("generation", type=click.IntRange(min=1), required=False)
def rollback(settings: Settings, generation: int | None) -> int:
    """Make GENERATION live again; without one, the generation before the live one.

    The change goes through the same reload and the same proof as any other. Exits 1 when it did not take.
    """
    return _print_apply(asyncio.run(_rollback(settings, generation)))


@click.command("release-hold", cls=Command, examples=["proxygen release-hold"])
@settings_options("admin", "output")
def release_hold(settings: Settings) -> int:
    """Let a plan through that the guard holds back because it is suspicious.

    "proxygen status" says what is held and why. Exits 1 when nothing is held or the plan did not take.
    """
    return _print_apply(asyncio.run(_release_hold(settings)))


async def _status(settings: Settings) -> StatusReport:
    async with connect(settings.admin, settings.output.directory) as sidecar:
        return await sidecar.status()


async def _rollback(settings: Settings, generation: int | None) -> ApplyReport:
    async with connect(settings.admin, settings.output.directory) as sidecar:
        return await sidecar.rollback(generation)


async def _release_hold(settings: Settings) -> ApplyReport:
    async with connect(settings.admin, settings.output.directory) as sidecar:
        return await sidecar.release_hold()


def _print_apply(report: ApplyReport) -> int:
    click.echo(printable(apply_text(report)))
    return 0 if report.outcome in DONE else 1


def _print_status(report: StatusReport) -> None:
    for fact in facts(report):
        click.echo(f"{fact.label + ':':<12} {printable(fact.text)}")
    _print_listing("services", ("SERVICE", "VARIANT", "SHARE", "INSTANCES", "ROUTES"), _service_rows(report.services))
    for listing in listings(report):
        _print_listing(listing.title, listing.headings, listing.rows)


def _print_listing(title: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    if table := list(rows):
        click.echo(f"\n{title}")
        print_table(headings, table)


def _service_rows(services: tuple[ServiceReport, ...]) -> Iterator[tuple[str, str, str, str, str]]:
    for service in services:
        name, routes = named(service), " ".join(service.routes)
        for variant in service.variants:
            yield name, variant.name, share_text(variant), _instances(variant.instances), routes
            name = routes = ""


def _instances(instances: tuple[InstanceReport, ...]) -> str:
    """How many of them serve; by datacenter where there is more than one."""
    by_datacenter: dict[str, list[InstanceState]] = {}
    for instance in instances:
        by_datacenter.setdefault(instance.datacenter, []).append(instance.state)
    counts = {name: _count(states) for name, states in by_datacenter.items()}
    if len(counts) > 1:
        return ", ".join(f"{name} {count}" for name, count in counts.items())
    return next(iter(counts.values()), "0/0")


def _count(states: list[InstanceState]) -> str:
    standby = states.count(InstanceState.STANDBY)
    return f"{standby} standby" if standby else f"{states.count(InstanceState.SERVING)}/{len(states)}"
