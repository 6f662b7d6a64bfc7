"""A small Consul for the answers that the real one cannot be made to give.

It answers catalog/services, catalog/node, health/service, health/state/any, internal/ui/services and KV from plain
data, with blocking queries. It ignores filters, but for those that leave services out of internal/ui/services and, with
``filters``, of catalog/services. A test sets what is to go wrong: the index, the leader, a status, or an answer of
nothing.

It answers as 1.8 does, or with ``streams`` as an agent from 1.10 on: standing questions about a service are answered
from a view, which says that it knows no leader.
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from aiohttp import web

from tests.harness.ports import free_port

_SERVICE: Final = "/v1/health/service/"
_SUMMARIES: Final = "/v1/internal/ui/services"


class FakeConsul:
    """One index for everything; `change` moves it and wakes who waits."""

    def __init__(self) -> None:
        self.index = 100
        self.services: dict[str, list[dict[str, Any]]] = {"consul": [entry("consul", "consul", 8300)]}
        self.kv: dict[str, str] = {}
        self.known_leader = True
        self.streams = False
        self.filters = False
        """Whether catalog/services takes a filter, as from 1.14.0 on."""
        self.backend = ""
        """What every answer says in X-Consul-Query-Backend, where it is not empty."""
        self.says_index = True
        self.last_contact_ms = 0
        self.fault: Callable[[web.Request], web.Response | None] = lambda request: None
        """Answers instead of us where it returns something."""
        self.elsewhere: dict[str, FakeConsul] = {}
        """Other datacenters; theirs are the requests that name them."""
        self.silent = False
        """Takes requests and answers none."""
        self._behind: _State | None = None
        self._views_alone = False
        self.requests: list[web.Request] = []
        self.address = f"127.0.0.1:{free_port()}"
        self._moved = asyncio.Event()

    def change(self, by: int = 1) -> None:
        self.index += by
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def lag(self, *, views_alone: bool = False) -> None:
        """From now on, only the leader knows what changes: reads that any server or a view may answer get what is now,
        under the index of now. With ``views_alone`` every server knows, and no view."""
        self._behind = self._state()
        self._views_alone = views_alone

    def catch_up(self) -> None:
        self._behind = None
        self.change(by=0)

    def put(self, name: str, *entries: dict[str, Any]) -> None:
        """Replace the instances of a service; none removes it. What is new or other than before is stamped as Consul
        does it: with the index of the change."""
        stamps = {_unstamped(one): one["Service"].get("ModifyIndex", 0) for one in self.services.get(name, ())}
        self.services[name] = [_stamped(one, stamps.get(_unstamped(one), self.index + 1)) for one in entries]
        if not entries:
            del self.services[name]
        self.change()

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        if self.silent:
            await asyncio.sleep(3600)
        faulty = self.fault(request)
        if faulty is not None:
            return faulty
        datacenter = request.query.get("dc")
        if datacenter in self.elsewhere:
            return await self.elsewhere[datacenter]._answer(request)
        asked = int(request.query.get("index", "0"))
        if asked >= self._seen_by(request).index > 0:
            wait = float(request.query.get("wait", "60000ms").removesuffix("ms")) / 1000
            await self._wait_for_move(request, wait)
        state = self._seen_by(request)
        if request.path == _SUMMARIES or (self.filters and request.path == "/v1/catalog/services"):
            state = state.without(
                re.findall(r'Service(?:Name|\.Service) != "([^"]+)"', request.query.get("filter", ""))
            )
        return self.reply(
            *state.content(request.path, self.elsewhere),
            consistent="consistent" in request.query,
            streamed=self._is_streamed(request),
            index=state.index,
        )

    async def _wait_for_move(self, request: web.Request, wait: float) -> None:
        try:
            async with asyncio.timeout(wait):
                await self._moved.wait()
                while self._seen_by(request) is self._behind:
                    await self._moved.wait()
        except TimeoutError:
            pass

    def _is_streamed(self, request: web.Request) -> bool:
        is_standing = int(request.query.get("index", "0")) > 0 and request.path.startswith(_SERVICE)
        return self.streams and is_standing and "near" not in request.query

    def _seen_by(self, request: web.Request) -> _State:
        is_anybodys = self._is_streamed(request) or ("stale" in request.query and not self._views_alone)
        return self._behind if self._behind is not None and is_anybodys else self._state()

    def _state(self) -> _State:
        return _State(index=self.index, services=dict(self.services), kv=dict(self.kv))

    def reply(
        self,
        body: object,
        status: int = 200,
        *,
        consistent: bool = False,
        streamed: bool = False,
        index: int | None = None,
    ) -> web.Response:
        """Answer with the headers of the moment; a consistent read always comes from the leader."""
        leads = (self.known_leader or consistent) and not streamed
        headers = {
            "X-Consul-Index": str(self.index if index is None else index),
            "X-Consul-Knownleader": str(leads).lower(),
            "X-Consul-Lastcontact": "0" if consistent or streamed else str(self.last_contact_ms),
        }
        if not self.says_index:
            del headers["X-Consul-Index"]
        if self.backend or self.streams:
            headers["X-Consul-Query-Backend"] = self.backend or ("streaming" if streamed else "blocking-query")
        return web.Response(text=json.dumps(body), status=status, headers=headers, content_type="application/json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    """What a server knows at an index."""

    index: int
    services: Mapping[str, list[dict[str, Any]]]
    kv: Mapping[str, str]

    def without(self, names: Collection[str]) -> _State:
        return replace(self, services={name: one for name, one in self.services.items() if name not in names})

    def content(self, path: str, elsewhere: Iterable[str]) -> tuple[object, int]:
        """Return the body and the status of an answer."""
        if path == "/v1/catalog/datacenters":
            return ["dc1", *elsewhere], 200
        if path == "/v1/catalog/services":
            return {name: _tags(entries, self.index) for name, entries in self.services.items()}, 200
        if path == _SUMMARIES:
            return [{"Name": name, "Tags": _tags(entries, 0)} for name, entries in self.services.items()], 200
        if path.startswith(_SERVICE):
            return self.services.get(path.removeprefix(_SERVICE), []), 200
        if path == "/v1/health/state/any":
            return [check for entries in self.services.values() for one in entries for check in one["Checks"]], 200
        if path == "/v1/catalog/nodes":
            return [{"Node": node} for node in sorted(self._nodes())], 200
        if path.startswith("/v1/catalog/node/"):
            return self._nodes().get(path.removeprefix("/v1/catalog/node/")), 200
        key = path.removeprefix("/v1/kv/")
        pairs = [{"Key": one, "Value": _encoded(self.kv[one])} for one in sorted(self.kv) if one.startswith(key)]
        return pairs, 200 if pairs else 404

    def _nodes(self) -> dict[str, dict[str, Any]]:
        nodes: dict[str, dict[str, Any]] = {}
        for one in (one for entries in self.services.values() for one in entries):
            answer = nodes.setdefault(one["Node"]["Node"], {"Node": one["Node"], "Services": {}})
            answer["Services"][one["Service"]["ID"]] = one["Service"]
        return nodes


def entry(name: str, service_id: str, port: int, *tags: str, status: str = "passing") -> dict[str, Any]:
    """Make one element of health/service."""
    check = {"Node": "n1", "CheckID": f"check:{service_id}", "Status": status}
    return {
        "Node": {"Node": "n1", "Address": "127.0.0.1", "Datacenter": "dc1"},
        "Service": {"ID": service_id, "Service": name, "Tags": list(tags), "Port": port, "Address": ""},
        "Checks": [check | {"ServiceID": service_id, "ServiceName": name}],
    }


def _unstamped(one: dict[str, Any]) -> str:
    service = {key: value for key, value in one["Service"].items() if key != "ModifyIndex"}
    return json.dumps(service, sort_keys=True)


def _stamped(one: dict[str, Any], index: int) -> dict[str, Any]:
    return one | {"Service": one["Service"] | {"ModifyIndex": index}}


def _tags(entries: list[dict[str, Any]], index: int) -> list[str]:
    """Return the union of the tags in an order that is another at each index: Consul's is another in each answer."""
    tags = deque(sorted({tag for one in entries for tag in one["Service"]["Tags"]}))
    tags.rotate(index)
    return list(tags)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@asynccontextmanager
async def fake_consul() -> AsyncIterator[FakeConsul]:
    """Run a fake Consul on loopback."""
    fake = FakeConsul()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", fake._answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    host, port = fake.address.split(":")
    await web.TCPSite(runner, host, int(port)).start()
    try:
        yield fake
    finally:
        fake.change()
        await runner.cleanup()
