"""What render, check and diff share: a catalog from a file or from Consul, and a pipeline around what is installed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

import click

from proxygen.catalog import Catalog, ServiceName
from proxygen.cli.output import printable, progress
from proxygen.consul.acl import probe
from proxygen.consul.catalog_file import read_catalog_file
from proxygen.consul.client import ConsulClient
from proxygen.consul.snapshot import fetch_catalog
from proxygen.kit.errors import BadInput, CheckRefused, NginxUnavailable, RefusedWithoutName
from proxygen.proxy.accepted import recall_good_tags
from proxygen.proxy.attempt import MAX_ROUNDS, Stages
from proxygen.proxy.check.gates import Checked, RefusedCandidate, RefusedLines, RefusedWhole
from proxygen.proxy.draft import Draft
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Plan, Quarantine, Service
from proxygen.proxy.plan.unusable import describe_all
from proxygen.proxy.policy.pushing import NOT_PUSHING, Pushing, find_pushing
from proxygen.proxy.quarantine.culprits import find_culprits
from proxygen.proxy.quarantine.quarantines import quarantines
from proxygen.proxy.state.last_good import load_last_good
from proxygen.proxy.state.memory import recall
from proxygen.settings import Settings

_Command = TypeVar("_Command", bound=Callable[..., object])


def catalog_option(command: _Command) -> _Command:
    """Give a command ``--catalog FILE``."""
    return click.option(
        "--catalog",
        type=click.Path(path_type=Path, allow_dash=True, dir_okay=False),
        metavar="FILE",
        help="Read this file (what `proxygen snapshot` writes) instead of Consul; - is standard input.",
    )(command)


async def read_catalog(settings: Settings, file: Path | None) -> Catalog:
    """Raise CatalogFileError or CatalogUnavailable."""
    if file is not None:
        return _read_file(file)
    progress(f"reading {settings.consul.address}")
    async with ConsulClient(settings.consul) as client:
        await probe(client)
        return await fetch_catalog(client, tag_prefix=settings.proxy.tag_prefix)


def _read_file(file: Path) -> Catalog:
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    return read_catalog_file(content)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What of a catalog no gate that was asked refuses."""

    draft: Draft
    checked: Checked | None
    """None where nginx was not asked."""


class OneShotStages(Stages[Checked | None, Tried]):
    """One attempt's, by what the sidecar of this host remembers, where there is one: claims, and tags that served."""

    def __init__(self, pipeline: Pipeline, settings: Settings, catalog: Catalog, *, asks_nginx: bool) -> None:
        memory, last_good = recall(settings.output.directory).plan, load_last_good(settings.output.directory)
        if last_good is not None:
            memory = replace(memory, good_tags=recall_good_tags(last_good, pipeline.drafter, memory))
        self._pipeline: Final = pipeline
        self._memory: Final = memory
        self._catalog: Final = catalog
        self._asks_nginx: Final = asks_nginx
        self._refused: dict[ServiceName, Quarantine] = {}

    async def draft(self) -> Draft:
        return self._draft_without({})

    def _draft_without(self, left_out: Mapping[ServiceName, Quarantine]) -> Draft:
        return self._pipeline.drafter.draft(self._catalog, self._memory, {**self._refused, **left_out})

    async def check(self, draft: Draft) -> Checked | RefusedCandidate | None:
        """None where nginx is not asked and the first gate passed it."""
        refused = self._pipeline.gates.structure(draft.rendered)
        return await self._pipeline.try_out(draft) if refused is None and self._asks_nginx else refused

    async def deliver(self, draft: Draft, passed: Checked | None) -> Tried:
        """Deliver nothing: what passed is the result."""
        return Tried(draft=draft, checked=passed)

    async def leave_out(self, draft: Draft, refused: RefusedCandidate) -> None:
        """Quarantine whose lines were refused, or search for the service at fault where the refusal names none."""
        match refused:
            case RefusedLines():
                self._refused |= quarantines(refused.refusals, self._refused)
            case RefusedWhole():
                await self._search(refused.error)

    async def _search(self, error: RefusedWithoutName) -> None:
        """Search until nobody is untried: nothing waits for it here."""

        async def accepts(left_out: Mapping[ServiceName, Quarantine]) -> bool:
            return await self._pipeline.accepts(self._draft_without(left_out))

        passed: Mapping[ServiceName, Service] | None = None
        for _ in range(MAX_ROUNDS):
            plan, known = self._draft_without({}).plan, dict(self._refused)
            found = await find_culprits(plan, error, accepts, known=known, served={}, passed=passed)
            self._refused |= found.guilty
            if not found.untried:
                return
            passed = found.kept
        raise CheckRefused(
            f"nginx names no service, and {MAX_ROUNDS} searches for the one at fault ran out: {error.reason}"
        )

    async def record(self, draft: Draft, result: Tried) -> Tried:
        """Record nothing: a command has no next attempt."""
        return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A pipeline, and what the operator should know of the ground it stands on."""

    pipeline: Pipeline
    remarks: tuple[str, ...] = ()
    pushing: Pushing | None = None
    """What a sidecar with this nginx.conf would push; None where there is none that can be read."""
    unreadable: BadInput | None = None
    """Why nginx.conf, or a file that it includes, cannot be read; None where it can, or where there is no nginx."""


async def open_bench(settings: Settings) -> Bench:
    """Build a pipeline that can render everywhere: nginx and its configuration are used where they are there."""
    remarks = []
    binary: Binary | None = None
    conf: OperatorConf | None = None
    unreadable: BadInput | None = None
    pushing: Pushing | None = None
    try:
        binary = await inspect_binary(settings.nginx)
    except NginxUnavailable as error:
        remarks.append(str(error))
    else:
        try:
            conf = read_operator_conf(settings.nginx, settings.output.directory, binary)
        except BadInput as error:
            # A machine that has nginx's binary alone has none to check against; one that is named is meant.
            is_meant = "conf" in settings.nginx.model_fields_set or settings.nginx.conf.exists()
            unreadable = error if is_meant else None
            remarks.append(str(error))
        else:
            pushing = await find_pushing(settings, binary, conf)
    if conf is not None and "http" not in conf.includes:
        # Nothing of ours is in force there, so nothing in it says what our candidate will meet.
        conf = None
    used = NOT_PUSHING if conf is None or pushing is None else pushing
    pipeline = await Pipeline(settings, binary=binary, conf=conf, pushing=used).without_refused_copies()
    return Bench(
        pipeline=pipeline,
        remarks=(*remarks, *pipeline.ground.problems, *pipeline.ground.copied),
        pushing=pushing,
        unreadable=unreadable,
    )


def say(text: str) -> None:
    """Print to standard error: standard output is the command's result."""
    click.echo(f"proxygen: {printable(text)}", err=True)


def say_problems(plan: Plan) -> None:
    """Name on standard error what is left out, and who was told no."""
    for quarantine in plan.quarantined:
        say(f"quarantined {quarantine}")
    for conflict in plan.conflicts:
        holder = f"held by service {conflict.holder}" if conflict.holder else conflict.reason
        say(f"conflict: service {conflict.loser} does not get {conflict.claim}: {holder}")
    for service in plan.services:
        for warning in (*describe_all(service), *service.warnings):
            say(f"warning: service {service.name}: {warning}")
