"""What the doctor says: findings, each with its cure, and what was and was not looked at."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Severity(Enum):
    """How bad it is."""

    ERROR = "error"
    """Containers do not reach each other, or the next start of something makes it so."""
    WARNING = "warning"
    """It works, but will not always, or not for everything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong with this host or with the network as it sees it."""

    check: str
    severity: Severity
    text: str
    """What is so, and what comes of it; one line."""
    cure: str
    """A command, or the setting to change; one line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A finding before its check has put its name to it."""

    severity: Severity
    text: str
    cure: str


def error(text: str, *, cure: str) -> Fault:
    """What keeps packets from arriving now; ``cure`` is a command, or what to do."""
    return Fault(severity=Severity.ERROR, text=text, cure=cure)


def warning(text: str, *, cure: str) -> Fault:
    """What works now and may fail later, or cannot be told from what is meant."""
    return Fault(severity=Severity.WARNING, text=text, cure=cure)


class CheckOutcome(Enum):
    """What became of one check."""

    CLEAN = "checked"
    FOUND = "found"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Examined:
    """One check that was due."""

    check: str
    outcome: CheckOutcome
    reason: str
    """Why it was skipped; else what was looked at."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """All checks, in the order in which a person would go through them."""

    examined: tuple[Examined, ...]
    findings: tuple[Finding, ...]

    @property
    def healthy(self) -> bool:
        """No finding is an error; a warning is not one."""
        return not any(finding.severity is Severity.ERROR for finding in self.findings)


class Skipped(Exception):  # not an error: nothing failed that anybody asked for
    """A check cannot be made here; the text is the reason."""


@dataclass(frozen=True, slots=True)
class Unknown:
    """A fact that could not be had."""

    reason: str
    short: str = ""
    """For all the checks that are skipped by it; empty: the reason itself."""


def describe(report: Report) -> str:
    """Return the report for people: a line for each check, and below it what was found and how to cure it."""
    lines: list[str] = []
    width = max(len(one.check) for one in report.examined)
    for one in report.examined:
        found = [finding for finding in report.findings if finding.check == one.check]
        said = "" if found else f"{one.outcome.value}: {one.reason}"
        lines.append(f"{_sign(one, found)} {one.check:<{width}}  {said}".rstrip())
        for finding in found:
            lines += [f"    {finding.severity.value}: {finding.text}", f"    cure: {finding.cure}"]
    lines += ["", _tally(report)]
    return "\n".join(lines)


def _tally(report: Report) -> str:
    errors = sum(finding.severity is Severity.ERROR for finding in report.findings)
    warnings = len(report.findings) - errors
    clean = sum(one.outcome is CheckOutcome.CLEAN for one in report.examined)
    skipped = sum(one.outcome is CheckOutcome.SKIPPED for one in report.examined)
    return (
        f"{errors} error{'s' * (errors != 1)}, {warnings} warning{'s' * (warnings != 1)}; "
        f"{clean} clean, {skipped} skipped"
    )


def _sign(one: Examined, found: list[Finding]) -> str:
    if any(finding.severity is Severity.ERROR for finding in found):
        return "\N{BALLOT X}"
    if found:
        return "!"
    return "\N{CHECK MARK}" if one.outcome is CheckOutcome.CLEAN else "-"
