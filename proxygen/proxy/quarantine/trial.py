"""The operator's changed files on trial: what speaks against them, and what against a service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxygen.catalog import ServiceName
from proxygen.kit.errors import FilesRefused
from proxygen.proxy.plan.types import Quarantine


@dataclass(frozen=True, slots=True)
class Trial:
    """An attempt with changed files: a directive that is misspelt in a template stands in every service's lines."""

    excused: frozenset[ServiceName]
    """Who was refused with the files before, and may be again. Any other refusal speaks against the files."""

    def judge(self, quarantines: Iterable[Quarantine]) -> None:
        """Raise FilesRefused where a refusal speaks against the files."""
        for quarantine in quarantines:
            if quarantine.service not in self.excused:
                raise FilesRefused(str(quarantine), service=quarantine.service)
