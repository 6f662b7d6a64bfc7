"""The operator's changed files on trial: what speaks against them, and what against a service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.kit.errors import CheckRefused
from proxygen.proxy.plan.types import Quarantine


class NewlyRefused(CheckRefused):
    """A service that nothing spoke against is refused with the operator's changed files."""

    def __init__(self, quarantine: Quarantine) -> None:
        super().__init__(str(quarantine))
        self.service: Final = quarantine.service


class ReloadRefused(CheckRefused):
    """nginx took no reload with the operator's changed files, and no service that was refused before is the cause."""


@dataclass(frozen=True, slots=True)
class Trial:
    """An attempt with changed files: a directive that is misspelt in a template stands in every service's lines."""

    excused: frozenset[ServiceName]
    """Who was refused with the files before, and may be again. Any other refusal speaks against the files."""

    def judge(self, quarantines: Iterable[Quarantine]) -> None:
        """Raise NewlyRefused where a refusal speaks against the files."""
        for quarantine in quarantines:
            if quarantine.service not in self.excused:
                raise NewlyRefused(quarantine)
