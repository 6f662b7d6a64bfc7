"""A client of the event stream that only listens."""

from __future__ import annotations

import json
import threading
import urllib.request
from typing import Any

from tests.harness.process import wait_until
from tests.harness.sidecar import Sidecar


class Listener:
    """Collects a running sidecar's events in a thread, from those that it still keeps on."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.events: list[dict[str, Any]] = []
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        # The stream sends a comment every 15 s; silence for longer means that it is broken.
        self._answer = opener.open(f"http://127.0.0.1:{sidecar.admin}/api/v1/events", timeout=30)
        self._thread = threading.Thread(target=self._listen, name="listener", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for line in self._answer:
                if line.startswith(b"data: "):
                    self.events.append(json.loads(line.removeprefix(b"data: ")))
        except (OSError, ValueError):
            return

    def kinds(self) -> list[str]:
        return [event["kind"] for event in self.events]

    def wait_for(self, kind: str, **facts: object) -> dict[str, Any]:
        """Return the first event of a kind with these facts, once there is one."""
        wait_until(lambda: self._find(kind, facts), what=f"event {kind} {facts}", timeout=30)
        found = self._find(kind, facts)
        assert found is not None
        return found

    def _find(self, kind: str, facts: dict[str, object]) -> dict[str, Any] | None:
        wanted = {"kind": kind, **facts}
        return next((event for event in list(self.events) if wanted.items() <= event.items()), None)

    def close(self) -> None:
        """Wait for the sidecar to end the stream, which it does when it stops."""
        self._thread.join(10)
        self._answer.close()
