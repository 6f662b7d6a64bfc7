"""Tags about the instances behind a route: weight, balance, time-outs, failures, retries, keep-alive."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.gateways import FullHouse, HangUp
from tests.integration.site import Site

pytestmark = pytest.mark.usefixtures("pairs")


@pytest.fixture(scope="module")
def pairs(site: Site) -> Site:
    """Services of two instances ``a`` and ``b``, named by their host's first label."""
    services: dict[str, tuple[list[str], list[str]]] = {
        "weighed": (["weight=3"], ["weight=1"]),
        "drained": ([], ["weight=0"]),
        "robin": (["balance=round_robin"], []),
        "least": (["balance=least_conn"], []),
        "source": (["balance=ip_hash"], []),
        "chance": (["balance=random"], []),
        "uri": (["balance=hash:$uri"], []),
        "header": (["balance=hash:header:X-Shard"], []),
        "cookie": (["balance=hash:cookie:shard"], []),
        "idle": (["keepalive=8"], []),
        "busy": (["keepalive=0"], []),
    }
    started = []
    for name, (tags_of_a, tags_of_b) in services.items():
        for letter, tags in (("a", tags_of_a), ("b", tags_of_b)):
            app = site.app(f"{name}-{letter}")
            site.register(f"pair-{name}", app, f"route={_host(name)}", *tags)
            if tags != ["weight=0"]:
                started.append(app)
    by_health = site.app("health-a"), site.app("health-b")
    for app, status in zip(by_health, ("passing", "warning"), strict=True):
        site.register("pair-health", app, f"route={_host('health')}", weights=(4, 1), status=status)
    in_meta = site.app("meta-a"), site.app("meta-b")
    site.register("pair-meta", in_meta[0], meta={"proxygen-route": _host("meta"), "proxygen-weight": "3"})
    site.register("pair-meta", in_meta[1], meta={"proxygen-route": _host("meta"), "proxygen-weight": "1"})
    site.until_served(*started, *by_health, *in_meta)
    return site


def _host(name: str) -> str:
    return f"{name}.pair.example.com"


def _letters(site: Site, name: str, count: int, path: str = "/", **request: object) -> str:
    """Who answered, as letters in order."""
    return "".join(instance[-1] for instance in site.who(_host(name), count, path, **request))


# --- weight


def test_weights_divide_requests_in_their_proportion(site: Site) -> None:
    assert Counter(_letters(site, "weighed", 400)) == {"a": 300, "b": 100}
    assert Counter(_letters(site, "meta", 400)) == {"a": 300, "b": 100}


def test_weight_zero_drains(site: Site) -> None:
    assert set(_letters(site, "drained", 40)) == {"a"}


def test_consuls_weights_count_by_health(site: Site) -> None:
    assert Counter(_letters(site, "health", 500)) == {"a": 400, "b": 100}


# --- balance


def test_round_robin_takes_turns(site: Site) -> None:
    turns = _letters(site, "robin", 40)
    assert all(one != other for one, other in pairwise(turns))


def test_least_conn_avoids_the_busy_one(site: Site) -> None:
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(site.ask, _host("least"), "/?delay=1.5")
        time.sleep(0.3)
        meanwhile = set(_letters(site, "least", 20))
        assert not slow.done()
    assert meanwhile == {"a", "b"} - {slow.result().instance[-1]}


def test_ip_hash_keeps_a_network_on_one_instance(site: Site) -> None:
    def who(network: int, host: int) -> str:
        return site.ask(_host("source"), source=f"127.0.{network}.{host}").instance

    firsts = {network: who(network, 1) for network in range(1, 25)}
    assert set(firsts.values()) == {"source-a", "source-b"}
    assert all(who(network, 2) == first for network, first in firsts.items())


def test_random_is_no_turn_taking(site: Site) -> None:
    turns = _letters(site, "chance", 120)
    assert min(turns.count("a"), turns.count("b")) > 20
    assert any(one == other for one, other in pairwise(turns))


def test_hash_by_uri_keeps_a_path_on_one_instance(site: Site) -> None:
    seen = {path: set(_letters(site, "uri", 3, path)) for path in (f"/item/{number}" for number in range(24))}
    assert all(len(who) == 1 for who in seen.values())
    assert set.union(*seen.values()) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "header", "value"), [("header", "X-Shard", "shard{}"), ("cookie", "Cookie", "shard=s{}")]
)
def test_hash_by_header_or_cookie_keeps_a_value_on_one_instance(site: Site, name: str, header: str, value: str) -> None:
    seen = [set(_letters(site, name, 3, headers={header: value.format(number)})) for number in range(24)]
    assert all(len(who) == 1 for who in seen)
    assert set.union(*seen) == {"a", "b"}


# --- time-outs


def test_timeout_is_the_longest_silence_of_an_instance(site: Site) -> None:
    slow = site.app("slow")
    site.register("slow", slow, f"route={_host('slow')}", "timeout=400ms", "retries=0")
    site.until_served(slow)
    assert site.ask(_host("slow"), "/?delay=0.1").status == 200
    begin = time.monotonic()
    assert site.ask(_host("slow"), "/?delay=5").status == 504
    assert time.monotonic() - begin < 3


def test_connect_timeout_is_the_longest_wait_for_a_connection(site: Site) -> None:
    with FullHouse() as full:
        tags = ["connect-timeout=500ms", "retries=0", "timeout=10s"]
        site.register("full", full, f"route={_host('full')}", *tags)
        site.until_served(full)
        begin = time.monotonic()
        assert site.ask(_host("full")).status == 504
        assert 0.4 < time.monotonic() - begin < 3


# --- failures


def _with_one_that_hangs_up(site: Site, name: str, *tags: str) -> tuple[HangUp, App]:
    broken, good = site.keep(HangUp(f"{name}-broken")), site.app(f"{name}-good")
    for instance in (broken, good):
        site.register(f"failing-{name}", instance, f"route={_host(name)}", *tags)
    site.until_served(broken, good)
    return broken, good


def test_a_request_that_may_be_repeated_is_and_another_is_not(site: Site) -> None:
    broken, good = _with_one_that_hangs_up(site, "repeat", "max-fails=0")
    for method in ("GET", "OPTIONS", "HEAD"):
        statuses = {site.ask(_host("repeat"), method=method, body=b"x").status for _ in range(6)}
        assert statuses == {200}, method
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        before = broken.served + good.requests
        statuses = Counter(site.ask(_host("repeat"), method=method, body=b"pay").status for _ in range(10))
        assert statuses == {200: 5, 502: 5}, method
        # Each was sent once.
        assert broken.served + good.requests - before == 10, method


def test_whoever_says_so_has_every_request_repeated(site: Site) -> None:
    broken, good = _with_one_that_hangs_up(site, "unsafe", "max-fails=0", "retries-unsafe=true")
    for method in ("POST", "PUT", "PATCH", "DELETE"):
        assert {site.ask(_host("unsafe"), method=method, body=b"pay").status for _ in range(6)} == {200}, method
    assert broken.served == 12
    assert good.requests == 24


def test_retries_zero_sends_a_request_once(site: Site) -> None:
    broken, _ = _with_one_that_hangs_up(site, "once", "max-fails=0", "retries=0")
    statuses = Counter(site.ask(_host("once")).status for _ in range(10))
    assert statuses == {200: 5, 502: 5}
    assert broken.served == 5


def test_retries_are_so_many_and_no_more(site: Site) -> None:
    broken = [site.keep(HangUp(f"thrice-{number}")) for number in range(5)]
    for instance in broken:
        site.register("failing-thrice", instance, f"route={_host('thrice')}", "max-fails=0", "retries=3")
    site.until_served(*broken)
    assert site.ask(_host("thrice")).status == 502
    assert sum(instance.served for instance in broken) == 4


def test_an_instance_that_failed_max_fails_times_rests_for_fail_timeout(site: Site) -> None:
    broken, _ = _with_one_that_hangs_up(site, "resting", "max-fails=2", "fail-timeout=2s")
    assert {site.ask(_host("resting")).status for _ in range(20)} == {200}
    assert broken.served == 2

    def is_asked_again() -> bool:
        assert site.ask(_host("resting")).status == 200
        return broken.served > 2

    process.wait_until(is_asked_again, what="the end of its rest")


def test_max_fails_zero_never_lets_an_instance_rest(site: Site) -> None:
    broken, _ = _with_one_that_hangs_up(site, "restless", "max-fails=0")
    assert {site.ask(_host("restless")).status for _ in range(20)} == {200}
    assert broken.served == 10


# --- keep-alive


def test_connections_to_instances_are_kept_as_asked(site: Site) -> None:
    opened = {}
    for name in ("idle", "busy"):
        assert {site.ask(_host(name)).status for _ in range(30)} == {200}
        opened[name] = sum(app.connections for app in site.apps if app.name in (f"{name}-a", f"{name}-b"))
    assert opened["busy"] == 30
    assert opened["idle"] <= 4
