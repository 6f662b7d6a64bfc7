"""How an agent starts: nothing is changed until it is known what is to be, and what the agent before left."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from ipaddress import IPv4Network
from typing import Final

from proxygen.kit.aio import retrying
from proxygen.kit.errors import CatalogUnavailable, NetworkConfigError, NetworkError, stay_away
from proxygen.kit.log import get_logger
from proxygen.network.agent.begin import choose_config, networks_of_others
from proxygen.network.agent.known import KnownNetwork
from proxygen.network.config import NetworkConfig, refuse_overlaps
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.records import View
from proxygen.network.store import NetworkStore

_log: Final = get_logger(__name__)

_LONGEST_PAUSE: Final = 5.0


class Waiting:
    """What the agent waits for, said once."""

    def __init__(self) -> None:
        self.reason = "it has just been started"

    def wait_for(self, what: str) -> None:
        """Log what the start waits for, once for each reason."""
        if what != self.reason:
            _log.warning("agent waits", reason=what)
        self.reason = what

    async def until_possible(self, attempt: Callable[[], Awaitable[None]]) -> None:
        """Try until the host can do it: a link may come up, a daemon may be started."""

        async def try_it() -> None:
            try:
                await attempt()
            except NetworkError as error:
                self.wait_for(str(error))
                raise

        await retrying(NetworkError, longest=_LONGEST_PAUSE)(try_it)


async def find_config(
    store: NetworkStore, live: IPv4Network | None, known: KnownNetwork | None, waiting: Waiting
) -> NetworkConfig:
    """Wait until there is a config to start with. Raise NetworkConfigError for one that cannot be used."""
    index = 0
    view: View | None = None

    async def look() -> NetworkConfig | None:
        nonlocal index, view
        try:
            view, index = await store.watch(index, seen=view)
        except CatalogUnavailable as error:
            index = 0
            if live is not None and known is not None:
                _log.warning("started without Consul, by what the agent before knew", reason=str(error))
                return known.config
            waiting.wait_for(str(error))
            raise
        return choose_config(view, live, known)

    while True:
        config: NetworkConfig | None = await retrying(CatalogUnavailable, longest=_LONGEST_PAUSE, at_least=stay_away)(
            look
        )
        if config is not None:
            return config
        waiting.wait_for(f"{store.prefix}/config is not there; proxygen network init writes it")


async def find_overlap(
    kernel: Kernel, config: NetworkConfig, own: Iterable[IPv4Network], *, take_over: bool
) -> NetworkConfigError | None:
    """Return what containers hide that the host reaches otherwise; None where they hide nothing."""
    try:
        refuse_overlaps(config, networks_of_others(await kernel.reached(), config, own, take_over=take_over))
    except NetworkConfigError as error:
        return error
    return None
