"""Two small networks and the files that FRR and Quagga get. ``python -m tests.network.frr.golden`` writes them anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from proxygen.network.frr.render import Syntax, render_for
from proxygen.network.frr.version import FrrVersion
from tests.network.frr.fabrics import members, seen_by, underlay

HERE = Path(__file__).parent

_CASES: tuple[tuple[str, str, int, str, Syntax], ...] = (
    ("bgp-hub", "frr-bgp", 2, "8.4.4", "frr"),
    ("bgp-other", "frr-bgp", 3, "8.4.4", "frr"),
    ("ospf-hub", "frr-ospf", 2, "8.4.4", "frr"),
    ("ospf-other", "frr-ospf", 3, "8.4.4", "frr"),
    ("ospf-10.1", "frr-ospf", 3, "10.1", "frr"),
    ("quagga-bgp", "frr-bgp", 3, "8.4.4", "quagga"),
    ("quagga-ospf", "frr-ospf", 3, "8.4.4", "quagga"),
)
"""A name, the backend, which of four hosts, the FRR of all of them, and the language."""


def rendered() -> dict[str, str]:
    """Return all files by name."""
    return dict(_rendered())


def _rendered() -> Iterator[tuple[str, str]]:
    for name, kind, number, version, syntax in _CASES:
        everybody = members(4, kind=kind, version=version)
        own = everybody[number - 1]
        files = render_for(seen_by(own, everybody), underlay(own), FrrVersion.parse(version), syntax=syntax)
        for file, text in files.items():
            yield f"{name}.{file}", text
