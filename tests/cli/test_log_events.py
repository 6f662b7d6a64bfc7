"""Each event of the log is a literal where it is written, and the reference page has it."""

from __future__ import annotations

from pathlib import Path

import pytest

import proxygen
from proxygen.cli.log_events import LogEvent, NotConstant, log_events

PACKAGE = Path(proxygen.__file__).parent


def written(directory: Path, text: str) -> tuple[LogEvent, ...]:
    (directory / "module.py").write_text(f"_log: Final = get_logger(__name__)\n{text}\n", encoding="utf-8")
    return log_events(directory)


def test_every_event_is_a_literal() -> None:
    assert log_events(PACKAGE)


@pytest.mark.parametrize(
    "line",
    [
        "_log.info(event)",
        "_log.warning(f'lease {state}', host=host)",
        "_log.info('a' + 'b')",
        "_log.info(event='said')",
        "_log.info('said', 'twice')",
        "_log.log(20, 'said')",
        "write = _log.info",
        "getattr(_log, level)('said')",
        "tell(_log, 'said')",
        "_log.bind(host=1).info('said')",
        "get_logger('x').info(event)",
        "class One:\n    def one(self) -> None:\n        self._log = get_journal('x')\n        self._log.info(event)",
    ],
)
def test_an_event_that_is_made_up_or_hidden_is_seen(line: str, tmp_path: Path) -> None:
    with pytest.raises(NotConstant, match=r"module\.py"):
        written(tmp_path, line)


def test_an_event_is_told_with_its_levels_and_who_writes_it(tmp_path: Path) -> None:
    text = "_log.info('Said', by=1)\n_log.exception('Said')\nget_audit_logger('audit').warning('beside', **facts)"
    assert written(tmp_path, text) == (
        LogEvent(event="beside", levels=("warning",), loggers=("audit",)),
        LogEvent(event="Said", levels=("error", "info"), loggers=(f"{tmp_path.name}.module",)),
    )
