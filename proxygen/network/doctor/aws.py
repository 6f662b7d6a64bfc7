"""Whether AWS lets this instance send and receive for its containers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

from proxygen.network.backends.aws_vpc import find_interface
from proxygen.network.config import Alloc, AwsVpc, NetworkConfig, Vxlan, WireGuard
from proxygen.network.doctor.facts import AwsFacts, LeaseFacts, known
from proxygen.network.doctor.finding import Skipped, Unknown
from proxygen.network.fabric import Underlay

_VENDOR: Final = Path("/sys/class/dmi/id/sys_vendor")
_AMAZON: Final = "Amazon EC2"


async def read_aws(lease: LeaseFacts | Unknown, underlay: Underlay | Unknown) -> AwsFacts:
    """Ask AWS, if containers' own addresses are what its network sees. Raise Skipped, NetworkError."""
    config = known(lease).view.config
    if config is None or not await asyncio.to_thread(_is_due, config):
        raise Skipped("containers' addresses do not meet AWS's network here")
    interface = await asyncio.to_thread(find_interface, known(underlay))
    return AwsFacts(interface=interface.id, source_dest_check=interface.checks)


def _is_due(config: NetworkConfig) -> bool:
    """Plain routes are checked by AWS too; what is wrapped has the host's own address, and passes."""
    if isinstance(config.backend, Alloc | Vxlan | WireGuard):
        return False
    return isinstance(config.backend, AwsVpc) or _is_ec2()


def _is_ec2() -> bool:
    try:
        return _VENDOR.read_text(encoding="ascii").strip() == _AMAZON
    except (OSError, ValueError):
        return False
