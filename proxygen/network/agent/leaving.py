"""How a host leaves the network for good, and how what we made on it is removed."""

from __future__ import annotations

from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Final

from proxygen.kit.errors import ConflictingWrite, NetworkError
from proxygen.kit.log import get_logger
from proxygen.network.agent.backends import make_backend, outlives_us
from proxygen.network.agent.begin import identify, name_of, store_of, terms_of, wish_of
from proxygen.network.agent.known import recall_known
from proxygen.network.agent.place import StateDirectory
from proxygen.network.backends.on_kernel import clear
from proxygen.network.config import NetworkConfig
from proxygen.network.files import remove_file
from proxygen.network.firewall import close_passage
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.lease import SubnetLease
from proxygen.network.records import Attributes, View
from proxygen.settings import NetworkSettings

if TYPE_CHECKING:
    from proxygen.consul.client import ConsulClient

_log: Final = get_logger(__name__)


async def release_lease(settings: NetworkSettings, client: ConsulClient) -> list[IPv4Network]:
    """Give the host's subnet back and return it; [] where it had none. The agent must not run.

    Raise ConflictingWrite where the lease is locked by a session that is not this host's agent's.
    """
    host_id, directory = identify(settings), StateDirectory(path=settings.state)
    terms = terms_of(settings)
    store = store_of(settings, client)
    memory = directory.memory()
    view = await store.look()
    _refuse_locked(view, host_id, memory.recall(host_id).session, patience=terms.busy)
    attributes = Attributes(node=name_of(settings))
    await SubnetLease(store, host_id, attributes, memory=memory, terms=terms).release()
    return [record.subnet for record in view.records_of(host_id)]


def _refuse_locked(view: View, host_id: str, session: str, *, patience: float) -> None:
    for record in view.records_of(host_id):
        if record.session not in ("", session):
            raise ConflictingWrite(
                f"the lease of {record.subnet} is locked by another session, of this host's earlier agent or of a host "
                f"with the same id; try again in {patience:g} s, by when the session of an agent that is gone has ended"
            )


async def clean_up(settings: NetworkSettings) -> tuple[str, ...]:
    """Remove all that is ours on this host: routes, links, rules and files. It asks nothing of Consul.

    Return what could not be removed, one line each.
    """
    directory = StateDirectory(path=settings.state)
    problems: list[str] = []
    known = recall_known(directory.known, boot=None)
    async with Kernel() as kernel:
        if known is not None and outlives_us(known.config.backend):
            problems += await _withdraw(kernel, known.config, settings)
        try:
            await clear(kernel)
        except NetworkError as error:
            problems.append(str(error))
    problems += await close_passage()
    for path in (settings.subnet_file, settings.docker_file, directory.known, directory.status):
        try:
            remove_file(path)
        except NetworkError as error:
            problems.append(str(error))
    return tuple(problems)


async def _withdraw(kernel: Kernel, config: NetworkConfig, settings: NetworkSettings) -> tuple[str, ...]:
    try:
        underlay = await kernel.find_underlay(wish_of(settings))
        backend = make_backend(config, underlay, kernel, settings, node=name_of(settings), host_id=identify(settings))
        await backend.withdraw()
    except NetworkError as error:
        return (f"{config.backend.type}: {error}",)
    return ()
