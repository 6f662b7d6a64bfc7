"""What of the sidecar may not end: it ends as a whole, and who started it starts it again."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from proxygen.cli import run
from proxygen.kit.notify import Notifier


class _Part:
    """Works until it is broken."""

    def __init__(self) -> None:
        self.broken = asyncio.Event()

    async def run(self) -> None:
        await self.broken.wait()
        raise RuntimeError("broken")

    async def watch_nginx(self) -> None:
        await asyncio.Event().wait()

    async def finish(self) -> None:
        pass


@pytest.mark.parametrize("name", ["reconciler", "watch", "reporter", "journal", "admin"])
async def test_a_part_that_fails_ends_the_sidecar(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def denied(_client: object) -> None:
        pass

    async def keep_telling(_notifier: object, _look: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(run, "_say_what_is_denied", denied)
    monkeypatch.setattr(run, "keep_telling", keep_telling)
    parts: Any = SimpleNamespace(
        client=None, **{each: _Part() for each in ("reconciler", "watch", "reporter", "journal", "admin")}
    )
    reader: Any = None
    serving = asyncio.create_task(run._serve(parts, reader, asyncio.Queue(), Notifier.adopt()))
    getattr(parts, name).broken.set()
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(serving, 60)
    assert [str(error) for error in caught.value.exceptions] == ["broken"]
