"""FRR's language: a design as ``show running-config`` would print it. Pure, but for the templates.

Only our own part is rendered: what an operator has beside it stays (`sections`). FRR must print back each line as it
stands here, or frr-reload.py would find a difference for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from proxygen.kit.errors import NetworkConfigError
from proxygen.kit.templating import Templates, Word
from proxygen.network import config as configured
from proxygen.network.fabric import Fabric, Underlay
from proxygen.network.frr import quagga
from proxygen.network.frr.design import (
    AUTONOMOUS_SYSTEM,
    BgpDesign,
    Design,
    Group,
    OspfDesign,
    OspfNetwork,
    design_bgp,
    design_ospf,
)
from proxygen.network.frr.version import FrrVersion

Syntax = Literal["frr", "quagga"]
_PASSIVE: Final = frozenset({Group.PASSIVE_PEER, Group.PASSIVE_CLIENT})
_CLIENTS: Final = frozenset({Group.CLIENT, Group.PASSIVE_CLIENT})


@dataclass(frozen=True, slots=True, kw_only=True)
class _GroupView:
    name: Word
    waits: bool
    reflected_to: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _PeerView:
    address: object
    name: Word


def render_for(fabric: Fabric, underlay: Underlay, version: FrrVersion, *, syntax: Syntax = "frr") -> dict[str, str]:
    """Render a host's files by name. Raise NetworkConfigError where the network's backend is none of FRR's.

    Of FRR it is our part of ``frr.conf``; of Quagga, which has a file per daemon, all that the daemons need.
    """
    backend = fabric.config.backend
    design: Design
    match backend:
        case configured.FrrBgp():
            design, _ = design_bgp(fabric, underlay)
        case configured.FrrOspf():
            # Quagga knows nothing of point-to-multipoint without multicast.
            design, _ = design_ospf(fabric, underlay, quagga.LIKE if syntax == "quagga" else version)
        case _:
            raise NetworkConfigError(
                f"Backend.Type is {backend.type}, which does without FRR; frr-bgp and frr-ospf have a configuration"
            )
    if syntax == "quagga":
        return quagga.render(design, view(design), _templates())
    return {"frr.conf": render(design)}


def render(design: Design) -> str:
    """Render our part of an integrated ``frr.conf``. Raise TemplateError for a link whose name FRR could not read."""
    template = "frr/bgp.conf.j2" if isinstance(design, BgpDesign) else "frr/ospf.conf.j2"
    return str(_templates().render(template, view(design)))


def view(design: Design) -> dict[str, object]:
    """Return what templates may print of a design: addresses, numbers, and names that were checked."""
    if isinstance(design, OspfDesign):
        return {
            "says": design.says,
            "reflects": False,
            "link": Word(design.link),
            "link_network": design.link_network,
            "meets": design.network is OspfNetwork.POINT_TO_MULTIPOINT,
            "priority": design.priority,
            "routers": design.routers,
        }
    return {
        "says": design.says,
        "reflects": design.reflects,
        "autonomous_system": AUTONOMOUS_SYSTEM,
        # All of them, members or not, so that a host that comes or goes is one line.
        "groups": [
            _GroupView(name=Word(group.value), waits=group in _PASSIVE, reflected_to=group in _CLIENTS)
            for group in Group
        ],
        "peers": [_PeerView(address=peer.address, name=Word(peer.group.value)) for peer in design.peers],
    }


@cache
def _templates() -> Templates:
    return Templates()
