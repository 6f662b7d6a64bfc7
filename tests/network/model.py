"""A small Consul in simulated time: KV, sessions, transactions, lock-delay, as ``/v1`` answers; and what goes wrong.

It stands in for `ConsulClient` as `NetworkStore` uses it. `test_model.py` asks it and the real one the same things.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import uuid
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

from proxygen.consul.answers import Reply, refuse_failure
from proxygen.kit.errors import ConsulUnreachable

_WAIT: Final = 60.0
_STEP: Final = 0.05


@dataclass
class Key:
    value: str | None
    created: int
    modified: int
    lock_index: int = 0
    session: str = ""


@dataclass
class Session:
    name: str
    ttl: float
    lock_delay: float
    index: int
    renewed: float = 0.0
    ends: float = 0.0


class _RolledBack(Exception):
    """An operation of a transaction says no."""


@dataclass
class ConsulModel:
    """The servers: one state, changed by one request at a time."""

    chance: random.Random = field(default_factory=lambda: random.Random(1))
    keys: dict[str, Key] = field(default_factory=dict)
    sessions: dict[str, Session] = field(default_factory=dict)
    delayed: dict[str, float] = field(default_factory=dict)
    index: int = 10
    watch: Callable[[], None] = lambda: None
    """Called after each request that may have changed something."""

    def wipe(self) -> None:
        """Forget everything, as servers do that come back with empty disks."""
        self.keys.clear()
        self.sessions.clear()
        self.delayed.clear()
        self.index = 10

    def put(self, name: str, value: str) -> None:
        """Write as an operator does, who locks nothing."""
        self._step()
        self._write(name, value)

    def answer(self, method: str, path: str, params: Mapping[str, str], data: bytes) -> tuple[int, Any]:
        self._expire()
        endpoint = path.removeprefix("/v1/")
        if endpoint == "txn":
            answer = self._transact(json.loads(data))
        elif endpoint.startswith("kv/"):
            answer = self._read(unquote(endpoint.removeprefix("kv/")), recurse="recurse" in params)
        elif endpoint == "session/create":
            answer = self._open(json.loads(data))
        elif endpoint.startswith("session/renew/"):
            answer = self._renew(endpoint.rpartition("/")[2])
        elif endpoint.startswith("session/destroy/"):
            self.end(endpoint.rpartition("/")[2])
            answer = 200, True
        else:
            raise AssertionError(f"{method} {path} is not in the model")
        self.watch()
        return answer

    # --- sessions

    def _open(self, body: dict[str, Any]) -> tuple[int, Any]:
        identity = str(uuid.UUID(int=self.chance.getrandbits(128)))
        self._step()
        delay = _seconds(body["LockDelay"])
        self.sessions[identity] = Session(body["Name"], _seconds(body["TTL"]), delay, self.index)
        self._prolong(self.sessions[identity])
        return 200, {"ID": identity}

    def _renew(self, identity: str) -> tuple[int, Any]:
        session = self.sessions.get(identity)
        if session is None:
            return 404, f"Session id '{identity}' not found"
        self._prolong(session)
        return 200, [{"ID": identity, "TTL": f"{session.ttl:g}s"}]

    def _prolong(self, session: Session) -> None:
        # Consul promises not before the TTL, and in fact takes two.
        session.renewed = time.monotonic()
        session.ends = session.renewed + session.ttl * self.chance.choice((1.0, 1.3, 2.0))

    def _expire(self) -> None:
        ended = [(one.ends, identity) for identity, one in self.sessions.items() if one.ends <= time.monotonic()]
        for _, identity in sorted(ended):
            self.end(identity)

    def end(self, identity: str) -> None:
        """End a session: its locks are free, for others after a while; the keys stay."""
        session = self.sessions.pop(identity, None)
        if session is None:
            return
        self._step()
        for name, key in self.keys.items():
            if key.session == identity:
                key.session, key.modified = "", self.index
                self.delayed[name] = time.monotonic() + session.lock_delay

    # --- keys

    def _read(self, name: str, *, recurse: bool) -> tuple[int, Any]:
        found = sorted(one for one in self.keys if one.startswith(name)) if recurse else [name] * (name in self.keys)
        return (200, [self._shown(one) for one in found]) if found else (404, None)

    def _shown(self, name: str) -> dict[str, Any]:
        key = self.keys[name]
        shown = {
            "LockIndex": key.lock_index,
            "Key": name,
            "Flags": 0,
            "Value": b64encode(key.value.encode()).decode() if key.value else None,
            "CreateIndex": key.created,
            "ModifyIndex": key.modified,
        }
        return shown | ({"Session": key.session} if key.session else {})

    def _transact(self, operations: Iterable[Mapping[str, Any]]) -> tuple[int, Any]:
        before = {name: Key(**vars(key)) for name, key in self.keys.items()}
        index = self.index
        self._step()
        results, errors = [], []
        for number, operation in enumerate(operations):
            body = operation["KV"]
            try:
                self._operate(body["Verb"], body["Key"], body)
            except _RolledBack as refusal:
                errors.append({"OpIndex": number, "What": str(refusal)})
                continue
            if body["Key"] in self.keys and body["Verb"] not in ("delete", "delete-cas", "check-not-exists"):
                results.append({"KV": self._shown(body["Key"]) | {"Value": None}})
        if errors:
            self.keys, self.index = before, index
            return 409, {"Results": None, "Errors": errors}
        return 200, {"Results": results, "Errors": None}

    def _operate(self, verb: str, name: str, body: Mapping[str, Any]) -> None:
        key = self.keys.get(name)
        value = b64decode(body.get("Value") or "").decode()
        session = body.get("Session", "")
        match verb:
            case "check-index":
                _refuse_unless(key is not None and key.modified == body["Index"], f"failed index check for {name}")
            case "check-not-exists":
                _refuse_unless(key is None, f"key {name} exists")
            case "check-session":
                _refuse_unless(key is not None and key.session == session, f"failed session check for {name}")
            case "cas":
                fits = key is None if body["Index"] == 0 else key is not None and key.modified == body["Index"]
                _refuse_unless(fits, f"failed to set {name}, index is stale")
                self._write(name, value)
            case "delete-cas":
                _refuse_unless(key is None or key.modified == body["Index"], f"failed to delete {name}")
                self.keys.pop(name, None)
            case "delete":
                self.keys.pop(name, None)
            case "lock":
                self._lock(name, value, session)
            case "unlock":
                _refuse_unless(key is not None and key.session == session != "", f"failed to unlock {name}")
                self._write(name, value, session="")
            case _:
                raise AssertionError(f"{verb} is not in the model")

    def _lock(self, name: str, value: str, session: str) -> None:
        _refuse_unless(self.delayed.get(name, 0.0) <= time.monotonic(), f"failed to lock {name} due to lock delay")
        _refuse_unless(session in self.sessions, f'invalid session "{session}"')
        key = self.keys.get(name)
        if key is not None and key.session == session:
            self._write(name, value)
            return
        _refuse_unless(key is None or not key.session, f"failed to lock {name}, lock is already held")
        self._write(name, value, session=session)
        self.keys[name].lock_index += 1

    def _write(self, name: str, value: str, *, session: str | None = None) -> None:
        key = self.keys.setdefault(name, Key(None, self.index, self.index))
        wanted = key.session if session is None else session
        if (key.value, key.session) != (value, wanted):
            key.value, key.session, key.modified = value, wanted, self.index

    def _step(self) -> None:
        self.index += 1


class Link:
    """One host's way to the servers, in the place of a `ConsulClient`."""

    def __init__(self, consul: ConsulModel) -> None:
        self.consul = consul
        self.cut = False
        self.unanswered = 0
        """So many requests are done, and their answers lost."""
        self.delay = 0.001
        """Seconds that a request takes there, and as many back; at least half of that."""
        self.requests = 0
        self.http = self
        self.settings = _Settings()

    async def exchange(
        self,
        method: str,
        path: str,
        params: Iterable[tuple[str, object]] = (),
        *,
        data: bytes = b"",
        deadline: float = 15.0,
        waits: bool = False,
    ) -> Reply:
        self.requests += 1
        answer: asyncio.Future[tuple[int, Any, int]] = asyncio.get_running_loop().create_future()
        # What is on its way arrives, though nobody waits for it any more.
        self._later(self._arrive, answer, method, path, {name: str(value) for name, value in params}, data)
        try:
            async with asyncio.timeout(deadline):
                status, body, index = await answer
        except TimeoutError as error:
            raise ConsulUnreachable(f"no answer within {deadline:g} s") from error
        reply = Reply(status=status, body=json.dumps(body).encode(), index=index)
        refuse_failure(reply, method=method, path=path, address="the model", hide=str)
        return reply

    def _arrive(self, answer: asyncio.Future[Any], *request: Any) -> None:
        if self.cut:
            return
        try:
            status, body = self.consul.answer(*request)
        except AssertionError as error:
            answer.set_exception(error)
            return
        if self.unanswered:
            self.unanswered -= 1
            return
        self._later(self._return, answer, (status, body, self.consul.index))

    def _return(self, answer: asyncio.Future[Any], result: Any) -> None:
        if not self.cut and not answer.done():
            answer.set_result(result)

    def _later(self, do: Callable[..., None], *arguments: Any) -> None:
        way = self.delay * self.consul.chance.uniform(0.5, 1.0)
        asyncio.get_running_loop().call_later(way, do, *arguments)

    async def read(
        self, path: str, params: Iterable[tuple[str, object]] = (), *, index: int = 0, consistency: str = "default"
    ) -> Reply:
        """Wait, in steps that cost no time, until any index is beyond the one that is asked for."""
        patience = _WAIT
        while self.consul.index == index and patience > 0:
            await asyncio.sleep(_STEP)
            patience -= _STEP
        return await self.exchange("GET", path, params)


class _Settings:
    datacenter = None


def _refuse_unless(fits: bool, why: str) -> None:
    if not fits:
        raise _RolledBack(why)


def _seconds(text: str) -> float:
    return float(text.removesuffix("s"))
