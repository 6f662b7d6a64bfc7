"""The operator's lever on a canary: the shares in Consul's KV, which go before those in tags."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_table, printable
from proxygen.consul.client import ConsulClient
from proxygen.consul.decode import instances_of
from proxygen.consul.kv import Override, read_override, write_override
from proxygen.consul.reads import read_service
from proxygen.errors import TagError
from proxygen.model import Instance
from proxygen.settings import Settings
from proxygen.shares import CANARY, NOTHING, WHOLE, Share, format_share, parse_override, parse_share, parse_variant_name
from proxygen.tags import parse_tags

Shares = Mapping[str, Share]
Change = Callable[[Shares], Shares]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lever:
    """A service's shares as they stand: in KV, and by its instances' tags."""

    override: Override | None
    in_kv: Shares
    in_tags: Shares
    """The lowest that a variant's instances state."""
    problem: str = ""
    """Why the text in KV counts for nothing, where it does."""

    @property
    def asked(self) -> dict[str, Share]:
        return {**self.in_tags, **self.in_kv}


class _ShareType(click.ParamType[Share]):
    name = "share"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Share:
        try:
            return parse_share(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


class _VariantType(click.ParamType[str]):
    name = "name"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return parse_variant_name(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)


_variant = click.option(
    "--variant", type=_VariantType(), default=CANARY, metavar="NAME", help=f"The variant; {CANARY} by default."
)


@click.group()
def canary() -> None:
    """Read and write a service's canary share in Consul KV.

    A share there goes before the one in tags and needs no redeploy. Writes are check-and-set: two operators
    cannot overwrite each other unseen.
    """


@canary.command(cls=Command, short_help="Show each variant's share.", examples=["proxygen canary show web"])
@settings_options("consul", "proxy.tag_prefix")
@click.argument("service")
def show(settings: Settings, service: str) -> None:
    """Show each variant's share: in KV, in tags, and which of the two counts.

    To give a share back to the tags, delete the key that is shown: consul kv delete KEY.
    """
    lever = asyncio.run(_read(settings, service))
    if lever.problem:
        click.echo(f"proxygen: {_key(settings, service)} is ignored: {printable(lever.problem)}", err=True)
    asked = lever.asked
    rows = [(name, _text(lever.in_kv, name), _text(lever.in_tags, name), _text(asked, name)) for name in sorted(asked)]
    if rows:
        print_table(("VARIANT", "KV", "TAGS", "ASKED"), rows)
    else:
        click.echo(f"no share is asked for, neither in tags nor in {_key(settings, service)}", err=True)


@canary.command(
    "set",
    cls=Command,
    short_help="Set a share.",
    examples=["proxygen canary set web 12.5%", "proxygen canary set web 20% --variant blue"],
)
@settings_options("consul", "proxy.tag_prefix")
@click.argument("service")
@click.argument("share", type=_ShareType())
@_variant
def set_(settings: Settings, service: str, share: Share, variant: str) -> None:
    """Set the variant's share of SERVICE's requests, such as 12.5%.

    Exits 1 when somebody else wrote meanwhile, 3 when Consul does not answer.
    """
    _apply(settings, service, lambda _: {variant: share})


@canary.command(cls=Command, short_help="Give the variant everything.", examples=["proxygen canary promote web"])
@settings_options("consul", "proxy.tag_prefix")
@click.argument("service")
@_variant
def promote(settings: Settings, service: str, variant: str) -> None:
    """Give the variant 100 % of SERVICE's requests, and every other named variant nothing."""
    _apply(settings, service, lambda asked: {**dict.fromkeys(asked, NOTHING), variant: WHOLE})


@canary.command(cls=Command, short_help="Take everything from the variant.", examples=["proxygen canary abort web"])
@settings_options("consul", "proxy.tag_prefix")
@click.argument("service")
@_variant
def abort(settings: Settings, service: str, variant: str) -> None:
    """Give the variant 0 % of SERVICE's requests; its instances stay registered."""
    _apply(settings, service, lambda _: {variant: NOTHING})


def _apply(settings: Settings, service: str, change: Change) -> None:
    before, after = asyncio.run(_write(settings, service, change))
    for name in sorted(after):
        if before.in_kv.get(name) == after[name]:
            click.echo(f"{printable(service)} {name}: {format_share(after[name])} (unchanged)")
            continue
        origin = "" if name in before.in_kv else " (tags)" if name in before.in_tags else ""
        click.echo(f"{printable(service)} {name}: {_text(before.asked, name)}{origin} -> {format_share(after[name])}")
    for name in sorted(after.keys() - before.in_tags.keys()):
        click.echo(f"proxygen: no instance of {printable(service)} belongs to the variant {name} yet", err=True)


async def _write(settings: Settings, service: str, change: Change) -> tuple[Lever, Shares]:
    """Write what ``change`` makes of the shares, beside what stands in KV already; return before and the change."""
    async with ConsulClient(settings.consul) as client:
        lever = await _lever(client, settings, service)
        changed = change(lever.asked)
        wanted = {**lever.in_kv, **changed}
        if lever.problem or wanted != lever.in_kv:
            value = json.dumps({name: format_share(share) for name, share in sorted(wanted.items())})
            await write_override(client, service, value, read=lever.override)
        return lever, changed


async def _read(settings: Settings, service: str) -> Lever:
    async with ConsulClient(settings.consul) as client:
        return await _lever(client, settings, service)


async def _lever(client: ConsulClient, settings: Settings, service: str) -> Lever:
    override = await read_override(client, service)
    instances = instances_of(service, await read_service(client, service, "consistent"))
    in_tags = _stated(instances, settings.proxy.tag_prefix)
    try:
        in_kv = parse_override(override.value) if override is not None else {}
    except ValueError as error:
        return Lever(override=override, in_kv={}, in_tags=in_tags, problem=str(error))
    return Lever(override=override, in_kv=in_kv, in_tags=in_tags)


def _stated(instances: tuple[Instance, ...], prefix: str) -> Shares:
    stated: dict[str, Share] = {}
    for instance in instances:
        try:
            variant = parse_tags(instance.tags, instance.meta, prefix).variant
        except TagError:
            # Its service is quarantined for it, which `status` and `check` say; here it states no share.
            continue
        if variant is not None:
            stated[variant.name] = min(variant.share, stated.get(variant.name, WHOLE))
    return stated


def _text(shares: Shares, name: str) -> str:
    return format_share(shares[name]) if name in shares else "-"


def _key(settings: Settings, service: str) -> str:
    return f"{settings.consul.kv_prefix}/canary/{printable(service)}"
