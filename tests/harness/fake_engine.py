"""An engine for what Podman never says: Docker's signals and health events, strange answers, streams that end.

It serves the few questions of Docker's API that a registrator asks, on a unix socket in the test's own loop.
"""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path
from typing import Any, Self

from aiohttp import web


class FakeEngine:
    """Containers by id, as ``inspect`` answers them; change them and `tell` what happened."""

    def __init__(self, directory: Path) -> None:
        self.url = f"unix://{directory}/fake.sock"
        self.containers: dict[str, dict[str, Any]] = {}
        self.answers: str | None = None
        """Answered to every question in place of the truth, with status 200."""
        self.questions = 0
        """How often it was asked which containers there are."""
        self.lists_amiss = 0
        """How many more lists a container is removed from while they are made, as Podman then answers."""
        self.streams: dict[web.StreamResponse, asyncio.Event] = {}
        app = web.Application()
        app.router.add_get("/version", self._version)
        app.router.add_get("/v1.41/version", self._version)
        app.router.add_get("/v1.41/info", self._info)
        app.router.add_get("/v1.41/events", self._events)
        app.router.add_get("/v1.41/containers/json", self._list)
        app.router.add_get("/v1.41/containers/{id}/json", self._inspect)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        await web.UnixSite(self._runner, self.url.removeprefix("unix://")).start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.end_streams()
        await self._runner.cleanup()

    async def tell(self, container_id: str, action: str, **attributes: str) -> None:
        event = {"Type": "container", "Action": action, "time": int(time.time())}
        text = json.dumps({**event, "Actor": {"ID": container_id, "Attributes": attributes}})
        for stream in list(self.streams):
            await stream.write(text.encode() + b"\n")

    async def end_streams(self) -> None:
        for stream in list(self.streams):
            self.streams.pop(stream).set()

    async def _version(self, _request: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.41", "Components": [{"Name": "Engine"}]})

    async def _info(self, _request: web.Request) -> web.Response:
        return self._answer({"Name": "docker-host"})

    async def _list(self, _request: web.Request) -> web.Response:
        self.questions += 1
        if self.lists_amiss:
            self.lists_amiss -= 1
            message = "container 2914cf does not exist in database: no such container"
            return web.json_response({"message": message}, status=500)
        running = [id for id, container in self.containers.items() if container["State"]["Running"]]
        return self._answer([{"Id": id, "Created": number} for number, id in enumerate(running)])

    async def _inspect(self, request: web.Request) -> web.Response:
        container = self.containers.get(request.match_info["id"])
        if container is None:
            return web.json_response({"message": "No such container"}, status=404)
        return self._answer(container)

    def _answer(self, truth: object) -> web.Response:
        text = json.dumps(truth) if self.answers is None else self.answers
        return web.Response(text=text, content_type="application/json")

    async def _events(self, request: web.Request) -> web.StreamResponse:
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        ended = self.streams[stream] = asyncio.Event()
        try:
            await ended.wait()
        finally:
            self.streams.pop(stream, None)
        return stream
