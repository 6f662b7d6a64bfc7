from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from proxygen.cli.reference import main, pages
from proxygen.settings import knobs
from proxygen.tags import KEYS

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", pages())
def test_the_page_in_the_repository_is_what_the_code_says(name: str) -> None:
    """After a change of a setting, command or tag: python -m proxygen.cli.reference docs/reference."""
    assert (REFERENCE / name).read_text(encoding="utf-8") == pages()[name]


def test_every_setting_and_every_tag_is_there() -> None:
    settings, tags = pages()["settings.md"], pages()["tags.md"]
    assert all(f"| `{knob.name}` |" in settings for knob in knobs())
    assert all(f"proxygen.{key.name}=" in tags for key in KEYS)


def test_every_row_has_the_columns_of_its_table() -> None:
    for text in pages().values():
        rows = [line.replace("\\|", "").count("|") for line in text.splitlines()]
        for before, row in itertools.pairwise(rows):
            assert not (before and row) or before == row


def test_writing_makes_the_directory(tmp_path: Path) -> None:
    main(str(tmp_path / "reference"))
    assert {path.name for path in (tmp_path / "reference").iterdir()} == set(pages())
