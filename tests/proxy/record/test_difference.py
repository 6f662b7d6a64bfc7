"""Two generations as one user sees them: what he may not read is neither shown nor taken for the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import pytest

from proxygen.proxy.nginx.default_copies import OPERATOR_FILE
from proxygen.proxy.record.difference import compare, contents, summary

NAMES: Final = ("live", "new")
OURS: Final = "http.d/20-servers.conf"


@pytest.fixture
def generation() -> Iterator[Path]:
    """A generation that every user can reach; pytest's own directories are for one user."""
    with TemporaryDirectory() as folder:
        path = Path(folder)
        path.chmod(0o755)
        (path / "http.d").mkdir()
        for name in (OPERATOR_FILE, OURS):
            (path / name).write_text("server {}\n")
        yield path


@contextmanager
def _as_another_user() -> Iterator[None]:
    """Root may read everything."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("after", [{}, {OPERATOR_FILE: "server {}\n"}, {OPERATOR_FILE: "server { listen 80; }\n"}])
def test_a_copy_of_the_operators_servers_that_this_user_may_not_read_is_not_shown(
    generation: Path, after: dict[str, str]
) -> None:
    (generation / OPERATOR_FILE).chmod(0)
    with _as_another_user():
        live = contents(generation)
    (found,) = compare(live, {**after, OURS: "server {}\n"}, names=NAMES)
    assert found.path == OPERATOR_FILE
    assert "".join(found.lines) == (
        f"--- live/{OPERATOR_FILE}\n+++ new/{OPERATOR_FILE}\n@@ not shown: this user may not read"
        f" {OPERATOR_FILE}; whether it changes is not known @@\n"
    )
    assert summary((found,), "generation 7") == (
        "0 files change against generation 7: 0 lines added, 0 removed; 1 could not be compared"
    )


@pytest.mark.parametrize("closed", [OURS, "http.d"])
def test_anything_else_that_cannot_be_read_is_an_error_and_no_absence(generation: Path, closed: str) -> None:
    (generation / closed).chmod(0)
    with _as_another_user(), pytest.raises(PermissionError):
        contents(generation)
    (generation / closed).chmod(0o755)


def test_a_generation_that_is_not_there_has_no_files(tmp_path: Path) -> None:
    assert contents(tmp_path / "current") == {}
