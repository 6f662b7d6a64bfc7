"""What an agent decides as it starts: who the host is, and which network it belongs to. Pure but for the names."""

from __future__ import annotations

import socket
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import TYPE_CHECKING, Final

from proxygen.kit.errors import NetworkConfigError
from proxygen.network.agent.known import KnownNetwork
from proxygen.network.config import Alloc, FrrBgp, FrrOspf, NetworkConfig
from proxygen.network.kernel.netlink import Reached
from proxygen.network.kernel.underlay import UnderlayWish
from proxygen.network.memory import check_host_id, read_host_id
from proxygen.network.records import View
from proxygen.network.session import Terms
from proxygen.network.store import NetworkStore
from proxygen.settings import NetworkSettings

if TYPE_CHECKING:
    from proxygen.consul.client import ConsulClient

_FRR_PROTOCOLS: Final = frozenset({11, 186, 188, 196})
"""zebra, bgpd, ospfd and staticd (rtnetlink.h, zebra/rt_netlink.h): with FRR as the backend such routes are ours."""


def identify(settings: NetworkSettings) -> str:
    """Return the host's identity. Raise NetworkConfigError."""
    return check_host_id(settings.host_id) if settings.host_id else read_host_id()


def name_of(settings: NetworkSettings) -> str:
    """The host's name for people; the kernel's where the settings name none."""
    return settings.node or socket.gethostname()


def wish_of(settings: NetworkSettings) -> UnderlayWish:
    """What the operator says of the underlay; None in both fields leaves it to the routes."""
    return UnderlayWish(
        interface=settings.interface,
        address=IPv4Address(settings.public_ip) if settings.public_ip is not None else None,
    )


def store_of(settings: NetworkSettings, client: ConsulClient) -> NetworkStore:
    """The network's keys, with the deadline that keeps a request shorter than the lease's lock."""
    return NetworkStore(client, prefix=settings.prefix, deadline=terms_of(settings).deadline)


def terms_of(settings: NetworkSettings) -> Terms:
    """The times of a lease, in seconds."""
    return Terms(ttl=settings.ttl, lock_delay=settings.lock_delay, grace=settings.grace)


def choose_config(view: View, live: IPv4Network | None, known: KnownNetwork | None) -> NetworkConfig | None:
    """Return the config to start with; None: there is none yet, and nothing that could be harmed by waiting.

    A host whose containers have addresses goes on with the config under which they got them, where the one in Consul
    cannot be theirs. Raise NetworkConfigError where nothing can be used.
    """
    fits = view.config is not None and (live is None or live.subnet_of(view.config.network))
    if fits:
        return view.config
    if live is not None and known is not None:
        return known.config
    if view.config is not None:
        raise NetworkConfigError(
            f"this host's containers have {live}, which is not in Network {view.config.network}; stop them and release "
            "the lease (proxygen network release), or change Network back"
        )
    if view.config_index:
        raise NetworkConfigError(view.config_problem)
    return None


def networks_of_others(
    reached: Iterable[Reached], config: NetworkConfig, own: Iterable[IPv4Network], *, take_over: bool
) -> list[IPv4Network]:
    """Return the networks that the host reaches already, without what is there for the sake of this network.

    ``take_over``: another program, such as flannel, carries packets to other hosts' subnets still.
    """
    mine = tuple(own)
    others_carry = take_over or isinstance(config.backend, Alloc)
    by_frr = isinstance(config.backend, FrrBgp | FrrOspf)

    def is_ours(one: Reached) -> bool:
        if any(one.network.subnet_of(subnet) for subnet in mine):
            # docker0, which has the subnet since Docker was started with it.
            return True
        if others_carry and config.offers(one.network):
            return True
        return by_frr and one.protocol in _FRR_PROTOCOLS and one.network.subnet_of(config.network)

    return sorted({one.network for one in reached if not is_ours(one)})
