"""The law of our balancers: on the same servers they choose whom nginx's own choose, request by request."""

from __future__ import annotations

import http.client
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import LUA, find_lua_nginx, missing

_LUA = Path(__file__).parents[2] / "templates" / "lua"
_REST = 60


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A server of an upstream; ``fails`` 0: it never rests."""

    port: int
    weight: int = 1
    fails: int = 0
    rest: int = _REST
    conns: int = 0
    backup: bool = False
    host: str = "127.0.0.1"

    def line(self) -> str:
        conns = f" max_conns={self.conns}" if self.conns else ""
        backup = " backup" if self.backup else ""
        options = f"weight={self.weight} max_fails={self.fails} fail_timeout={self.rest}s{conns}{backup}"
        return f"server {self.host}:{self.port} {options};"

    def word(self) -> str:
        kind = "b" if self.backup else "p"
        return f"{self.host}:{self.port}/{self.weight}/{self.fails}/{self.rest}/{self.conns}/{kind}"


_METHODS = {
    "round_robin": "",
    "least_conn": "least_conn;",
    "ip_hash": "ip_hash;",
    "hash": "hash $arg_key consistent;",
    "random": "random;",
}


class Pair:
    """One nginx with one worker, and in it two upstreams of the same servers: nginx's own, and ours."""

    def __init__(self, nginx: NginxServer, port: int) -> None:
        self.nginx = nginx
        self.port = port
        self._connections = {way: http.client.HTTPConnection("127.0.0.1", port, timeout=20) for way in ("own", "ours")}

    def ask(self, way: str, query: str = "", *, client: str = "") -> str:
        """Return whom a request asked, one after the other."""
        connection = self._connections[way]
        connection.request("GET", f"/{way}?{query}", headers={"X-Client": client} if client else {})
        answer = connection.getresponse()
        answer.read()
        return answer.headers["X-Asked"] or f"status {answer.status}"

    def both(self, queries: Sequence[str], *, clients: Sequence[str] = ()) -> tuple[list[str], list[str]]:
        """Send the same requests to both, in turns, and return whom each of them asked."""
        own, ours = [], []
        for place, query in enumerate(queries):
            client = clients[place] if clients else ""
            own.append(self.ask("own", query, client=client))
            ours.append(self.ask("ours", query, client=client))
        return own, ours

    def close(self) -> None:
        for connection in self._connections.values():
            connection.close()


MakePair = Callable[..., Pair]


@pytest.fixture
def make_pair(make_nginx: Callable[..., NginxServer]) -> Iterator[MakePair]:
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    pairs: list[Pair] = []

    def make(method: str, peers: Sequence[Peer], *, answering: Sequence[int] = (), tries: int = 0) -> Pair:
        """``answering`` are ports on which nginx itself answers."""
        port = free_port()
        nginx = make_nginx(binary, modules=LUA, workers=1, http=_http(method, peers, port, answering, tries))
        nginx.start()
        pairs.append(Pair(nginx, port))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def _http(method: str, peers: Sequence[Peer], port: int, answering: Sequence[int], tries: int) -> str:
    words = f"{method} {'arg_key' if method == 'hash' else '-'} {' '.join(peer.word() for peer in peers)}"
    listens = "".join(f"listen 127.0.0.1:{each}; listen [::1]:{each};" for each in answering)
    answers = f'server {{ {listens} location / {{ return 200 "ok"; }} }}' if answering else ""
    limit = f"proxy_next_upstream_tries {tries};" if tries else ""
    return f"""
    lua_shared_dict proxygen 1m;
    init_by_lua_block {{
local balancers = (function()
{(_LUA / "balancers.lua").read_text()}
end)()
{(_LUA / "push.lua").read_text()}
    }}
    map "" $proxygen_base {{ default "1 0123456789abcdef"; }}
    upstream own {{ {_METHODS[method]} {" ".join(peer.line() for peer in peers)} }}
    upstream ours {{
        {peers[0].line()}
        {" ".join(peer.line().replace(";", " down;") for peer in peers[1:])}
        balancer_by_lua_block {{
            if not proxygen.balance("ours") then proxygen.found("ours", "{words}") end
        }}
    }}
    keepalive_requests 100000;
    server {{
        listen 127.0.0.1:{port};
        set_real_ip_from 127.0.0.1;
        real_ip_header X-Client;
        log_by_lua_block {{ proxygen.log() }}
        add_header X-Asked $upstream_addr always;
        proxy_next_upstream error timeout http_503;
        {limit}
        location = /own {{ proxy_pass http://own; }}
        location = /ours {{ proxy_pass http://ours; }}
    }}
    {answers}
    """


def _ports(count: int) -> list[int]:
    return [free_port() for _ in range(count)]


def _weights() -> Iterator[tuple[int, ...]]:
    yield from ((1, 1, 1), (5, 1, 1), (100, 1), (2, 3, 5, 7), (1,))
    chance = random.Random(4)
    for _ in range(5):
        yield tuple(chance.randrange(1, 30) for _ in range(chance.randrange(2, 9)))


@pytest.mark.parametrize("weights", [*_weights()], ids=str)
def test_round_robin_is_smooth_in_the_same_way(make_pair: MakePair, weights: tuple[int, ...]) -> None:
    ports = _ports(len(weights))
    peers = [Peer(port=port, weight=weight) for port, weight in zip(ports, weights, strict=True)]
    own, ours = make_pair("round_robin", peers, answering=ports).both([""] * 300)
    assert ours == own


def test_an_address_has_the_same_server(make_pair: MakePair) -> None:
    ports = _ports(4)
    peers = [Peer(port=port, weight=weight) for port, weight in zip(ports, (1, 3, 2, 1), strict=True)]
    chance = random.Random(5)
    clients = [".".join(str(chance.randrange(1, 255)) for _ in range(4)) for _ in range(400)]
    clients += [f"2001:db8::{number:x}:{number * 7:x}" for number in range(1, 200)]
    pair = make_pair("ip_hash", peers, answering=ports)
    own, ours = pair.both([""] * len(clients), clients=clients)
    assert ours == own
    assert len(set(own)) == len(ports)


def test_an_address_whose_server_refuses_has_the_same_next_one(make_pair: MakePair) -> None:
    ports = _ports(4)
    peers = [Peer(port=port, fails=1) for port in ports]
    clients = [f"10.{number}.{number % 7}.1" for number in range(200)]
    own, ours = make_pair("ip_hash", peers, answering=ports[1:]).both([""] * len(clients), clients=clients)
    assert ours == own
    assert any("," in asked for asked in own)


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_key_has_the_same_server(make_pair: MakePair, host: str) -> None:
    ports = _ports(5)
    peers = [Peer(port=port, weight=weight, host=host) for port, weight in zip(ports, (1, 2, 1, 4, 1), strict=True)]
    own, ours = make_pair("hash", peers, answering=ports).both([f"key=k{number}" for number in range(1000)])
    assert ours == own
    assert len(set(own)) == len(ports)


def test_a_key_whose_server_refuses_has_the_same_next_one(make_pair: MakePair) -> None:
    ports = _ports(5)
    peers = [Peer(port=port, fails=1) for port in ports]
    own, ours = make_pair("hash", peers, answering=ports[1:]).both([f"key=k{number}" for number in range(300)])
    assert ours == own
    assert any("," in asked for asked in own)


def test_without_a_key_it_goes_by_turns(make_pair: MakePair) -> None:
    ports = _ports(3)
    own, ours = make_pair("hash", [Peer(port=port) for port in ports], answering=ports).both(["key="] * 60)
    assert ours == own


def test_chance_goes_by_weight(make_pair: MakePair) -> None:
    """Five standard deviations: one false alarm in a million runs and servers."""
    ports, weights, count = _ports(3), (1, 2, 5), 2000
    peers = [Peer(port=port, weight=weight) for port, weight in zip(ports, weights, strict=True)]
    pair = make_pair("random", peers, answering=ports)
    for way in ("own", "ours"):
        asked = Counter(pair.ask(way) for _ in range(count))
        for port, weight in zip(ports, weights, strict=True):
            part = weight / sum(weights)
            assert abs(asked[f"127.0.0.1:{port}"] - count * part) < 5 * (count * part * (1 - part)) ** 0.5


@pytest.mark.parametrize("method", ["round_robin", "least_conn", "random"])
@pytest.mark.parametrize("fails", [1, 2, 3])
def test_a_server_that_fails_rests_after_as_many_failures(make_pair: MakePair, method: str, fails: int) -> None:
    ports = _ports(3)
    peers = [Peer(port=port, fails=fails, weight=2) for port in ports]
    own, ours = make_pair(method, peers, answering=ports[1:]).both([""] * 60)
    if method != "random":
        assert ours == own
    for asked in (own, ours):
        assert sum(f":{ports[0]}" in each for each in asked) == fails


@pytest.mark.parametrize("method", ["round_robin", "least_conn"])
def test_backups_are_asked_once_nobody_else_is_left(make_pair: MakePair, method: str) -> None:
    ports = _ports(5)
    peers = [Peer(port=port, fails=1) for port in ports[:3]] + [Peer(port=port, backup=True) for port in ports[3:]]
    own, ours = make_pair(method, peers, answering=ports[4:]).both([""] * 40)
    assert ours == own
    assert own[-1].endswith(f":{ports[4]}")


def test_the_only_server_never_rests(make_pair: MakePair) -> None:
    own, ours = make_pair("round_robin", [Peer(port=free_port(), fails=1)]).both([""] * 5)
    assert ours == own
    assert len(set(own)) == 1


def test_who_has_failed_with_all_is_told_so(make_pair: MakePair) -> None:
    """nginx has the upstream's name for whom it asked, then; behind Lua it has none."""
    peers = [Peer(port=port, fails=1) for port in _ports(2)]
    own, ours = make_pair("round_robin", peers).both([""] * 3)
    assert ours[0] == own[0]
    assert own[1:] == ["own", "own"]
    assert ours[1:] == ["status 502", "status 502"]


@pytest.mark.parametrize("tries", [1, 2])
def test_no_more_servers_are_asked_than_the_operator_wants(make_pair: MakePair, tries: int) -> None:
    ports = _ports(4)
    own, ours = make_pair("round_robin", [Peer(port=port) for port in ports], tries=tries).both([""] * 8)
    assert ours == own
    assert all(asked.count(",") == tries - 1 for asked in ours)


def test_a_server_that_rested_is_asked_again_and_stays_when_it_answers(make_pair: MakePair) -> None:
    port, other = _ports(2)
    pair = make_pair("round_robin", [Peer(port=port, fails=1, rest=1), Peer(port=other, fails=1)], answering=[other])
    for way in ("own", "ours"):
        process.wait_until(lambda way=way: f":{port}" in pair.ask(way), what="a failure")  # type: ignore[misc]
    with App("back", port=port):
        for way in ("own", "ours"):
            process.wait_until(
                lambda way=way: pair.ask(way) == f"127.0.0.1:{port}",  # type: ignore[misc]
                what="the server that came back",
            )
            asked = [pair.ask(way) for _ in range(20)]
            assert asked.count(f"127.0.0.1:{port}") == 10, way


@contextmanager
def _held(pair: Pair, way: str, apps: Sequence[App], count: int) -> Iterator[Counter[str]]:
    """Have so many requests wait for their answers, one begun after the other, and count by server where they wait."""
    for app in apps:
        app.delay = 3600.0
    connections = []
    try:
        for number in range(count):
            before = sum(app.requests for app in apps)
            connection = http.client.HTTPConnection("127.0.0.1", pair.port, timeout=60)
            connection.request("GET", f"/{way}?number={number}")
            connections.append(connection)
            process.wait_until(lambda before=before: sum(app.requests for app in apps) > before, what="a request")  # type: ignore[misc]
        yield Counter({app.name: app.requests for app in apps})
    finally:
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("method", ["least_conn", "round_robin"])
def test_held_connections_count(make_pair: MakePair, method: str) -> None:
    """`least_conn` by weight; and with `max_conns`, for whatever method, no more than so many."""
    found = {}
    for way in ("own", "ours"):
        apps = [App(f"app{number}").start() for number in range(3)]
        try:
            limit = 3 if method == "round_robin" else 0
            peers = [
                Peer(port=app.port, weight=weight, conns=limit) for app, weight in zip(apps, (1, 2, 3), strict=True)
            ]
            pair = make_pair(method, peers)
            with _held(pair, way, apps, 9) as counted:
                found[way] = counted
        finally:
            for app in apps:
                app.stop()
    assert found["ours"] == found["own"]
