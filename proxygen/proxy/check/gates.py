"""Both gates, one after the other. What passes them is `Checked`, which is made here and nowhere else."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.kit.errors import CheckRefused, RefusedWithoutName
from proxygen.proxy.check.structure import Refusal, StructureGate
from proxygen.proxy.check.syntax import SecondGate
from proxygen.proxy.nginx.addresses import Listens, Occupied
from proxygen.proxy.nginx.default_copies import DefaultCopies
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.render.rendered import Rendered


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A rendering that lies on disk, where nginx does not read it yet."""

    rendered: Rendered
    stamp: Stamp
    path: Path
    listens: Listens


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A candidate that both gates let through."""

    stamp: Stamp
    path: Path
    listens: Listens
    test_seconds: float
    """How long ``nginx -t`` took: a reload takes about as long."""
    remarks: tuple[str, ...] = ()
    """What nginx warned of, and no service is to blame for."""


class RefusedCandidate:
    """A candidate that does not go live as it is: somebody is to be left out of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedLines(RefusedCandidate):
    """A gate refused lines, which name their services."""

    refusals: tuple[Refusal, ...]

    def __str__(self) -> str:
        return "; ".join(map(str, self.refusals))


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusedWhole(RefusedCandidate):
    """nginx refused a candidate for a reason that names no service."""

    error: RefusedWithoutName

    def __str__(self) -> str:
        return str(self.error)


class Gates:
    """The gates with one set of templates, and before one nginx."""

    def __init__(
        self, structure: StructureGate, syntax: SecondGate | None, occupied: Occupied, copies: DefaultCopies
    ) -> None:
        """``syntax`` is None where there is no nginx to ask; then only `structure` can be."""
        self._structure: Final = structure
        self._syntax: Final = syntax
        self._occupied: Final = occupied
        self._copies: Final = copies

    def structure(self, rendered: Rendered) -> RefusedLines | None:
        """Pass the first gate: crossplane, which hostile input cannot harm. Takes its time."""
        refusals = self._structure.refusals(rendered)
        return RefusedLines(refusals=refusals) if refusals else None

    async def syntax(self, candidate: Candidate) -> Checked | RefusedCandidate:
        """Pass the second gate, ``nginx -t``, with what passed the first.

        Raise CheckRefused where it is the operator's files that nginx refuses, and where nginx could not listen beside
        the operator's servers.
        """
        assert self._syntax is not None
        self._require_room(candidate.listens)
        try:
            verdict = await self._syntax.judge(candidate.rendered, candidate.path)
        except RefusedWithoutName as error:
            return RefusedWhole(error=error)
        if verdict.refusals:
            return RefusedLines(refusals=verdict.refusals)
        known = verdict.said_alone
        return Checked(
            stamp=candidate.stamp,
            path=candidate.path,
            listens=candidate.listens,
            test_seconds=verdict.seconds,
            remarks=tuple(each for each in verdict.remarks if each in known or not self._copies.explains(each)),
        )

    async def accepts(self, rendered: Rendered, path: Path) -> bool:
        """Whether nginx refuses nothing without naming a service. Raise CheckRefused as `syntax` does."""
        assert self._syntax is not None
        return await self._syntax.accepts(rendered, path)

    def _require_room(self, ours: Listens) -> None:
        """nginx -t sees neither."""
        for clash in self._occupied.narrowed(ours):
            raise CheckRefused(
                f"proxygen would listen on {clash.address}, where the server at {clash.server.place} answers by its"
                f" wider listen, and nginx would never ask that one there again: write the same listen for both"
            )
        for clash in self._occupied.clashes(ours):
            raise CheckRefused(
                f"nginx could not listen on {clash.address} beside what the server at {clash.server.place} listens on,"
                f" and would not start any more: change that listen, or where proxygen listens (proxy.http_listen,"
                f" proxy.https_listen, nginx.stamp)"
            )
