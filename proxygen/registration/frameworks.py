"""One line for frameworks that own the process: registered once the port answers, withdrawn before they stop listening.

A framework closes its port first and runs the application's clean-up afterwards, when proxies have failed already. So
its signals wait here until the registration has left::

    app.cleanup_ctx.append(with_aiohttp(Registration(name="web", port=8080)))     # aiohttp
    app = with_asgi(app, Registration(name="web", port=8000))                     # Starlette, FastAPI, any ASGI
    when_ready = with_gunicorn(Registration(name="web", port=8000))               # in gunicorn.conf.py
"""

from __future__ import annotations

import asyncio
import atexit
import os
import signal
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Final

from proxygen.kit.errors import BadInput
from proxygen.registration.application import Registration
from proxygen.registration.journal import get_journal

_STOPPING: Final = (signal.SIGTERM, signal.SIGINT)
_MASTERS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
_FIRST_LOOK: Final = 0.05
_LONGEST_PAUSE: Final = 1.0
_CONNECT: Final = 2.0
_NO_LIFESPAN: Final = (
    "start the server with lifespans (uvicorn --lifespan on), wrap the outermost application if one around it keeps "
    "them to itself, or run the server under proxygen register"
)

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]


@asynccontextmanager
async def serving(registration: Registration) -> AsyncIterator[Registration]:
    """Be registered while a framework serves; enter it where the framework starts, before or after it listens.

    For a lifespan of your own. Raise BadInput for an address that cannot be announced.
    """
    await registration.prepare()
    announcing = asyncio.create_task(_announce(registration), name=f"announcement of {registration.id}")
    # Some servers tell the application to end first, and send the signal while it leaves.
    with _signals_wait_for(registration):
        try:
            yield registration
        finally:
            announcing.cancel()
            await asyncio.wait({announcing})
            await registration.leave()


def with_aiohttp(registration: Registration) -> Callable[[Any], AsyncIterator[None]]:
    """Return an entry for an aiohttp application's ``cleanup_ctx``."""

    async def context(_app: Any) -> AsyncIterator[None]:
        async with serving(registration):
            yield

    return context


def with_asgi(app: Application, registration: Registration) -> Application:
    """Return the application with a lifespan around its own, which it need not have.

    Several workers under one port are one instance, which leaves with the last of them. A server that closes its port
    before it ends the lifespan without a signal (hypercorn) runs under ``proxygen register``. One that sends no
    lifespan leaves nothing to register by: the first request logs a warning.
    """
    was_begun = was_warned = False

    async def registered(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal was_begun, was_warned
        if scope["type"] == "lifespan":
            was_begun = True
            await _Lifespan(app, registration, receive, send).run(scope)
            return
        if not (was_begun or was_warned):
            was_warned = True
            _warn_of_no_lifespan(registration)
        await app(scope, receive, send)

    return registered


def _warn_of_no_lifespan(registration: Registration) -> None:
    facts = {"service": registration.name, "id": registration.id, "hint": _NO_LIFESPAN}
    get_journal(__name__).warning("not registered: no lifespan began before the first request", **facts)


def with_gunicorn(registration: Registration) -> Callable[[Any], None]:
    """Return a ``when_ready`` hook: one registration for all workers, kept up by gunicorn's master."""

    def when_ready(_server: Any) -> None:
        _Master(registration).begin()

    return when_ready


async def _announce(registration: Registration) -> None:
    pause = _FIRST_LOOK
    while not await _answers(registration):
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    await registration.start()


async def _answers(registration: Registration) -> bool:
    """Whether the port takes connections, where it is announced or, behind a published port, on loopback."""
    for host in (registration.announced_address, "localhost"):
        try:
            async with asyncio.timeout(_CONNECT):
                _, writer = await asyncio.open_connection(host, registration.port)
        except OSError:
            continue
        writer.close()
        return True
    return False


@contextmanager
def _signals_wait_for(registration: Registration) -> Iterator[None]:
    """Have the signals that end a framework do what they did, once the registration has left. A second one does not
    wait for the drain."""
    if threading.current_thread() is not threading.main_thread():
        # Only the main thread has signals; whoever runs the framework in another one ends it in another way.
        yield
        return
    loop = asyncio.get_running_loop()
    leaving: set[asyncio.Task[None]] = set()
    # One that is ignored ends nothing: hypercorn's workers leave Ctrl-C to their master.
    stopping = [number for number in _STOPPING if signal.getsignal(number) is not signal.SIG_IGN]
    befores = [_Before(loop, number) for number in stopping]

    def leave(before: _Before) -> None:
        if leaving:
            registration.hurry()
            return
        task = asyncio.create_task(registration.leave(), name=f"leave of {registration.id}")
        leaving.add(task)
        task.add_done_callback(lambda _: before.resume())

    for before in befores:
        before.replace(partial(leave, before))
    try:
        yield
    finally:
        for before in befores:
            before.restore()


class _Before:
    """What a signal did before we took it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, number: signal.Signals) -> None:
        self._loop = loop
        self._number = number
        self._handler = signal.getsignal(number)
        self._was_the_loops = loop.remove_signal_handler(number)
        self._is_ours = False

    def replace(self, call: Callable[[], None]) -> None:
        self._loop.add_signal_handler(self._number, call)
        self._is_ours = True

    def restore(self) -> None:
        if self._is_ours:
            self._loop.remove_signal_handler(self._number)
            # None: whoever set it is not Python.
            if not self._was_the_loops and self._handler is not None:
                signal.signal(self._number, self._handler)
            self._is_ours = False

    def resume(self) -> None:
        """Do what the signal would have done."""
        self.restore()
        if self._was_the_loops:
            # A loop does not tell what it would have called. Whatever runs one ends in good order on Ctrl-C.
            raise KeyboardInterrupt
        signal.raise_signal(self._number)


class _Lifespan:
    """One lifespan of an ASGI application, with or without one of its own."""

    def __init__(self, app: Application, registration: Registration, receive: Receive, send: Send) -> None:
        self._app = app
        self._registration = registration
        self._receive = receive
        self._send = send
        self._stack = AsyncExitStack()
        self._was_started = False
        self._answered = False

    async def run(self, scope: Message) -> None:
        async with self._stack:
            try:
                await self._app(scope, self._pass_in, self._pass_out)
            except Exception:
                if self._answered:
                    raise
            if not self._answered:
                await self._stand_in()

    async def _pass_in(self) -> Message:
        message = await self._receive()
        self._was_started = self._was_started or message["type"] == "lifespan.startup"
        return message

    async def _pass_out(self, message: Message) -> None:
        if not message["type"].startswith("lifespan."):
            # An application that takes every scope for a request; what it does now is what it does without a lifespan.
            raise RuntimeError(f"{message['type']} is no message of a lifespan")
        self._answered = True
        if message["type"] == "lifespan.startup.complete":
            await self._start()
        elif message["type"] == "lifespan.shutdown.complete":
            await self._stack.aclose()
        await self._send(message)

    async def _start(self) -> None:
        try:
            await self._stack.enter_async_context(serving(self._registration))
        except BadInput as error:
            # Without an answer a server would take the application for one without a lifespan, and serve.
            await self._send({"type": "lifespan.startup.failed", "message": str(error)})
            raise

    async def _stand_in(self) -> None:
        """Answer for an application that has no lifespan."""
        if not self._was_started:
            await self._receive()
        await self._pass_out({"type": "lifespan.startup.complete"})
        await self._receive()
        await self._pass_out({"type": "lifespan.shutdown.complete"})


class _Master:
    """The registration of a process that forks workers. It starts before they are forked, so that no lock of its
    thread is held while they are."""

    def __init__(self, registration: Registration) -> None:
        self._registration = registration
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._has_left = False
        self._is_leaving = False

    def begin(self) -> None:
        self._registration.__enter__()
        atexit.register(self._leave)
        for number in _MASTERS:
            before = signal.getsignal(number)
            if callable(before):
                signal.signal(number, partial(self._take, before))

    def _take(self, before: Callable[[int, Any], Any], number: int, frame: Any) -> None:
        # A worker inherits this until it sets its own handlers.
        if os.getpid() != self._pid:
            before(number, frame)
            return
        if self._is_leaving:
            # A second signal is not to wait, nor is the end of the process, which joins the thread that leaves.
            self._registration.hurry()
            before(number, frame)
            return
        self._is_leaving = True
        # gunicorn's loop has to go on meanwhile: it restarts workers, and they serve.
        threading.Thread(target=self._leave_and, args=(before, number), name="registration leaves").start()

    def _leave_and(self, before: Callable[[int, Any], Any], number: int) -> None:
        self._leave()
        before(number, None)

    def _leave(self) -> None:
        """Leave, if this is the process that came; workers inherit what is to happen at exit."""
        if os.getpid() != self._pid:
            return
        with self._lock:
            if not self._has_left:
                self._has_left = True
                self._registration.__exit__()
