"""Which backend a config asks for. Each is imported when it is asked for: most hosts need neither FRR nor AWS."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from proxygen.kit.errors import NetworkConfigError
from proxygen.network import config as configured
from proxygen.network.agent.place import StateDirectory
from proxygen.network.config import NetworkConfig
from proxygen.network.fabric import Backend, Underlay
from proxygen.network.frr.daemons import FrrPlace
from proxygen.network.kernel.netlink import Kernel
from proxygen.settings import NetworkSettings

_OF_THE_KERNEL: Final = (configured.HostGw, configured.Vxlan, configured.WireGuard)


def make_backend(
    config: NetworkConfig,
    underlay: Underlay,
    kernel: Kernel,
    settings: NetworkSettings,
    *,
    node: str,
    host_id: str,
    holds: Callable[[], bool] = lambda: False,
) -> Backend:
    """Return the backend for this host; it has done nothing yet.

    ``holds`` tells whether Consul confirms the host's lease now. Who only looks or removes holds nothing.
    """
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
        case configured.WireGuard() as wireguard:
            from proxygen.network.backends.wireguard import WireGuardBackend

            key_file = StateDirectory(path=settings.state).wireguard_key
            return WireGuardBackend(kernel, underlay, wireguard, node=node, key_file=key_file)
        case configured.AwsVpc():
            from proxygen.network.backends.aws_vpc import AwsVpcBackend

            return AwsVpcBackend(underlay, config, node=node, holds=holds)
        case configured.FrrBgp():
            from proxygen.network.frr.backend import BgpBackend

            return BgpBackend(underlay, frr_place(settings), node=node)
        case configured.FrrOspf():
            from proxygen.network.frr.backend import OspfBackend

            return OspfBackend(underlay, frr_place(settings), node=node)
        case other:
            raise NetworkConfigError(f"Backend.Type {other.type} is not to be had")


def frr_place(settings: NetworkSettings) -> FrrPlace:
    """Where FRR is on this host, and where ours of it is kept, below the agent's state."""
    return FrrPlace(
        reload=settings.frr_reload,
        sockets=settings.frr_sockets,
        directory=settings.frr_directory,
        state=settings.state / "frr",
    )


def is_same_plane(past: NetworkConfig, now: NetworkConfig) -> bool:
    """Tell whether a data plane that was made for one config is one for the other."""
    return past.network == now.network and past.backend == now.backend


def must_be_left(past: configured.BackendConfig, now: configured.BackendConfig) -> bool:
    """Tell whether the new backend would let stand what the one before made."""
    if isinstance(past, _OF_THE_KERNEL) and isinstance(now, _OF_THE_KERNEL):
        # They have the kernel's tables in common, and bring them to what they should be without a gap.
        return False
    return type(past) is not type(now)


def outlives_us(backend: configured.BackendConfig) -> bool:
    """Tell whether a backend makes what is not in the kernel's tables."""
    return not isinstance(backend, (configured.Alloc, *_OF_THE_KERNEL))
