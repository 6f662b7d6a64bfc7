"""What outlives the process, and what is made of a file that somebody damaged."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType

import pytest

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.types import Copy, Memory, PortClaim, RouteClaim
from proxygen.proxy.state.memory import Remembered, recall, remember

WEB = ServiceName("web")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    (tmp_path / "state").mkdir()
    return tmp_path


def test_what_is_remembered_is_recalled(output: Path) -> None:
    remembered = Remembered(
        plan=Memory(
            holders=MappingProxyType({RouteClaim("web.example.com", "/"): WEB, PortClaim("tcp", 5432): WEB}),
            overrides=MappingProxyType({WEB: '{"canary": "12.5%"}'}),
            copies=frozenset({Copy("web.example.com", "", "/metrics")}),
        ),
        pinned=41,
    )
    remember(output, remembered)
    assert recall(output) == remembered


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"pinned": "seven"}',
        b'{"overrides": {"web\xff": "{}"}}',
        b'{"overrides": {"\\ud800": "{}"}}',
    ],
    ids=["empty", "cut", "list", "text", "not-utf-8", "lone-surrogate"],
)
def test_a_damaged_file_is_no_memory_and_no_failure(output: Path, content: bytes) -> None:
    """A start after a power cut must not fail on what the power cut left."""
    (output / "state/memory.json").write_bytes(content)
    assert recall(output) == Remembered()


def test_an_override_that_does_not_parse_is_forgotten_alone(output: Path) -> None:
    (output / "state/memory.json").write_text('{"overrides": {"web": "many", "shop": "{\\"canary\\": \\"5%\\"}"}}')
    assert list(recall(output).plan.overrides) == ["shop"]


def test_without_a_file_nothing_is_remembered(output: Path) -> None:
    assert recall(output) == Remembered()
