"""The last look before a promotion: hours may lie between the canary and the person who lets it through.

The rule is the Ansible role's own, so that a canary is judged in one way wherever it is judged.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from shipping.errors import Failure
from shipping.programs import say
from shipping.settings import Settings

_RULE = Path("roles", "proxygen_application", "filter_plugins", "proxygen_canary.py")
_PAUSE = 2.0
"""Between two looks; the figures are those of the last half minute."""
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def is_tried(settings: Settings) -> bool:
    """Tell whether any sidecar knows a canary; where none is asked, or none can be, the playbook alone has judged."""
    if not settings.admin:
        say("  no PIPELINE_ADMIN: the playbook's verdict on the canary stands, and is not looked at again")
        return False
    try:
        reports = [_report(url, settings.service or "") for url in settings.admin]
    except (OSError, ValueError) as error:
        say(f"  a sidecar does not answer, so a canary is taken for granted: {error}")
        return True
    return any(variant["name"] == "canary" for report in reports for variant in report.get("variants", ()))


def look(settings: Settings) -> None:
    """Wait for figures that suffice. Raise Failure where they speak against the canary, or say nothing and must not."""
    rule = _rule(settings.playbook.parent / _RULE)
    deadline = time.monotonic() + settings.patience
    while True:
        outcome, reason = _verdict(rule, settings)
        say(f"  {outcome}: {reason}")
        if outcome == "worse":
            raise Failure(f"the canary does worse: {reason}")
        if outcome == "good":
            return
        if time.monotonic() >= deadline:
            break
        time.sleep(_PAUSE)
    if settings.inconclusive == "stop":
        raise Failure(f"nobody knows how the canary does: {reason}")


def _verdict(rule: Callable[..., Mapping[str, str]], settings: Settings) -> tuple[str, str]:
    try:
        reports = [_report(url, settings.service or "") for url in settings.admin]
    except (OSError, ValueError) as error:
        return "inconclusive", f"a sidecar does not answer: {error}"
    bounds = {"margin": settings.margin, "minimum_requests": settings.minimum_requests}
    verdict = rule(reports, **{name: bound for name, bound in bounds.items() if bound is not None})
    return verdict["outcome"], verdict["reason"]


def _report(url: str, service: str) -> Mapping[str, Any]:
    """Return what the sidecar tells of the service; nothing where it does not route it."""
    name = urllib.parse.quote(service, safe="")
    try:
        with _DIRECT.open(f"{url}/api/v1/services/{name}", timeout=10) as answer:
            report: Mapping[str, Any] = json.loads(answer.read(8_000_000))
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 404:
                raise
        return {}
    return report


def _rule(path: Path) -> Callable[[Sequence[Mapping[str, Any]]], Mapping[str, str]]:
    spec = importlib.util.spec_from_file_location("proxygen_canary", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise Failure(f"{path} is not there: PIPELINE_PLAYBOOK must stand beside its roles")
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up by name.
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    rule: Callable[[Sequence[Mapping[str, Any]]], Mapping[str, str]] = module.proxygen_canary_verdict
    return rule
