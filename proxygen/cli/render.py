"""One-shot debugging: render, check and diff. None of them touches the live generation."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from proxygen.catalog import Catalog
from proxygen.cli.lazy import Command
from proxygen.cli.oneshot import OneShotStages, catalog_option, open_bench, read_catalog, say, say_problems
from proxygen.cli.options import settings_options
from proxygen.kit.disk import Readers
from proxygen.kit.errors import BadInput, NginxUnavailable
from proxygen.proxy.apply.held import held_addresses, restart_needed
from proxygen.proxy.apply.publish import current, write_files
from proxygen.proxy.attempt import attempt
from proxygen.proxy.check.standalone import standalone
from proxygen.proxy.draft import Draft
from proxygen.proxy.nginx.listens import listens
from proxygen.proxy.nginx.master import find_master
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.record.difference import Contents, compare, contents, summary
from proxygen.proxy.render.renderer import Rendered
from proxygen.settings import Settings


@click.command(
    cls=Command,
    examples=[
        "proxygen render",
        "proxygen render --service web",
        "proxygen snapshot -o now.json && proxygen render --catalog now.json --output /tmp/out",
    ],
)
@settings_options()
@catalog_option
@click.option("--output", "target", default="-", metavar="DIR|-", help="Directory to write into; - prints to stdout.")
@click.option("--service", metavar="NAME", help="Only what stands for this service.")
def render(settings: Settings, catalog: Path | None, target: str, service: str | None) -> int:
    """Render what nginx would be given, without touching the live generation.

    Services that are left out are named on standard error. Exits 1 when a check refuses the whole.
    """
    pipeline, drafted = asyncio.run(_drafted(settings, catalog))
    say_problems(drafted.plan)
    files = _only(drafted, service) if service is not None else dict(drafted.rendered.contents)
    if target == "-":
        for path, content in files.items():
            click.echo(f"# {path}")
            click.echo(content.decode(), nl=False)
        return 0
    _write(settings, Path(target), files, pipeline.ground.readers)
    return 0


async def _drafted(settings: Settings, catalog: Path | None) -> tuple[Pipeline, Draft]:
    observed = await read_catalog(settings, catalog)
    bench = await open_bench(settings)
    tried = await attempt(OneShotStages(bench.pipeline, settings, observed, asks_nginx=False))
    return bench.pipeline, tried.draft


def _only(drafted: Draft, service: str) -> dict[str, bytes]:
    if all(known.name != service for known in drafted.plan.services):
        names = ", ".join(known.name for known in drafted.plan.services) or "none"
        raise BadInput(f"--service: {service!r} is no routed service; routed are: {names}")
    return dict(_units(drafted.rendered, service))


def _units(rendered: Rendered, service: str) -> Iterator[tuple[str, bytes]]:
    for file in rendered.files:
        text = "".join(unit.text for unit in file.units if any(service in owners for _, owners in unit.owners))
        if text:
            yield file.path, text.encode()


def _write(settings: Settings, target: Path, contents: Mapping[str, bytes], readers: Mapping[str, Readers]) -> None:
    live = settings.output.directory.resolve()
    if target.resolve() == live or live in target.resolve().parents:
        raise BadInput(f"--output {target} lies in the live output directory {live}; choose another one")
    try:
        target.mkdir(parents=True, exist_ok=True)
        write_files(target, contents, readers)
    except OSError as error:
        raise BadInput(f"--output {target}: {error.strerror}") from error


@click.command(cls=Command, examples=["proxygen check", "proxygen check --catalog production.json"])
@settings_options()
@catalog_option
def check(settings: Settings, catalog: Path | None) -> int:
    """Render to a scratch place and pass every gate; say per service what is left out and why, and what keeps changes
    from reaching nginx without a reload.

    Exits 0 when nothing is refused, quarantined or left out, 2 where nginx.conf cannot be read, else 1.
    """
    return asyncio.run(_check(settings, catalog))


async def _check(settings: Settings, catalog: Path | None) -> int:
    observed = await read_catalog(settings, catalog)
    bench = await open_bench(settings)
    if bench.unreadable is not None:
        raise bench.unreadable
    for remark in bench.remarks:
        say(remark)
    pipeline = bench.pipeline
    if pipeline.binary is None:
        raise NginxUnavailable("the second gate (nginx -t) cannot run without nginx's binary")
    if pipeline.conf is None:
        say(f"{settings.nginx.conf} does not include the generations yet; checking against a minimal nginx.conf")
        async with standalone(settings, pipeline.binary) as conf:
            pipeline = Pipeline(settings, binary=pipeline.binary, conf=conf)
            drafted = await _pass_all(pipeline, settings, observed)
    else:
        drafted = await _pass_all(pipeline, settings, observed)
    say_problems(drafted.plan)
    if bench.pushing is not None and bench.pushing.is_hindered:
        say(f"every change takes a reload of nginx: {bench.pushing.problem}")
    plan = drafted.plan
    served = len(plan.services) - len(plan.quarantined)
    unusable = sum(bool(one.problem) for service in plan.services for one in service.instances)
    also = f", {unusable} unusable instances" if unusable else ""
    click.echo(f"{served} services pass, {len(plan.quarantined)} quarantined, {len(plan.conflicts)} conflicts{also}")
    return 1 if plan.quarantined or unusable else 0


async def _pass_all(pipeline: Pipeline, settings: Settings, catalog: Catalog) -> Draft:
    """Pass both gates without the services that they refuse, as the sidecar does."""
    tried = await attempt(OneShotStages(pipeline, settings, catalog, asks_nginx=True))
    for remark in tried.checked.remarks if tried.checked is not None else ():
        say(f"nginx remarks: {remark}")
    if reason := _restart_needed(pipeline, tried.draft):
        say(reason)
    return tried.draft


def _restart_needed(pipeline: Pipeline, drafted: Draft) -> str:
    """Why a reload would not do: beside what the nginx that runs holds, else beside what it would without us."""
    assert pipeline.conf is not None
    assert pipeline.binary is not None
    master = find_master(pipeline.conf, pipeline.binary)
    held = held_addresses(master) if master is not None else None
    ours, place = listens(pipeline.files_of(drafted.rendered)), pipeline.ground.occupied
    return restart_needed(place, ours, place.bound() if held is None else held)


@click.command(cls=Command, examples=["proxygen diff", "proxygen diff --catalog production.json"])
@settings_options()
@catalog_option
def diff(settings: Settings, catalog: Path | None) -> int:
    """Show what would change against the live generation, as a unified diff and one line of summary.

    Exits 0 when nothing would change, else 1. Copies of servers of nginx.conf are not shown; where this user may not
    read them, it exits 1.
    """
    _, drafted = asyncio.run(_drafted(settings, catalog))
    say_problems(drafted.plan)
    live = _live(settings)
    new = {path: content.decode() for path, content in drafted.rendered.contents.items()}
    differences = compare(live, new, names=("live", "new"))
    for each in differences:
        click.echo("".join(each.lines), nl=False)
    number = current(settings.output.directory)
    click.echo(summary(differences, f"generation {number}" if number is not None else "no live generation"))
    return 1 if differences else 0


def _live(settings: Settings) -> Contents:
    try:
        return contents(settings.output.directory / "current")
    except OSError as error:
        raise BadInput(f"the live generation cannot be read: {error.filename}: {error.strerror}") from error
