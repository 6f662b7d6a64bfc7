"""Commands that ask the running sidecar: status, rollback, release-hold."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, print_table, printable
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.report import ApplyReport, State, StatusReport
from proxygen.proxy.admin.service_report import Change, InstanceReport, InstanceState, ServiceReport
from proxygen.proxy.admin.standing import beside
from proxygen.proxy.apply.outcome import DONE
from proxygen.settings import Settings
from proxygen.tags.shares import Share, format_share

_WAITING = {None: "", Change.CHANGED: "", Change.ADDED: " (not served yet)", Change.REMOVED: " (gone from Consul)"}


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
    click.echo(_apply_text(report))
    return 0 if report.outcome in DONE else 1


def _apply_text(report: ApplyReport) -> str:
    generation = "" if report.generation is None else f" generation {report.generation}"
    reason = f": {printable(report.reason)}" if report.reason else ""
    seconds = sum(report.durations.values())
    return f"{report.outcome}{generation}{reason}" + (f" ({seconds:.2f}s)" if seconds else "")


def _print_status(report: StatusReport) -> None:
    for label, text in _facts(report):
        click.echo(f"{label + ':':<12} {printable(text)}")
    kept = report.hold.instances if report.hold is not None else ()
    for title, headings, rows in (
        ("services", ("SERVICE", "VARIANT", "SHARE", "INSTANCES", "ROUTES"), _service_rows(report.services)),
        (
            "quarantined",
            ("SERVICE", "PLACE", "REASON"),
            ((item.service, item.place, item.reason) for item in report.quarantined),
        ),
        (
            "conflicts",
            ("ROUTE", "HOLDER", "REFUSED"),
            ((item.route, item.holder, item.loser) for item in report.conflicts),
        ),
        (
            "kept by the hold",
            ("SERVICE", "NODE", "INSTANCE", "ADDRESS"),
            ((item.service, item.node, item.id, item.address) for item in kept),
        ),
    ):
        table = list(rows)
        if table:
            click.echo(f"\n{title}")
            print_table(headings, table)


def _facts(report: StatusReport) -> Iterator[tuple[str, str]]:
    yield "state", f"{report.state} (proxygen {report.version})"
    for reason in report.reasons:
        yield "because", reason
    if notice := beside(report):
        yield "serving", notice
    if report.live is None:
        yield "generation", "none is live"
    else:
        yield "generation", f"{report.live.number} since {report.live.since} ({report.live.outcome})"
    if report.last_apply is not None:
        yield "last apply", _apply_text(report.last_apply)
    if report.hold is not None:
        yield "on hold", f"since {report.hold.since}: {report.hold.reason} (proxygen release-hold lets it through)"
    freshness = "never answered" if report.consul.freshness is None else f"answered {report.consul.freshness:.1f}s ago"
    yield (
        "consul",
        f"{report.consul.address} {freshness}" + (f"; {report.consul.problem}" if report.consul.problem else ""),
    )
    nginx = report.nginx
    workers = f", {nginx.accepting} workers, {nginx.draining} draining" if nginx.accepting is not None else ""
    master = f"master {nginx.master}" if nginx.master is not None else "no master seen"
    yield "nginx", f"{nginx.version or 'version unknown'}, {master}{workers}"
    for condition in report.conditions:
        yield condition.topic, condition.text
    for warning in report.warnings:
        yield "warning", warning


def _service_rows(services: tuple[ServiceReport, ...]) -> Iterator[tuple[str, str, str, str, str]]:
    for service in services:
        name, routes = service.name + _WAITING[service.waiting], " ".join(service.routes)
        for variant in service.variants:
            share = format_share(Share(variant.effective))
            if variant.waiting is not None:
                share += f" (waiting {format_share(Share(variant.waiting))})"
            elif variant.effective != variant.asked:
                share += f" (asked {format_share(Share(variant.asked))})"
            yield name, variant.name, share, _instances(variant.instances), routes
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
