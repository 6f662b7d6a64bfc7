"""The admin API's listeners: a TCP port, and a unix socket for commands on the same host."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, NoReturn

from aiohttp import web

from proxygen.kit.errors import SettingsError
from proxygen.kit.log import get_logger
from proxygen.proxy.admin.access import Bearer, anyone
from proxygen.proxy.admin.api import application
from proxygen.proxy.admin.connections import Connections
from proxygen.proxy.admin.contract import Sidecar
from proxygen.proxy.admin.handling import SIDECAR
from proxygen.proxy.admin.place import reachable, socket_path
from proxygen.proxy.admin.stream import Streams
from proxygen.proxy.admin.tokens import Tokens
from proxygen.settings import AdminSettings

_log = get_logger(__name__)


class Serving:
    """The tasks that accept connections. They begin with the listeners, before there is a group to own them."""

    def __init__(self, tasks: Sequence[asyncio.Task[NoReturn]]) -> None:
        self._tasks: Final = tasks

    async def run(self) -> None:
        """Wait until one of them fails, and raise why: nobody would be answered there any more."""
        ended, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in ended:
            task.result()


@asynccontextmanager
async def serving(sidecar: Sidecar, settings: AdminSettings, output: Path) -> AsyncIterator[Serving]:
    """Serve the admin API while the block runs. Raise SettingsError where it cannot listen."""
    async with AsyncExitStack() as stack:
        path, streams = socket_path(settings, output), Streams(sidecar.events)
        listener = _bind_unix(path)
        stack.callback(_unlink, path)
        accepting = await _start(stack, listener, application(sidecar, streams, writers=anyone), "unix", settings)
        tasks = [accepting]
        tokens = Tokens(settings)
        if settings.listen != "off":
            app = application(sidecar, streams, writers=Bearer(tokens))
            tasks.append(await _start(stack, _bind_tcp(settings.listen), app, "tcp", settings))
        _log.info("admin listening", socket=str(path), address=settings.listen, writes=tokens.exist())
        yield Serving(tasks)


async def _start(
    stack: AsyncExitStack, listener: socket.socket, app: web.Application, name: str, settings: AdminSettings
) -> asyncio.Task[NoReturn]:
    stack.callback(listener.close)
    connections = Connections(name, settings.max_connections, app[SIDECAR].meter)
    app.middlewares.insert(0, connections.middleware())
    # A status request holds nobody up: at the end of the sidecar there is nothing worth waiting for.
    runner = web.AppRunner(
        app, access_log=None, shutdown_timeout=1.0, handle_signals=False, keepalive_timeout=settings.idle
    )
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    assert runner.server is not None
    listener.setblocking(False)
    listener.listen()
    accepting = asyncio.create_task(connections.accept(listener, runner.server), name=f"admin connections, {name}")
    stack.push_async_callback(_cancelled, accepting)
    return accepting


async def _cancelled(task: asyncio.Task[NoReturn]) -> None:
    task.cancel()
    await asyncio.wait({task})


def _bind_tcp(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    family = socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host.strip("[]"), int(port)))
    except OSError as error:
        listener.close()
        raise SettingsError(
            f"admin.listen = {address!r}: {error.strerror}; choose another ADDRESS:PORT, or off"
        ) from error
    return listener


def _bind_unix(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_socket():
            _refuse_a_living_owner(path)
            path.unlink()
        with reachable(path) as name:
            listener.bind(name)
        # Nobody can connect before listen(), so there is no moment in which others could.
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise SettingsError(f"admin socket {path}: {error.strerror}; set admin.socket to a writable place") from error
    except SettingsError:
        listener.close()
        raise
    return listener


def _refuse_a_living_owner(path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        with suppress(OSError):
            with reachable(path) as name:
                probe.connect(name)
            raise SettingsError(f"admin socket {path}: another sidecar answers there; give each its own admin.socket")


def _unlink(path: Path) -> None:
    with suppress(OSError):
        path.unlink()
