"""The model answers as the real Consul does."""

from __future__ import annotations

import asyncio
import json
import random
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any, Final, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import ProxygenError
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
from tests.harness.examples import examples
from tests.network.model import ConsulModel, Link

NAMES: Final = st.sampled_from("abc")
SESSIONS: Final = st.integers(0, 2)
VALUES: Final = st.sampled_from(["", "x", "y"])
FRESH: Final = st.booleans()
"""Whether an index is the key's own, or an older one."""
OPERATIONS: Final = st.one_of(
    st.tuples(st.just("check-index"), NAMES, FRESH),
    st.tuples(st.just("check-not-exists"), NAMES),
    st.tuples(st.just("check-session"), NAMES, SESSIONS),
    st.tuples(st.just("lock"), NAMES, SESSIONS, VALUES),
    st.tuples(st.just("unlock"), NAMES, SESSIONS, VALUES),
    st.tuples(st.just("cas"), NAMES, FRESH, VALUES),
    st.tuples(st.just("delete-cas"), NAMES, FRESH),
    st.tuples(st.just("delete"), NAMES),
)
STEPS: Final = st.one_of(
    st.tuples(st.just("open"), SESSIONS, st.sampled_from([0, 60])),
    st.tuples(st.just("end"), SESSIONS),
    st.tuples(st.just("renew"), SESSIONS),
    st.tuples(st.just("txn"), st.lists(OPERATIONS, min_size=1, max_size=4)),
    st.tuples(st.just("txn"), st.lists(OPERATIONS, min_size=1, max_size=4)),
)


class Client:
    """Does the steps at one of the two, and tells what came of them without what must differ: ids and indexes."""

    def __init__(self, http: Any, prefix: str) -> None:
        self._http = http
        self._prefix = prefix
        self._sessions = dict.fromkeys(range(3), "00000000-0000-0000-0000-000000000000")
        self._indexes: dict[str, int] = {}

    async def do(self, step: tuple[Any, ...]) -> tuple[Any, ...]:
        match step:
            case ("open", label, delay):
                # What is not named any more must not hold locks that nobody can tell about.
                await self._ask("PUT", f"/v1/session/destroy/{self._sessions[label]}")
                body = {"Name": "x", "TTL": "600s", "LockDelay": f"{delay}s", "Checks": [], "NodeChecks": []}
                self._sessions[label] = (await self._ask("PUT", "/v1/session/create", body))[1]["ID"]
                result: object = "opened"
            case ("end", label):
                result = await self._ask("PUT", f"/v1/session/destroy/{self._sessions[label]}")
            case ("renew", label):
                result = (await self._ask("PUT", f"/v1/session/renew/{self._sessions[label]}"))[0]
            case (_, operations):
                status, answer = await self._ask("PUT", "/v1/txn", [self._operation(*one) for one in operations])
                result = status, *([] if status == 200 else _refusals(answer))
        return result, await self._keys()

    async def _keys(self) -> dict[str, tuple[object, ...]]:
        """Show every key, whether it was written by this step, and by whom it is locked."""
        _, entries = await self._ask("GET", f"/v1/kv/{self._prefix}/", params=[("recurse", ""), ("consistent", "")])
        labels = {identity: label for label, identity in self._sessions.items()}
        shown = {}
        for entry in entries or ():
            name = entry["Key"].rpartition("/")[2]
            moved = entry["ModifyIndex"] != self._indexes.get(name, 0)
            shown[name] = entry["Value"], labels.get(entry.get("Session", "")), entry["LockIndex"], moved
        self._indexes = {entry["Key"].rpartition("/")[2]: entry["ModifyIndex"] for entry in entries or ()}
        return shown

    def _operation(self, verb: str, name: str, *facts: Any) -> Mapping[str, object]:
        body: dict[str, object] = {"Verb": verb, "Key": f"{self._prefix}/{name}"}
        if verb in ("check-index", "cas", "delete-cas"):
            body["Index"] = self._indexes.get(name, 0) if facts[0] else 3
        elif facts:
            body["Session"] = self._sessions[facts[0]]
        if verb in ("lock", "unlock", "cas"):
            body["Value"] = b64encode(facts[-1].encode()).decode()
        return {"KV": body}

    async def _ask(self, method: str, path: str, body: object = None, params: Any = ()) -> tuple[int, Any]:
        data = b"" if body is None else json.dumps(body).encode()
        reply = await self._http.exchange(method, path, params, data=data)
        return reply.status, json.loads(reply.body) if reply.status != 404 and reply.body else None


def _refusals(answer: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Which operations said no, and what of their words is read."""
    words = ("lock delay", "invalid session")
    return [
        (error["OpIndex"], next((one for one in words if one in error["What"]), "other")) for error in answer["Errors"]
    ]


@pytest.fixture(scope="module")
def numbers() -> Iterator[int]:
    return iter(range(1_000_000))


@settings(max_examples=examples(60), derandomize=True, deadline=None, suppress_health_check=list(HealthCheck))
@given(steps=st.lists(STEPS, min_size=3, max_size=15))
def test_model_and_consul_agree(consul_session: ConsulAgent, numbers: Iterator[int], steps: list[Any]) -> None:
    """The same requests have the same results, and leave the same keys, locks and moves of their indexes."""
    asyncio.run(_compare(consul_session, f"model/{next(numbers)}", steps))


async def _compare(consul: ConsulAgent, prefix: str, steps: list[Any]) -> None:
    client = ConsulClient(ConsulSettings(address=consul.address))
    try:
        real = Client(client.http, prefix)
        model = Client(Link(ConsulModel(chance=random.Random(1))), prefix)
        for step in steps:
            assert await model.do(step) == await real.do(step), step
    finally:
        await client.close()


async def test_session_that_ends_moves_the_index_of_its_keys(consul: ConsulAgent) -> None:
    """Why a host that lost its session reads its record again: the index it remembers is never right."""
    client = ConsulClient(ConsulSettings(address=consul.address))
    try:
        one = Client(client.http, "moves")
        await one.do(("open", 0, 0))
        await one.do(("txn", [("lock", "a", 0, "x")]))
        assert await one.do(("end", 0)) == ((200, True), {"a": ("eA==", None, 1, True)})
    finally:
        await client.close()


async def test_a_request_of_a_kind_that_the_model_lacks_is_no_answer() -> None:
    with pytest.raises(AssertionError, match="not in the model"):
        await Link(ConsulModel()).exchange("GET", "/v1/catalog/nodes")


async def test_lost_answers_are_done_and_cut_links_are_not() -> None:
    consul = ConsulModel()
    link = cast("Any", Link(consul))
    body = json.dumps({"Name": "x", "TTL": "10s", "LockDelay": "5s"}).encode()
    for attribute, value, sessions in (("unanswered", 1, 1), ("cut", True, 1)):
        setattr(link, attribute, value)
        with pytest.raises(ProxygenError):
            await link.exchange("PUT", "/v1/session/create", data=body, deadline=0.01)
        assert len(consul.sessions) == sessions
