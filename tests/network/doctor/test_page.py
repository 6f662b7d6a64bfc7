"""The page about the doctor lists the checks that there are."""

from __future__ import annotations

import re
from pathlib import Path

from proxygen.network.doctor import CHECKS

PAGE = Path(__file__).parents[3] / "docs" / "network" / "doctor.md"


def test_the_pages_table_is_the_registrys() -> None:
    rows = re.findall(r"^\| `([a-z-]+)` \| ([^|]+) \| [^|]+ \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows == [(check.name, check.looks) for check in CHECKS]
