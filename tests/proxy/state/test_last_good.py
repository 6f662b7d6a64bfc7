"""The catalog on disk, and what of it reads back by itself."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.state.last_good import FILE, LastGood, load_known, load_last_good, save_last_good

WEB = Instance(service=ServiceName("web"), id="web-1", node="n1", datacenter="dc2", address="10.0.0.1", port=80)


def test_what_was_known_reads_back(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    elsewhere = {"dc2": {ServiceName("web"): (WEB,), ServiceName("gone"): ()}}
    catalog = Catalog(datacenter="dc1", services={ServiceName("web"): (WEB,)}, elsewhere=elsewhere)
    save_last_good(tmp_path, LastGood(catalog=catalog, generation=1, saved_at=datetime(2026, 1, 2, tzinfo=UTC)))
    assert load_known(tmp_path) == catalog
    last_good = load_last_good(tmp_path)
    assert last_good is not None
    assert last_good.catalog == catalog


@pytest.mark.parametrize("text", [None, "", "{}", '{"catalog": {"elsewhere": 1}}', '{"catalog": {"services": 1}}'])
def test_nothing_that_can_be_read_is_nothing_known(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / FILE).parent.mkdir()
        (tmp_path / FILE).write_text(text)
    assert load_known(tmp_path) == Catalog(datacenter="", services={})


def test_what_cannot_be_read_is_told_and_what_is_not_there_is_not(tmp_path: Path) -> None:
    with capture_logs() as log:
        assert load_last_good(tmp_path) is None
        (tmp_path / FILE).parent.mkdir()
        for content in (b"{", b"\xff", b'{"catalog": {}}'):
            (tmp_path / FILE).write_bytes(content)
            assert load_last_good(tmp_path) is None
    assert [(line["event"], line["file"]) for line in log] == [("stored catalog not read", str(tmp_path / FILE))] * 3
    assert all(line["reason"] for line in log)


def test_the_generation_and_the_time_are_read_back(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    for generation in (7, 8):
        saved = LastGood(
            catalog=Catalog(datacenter="dc1", services={ServiceName("web"): (WEB,), ServiceName("gone"): ()}, index=31),
            generation=generation,
            saved_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
        )
        save_last_good(tmp_path, saved)
        assert load_last_good(tmp_path) == saved
