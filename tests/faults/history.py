"""What nginx was told over a scenario: every generation that stands on disk, not samples of the newest."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tests.harness.sidecar import Sidecar

KEEP_ALL: Final = {"output__keep": 1000}
"""Settings under which no generation is removed."""


def configurations(sidecar: Sidecar) -> dict[int, str]:
    """Return each generation's files as one text, by number."""
    directories = sorted((sidecar.output / "generations").iterdir())
    return {
        int(path.name): "".join(file.read_text() for file in sorted(path.glob("*.d/*.conf"))) for path in directories
    }


def servers(configuration: str) -> list[int]:
    """The ports of all server lines, one for each line."""
    lines = (line.strip() for line in configuration.splitlines())
    return [
        int(line.split()[1].rstrip(";").rpartition(":")[2]) for line in lines if line.startswith("server 127.0.0.1:")
    ]


def lacking(sidecar: Sidecar, ports: Iterable[int]) -> dict[int, set[int]]:
    """Return the ports that a generation lacks, by its number; nothing where none ever lacked one."""
    wanted = set(ports)
    missing = {number: wanted - set(servers(text)) for number, text in configurations(sidecar).items()}
    return {number: ports for number, ports in missing.items() if ports}
