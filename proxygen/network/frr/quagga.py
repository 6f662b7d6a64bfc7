"""Quagga's language, for hosts that still run it. Only rendered: nothing here starts or asks a Quagga.

It differs from FRR's where it matters: a file per daemon, with the lists that each uses; the OSPF area by ``network``;
``timers connect`` per neighbour, not per group; no tags on static routes; ``network`` in BGP needs no route that is up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from proxygen.kit.templating import Templates
from proxygen.network.frr.design import BgpDesign, Design
from proxygen.network.frr.version import FrrVersion

LIKE: Final = FrrVersion(0, 0)
"""FRR began where Quagga was; it knows of OSPF what FRR knew before its first release."""


def render(design: Design, view: Mapping[str, object], templates: Templates) -> dict[str, str]:
    """Render the files of a host's daemons by name."""
    is_bgp = isinstance(design, BgpDesign)
    daemon = "bgpd" if is_bgp else "ospfd"
    return {
        "zebra.conf": str(templates.render("frr/quagga-zebra.conf.j2", {**view, "is_ospf": not is_bgp})),
        f"{daemon}.conf": str(templates.render(f"frr/quagga-{daemon}.conf.j2", view)),
    }
