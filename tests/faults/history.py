"""What happened over a scenario, from what it left behind: every generation on disk, every line of the log."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from itertools import pairwise
from typing import Any, Final

from tests.harness.sidecar import Sidecar
from tests.integration.waiting import said

KEEP_ALL: Final = {"output__keep": 1000}
"""Settings under which no generation is removed."""


_FIRST_PAUSE: Final = 0.5
"""Seconds, by a constant of the loop's; five attempts are over after seven and a half."""
_ATTEMPTS: Final = 5


def has_given_up_often(sidecar: Sidecar) -> bool:
    """Whether so many attempts were made that their pauses can be told from equal ones."""
    return len(said(sidecar, "candidate rejected")) >= _ATTEMPTS


def assert_pauses_grew(attempts: list[dict[str, Any]]) -> None:
    """Each pause is twice the one before. However busy the machine, no pause is shorter than what was asked for; a
    change of the catalog may have cut the first ones short, since it is an attempt of its own."""
    moments = [datetime.fromisoformat(attempt["timestamp"]) for attempt in attempts[:_ATTEMPTS]]
    pauses = [(after - before).total_seconds() for before, after in pairwise(moments)]
    assert pauses[-1] >= 0.99 * _FIRST_PAUSE * 2 ** (_ATTEMPTS - 2), pauses


def configurations(sidecar: Sidecar) -> dict[int, str]:
    """Return each generation's files as one text, by number."""
    directories = sorted((sidecar.output / "generations").iterdir())
    return {
        int(path.name): "".join(file.read_text() for file in sorted(path.glob("*.d/*.conf"))) for path in directories
    }


def servers(configuration: str) -> list[int]:
    """The ports of all server lines, one for each line; how each stands a second time, as a backup, is not meant."""
    lines = (line.strip() for line in configuration.splitlines())
    return [
        int(line.split()[1].rstrip(";").rpartition(":")[2])
        for line in lines
        if line.startswith("server 127.0.0.1:") and not line.endswith(" backup;")
    ]


def lacking(sidecar: Sidecar, ports: Iterable[int]) -> dict[int, set[int]]:
    """Return the ports that a generation lacks, by its number; nothing where none ever lacked one."""
    wanted = set(ports)
    missing = {number: wanted - set(servers(text)) for number, text in configurations(sidecar).items()}
    return {number: ports for number, ports in missing.items() if ports}
