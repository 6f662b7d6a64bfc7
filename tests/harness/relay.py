"""A TCP relay whose connections can go dead without a word, as behind a firewall that forgot them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from tests.harness.ports import free_port


class Relay:
    """Passes connections on to ``address``. Those that `forget` meets stay open, and nothing comes through any more."""

    def __init__(self, address: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self._host, _, self._port = address.partition(":")
        self._flows: set[asyncio.Event] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_cut = False
        """New connections go dead at once."""
        self.wasted = 0
        """How often somebody spoke into a connection that was dead."""

    @property
    def connections(self) -> int:
        """Those that are open and not forgotten."""
        return len(self._flows)

    def forget(self) -> int:
        """Let every connection of the moment go dead; return how many those were."""
        count = len(self._flows)
        for is_dead in self._flows:
            is_dead.set()
        self._flows.clear()
        return count

    def cut(self) -> None:
        """Let nothing through until `mend`, as a network does that drops packets."""
        self.is_cut = True
        self.forget()

    def mend(self) -> None:
        """Let new connections through again; those that went dead stay so."""
        self.is_cut = False

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._relay(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """End every connection, dead or alive."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there_reader, there_writer = await asyncio.open_connection(self._host, int(self._port))
        except OSError:
            writer.close()
            return
        is_dead = asyncio.Event()
        if self.is_cut:
            is_dead.set()
        else:
            self._flows.add(is_dead)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, there_writer, is_dead, asked=True))
                group.create_task(self._pass_on(there_reader, writer, is_dead))
        finally:
            self._flows.discard(is_dead)
            writer.close()
            there_writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_dead: asyncio.Event, *, asked: bool = False
    ) -> None:
        with suppress(ConnectionError):
            while data := await reader.read(65536):
                if is_dead.is_set():
                    self.wasted += asked
                else:
                    writer.write(data)
                    await writer.drain()
        if not is_dead.is_set() and writer.can_write_eof():
            with suppress(OSError):
                writer.write_eof()


@asynccontextmanager
async def relay(address: str) -> AsyncIterator[Relay]:
    """Relay to an address (HOST:PORT) of loopback while the block runs."""
    one = Relay(address)
    host, _, port = one.address.partition(":")
    server = await asyncio.start_server(one._accept, host, int(port))
    try:
        yield one
    finally:
        server.close()
        await one.close()
