"""`Registration`: an application's own entry in Consul for as long as a block runs."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from proxygen.kit.errors import BadInput
from proxygen.registration.checks import Seconds, seconds
from proxygen.registration.service import Announcement

if TYPE_CHECKING:
    from proxygen.consul.access import ConsulAccess
    from proxygen.consul.single import SingleRequests
    from proxygen.registration.following import FollowedAddress
    from proxygen.registration.lease import Lease
    from proxygen.settings import ConsulSettings

DRAIN: Final = 5.0
_SETTINGS_FILE: Final = "proxygen.toml"
"""In the working directory, as for proxygen's commands."""
_FIRST: Final = 5.0
"""Seconds that entering waits for the first answer; the application then starts without it."""


@dataclass(kw_only=True, eq=False)
class Registration(Announcement):
    """A service instance that is registered while the block runs, and drained before it ends.

    ::

        async with Registration(name="web", port=8080, tags=ProxyTags(route=["app.example.com"])):
            await stopped.wait()

    In a synchronous application the same with ``with``: the work is then done in a thread of its own. Enter the block
    once the application accepts connections, and leave it while it still does: at the end proxies are told to stay
    away, ``drain`` passes, and only then the entry is removed.

    A Consul that does not answer is logged and tried again; it never ends or delays the application.
    """

    drain: Seconds = DRAIN
    """How long proxies have to see that the instance leaves."""
    consul: str | ConsulSettings | None = None
    """The agent's address as in CONSUL_HTTP_ADDR, or all settings; default what Consul's variables say."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._drain_seconds = seconds(self.drain, what="drain")
        self._requests: SingleRequests | None = None
        self._lease: Lease | None = None
        self._address: FollowedAddress | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._farewell: asyncio.Task[None] | None = None
        self._withdrawal: asyncio.Task[None] | None = None
        self._thread: _LoopThread | None = None

    @property
    def registered(self) -> bool:
        """Whether the agent held the instance when it last answered."""
        return self._lease is not None and self._lease.registered

    @property
    def announced_address(self) -> str:
        """The address that is announced now; `prepare` or `start` comes first."""
        assert self._address is not None, "not prepared"
        return self._address.current

    async def start(self) -> None:
        """Register and stay so in the background. Raise BadInput for settings or an address that cannot be.

        Whatever becomes of it, `leave` or `deregister` has to follow; the blocks see to that themselves.
        """
        if self._keeper is not None or self._lease is None:
            await self.prepare()
        lease, address = self._lease, self._address
        assert lease is not None
        assert address is not None
        self._keeper = asyncio.create_task(self._keep(lease, address), name=f"registration of {self.id}")
        with suppress(TimeoutError):
            async with asyncio.timeout(_FIRST):
                await lease.attempted.wait()

    async def _keep(self, lease: Lease, address: FollowedAddress) -> None:
        async with asyncio.TaskGroup() as group:
            entry = group.create_task(lease.keep(), name=f"entry of {self.id}")

            def move(announced: str) -> None:
                nonlocal entry
                # What was asked from an address that is gone gets no answer.
                entry.cancel()
                lease.move(self.service(announced))
                entry = group.create_task(lease.keep(), name=f"entry of {self.id}")

            await address.follow(lease.rhythm, move)

    async def prepare(self) -> None:
        """Settle what is announced, and send nothing yet. Raise BadInput for settings or an address that cannot be."""
        self._refuse_second_start()
        # Loads libraries, settings and certificates: nothing that an application's loop should stand still for.
        self._requests = await asyncio.to_thread(_open_requests, self.consul)
        from proxygen.registration.agent import Agent
        from proxygen.registration.following import FollowedAddress
        from proxygen.registration.lease import Lease
        from proxygen.registration.lives import Lives

        where = self._requests.address
        host = None if where.socket is not None else where.host
        self._address = await asyncio.to_thread(FollowedAddress, self.address, consul=host)
        agent = Agent(self._requests)
        lives = Lives(agent=agent.address, id=self.id, name=self.name, port=self.port)
        self._lease = Lease(self.service(self._address.current), agent, lives)

    def _refuse_second_start(self) -> None:
        if self._requests is not None:
            raise BadInput(f"{self.id} was started before; make another Registration")

    async def withdraw(self) -> None:
        """Tell proxies to stay away and give them the time to. Cancel it to cut that time short."""
        if self._withdrawal is None:
            self._withdrawal = asyncio.create_task(self._withdraw(), name=f"withdrawal of {self.id}")
        try:
            await asyncio.wait({self._withdrawal})
        except asyncio.CancelledError:
            self._withdrawal.cancel()
            raise

    async def _withdraw(self) -> None:
        await self._stop_keeping()
        # Where Consul could not be told, nobody would see it however long we wait.
        if self._lease is not None and await self._lease.withdraw():
            await asyncio.sleep(self._drain_seconds)

    async def deregister(self) -> None:
        """Remove the entry, withdrawn or not. Further calls wait for the first."""
        if self._farewell is None:
            self._farewell = asyncio.create_task(self._deregister(), name=f"deregistration of {self.id}")
        await asyncio.shield(self._farewell)

    async def _deregister(self) -> None:
        await self._stop_keeping()
        if self._lease is not None:
            await self._lease.deregister()

    async def _stop_keeping(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})

    async def leave(self) -> None:
        """Withdraw, then deregister; an application whose own clean-up stops serving calls this before it does."""
        try:
            await self.withdraw()
        finally:
            await self.deregister()

    async def __aenter__(self) -> Self:
        self._refuse_second_start()
        try:
            await self.start()
        except BaseException:
            await self.leave()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.leave()

    def __enter__(self) -> Self:
        with suppress(RuntimeError):
            asyncio.get_running_loop()
            raise TypeError("inside an event loop write `async with Registration(…)`")
        self._refuse_second_start()
        self._thread = _LoopThread(f"registration of {self.id}")
        try:
            self._thread.run(self.start())
        except BaseException:
            self.__exit__()
            raise
        return self

    def hurry(self) -> None:
        """Cut the drain short, now or once it comes; for the handler of a second signal.

        Beside ``async with`` call it in the loop.
        """
        if self._thread is not None:
            self._thread.soon(self._cut_short)
        else:
            self._cut_short()

    def _cut_short(self) -> None:
        self._drain_seconds = 0.0
        if self._withdrawal is not None:
            self._withdrawal.cancel()

    def __exit__(self, *_: object) -> None:
        assert self._thread is not None
        try:
            self._thread.run(self.leave())
        except KeyboardInterrupt:
            self._thread.run(self.deregister())
            raise
        finally:
            self._thread.stop()


class _LoopThread:
    """An event loop in a daemon thread, for applications that have none."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()

    def run(self, work: Coroutine[Any, Any, None]) -> None:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            future.result()
        except KeyboardInterrupt:
            future.cancel()
            raise

    def soon(self, call: Callable[[], object]) -> None:
        # A loop that is closed has nothing to cut short.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def _open_requests(consul: str | ConsulSettings | None) -> SingleRequests:
    # Here, because an application that only imports this module pays for none of it.
    import proxygen.registration.following
    import proxygen.registration.lease  # noqa: F401 - loaded in this thread, used in the loop's
    from proxygen.consul.single import SingleRequests

    return SingleRequests(_access(consul))


def _access(consul: str | ConsulSettings | None) -> ConsulAccess:
    from proxygen.consul.access import ConsulAccess

    if consul is not None and not isinstance(consul, str):
        return ConsulAccess.of(consul)
    plain = None if Path(_SETTINGS_FILE).is_file() else ConsulAccess.from_variables(os.environ)
    if plain is not None:
        return plain if consul is None else replace(plain, address=consul)
    # Pydantic, which most applications have no use for.
    from proxygen.settings import load

    return ConsulAccess.of(load({} if consul is None else {"consul.address": consul}).consul)
