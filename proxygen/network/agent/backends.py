"""Which backend a config asks for. Each is imported when it is asked for: most hosts need neither FRR nor AWS."""

from __future__ import annotations

from typing import Final

from proxygen.errors import NetworkConfigError
from proxygen.network import config as configured
from proxygen.network.config import NetworkConfig
from proxygen.network.fabric import Backend, Underlay
from proxygen.network.kernel.netlink import Kernel
from proxygen.settings import NetworkSettings

_OF_THE_KERNEL: Final = (configured.HostGw, configured.Vxlan, configured.WireGuard)


def make_backend(
    config: NetworkConfig, underlay: Underlay, kernel: Kernel, settings: NetworkSettings, *, node: str, host_id: str
) -> Backend:
    """Return the backend for this host; it has done nothing yet."""
    match config.backend:
        case configured.Alloc():
            from proxygen.network.backends.alloc import AllocBackend

            return AllocBackend(underlay, node=node)
        case configured.HostGw():
            from proxygen.network.backends.host_gw import HostGwBackend

            return HostGwBackend(kernel, underlay, node=node)
        case configured.Vxlan() as vxlan:
            from proxygen.network.backends.vxlan import VxlanBackend

            return VxlanBackend(kernel, underlay, vxlan, node=node, host_id=host_id)
        case other:
            raise NetworkConfigError(f"Backend.Type {other.type} is not to be had here")


def must_be_left(past: configured.Backend, now: configured.Backend) -> bool:
    """Tell whether the new backend would let stand what the one before made."""
    if isinstance(past, _OF_THE_KERNEL) and isinstance(now, _OF_THE_KERNEL):
        # They have the kernel's tables in common, and bring them to what they should be without a gap.
        return False
    return type(past) is not type(now)


def outlives_us(backend: configured.Backend) -> bool:
    """Tell whether a backend makes what is not in the kernel's tables."""
    return not isinstance(backend, (configured.Alloc, *_OF_THE_KERNEL))
