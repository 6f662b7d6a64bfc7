"""The events as server-sent events: each client reads the one bounded log at its own pace.

https://html.spec.whatwg.org/multipage/server-sent-events.html
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, Final, NoReturn

import msgspec
from aiohttp import hdrs, web

from proxygen.proxy.record.events import Event, EventLog

MOST_STREAMS: Final = 100
"""Clients at once; each holds a socket and a task, and a page that is reloaded in a loop must not hold them all."""

HEARTBEAT: Final = 15.0
"""Seconds of silence after which a comment is sent: proxies cut connections that are idle for a minute."""

PATIENCE: Final = 30.0
"""Seconds that a client may take to read what fills its socket; then it is dropped, and may come back and resume."""


class Streams:
    """The clients that follow the events."""

    def __init__(self, events: EventLog) -> None:
        self._events: Final = events
        self._tasks: Final[set[asyncio.Task[Any]]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Answer with what is kept, or with what came after ``Last-Event-ID``, and then with what comes."""
        if len(self._tasks) >= MOST_STREAMS:
            raise web.HTTPServiceUnavailable(reason=f"{MOST_STREAMS} clients follow the events already")
        last = _last_id(request)
        response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", "X-Accel-Buffering": "no"})
        await response.prepare(request)
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            # A client that is gone or too slow is the end of this answer, and nobody's error.
            with suppress(ConnectionError):
                await self._send(response, last)
        except TimeoutError:
            # Or else the answer's last bytes would be waited for, on a socket that no bound counts any more.
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._tasks.discard(task)
        return response

    def close(self) -> None:
        """End all of them."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _send(self, response: web.StreamResponse, last: int | None) -> NoReturn:
        # At once, so that a client sees that it is connected though nothing happens.
        await _write(response, b": proxygen's events\n\n")
        while True:
            try:
                async with asyncio.timeout(HEARTBEAT):
                    events = await self._events.newer(last)
            except TimeoutError:
                await _write(response, b": still here\n\n")
                continue
            for event in events:
                await _write(response, _lines(event))
            last = events[-1].id


def _last_id(request: web.Request) -> int | None:
    text = request.headers.get("Last-Event-ID", "").strip()
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or len(text) > 18:
        raise web.HTTPBadRequest(reason="Last-Event-ID must be the id of an event")
    return int(text)


def _lines(event: Event) -> bytes:
    # JSON has no raw line break, so one line of data is enough whatever stands in a name.
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (event.id, event.kind.encode(), msgspec.json.encode(event))


async def _write(response: web.StreamResponse, data: bytes) -> None:
    """Raise TimeoutError where the client does not read."""
    async with asyncio.timeout(PATIENCE):
        await response.write(data)
