"""A host's backend as a process of its own: ``python -m tests.network.backends.carrier JOB``, to be killed at will.

JOB is a JSON file: ``config``, the host's ``number``, the ``key`` file of WireGuard, and ``rounds``: lists of members
as ``[number, address, BackendData or null]``, carried one after the other. With ``forever`` they begin again.
It writes what it publishes, and then a line after each pass: the problems.
"""

from __future__ import annotations

import asyncio
import json
import sys
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from proxygen.network.backends.host_gw import HostGwBackend
from proxygen.network.backends.vxlan import VxlanBackend
from proxygen.network.backends.wireguard import WireGuardBackend
from proxygen.network.config import HostGw, Vxlan, WireGuard, parse_config
from proxygen.network.fabric import Backend, Fabric
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.underlay import UnderlayWish
from tests.network.backends.fabrics import host_id, member


async def run(job: dict[str, Any]) -> None:
    config = parse_config(job["config"])
    own = member(job["number"])
    async with Kernel() as kernel:
        underlay = await kernel.find_underlay(UnderlayWish(interface="eth0"))
        backend: Backend
        match config.backend:
            case HostGw():
                backend = HostGwBackend(kernel, underlay, node=own.node)
            case Vxlan() as chosen:
                backend = VxlanBackend(kernel, underlay, chosen, node=own.node, host_id=host_id(job["number"]))
            case WireGuard() as chosen:
                backend = WireGuardBackend(kernel, underlay, chosen, node=own.node, key_file=Path(job["key"]))
            case other:
                raise ValueError(f"{other} is not of the kernel's tables")
        attributes = await backend.prepare()
        print(json.dumps(attributes.backend_data), flush=True)
        while True:
            for round_ in job["rounds"]:
                others = tuple(
                    member(number, ip=str(IPv4Address(address)), data=data) for number, address, data in round_
                )
                problems = await backend.carry(Fabric(config=config, own=own, others=others))
                print(json.dumps(problems), flush=True)
            if not job.get("forever"):
                return


if __name__ == "__main__":
    asyncio.run(run(json.loads(Path(sys.argv[1]).read_text())))
