from __future__ import annotations

import itertools
from pathlib import Path

import pytest

import proxygen
from proxygen.cli.log_events import log_events
from proxygen.cli.reference import main, pages
from proxygen.kit.log import SYSLOG_BACK, SYSLOG_SILENT
from proxygen.network.agent import metrics as network
from proxygen.proxy.admin import families as sidecar
from proxygen.proxy.record.events import LASTING, TELLINGS, Kind, Topic
from proxygen.registration import metrics as registrator
from proxygen.settings import knobs
from proxygen.tags import KEYS

PAGES = pages()
PACKAGE = Path(proxygen.__file__).parent
REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


@pytest.mark.parametrize("name", PAGES)
def test_the_page_in_the_repository_is_what_the_code_says(name: str) -> None:
    """After a change of a setting, command or tag: python -m proxygen.cli.reference docs/reference."""
    assert (REFERENCE / name).read_text(encoding="utf-8") == PAGES[name]


def test_every_setting_and_every_tag_is_there() -> None:
    settings, tags = PAGES["settings.md"], PAGES["tags.md"]
    assert all(f"| `{knob.name}` |" in settings for knob in knobs())
    assert all(f"proxygen.{key.name}=" in tags for key in KEYS)


def test_every_metric_is_there() -> None:
    metrics = PAGES["metrics.md"]
    families = (*sidecar.FAMILIES, *network.FAMILIES, *registrator.FAMILIES)
    assert all(f"\n| `{family.series}` | {family.type} | " in metrics and family.help in metrics for family in families)


def test_every_event_is_there() -> None:
    events = PAGES["events.md"]
    assert all(f"\n| `{kind}` | {TELLINGS[kind].meaning} | " in events for kind in Kind)
    assert all(f"\n| `{topic}` | `{LASTING[topic].begins}` | " in events for topic in Topic)
    log = {*(event.event for event in log_events(PACKAGE)), SYSLOG_SILENT, SYSLOG_BACK}
    assert all(f"\n| `{event}` | " in events for event in log)


def test_every_row_has_the_columns_of_its_table() -> None:
    for text in PAGES.values():
        rows = [line.replace("\\|", "").count("|") for line in text.splitlines()]
        for before, row in itertools.pairwise(rows):
            assert not (before and row) or before == row


def test_writing_makes_the_directory(tmp_path: Path) -> None:
    main(str(tmp_path / "reference"))
    assert {path.name for path in (tmp_path / "reference").iterdir()} == set(PAGES)
