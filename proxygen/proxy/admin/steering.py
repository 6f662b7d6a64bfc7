"""Steering: the shares of a service's variants, read and changed over the admin API.

Every change names in ``If-Match`` what its caller saw, and is written over exactly that: of two operators one wins,
and the other is told. The figures and the key are Consul's own; nothing is kept here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from typing import Final

import msgspec
from aiohttp import hdrs, web

from proxygen.consul.reads import is_about_one_service
from proxygen.kit.errors import AccessDenied, BadInput, CatalogUnavailable, ConflictingWrite, quoted
from proxygen.proxy.admin.audit import audited
from proxygen.proxy.admin.handling import SIDECAR, etag, etags_of, json_answer, read_body
from proxygen.proxy.admin.service_report import ServiceDetail
from proxygen.proxy.admin.shares_report import ShareReport, SharesReport
from proxygen.proxy.admin.standing import with_served
from proxygen.proxy.rollout.steering import (
    Change,
    Lever,
    Shares,
    format_shares,
    promoted,
    refuse_excess,
    refuse_unhealthy,
    refuse_unknown,
)
from proxygen.tags.shares import CANARY, NOTHING, STABLE, WHOLE, Share, format_share, parse_share, parse_variant_name

_SHARES: Final = '{"shares": {"canary": "12.5%"}}'
_VARIANT: Final = '{"variant": "canary"}'


class SharesRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Shares to ask for; variants that are not named stay as they are."""

    shares: dict[str, str | int | float]


class VariantRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The variant that is meant."""

    variant: str = CANARY
    force: bool = False
    """Do it although it has no effect now: no healthy instance to promote, no such variant to abort."""


async def show_shares(request: web.Request) -> web.Response:
    lever, detail = await _lever(request)
    return _answer(lever, detail)


async def set_shares(request: web.Request) -> web.Response:
    return await _steer(request, "set shares", _asked_for)


async def reset_shares(request: web.Request) -> web.Response:
    return await _steer(request, "give shares back", _given_back)


async def promote(request: web.Request) -> web.Response:
    return await _steer(request, "promote", _promoted)


async def abort(request: web.Request) -> web.Response:
    return await _steer(request, "abort", _aborted)


_Reading = Callable[[web.Request], Awaitable[Change]]
"""Reads from a request's body what to change."""


async def _asked_for(request: web.Request) -> Change:
    body = await read_body(request, SharesRequest, example=_SHARES)
    wanted = {_variant(name, "shares"): _share(name, value) for name, value in body.shares.items()}
    if not wanted:
        raise BadInput(f"shares: name at least one variant, as in {_SHARES}")

    def change(lever: Lever) -> Shares:
        refuse_excess({**lever.asked, **wanted})
        return wanted

    return change


async def _given_back(_request: web.Request) -> Change:
    return lambda _lever: None


async def _promoted(request: web.Request) -> Change:
    meant = await _variant_meant(request)

    def change(lever: Lever) -> Shares:
        if not meant.force:
            refuse_unhealthy(lever, meant.variant)
        return promoted(lever, meant.variant)

    return change


async def _aborted(request: web.Request) -> Change:
    meant = await _variant_meant(request)

    def change(lever: Lever) -> Shares:
        if not meant.force:
            refuse_unknown(lever, meant.variant)
        return {meant.variant: NOTHING}

    return change


async def _variant_meant(request: web.Request) -> VariantRequest:
    if not request.body_exists:
        return VariantRequest()
    meant = await read_body(request, VariantRequest, example=_VARIANT)
    return VariantRequest(variant=_variant(meant.variant, "variant"), force=meant.force)


def _variant(name: str, place: str) -> str:
    try:
        return parse_variant_name(name)
    except ValueError as error:
        raise BadInput(f"{place}: {error}") from error


def _share(name: str, value: str | float) -> Share:
    try:
        return parse_share(value)
    except ValueError as error:
        raise BadInput(f"shares.{name}: {error}") from error


async def _steer(request: web.Request, what: str, read_change: _Reading) -> web.Response:
    service = request.match_info["name"]
    with audited(request, what, service=service) as write:
        seen = _seen(request)
        change = await read_change(request)
        lever, detail = await _lever(request)
        write.before = _texts(lever.asked)
        if str(lever.index) not in seen:
            raise _others_by_now(lever)
        try:
            after = await _believed(request.app[SIDECAR].move_lever(lever, change(with_served(lever, detail))))
        except ConflictingWrite as error:
            newest, _ = await _lever(request)
            raise _others_by_now(newest) from error
        write.after = _texts(after.asked)
        if after is not lever:
            write.outcome, write.story = "changed", f"moved the shares of {service}: {_difference(lever, after)}"
    return _answer(after, detail)


def _seen(request: web.Request) -> frozenset[str]:
    seen = etags_of(request)
    if not seen and request.headers.get(hdrs.IF_MATCH, "*").strip() == "*":
        raise web.HTTPPreconditionRequired(
            reason="If-Match must name the ETag of the shares that you saw, so that nobody's are overwritten unseen"
        )
    return seen


async def _lever(request: web.Request) -> tuple[Lever, ServiceDetail | None]:
    """Raise 404 where no instance is registered and nothing is routed."""
    name, sidecar = request.match_info["name"], request.app[SIDECAR]
    try:
        lever = await _believed(sidecar.read_lever(name))
    except CatalogUnavailable as error:
        if not is_about_one_service(error):
            raise
        raise web.HTTPNotFound(reason=f"no service can be called {name!r}") from error
    detail = None
    # Shares are Consul's own: they can be changed before the first plan too.
    with suppress(CatalogUnavailable):
        detail = sidecar.service(name)
    if detail is None and not lever.is_registered:
        raise web.HTTPNotFound(reason=f"no service {name!r} is routed or registered")
    return lever, detail


async def _believed(answer: Awaitable[Lever]) -> Lever:
    try:
        return await answer
    except AccessDenied as error:
        raise AccessDenied(f"the sidecar's own Consul token may not do this: {error}") from error


def _others_by_now(newest: Lever) -> web.HTTPPreconditionFailed:
    words = format_shares(newest.asked) or "no share is asked for"
    return web.HTTPPreconditionFailed(
        reason=f"the shares of {quoted(newest.service)} are others by now ({words}); nothing was written, look again",
        headers=etag(newest.index),
    )


def _answer(lever: Lever, detail: ServiceDetail | None) -> web.Response:
    report = shares_report(lever, detail)
    return json_answer(report, headers=etag(report.index) if report.index is not None else {})


def shares_report(lever: Lever, detail: ServiceDetail | None) -> SharesReport:
    """``detail`` is the service as nginx serves it, where it does."""
    lever = with_served(lever, detail)
    planned = {variant.name: variant for variant in detail.variants} if detail is not None else {}
    effective = {name: variant.effective for name, variant in planned.items()}
    waiting = {name: variant.waiting for name, variant in planned.items()}
    # What nginx serves can be steered too, where the newest tags do not say so.
    asked = {name: planned[name].asked for name in lever.served} | dict(lever.asked)
    rest = max(0, WHOLE - sum(asked.values()))
    stable = ShareReport(
        name=STABLE, asked=rest, in_kv=None, in_tags=None, effective=effective.get(STABLE), waiting=waiting.get(STABLE)
    )
    return SharesReport(
        service=lever.service,
        variants=(
            stable,
            *(
                ShareReport(
                    name=name,
                    asked=share,
                    in_kv=lever.in_kv.get(name),
                    in_tags=lever.in_tags.get(name),
                    effective=effective.get(name),
                    waiting=waiting.get(name),
                )
                for name, share in sorted(asked.items())
            ),
        ),
        key=lever.key,
        index=lever.index,
        problem=lever.problem,
        warnings=tuple(f"no instance belongs to the variant {name} yet" for name in lever.unknown),
    )


def _texts(shares: Shares) -> dict[str, object]:
    return {name: format_share(share) for name, share in sorted(shares.items())}


def _difference(before: Lever, after: Lever) -> str:
    return ", ".join(_changes(before, after)) or "those in KV are now those in tags"


def _changes(before: Lever, after: Lever) -> Iterator[str]:
    for name in sorted(before.asked.keys() | after.asked.keys()):
        old, new = before.asked.get(name), after.asked.get(name)
        if old != new:
            yield f"{name} {_text(old)} -> {_text(new)}"


def _text(share: Share | None) -> str:
    return "nothing asked" if share is None else format_share(share)
