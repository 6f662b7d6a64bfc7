"""The operator's lever on a canary: the shares in Consul's KV, which go before those in tags."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_table, printable
from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import SidecarUnavailable, WithoutEffect
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.service_report import ServiceDetail
from proxygen.proxy.admin.standing import beside, with_served
from proxygen.proxy.policy.read import read_instance_policy
from proxygen.proxy.rollout.steering import (
    Change,
    Lever,
    Shares,
    Steering,
    format_shares,
    promoted,
    refuse_unhealthy,
    refuse_unknown,
    refuse_unregistered,
)
from proxygen.settings import Settings
from proxygen.tags.shares import CANARY, NOTHING, Share, format_share, parse_share, parse_variant_name


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
_force = click.option("--force", is_flag=True, help="Do it even if it has no effect now.")


@click.group()
def canary() -> None:
    """Read and write a service's canary share in Consul KV.

    A share there goes before the one in tags and needs no redeploy. Writes are check-and-set: two operators
    cannot overwrite each other unseen.
    """


@canary.command(cls=Command, short_help="Show each variant's share.", examples=["proxygen canary show web"])
@settings_options("consul", "proxy.tag_prefix", "admin", "output")
@click.argument("service")
def show(settings: Settings, service: str) -> None:
    """Show each variant's share: in KV, in tags, and which of the two counts.

    Where this host's sidecar serves something else for now, after a rollback for instance, that comes first.
    "proxygen canary reset" gives the shares back to the tags.
    """
    lever = asyncio.run(_read(settings, service))
    _print_served(asyncio.run(_served_meanwhile(settings, service)))
    if lever.problem:
        click.echo(f"proxygen: {printable(lever.key)} is ignored: {printable(lever.problem)}", err=True)
    asked = lever.asked
    rows = [(name, _text(lever.in_kv, name), _text(lever.in_tags, name), _text(asked, name)) for name in sorted(asked)]
    if rows:
        print_table(("VARIANT", "KV", "TAGS", "ASKED"), rows)
    else:
        click.echo(f"no share is asked for, neither in tags nor in {printable(lever.key)}", err=True)


@canary.command(
    "set",
    cls=Command,
    short_help="Set a share.",
    examples=["proxygen canary set web 12.5%", "proxygen canary set web 20% --variant blue"],
)
@settings_options("consul", "proxy.tag_prefix", "admin", "output")
@click.argument("service")
@click.argument("share", type=_ShareType())
@_variant
@_force
def set_(settings: Settings, service: str, share: Share, variant: str, force: bool) -> None:
    """Set the variant's share of SERVICE's requests, such as 12.5%.

    Exits 1 when SERVICE is not registered or somebody else wrote meanwhile, 3 when Consul does not answer.
    """
    refusals = () if force else (refuse_unregistered,)
    _apply(settings, service, lambda _: {variant: share}, refusals)


@canary.command(cls=Command, short_help="Give the variant everything.", examples=["proxygen canary promote web"])
@settings_options("consul", "proxy.tag_prefix", "admin", "output")
@click.argument("service")
@_variant
@_force
def promote(settings: Settings, service: str, variant: str, force: bool) -> None:
    """Give the variant 100 % of SERVICE's requests, and every other named variant nothing.

    Exits 1 when none of the variant's instances is healthy.
    """
    refusals = () if force else (refuse_unregistered, lambda lever: refuse_unhealthy(lever, variant))
    _apply(settings, service, lambda lever: promoted(lever, variant), refusals)


@canary.command(cls=Command, short_help="Take everything from the variant.", examples=["proxygen canary abort web"])
@settings_options("consul", "proxy.tag_prefix", "admin", "output")
@click.argument("service")
@_variant
@_force
def abort(settings: Settings, service: str, variant: str, force: bool) -> None:
    """Give the variant 0 % of SERVICE's requests; its instances stay registered.

    Exits 1 when SERVICE has no such variant, neither in its tags nor in KV nor in this host's nginx.
    """
    refusals = () if force else (refuse_unregistered, lambda lever: refuse_unknown(lever, variant))
    _apply(settings, service, lambda _: {variant: NOTHING}, refusals)


@canary.command(cls=Command, short_help="Give the shares back to the tags.", examples=["proxygen canary reset web"])
@settings_options("consul", "proxy.tag_prefix", "admin", "output")
@click.argument("service")
def reset(settings: Settings, service: str) -> None:
    """Delete SERVICE's shares in KV, so that those in its instances' tags count again."""
    before, after = asyncio.run(_move(settings, service, lambda _: None))
    if before is after:
        click.echo(f"{printable(service)}: there is no {printable(before.key)} (unchanged)")
    for name in sorted(before.in_kv):
        click.echo(f"{printable(service)} {name}: {_text(before.in_kv, name)} -> {_text(after.asked, name)} (tags)")
    _print_served(asyncio.run(_served_meanwhile(settings, service)))


def _apply(
    settings: Settings, service: str, change: Callable[[Lever], Shares], refusals: Sequence[Callable[[Lever], None]]
) -> None:
    """``refusals`` raise WithoutEffect for a lever that the change makes no sense for."""

    def unless_refused(lever: Lever) -> Shares:
        for refuse in refusals:
            refuse(lever)
        return change(lever)

    try:
        before, after = asyncio.run(_move(settings, service, unless_refused))
    except WithoutEffect as error:
        raise WithoutEffect(f"{error} (--force writes it all the same)") from error
    for name, share in sorted(change(before).items()):
        if before.in_kv.get(name) == share:
            click.echo(f"{printable(service)} {name}: {format_share(share)} (unchanged)")
            continue
        click.echo(f"{printable(service)} {name}: {_before(before, name)} -> {format_share(share)}")
    for name in sorted(change(before).keys() & set(after.unknown)):
        click.echo(f"proxygen: no instance of {printable(service)} belongs to the variant {name} yet", err=True)
    _print_served(asyncio.run(_served_meanwhile(settings, service)))


async def _move(settings: Settings, service: str, change: Change) -> tuple[Lever, Lever]:
    async with ConsulClient(settings.consul) as client:
        steering = Steering(client)
        lever = await steering.read(service, read_instance_policy(settings))
        lever = with_served(lever, await _served(settings, service))
        return lever, await steering.move(lever, change(lever))


async def _read(settings: Settings, service: str) -> Lever:
    async with ConsulClient(settings.consul) as client:
        return await Steering(client).read(service, read_instance_policy(settings))


async def _served(settings: Settings, service: str) -> ServiceDetail | None:
    """Ask this host's sidecar how nginx serves a service; None where it does not, or where no sidecar answers here."""
    try:
        async with connect(settings.admin, settings.output.directory) as sidecar:
            return await sidecar.service(service)
    except SidecarUnavailable:
        return None


async def _served_meanwhile(settings: Settings, service: str) -> tuple[str, ServiceDetail] | None:
    """Ask this host's sidecar why nginx serves something else than what is asked for, and what; None where it does not,
    or where no sidecar answers here."""
    try:
        async with connect(settings.admin, settings.output.directory) as sidecar:
            notice, detail = beside(await sidecar.status()), await sidecar.service(service)
    except SidecarUnavailable:
        return None
    return (notice, detail) if notice and detail is not None else None


def _print_served(meanwhile: tuple[str, ServiceDetail] | None) -> None:
    if meanwhile is None:
        return
    notice, detail = meanwhile
    shares = format_shares({variant.name: Share(variant.effective) for variant in detail.variants})
    click.echo(f"proxygen: {printable(notice)}", err=True)
    click.echo(f"{printable(detail.name)} is served: {shares}")


def _before(lever: Lever, name: str) -> str:
    """A variant's share before a change, and what it comes from where that is not KV."""
    if name in lever.asked:
        return _text(lever.asked, name) + ("" if name in lever.in_kv else " (tags)")
    return f"{format_share(lever.served[name])} (served)" if name in lever.served else "-"


def _text(shares: Shares, name: str) -> str:
    return format_share(shares[name]) if name in shares else "-"
