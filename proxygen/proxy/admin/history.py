"""Generations on disk with what the journal knows of them, as the admin API and ``proxygen history`` tell them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path
from typing import Final

from proxygen.kit.errors import UnknownGeneration
from proxygen.proxy.admin.report import DiffReport, FileChange, GenerationReport
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import Generation, generations
from proxygen.proxy.record.difference import Contents, compare, contents, summary
from proxygen.proxy.record.steps import Step

LONGEST_DIFF: Final = 5_000
"""Lines."""


def attempts(steps: Iterable[Step]) -> Mapping[int, Step]:
    """Return the attempt that each generation was made for, whether nginx took it or not.

    What came later is another story: a hold or a refusal while it was live, an operator who went back to it.
    """
    made: dict[int, Step] = {}
    for step in steps:
        number = {Outcome.APPLIED: step.generation, Outcome.ROLLED_BACK: step.refused}.get(step.outcome)
        if number is not None:
            made.setdefault(number, step)
    return made


def generation_report(generation: Generation, step: Step | None) -> GenerationReport:
    """``step`` is the attempt that it was made for, as far as the journal knows."""
    unproven = Outcome.ROLLED_BACK.value if step is not None and step.outcome is Outcome.ROLLED_BACK else "not proven"
    report = GenerationReport(
        number=generation.number,
        digest=generation.stamp.digest,
        created=generation.published_at,
        live=generation.live,
        outcome="live" if generation.live and generation.proven else "proven" if generation.proven else unproven,
    )
    if step is None:
        return report
    return replace(
        report,
        cause=step.cause,
        by=step.by.value if step.outcome is Outcome.APPLIED else "",
        reason=step.reason,
        durations=step.durations,
        propagation=step.propagation,
    )


def generation_difference(output: Path, number: int, against: int | None) -> DiffReport:
    """Compare a generation with another, or with the one before it that is on disk for None.

    Raise UnknownGeneration where one of them is not there.
    """
    found = {generation.number: generation for generation in generations(output)}
    if against is None:
        against = max((known for known in found if known < number), default=None)
    older = _contents(found, against) if against is not None else {}
    newer = _contents(found, number)
    differences = compare(older, newer, names=(f"{against or 'nothing'}", f"{number}"))
    lines = tuple(islice(chain.from_iterable(each.lines for each in differences), LONGEST_DIFF + 1))
    return DiffReport(
        generation=number,
        against=against,
        summary=summary(differences, f"generation {against}" if against is not None else "nothing"),
        files=tuple(FileChange(path=each.path, added=each.added, removed=each.removed) for each in differences),
        diff="".join(lines[:LONGEST_DIFF]),
        truncated=len(lines) > LONGEST_DIFF,
    )


def _contents(found: dict[int, Generation], number: int) -> Contents:
    try:
        return contents(found[number].path)
    except (KeyError, OSError) as error:
        there = f"{min(found)} to {max(found)}" if found else "none"
        raise UnknownGeneration(f"there is no generation {number} on disk; there are {there}") from error
