"""Building, checking and setting proxy tags."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import click

from proxygen.cli.keys import key_options, tag_texts
from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, printable
from proxygen.consul.client import ConsulClient
from proxygen.consul.names import name_problem
from proxygen.kit.errors import BadInput, TagError
from proxygen.registration.definition import Definition, read_definitions
from proxygen.registration.live import TagChange, set_tags
from proxygen.settings import Settings
from proxygen.tags import (
    KEYS,
    ProxyTags,
    format_meta,
    format_tags,
    has_proxy_tags,
    lint_tags,
    parse_tags,
    without_effect,
)


@click.group()
def tags() -> None:
    """Build, check and set proxy tags."""


@tags.command(
    "build",
    cls=Command,
    short_help="Build proxy tags and print them.",
    examples=[
        "proxygen tags build --route app.example.com --canary 10%",
        "proxygen tags build --route /api --strip-prefix true --json",
    ],
)
@settings_options("proxy.tag_prefix")
@key_options()
@click.option("--json", "form", flag_value="json", help="Print a JSON list, for a definition's tags.")
@click.option("--meta", "form", flag_value="meta", help="Print a JSON object, for a definition's Meta.")
def build(settings: Settings, form: str | None, **values: Sequence[str]) -> int:
    """Build proxy tags and print them, one a line. Exits 1 when they are not valid together."""
    prefix = settings.proxy.tag_prefix
    texts = tag_texts(values, prefix)
    problems = lint_tags(texts, (), prefix)
    if problems:
        return _report(problems)
    built = parse_tags(texts, (), prefix)
    if form == "json":
        print_json(format_tags(built, prefix))
    elif form == "meta":
        print_json(dict(format_meta(built, prefix)))
    else:
        for tag in format_tags(built, prefix):
            click.echo(tag)
    return 0


@tags.command(
    "lint",
    cls=Command,
    short_help="Check a service definition before it is registered.",
    examples=[
        "proxygen tags lint web.json",
        "jq .definition build.json | proxygen tags lint -",
        "proxygen tags lint --against-consul web.json",
    ],
)
@settings_options("consul", "proxy.tag_prefix", "proxy.claims", "proxy.hosts", "bounds", "output.directory")
@click.option("--against-consul", is_flag=True, help="Say too what would clash with what Consul holds.")
@click.argument("file", type=click.Path(path_type=Path, allow_dash=True))
def lint(settings: Settings, file: Path, against_consul: bool) -> int:
    """Check the proxy tags and Meta of the services in FILE (- for standard input) before they are registered.

    FILE is a Consul service definition in JSON: a configuration file with "service" or "services", the body of an
    API registration, or a bare list of tags. Exits 1 when a tag is wrong, 2 when FILE cannot be read. A tag that has
    no effect, such as a route with protocol=tcp, is named and changes no exit code.

    With --against-consul each service is planned as a newcomer among those that are registered: hosts and paths that
    another service holds, a share or an option that differs from its own instances'. Exits 1 when there is such a
    clash, 3 when Consul does not answer.
    """
    definitions = read_definitions(_read(file))
    wrong = 0
    for definition in definitions:
        wrong += _lint_one(definition, settings.proxy.tag_prefix)
    if against_consul and not wrong:
        wrong = asyncio.run(_say_clashes(definitions, settings))
    return 1 if wrong else 0


async def _say_clashes(definitions: Iterable[Definition], settings: Settings) -> int:
    """Say what each definition would meet, and return how much that is."""
    # Planning is more than the other commands of this group need.
    from proxygen.cli.clashes import find_clashes
    from proxygen.cli.oneshot import read_catalog
    from proxygen.proxy.policy.read import read_claim_policy
    from proxygen.proxy.state.memory import recall

    catalog = await read_catalog(settings, None)
    policy = read_claim_policy(settings)
    memory = recall(settings.output.directory).plan
    found = [(one.name, clash) for one in definitions for clash in find_clashes(one, catalog, policy, memory)]
    for name, clash in found:
        click.echo(f"{printable(name)}: {printable(clash)}")
    return len(found)


@tags.command(
    "set",
    cls=Command,
    short_help="Set proxy tags of a registration that is live.",
    examples=["proxygen tags set web-1 canary=25%", "proxygen tags set web-1 route=a.example.com route=b.example.com"],
)
@settings_options("consul", "proxy.tag_prefix")
@click.argument("service_id")
@click.argument("assignments", nargs=-1, metavar="KEY=VALUE...")
@click.option("--remove", "removed", multiple=True, metavar="KEY", help="Remove a key's tags. May repeat.")
def set_(settings: Settings, service_id: str, assignments: Sequence[str], removed: Sequence[str]) -> int:
    """Set proxy tags of SERVICE_ID, a registration that is live on the local agent.

    The values given replace all values of that key; other tags, checks, Meta and weights stay as they are.
    Nothing is sent where nothing changes, or where the tags would not be valid. A registration that the agent
    read from its configuration files comes back unchanged when the agent restarts: change it there too.
    """
    set_to = _assignments(assignments)
    if not set_to and not removed:
        raise click.UsageError("give at least one KEY=VALUE, or --remove KEY")
    for key in (*set_to, *removed):
        if key not in {known.name for known in KEYS}:
            raise click.UsageError(f"{key!r} is no key; the keys are {', '.join(known.name for known in KEYS)}")
    try:
        change = asyncio.run(_set(settings, service_id, set_to, removed))
    except TagError as error:
        _report([error])
        click.echo("nothing was sent", err=True)
        return 1
    _print_change(change)
    return 0


async def _set(settings: Settings, service_id: str, set_to: dict[str, list[str]], removed: Sequence[str]) -> TagChange:
    async with ConsulClient(settings.consul) as client:
        return await set_tags(client, service_id, set_to=set_to, removed=removed, prefix=settings.proxy.tag_prefix)


def _assignments(texts: Sequence[str]) -> dict[str, list[str]]:
    set_to: dict[str, list[str]] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.UsageError(f"{text!r} is not KEY=VALUE")
        set_to.setdefault(key, []).append(value)
    return set_to


def _print_change(change: TagChange) -> None:
    if change.before == change.after:
        click.echo("unchanged", err=True)
    for tag in change.before:
        if tag not in change.after:
            click.echo(f"- {printable(tag)}")
    for tag in change.after:
        if tag not in change.before:
            click.echo(f"+ {printable(tag)}")


def _read(file: Path) -> str:
    try:
        return sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{file}: not UTF-8 text") from error


def _lint_one(definition: Definition, prefix: str) -> int:
    """Say what is wrong with one definition and return the number of problems."""
    name = printable(definition.name)
    problems = [str(problem) for problem in lint_tags(definition.tags, definition.meta, prefix)]
    if unservable := name_problem(definition.name):
        problems.insert(0, unservable)
    for problem in problems:
        click.echo(f"{name}: {printable(problem)}")
    if problems:
        return len(problems)
    keys = [key for key, _ in definition.meta if key.startswith(f"{prefix}-")]
    if not has_proxy_tags(definition.tags, prefix) and not keys:
        click.echo(f"{name}: no proxy tags")
        return 0
    remarks = [f", but {remark}" for remark in _remarks(parse_tags(definition.tags, definition.meta, prefix))]
    for remark in remarks or [""]:
        click.echo(f"{name}: valid{remark}")
    return 0


def _remarks(stated: ProxyTags) -> Iterator[str]:
    """What its author should know of tags that are valid."""
    is_stream = stated.protocol is not None and stated.protocol.is_stream
    if not stated.route and not is_stream:
        yield "no route: it is proxied only if another instance has one"
    yield from without_effect(stated, [stated])


def _report(problems: Iterable[TagError]) -> int:
    for problem in problems:
        click.echo(f"proxygen: {printable(problem)}", err=True)
    return 1
