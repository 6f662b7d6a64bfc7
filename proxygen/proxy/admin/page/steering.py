"""What an operator may change about a service's shares, as forms."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import quote

from proxygen.proxy.admin.page import words
from proxygen.proxy.admin.page.views import Form
from proxygen.proxy.admin.shares_report import ShareReport, SharesReport
from proxygen.tags.shares import STABLE


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareInput:
    """A share that the operator may change."""

    variant: str
    value: str
    """Percent, without the sign."""
    note: str
    """Who asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SteeringForms:
    """What may be changed about the shares. Without forms: why nothing may, or "" where there is nothing to share."""

    inputs: tuple[ShareInput, ...] = ()
    set: Form | None = None
    buttons: tuple[Form, ...] = ()
    problems: tuple[str, ...] = ()
    failures: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """As in `Lever`: read with the shares, and changed by nobody here."""
    command: str = ""
    """What does the same without a browser's script."""


def steering(report: SharesReport) -> SteeringForms:
    variants = [variant for variant in report.variants if variant.name != STABLE]
    problems = (f"What stands in Consul's KV under {report.key} counts for nothing: {report.problem}",)
    told = (problems if report.problem else ()) + report.warnings
    if report.index is None:
        return SteeringForms(problems=(*told, "The shares must be read again before they can be changed."))
    if not variants and not report.problem:
        return SteeringForms(problems=told)
    service, etag = quote(report.service, safe=""), f'"{report.index}"'
    path = f"/api/v1/services/{service}/shares"
    return SteeringForms(
        inputs=tuple(_input(variant) for variant in variants),
        set=Form(method="PUT", action=path, etag=etag, button="Set", done="The shares are set.") if variants else None,
        buttons=tuple(_buttons(report, variants, path, etag)),
        problems=told,
        command=f"proxygen canary set {shlex.quote(report.service)} 10%",
    )


def _input(variant: ShareReport) -> ShareInput:
    notes = [] if variant.in_kv is None else [f"{words.percent(variant.in_kv)} by operators"]
    notes += [] if variant.in_tags is None else [f"{words.percent(variant.in_tags)} by tags"]
    value = f"{variant.asked / 100:.2f}".rstrip("0").rstrip(".")
    return ShareInput(variant=variant.name, value=value, note=", ".join(notes))


def _buttons(report: SharesReport, variants: list[ShareReport], path: str, etag: str) -> Iterator[Form]:
    for variant in variants:
        name, body = variant.name, json.dumps({"variant": variant.name})
        yield Form(
            method="POST",
            action=f"{path}/promote",
            etag=etag,
            button=f"Promote {name}",
            body=body,
            confirm=f"Send all requests of {report.service} to its variant {name}?",
            done=f"{name} gets everything.",
        )
        yield Form(
            method="POST",
            action=f"{path}/abort",
            etag=etag,
            button=f"Abort {name}",
            body=body,
            confirm=f"Send no more requests of {report.service} to its variant {name}?",
            done=f"{name} gets nothing.",
        )
    if report.problem or any(variant.in_kv is not None for variant in variants):
        yield Form(
            method="DELETE",
            action=path,
            etag=etag,
            button="Let the tags decide",
            confirm=f"Take back what operators asked for {report.service}? Its tags decide then.",
            done="The tags decide.",
        )
