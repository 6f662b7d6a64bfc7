"""The checks, in the order in which a person would go through them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from proxygen.network.doctor.facts import Facts
from proxygen.network.doctor.finding import CheckOutcome, Examined, Fault, Finding, Report, Skipped

_LONGEST: Final = 600
"""Letters of a line. A key's value may have half a million."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing to look at."""

    name: str
    looks: str
    """At what; one line for the reference page and for "checked: …"."""
    find: Callable[[Facts], Iterable[Fault]]
    """Pure. Raise Skipped where it cannot be told."""
    leaves_out: Callable[[Facts], str] = lambda facts: ""
    """What was not looked at though the rest was; empty: nothing."""


def check(
    name: str, looks: str, *, leaves_out: Callable[[Facts], str] = lambda facts: ""
) -> Callable[[Callable[[Facts], Iterable[Fault]]], Check]:
    """Make a check of a function."""
    return lambda find: Check(name=name, looks=looks, find=find, leaves_out=leaves_out)


def judge(facts: Facts, checks: Iterable[Check]) -> Report:
    """Make every check, and say of each what came of it."""
    examined: list[Examined] = []
    findings: list[Finding] = []
    for one in checks:
        try:
            found = tuple(_signed(one, fault) for fault in one.find(facts))
        except Skipped as skipped:
            examined.append(Examined(check=one.name, outcome=CheckOutcome.SKIPPED, reason=_line(str(skipped))))
            continue
        outcome = CheckOutcome.FOUND if found else CheckOutcome.CLEAN
        looked = "; ".join(filter(None, (one.looks, one.leaves_out(facts))))
        examined.append(Examined(check=one.name, outcome=outcome, reason=looked))
        findings += found
    return Report(examined=tuple(examined), findings=tuple(findings))


def _signed(one: Check, fault: Fault) -> Finding:
    return Finding(check=one.name, severity=fault.severity, text=_line(fault.text), cure=_line(fault.cure))


def _line(text: str) -> str:
    """Return one line that a terminal can be shown: whoever writes to Consul chooses names of hosts and of keys."""
    shown = "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]}…"
