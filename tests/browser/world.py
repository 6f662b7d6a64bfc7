"""What the browser's tests say to the running parts."""

from __future__ import annotations

import asyncio
import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

from tests.harness import process
from tests.harness.load import Load
from tests.harness.stream import Listener
from tests.integration.site import Site

HOST = "web.example.com"
TOKEN = "a-token-of-anns-that-nobody-guesses"
TOKENS = f"ann {TOKEN}\nbob {TOKEN}-bob\n"


def stamp(event: dict[str, Any]) -> float:
    """When it was noted, seconds since 1970."""
    return datetime.fromisoformat(event["at"]).timestamp()


def is_about(event: dict[str, Any], service: str) -> bool:
    return not service or service in event["services"]


class World(Site):
    """A site with the service ``web``."""

    def register_web(self) -> None:
        self.register("web", self.app("web-1"), f"route={HOST}")
        self.register("web", self.app("web-2"), f"route={HOST}")
        self.register("web", self.app("web-canary"), f"route={HOST}", "canary=10%")

    def listen(self) -> None:
        """Hear all events from now on, until the sidecar ends."""
        self._listener = Listener(self.sidecar)

    def event(self, kind: str, service: str = "", *, after: float) -> dict[str, Any]:
        """Wait for the first event of a kind, about a service, that came ``after`` that moment (seconds since 1970)."""

        def found() -> dict[str, Any] | None:
            events = [event for event in list(self._listener.events) if event["kind"] == kind]
            return next((event for event in events if stamp(event) >= after and is_about(event, service)), None)

        process.wait_until(found, what=f"event {kind} {service}", timeout=30)
        event = found()
        assert event is not None
        return event

    @contextmanager
    def load(self) -> Iterator[Load]:
        """Send about two hundred requests a second to ``web`` meanwhile."""
        web = {"Host": HOST}
        load = Load("127.0.0.1", self.sidecar.http, headers=web, clients=4, keepalive=True, retry=True, pause=0.02)
        thread = threading.Thread(target=lambda: asyncio.run(load.send(1_000_000)), name="load")
        thread.start()
        try:
            yield load
        finally:
            load.stop()
            thread.join(20)

    def write(self, method: str, path: str, body: object = None, *, etag: str = "", token: str = TOKEN) -> Any:
        """Change something as another operator would, who has a token too. Raise OSError for a refusal."""
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        if etag:
            headers["If-Match"] = etag
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.sidecar.admin}{path}", data=data, headers=headers, method=method
        )
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
            return json.loads(answer.read())
