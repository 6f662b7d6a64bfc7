"""Laws: servers that are pushed are chosen as nginx's own balancers choose them. Each test asks the same of an upstream
with nginx's own balancer and of its twin with ours."""

from __future__ import annotations

import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from itertools import count, pairwise, permutations
from pathlib import Path
from zlib import crc32

import pytest

from tests.harness.app import App
from tests.harness.nginx import NginxServer
from tests.harness.process import PATIENCE, wait_until
from tests.harness.tools import find_lua_nginx, missing
from tests.harness.twins import (
    NO_SERVER,
    PLAIN,
    Answer,
    Client,
    Held,
    Method,
    Pair,
    Peer,
    Request,
    TornAcrossSeconds,
    Twins,
    within_a_second,
)

A_LONG_TIME = 3600
"""Seconds of ``fail_timeout``, where a test is not about it."""
DEAD = 1
"""A port at which nobody listens."""


@pytest.fixture
def twins(make_nginx: Callable[..., NginxServer], short_directory: Path) -> Twins:
    binary = find_lua_nginx()
    if binary is None:
        missing("Debian's nginx with libnginx-mod-http-lua")
    return Twins(make_nginx, binary, short_directory)


def peers(port: int, weights: Iterable[int], *, first: int = 2, backup: bool = False) -> list[Peer]:
    """Servers of loopback at one port, one for each weight."""
    return [
        Peer(address=f"127.0.{n // 250}.{n % 250}:{port}", weight=weight, backup=backup)
        for n, weight in enumerate(weights, first)
    ]


def both(client: Client, pair: Pair, requests: Sequence[Request]) -> list[Answer]:
    """Ask both twins the same and return nginx's own answers, which ours equal."""
    own = client.ask(f"{pair.name}_own", requests)
    ours = client.ask(f"{pair.name}_ours", requests)
    for number, (one, other) in enumerate(zip(own, ours, strict=True)):
        assert other == one, f"request {number} of {pair}"
    return own


def servers(answers: Sequence[Answer]) -> set[str]:
    return {answer.tried[-1] for answer in answers}


# --- round robin


def test_round_robin_takes_the_same_turns(twins: Twins) -> None:
    chance = random.Random(16)
    weights = [(1, 1, 1), (5, 1, 1), (100, 1)]
    weights += [tuple(chance.randint(1, 100) for _ in range(chance.randint(2, 50))) for _ in range(20)]
    pairs = [
        Pair(name=f"robin{n}", method="round_robin", peers=peers(twins.port, each)) for n, each in enumerate(weights)
    ]
    client = twins.start(*pairs)
    assert [answer.tried[0][8] for answer in both(client, pairs[1], [PLAIN] * 7)] == list("2232422")
    for pair in pairs:
        answers = both(client, pair, [PLAIN] * 500)
        assert len(servers(answers)) > 1


@pytest.mark.parametrize("method", ["round_robin", "least_conn"])
def test_failures_backups_and_retries_are_the_same(twins: Twins, method: Method) -> None:
    """Servers of random weights and limits, of which random ones fail for a time."""
    chance = random.Random(method)
    pairs = [
        Pair(
            name=f"{method}{n}",
            method=method,
            peers=_random_peers(chance, twins.port),
            again=chance.choice(["error timeout", "error timeout http_503 http_404 non_idempotent"]),
            tries=chance.choice([0, 0, 1, 2, 5]),
        )
        for n in range(40)
    ]
    client = twins.start(*pairs)
    seen: set[int] = set()
    for pair in pairs:
        queries = [_random_query(chance, pair) for _ in range(20) for _ in range(chance.randint(1, 10))]
        seen.update(answer.status for answer in both(client, pair, [Request(query=query) for query in queries]))
    assert seen == {200, 404, 502, 503}


def _random_peers(chance: random.Random, port: int) -> list[Peer]:
    count, backups = chance.choice([1, 2, 3, 5, 70]), chance.choice([0, 0, 1, 2, 66])
    return [
        Peer(
            address=f"127.0.0.{n}:{port if chance.random() < 0.8 else DEAD}",
            weight=chance.choice([1, 1, 2, 7]),
            max_fails=chance.choice([0, 1, 1, 2, 3]),
            fail_timeout=A_LONG_TIME,
            backup=n - 2 >= count,
        )
        for n in range(2, 2 + count + backups)
    ]


def _random_query(chance: random.Random, pair: Pair) -> str:
    """Which servers fail how."""
    among = [peer.address.partition(":")[0] for peer in pair.peers[:6]]
    failing = chance.sample(among, chance.randint(0, len(among)))
    kind = chance.choice([404, 444, 503])
    return f"{kind}={','.join(failing)}" if failing and chance.random() < 0.3 else ""


def test_a_second_round_begins_anew(twins: Twins) -> None:
    """An error page leads through the upstream again: the first round's failure counts, and nothing is tried yet."""
    limited = [replace(peer, max_fails=2, fail_timeout=A_LONG_TIME) for peer in peers(twins.port, (3, 2, 1))]
    dead = replace(limited[0], address=f"127.0.0.9:{DEAD}")
    pairs = [
        Pair(name="rounds", method="round_robin", peers=[dead, *limited]),
        Pair(name="least", method="least_conn", peers=[*limited, dead, replace(limited[0], backup=True)]),
    ]
    client = twins.start(*pairs)
    chance = random.Random(2)
    for pair in pairs:
        queries = [_random_query(chance, pair) for _ in range(60)]
        both(client, pair, [Request(path="/round", query=query) for query in queries])


def test_servers_that_stand_behind_themselves(twins: Twins) -> None:
    """As proxygen renders a service: each server once more as a backup, which never rests."""
    primaries = [replace(peer, max_fails=1, fail_timeout=A_LONG_TIME) for peer in peers(twins.port, (1, 2, 1))]
    pair = Pair(name="twice", method="round_robin", peers=[*primaries, *peers(twins.port, (1, 2, 1), backup=True)])
    client = twins.start(pair)
    failing = Request(query="444=127.0.0.2,127.0.0.3,127.0.0.4")
    answers = both(client, pair, [PLAIN, failing, *[PLAIN] * 20, failing, *[PLAIN] * 20])
    assert [answer.status for answer in answers].count(502) == 2


# --- the client's address


def test_ip_hash_takes_the_same_servers(twins: Twins) -> None:
    chance = random.Random(4)
    weighed = peers(twins.port, (5, 1, 3))
    dead = Peer(address=f"127.0.0.9:{DEAD}", weight=3)
    pairs = [
        Pair(name="even", method="ip_hash", peers=peers(twins.port, [1] * 5)),
        Pair(name="weighed", method="ip_hash", peers=weighed),
        Pair(name="dead", method="ip_hash", peers=[weighed[0], dead, *weighed[1:]]),
        Pair(name="rests", method="ip_hash", peers=[replace(dead, max_fails=2, fail_timeout=A_LONG_TIME), *weighed]),
        Pair(name="many", method="ip_hash", peers=peers(twins.port, [chance.randint(1, 9) for _ in range(70)])),
        Pair(name="lost", method="ip_hash", peers=[replace(dead, weight=1000), *weighed]),
    ]
    client = twins.start(*pairs)
    addresses = [str(IPv4Address(chance.getrandbits(32))) for _ in range(500)]
    addresses += [str(IPv6Address(chance.getrandbits(128))) for _ in range(500)]
    for pair in pairs:
        answers = both(client, pair, [Request(client=address) for address in addresses])
        assert len(servers(answers)) > 1
        both(twins.client(by_unix_socket=True), pair, [PLAIN])


# --- a key


def test_consistent_hash_takes_the_same_servers(twins: Twins) -> None:
    chance = random.Random(5)
    weighed = peers(twins.port, (5, 1, 3))
    dead = Peer(address=f"127.0.0.9:{DEAD}", weight=3)
    pairs = [
        Pair(name="weighed", method="hash", peers=[*weighed, Peer(address=f"[::1]:{twins.port}")]),
        Pair(name="dead", method="hash", peers=[*weighed, dead, replace(dead, address=f"[::1]:{DEAD}")]),
        Pair(name="rests", method="hash", peers=[replace(dead, max_fails=2, fail_timeout=A_LONG_TIME), *weighed]),
        Pair(name="many", method="hash", peers=peers(twins.port, [chance.randint(1, 9) for _ in range(70)])),
        Pair(name="lost", method="hash", peers=[replace(dead, weight=100), *weighed]),
    ]
    client = twins.start(*pairs)
    keys = [chance.randbytes(chance.randint(1, 60)).hex() for _ in range(2000)]
    keys[::100] = [""] * 20
    for pair in pairs:
        assert len(servers(both(client, pair, [Request(key=key) for key in keys]))) > 2


def test_of_two_servers_at_one_point_of_the_circle_the_same_is_taken(twins: Twins) -> None:
    """Of 2,000 servers some two meet at a point several times. The first in the upstream then has it."""
    here = peers(twins.port, [1] * 2000)
    owners: dict[int, Peer] = {}
    meetings = [
        (point, owners[point], peer)
        for peer in here
        for point in _points(peer)
        if owners.setdefault(point, peer) is not peer
    ]
    assert len(meetings) > 2, "of 320,000 points twelve are expected to meet another"
    orders = [(point, pair) for point, *two in meetings for pair in (two, two[::-1])]
    pairs = [Pair(name=f"pair{n}", method="hash", peers=two) for n, (_, two) in enumerate(orders)]
    client = twins.start(*pairs)
    for (point, two), pair in zip(orders, pairs, strict=True):
        assert both(client, pair, [Request(key=key_at(point, two))])[0].tried == (two[0].address,)


def key_at(point: int, of: Sequence[Peer]) -> str:
    """Return a key that falls to a point of these servers."""
    before = max((each for peer in of for each in _points(peer) if each < point), default=-1)
    return next(key for key in map(str, range(10_000_000)) if before < crc32(key.encode()) <= point)


def _points(peer: Peer) -> list[int]:
    """A server's points on nginx's circle."""
    found, before = [], 0
    base = crc32(peer.address.replace(":", "\0").encode())
    for _ in range(160):
        before = crc32(before.to_bytes(4, "little"), base)
        found.append(before)
    return found


# --- chance


def test_random_keeps_to_the_weights(twins: Twins) -> None:
    pair = Pair(name="chance", method="random", peers=peers(twins.port, (5, 3, 2)))
    client = twins.start(pair)
    turns_in_all, shares = 6000, [peer.weight / 10 for peer in pair.peers]
    for side in ("own", "ours"):
        turns = [answer.tried[0] for answer in client.ask(f"chance_{side}", [PLAIN] * turns_in_all)]
        counted = Counter(turns)
        expected = {peer.address: turns_in_all * share for peer, share in zip(pair.peers, shares, strict=True)}
        distance = sum((counted[each] - wanted) ** 2 / wanted for each, wanted in expected.items())
        # Chi-square with two degrees of freedom: a false alarm in a billion runs.
        assert distance < -2 * math.log(1e-9), (side, counted)
        same = sum(one == other for one, other in pairwise(turns)) / turns_in_all
        # Eight standard deviations.
        assert abs(same - sum(share**2 for share in shares)) < 0.05, (side, same)


def test_random_passes_by_those_that_rest(twins: Twins) -> None:
    dead = [Peer(address=f"127.0.0.{n}:{DEAD}", max_fails=1, fail_timeout=A_LONG_TIME, weight=50) for n in (8, 9)]
    pair = Pair(name="rest", method="random", peers=[*dead, *peers(twins.port, (1, 1))])
    client = twins.start(pair)
    for side in ("own", "ours"):
        answers = client.ask(f"rest_{side}", [PLAIN] * 200)
        assert {answer.status for answer in answers} == {200}
        assert Counter(each for answer in answers for each in answer.tried)[dead[0].address] == 1
        assert len(servers(answers)) == 2


# --- connections


@pytest.mark.parametrize(
    ("method", "max_conns"),
    [("least_conn", 0), ("least_conn", 2), ("round_robin", 2), ("ip_hash", 2), ("hash", 2)],
)
def test_connections_count_the_same(twins: Twins, method: Method, max_conns: int) -> None:
    """Requests that are held come and go; our twin is pushed to meanwhile, which changes nothing of it."""
    chance = random.Random(method)
    with Held() as held:
        here = [replace(peer, max_conns=max_conns) for peer in peers(held.port, (1, 1, 2, 3))]
        pair = Pair(name=method, method=method, peers=here)
        client = twins.start(pair)
        waiting: list[tuple[str, dict[str, Client]]] = []
        seen = set()
        for number in range(120):
            if waiting and (len(waiting) == 2 * len(here) or chance.random() < 0.45):
                _let(held, *waiting.pop(chance.randrange(len(waiting))))
            else:
                arrived, clients = _hold(twins, held, pair, f"{number}")
                seen.add(arrived)
                waiting.append((f"{number}", clients))
            full = len(waiting) == 2 * len(here) and max_conns > 0
            assert (servers(both(client, pair, [Request(key="k")] * 3)) == {NO_SERVER}) == full
            if number % 10 == 0:
                pair = replace(pair, peers=[replace(peer, fail_timeout=11 + number) for peer in here])
                twins.push(client, pair)
        assert len(seen) == len(here)
        while waiting:
            _let(held, *waiting.pop())


def _hold(twins: Twins, held: Held, pair: Pair, query: str) -> tuple[str, dict[str, Client]]:
    """Have one request of each twin held; return which server has both."""
    clients, arrived = {}, []
    for side in ("own", "ours"):
        clients[side] = twins.client()
        clients[side].send(f"{pair.name}_{side}", Request(query=side + query, key="k"))
        query_there, address = held.next_arrival()
        assert query_there == side + query
        arrived.append(address)
    assert arrived[0] == arrived[1], query
    return arrived[0], clients


def _let(held: Held, query: str, clients: dict[str, Client]) -> None:
    for side, client in clients.items():
        held.let(side + query)
        assert client.read().status == 200
        client.close()


# --- time


def test_a_server_that_failed_rests_as_long(twins: Twins) -> None:
    """A server refuses, rests, is tried again, rests again, comes back, gets its share again by and by, and is gone."""
    app = App("back")
    away = Peer(address=app.address, weight=4, fail_timeout=1)
    others = peers(twins.port, (1, 2))
    limits: list[tuple[Method, int]] = [("round_robin", 1), ("round_robin", 3)]
    limits += [("least_conn", 2), ("ip_hash", 1), ("hash", 2)]
    groups = [
        [
            Pair(name=f"{method}{fails}{copy}", method=method, peers=[replace(away, max_fails=fails), *others])
            for method, fails in limits
        ]
        for copy in "abc"
    ]
    client = twins.start(*(pair for group in groups for pair in group))
    for group in groups:
        try:
            _ask_until_tried(client, group, app.address, refused=4)
            with app:
                _ask_until_tried(client, group, app.address, refused=0, answered=10)
            _ask_until_tried(client, group, app.address, refused=4)
        except TornAcrossSeconds:
            continue
        return
    pytest.fail("this machine was too busy to ask a question within a second")


def _ask_until_tried(client: Client, group: Sequence[Pair], server: str, *, refused: int, answered: int = 0) -> None:
    """Ask until the server has refused, and has answered, so often in each pair."""
    refusals: Counter[str] = Counter()
    answers: Counter[str] = Counter()
    deadline = time.monotonic() + PATIENCE
    for n in count():
        assert time.monotonic() < deadline, (refusals, answers)
        for pair in group:
            request = Request(client=f"10.{n % 256}.1.1", key=str(n))
            own, ours = within_a_second(partial(_one_of_each, client, pair, request))
            assert own == ours, pair
            refusals[pair.name] += server in own.tried[:-1]
            answers[pair.name] += server == own.tried[-1]
        if min(refusals[pair.name] for pair in group) >= refused and min(answers.values()) >= answered:
            return


def test_a_rest_begins_with_the_failure_not_with_the_request(twins: Twins) -> None:
    with Held() as held:
        two = [replace(peer, max_fails=1, fail_timeout=1) for peer in peers(held.port, (1, 1))]
        pair = Pair(name="late", method="ip_hash", peers=two)
        client = twins.start(pair)
        for n in range(3):
            address, clients = _hold(twins, held, pair, f"{n}")
            later = int(time.time()) + 2
            wait_until(partial(_is, later), what="the clock two seconds on")
            try:
                asked = within_a_second(partial(_fail_and_ask, client, held, clients, pair, f"{n}"))
            except TornAcrossSeconds:
                continue
            assert address not in servers(asked)
            return
    pytest.fail("this machine was too busy to ask a question within a second")


def _is(second: int) -> bool:
    return time.time() >= second


def _fail_and_ask(client: Client, held: Held, clients: dict[str, Client], pair: Pair, query: str) -> list[Answer]:
    """Have what is held fail; the next server then holds it until both twins are asked again."""
    for side in clients:
        held.let(side + query, answer=False)
        held.next_arrival()
    answers = _one_of_each(client, pair, PLAIN)
    _let(held, query, clients)
    return answers


def _one_of_each(client: Client, pair: Pair, request: Request) -> list[Answer]:
    return [answer for side in ("own", "ours") for answer in client.ask(f"{pair.name}_{side}", [request])]


# --- what is pushed


@pytest.mark.parametrize("method", ["round_robin", "least_conn", "ip_hash", "hash"])
def test_a_push_forgets_nothing_of_those_that_stay(twins: Twins, method: Method) -> None:
    """Turns, failures and rest go on as if nothing had been pushed."""
    here = [replace(peer, max_fails=1, fail_timeout=A_LONG_TIME) for peer in peers(twins.port, (5, 3, 2, 1))]
    pair = Pair(name=method, method=method, peers=[*here, replace(here[0], address=f"127.0.0.9:{DEAD}")])
    client = twins.start(pair)
    requests = [Request(key=str(n), client=f"10.{n % 250}.{n}.1") for n in range(40)]
    for n in range(10):
        answers = both(client, pair, requests)
        assert sum(len(answer.tried) - 1 for answer in answers) == (n == 0)
        pair = replace(pair, peers=[replace(peer, fail_timeout=A_LONG_TIME + n) for peer in pair.peers])
        twins.push(client, pair)


def test_what_a_push_changes_of_those_that_stay_is_in_force(twins: Twins) -> None:
    here = peers(twins.port, (1, 1))
    alone = Pair(name="changed", method="round_robin", peers=here[:1])
    client = twins.start(alone)
    failing = Request(query="444=127.0.0.2")
    assert {answer.status for answer in client.ask("changed_ours", [failing] * 3)} == {502}
    # One that was alone has no failures: there was nothing to choose.
    two = replace(alone, peers=[replace(peer, max_fails=1, fail_timeout=A_LONG_TIME) for peer in here])
    twins.push(client, two)
    assert servers(client.ask("changed_ours", [PLAIN] * 2)) == {peer.address for peer in here}
    client.ask("changed_ours", [failing] * 2)
    assert servers(client.ask("changed_ours", [PLAIN] * 4)) == {here[1].address}
    twins.push(client, replace(two, peers=[replace(here[0], weight=3), here[1]]))
    turns = [answer.tried[0] for answer in client.ask("changed_ours", [PLAIN] * 40)]
    assert Counter(turns) == {here[0].address: 30, here[1].address: 10}


@pytest.mark.parametrize("tries", [0, 2])
def test_as_many_servers_as_are_pushed_get_tries(twins: Twins, tries: int) -> None:
    """Where all of them fail, the last one's own answer is the client's."""
    pushed = [
        Pair(name=f"of{n}", method="round_robin", again="error http_503", tries=tries, peers=peers(twins.port, [1] * n))
        for n in (1, 2, 3, 5)
    ]
    client = twins.start(*pushed)
    failing = [Request(query="503=127.0.0.2,127.0.0.3,127.0.0.4,127.0.0.5,127.0.0.6")]
    for before, after in permutations(pushed, 2):
        client.ask(f"{before.name}_ours", [PLAIN])
        twins.push(client, replace(before, peers=after.peers))
        (own,), (ours,) = (client.ask(name, failing) for name in (f"{after.name}_own", f"{before.name}_ours"))
        assert (own.status, len(own.tried)) == (ours.status, len(ours.tried))
        twins.push(client, before)
        client.ask(f"{before.name}_ours", [PLAIN])


@pytest.mark.parametrize("method", ["round_robin", "least_conn", "ip_hash", "hash", "random"])
def test_a_request_on_its_way_survives_a_push(twins: Twins, method: Method) -> None:
    """Its server is gone and closes the connection; those that it may try next have other weights, or a method."""
    with Held() as held:
        pair = Pair(name=method, method=method, peers=peers(held.port, [100] * 10))
        client = twins.start(pair)
        for n in range(10):
            waiting = twins.client()
            waiting.send(f"{method}_ours", Request(query=str(n), key=str(n), client=f"10.{n}.1.1"))
            _, address = held.next_arrival()
            others = [peer for peer in pair.peers if peer.address != address]
            lighter = replace(pair, peers=[replace(peer, weight=1) for peer in others])
            twins.push(client, replace(lighter, method="round_robin") if n % 2 else lighter)
            assert servers(client.ask(f"{method}_ours", [PLAIN] * 30)) <= {peer.address for peer in others}
            held.let(str(n), answer=False)
            _, second = held.next_arrival()
            held.let(str(n))
            answer = waiting.read()
            assert (answer.status, answer.tried) == (200, (address, second))
            waiting.close()
            twins.push(client, pair)
            client.ask(f"{method}_ours", [PLAIN])
