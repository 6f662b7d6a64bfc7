"""Settings of earlier versions that are constants now. Who still sets one is told so, and starts all the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

RETIRED: Final[Mapping[str, str]] = {
    "consul.max_staleness": "an answer of a server that lost the leader more than 30s ago is never believed",
    "network.frr_vtysh": "FRR's vtysh is looked for on PATH",
    "reload.retry_min": "an apply that failed is tried again after 0.5s at first",
    "reload.settle_max": "a flood of changes puts an apply off for 2s at most",
}
"""By ``slice.name`` what holds in its place. docs/decisions/050 says why, and which others are to stay."""


def remark(key: str, origin: str) -> str:
    """One line for the log; the value may be a secret, and is not shown."""
    return f"{key} from {origin} has no effect any more: {RETIRED[key]}; remove it"
