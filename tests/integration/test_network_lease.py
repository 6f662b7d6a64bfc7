"""Subnet leases on the real Consul."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Network
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import AccessDenied, ConflictingWrite, NetworkConfigError
from proxygen.network.choice import Standing
from proxygen.network.collect import Collector
from proxygen.network.lease import SubnetLease
from proxygen.network.records import subnet_key
from proxygen.network.session import Terms
from proxygen.network.store import PREFIX, LostRace, NetworkStore, create_network
from proxygen.settings import ConsulSettings
from tests.harness.consul import ConsulAgent
from tests.harness.relay import relay
from tests.network.crowd import clients, lease_at_once, make_lease

TERMS = Terms(ttl=10, lock_delay=10)
SOON = Terms(ttl=10, lock_delay=1, grace=2)
"""Leases are collected soon."""
CONFIG = '{"Network": "10.9.0.0/16", "Backend": {"Type": "host-gw"}}'


async def until(holds: Callable[[], bool], what: str, *hosts: Host, within: float = 60) -> None:
    """Wait until it holds; else say how the hosts stand."""
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {within:g} s; {'; '.join(map(str, hosts))}"
        await asyncio.sleep(0.05)


async def test_hundred_hosts_at_once_get_a_hundred_subnets(consul: ConsulAgent, tmp_path: Path) -> None:
    """And ask Consul little more than the three times that each of them needs."""
    crowd = await lease_at_once(consul, 100, CONFIG, tmp_path, terms=Terms())
    ordered = sorted(crowd.subnets)
    assert not any(one.overlaps(other) for one, other in pairwise(ordered))
    assert len(set(ordered)) == 100
    assert crowd.requests < 1000


async def test_full_network_goes_to_as_many_hosts_as_it_holds(consul: ConsulAgent, tmp_path: Path) -> None:
    """Where every host wants one of the last few, they come to terms."""
    crowd = await lease_at_once(consul, 31, '{"Network": "10.9.0.0/24", "SubnetLen": 29}', tmp_path, terms=Terms())
    assert len(set(crowd.subnets)) == 31


async def test_network_is_created_once(consul: ConsulAgent) -> None:
    async with clients(consul, 1) as (client,):
        store = NetworkStore(client, deadline=5)
        with pytest.raises(NetworkConfigError):
            await create_network(store, "{}")
        await create_network(store, CONFIG)
        with pytest.raises(ConflictingWrite, match="has a network already"):
            await create_network(store, CONFIG)


async def test_token_that_may_not_write_is_told_the_rule(make_consul: Callable[..., ConsulAgent]) -> None:
    """Consul hides a refusal inside a transaction that was rolled back."""
    agent = make_consul(config={"acl": {"enabled": True, "default_policy": "deny"}})
    agent.start()
    async with clients(agent, 1) as (client,):
        store = NetworkStore(client, deadline=5)
        with pytest.raises(AccessDenied, match='key_prefix "proxygen/network/"'):
            await store.commit(store.replace("config", b"{}", 0))


async def test_new_subnet_life_after_life(consul: ConsulAgent, tmp_path: Path) -> None:
    """Held, left by a kill, taken up again by the same session, closed, taken up by another, released."""
    async with clients(consul, 1) as (client,):
        store = NetworkStore(client, deadline=5)
        await create_network(store, CONFIG)
        subnets, sessions = [], []
        for ends in ("kill", "close", "release"):
            lease = make_lease(client, "host", tmp_path, terms=TERMS)
            task = asyncio.create_task(lease.keep())
            subnets.append(await lease.held())
            sessions.append(lease.session)
            task.cancel()
            await asyncio.wait({task})
            if ends != "kill":
                await getattr(lease, ends)()
        assert len(set(subnets)) == 1
        assert sessions[0] == sessions[1] != sessions[2]
        view = await store.look()
        assert not view.records
        assert not view.pointers
        assert consul.get("/v1/session/list") == []


async def test_one_collects_what_nobody_locks(consul: ConsulAgent, tmp_path: Path) -> None:
    async with clients(consul, 1) as (client,):
        store = NetworkStore(client, deadline=5)
        await create_network(store, CONFIG)
        gone = make_lease(client, "gone", tmp_path, terms=SOON)
        keeper = make_lease(client, "keeper", tmp_path, terms=SOON)
        tasks = [asyncio.create_task(one.keep()) for one in (gone, keeper)]
        left = await gone.held()
        await keeper.held()
        tasks[0].cancel()
        await asyncio.wait({tasks[0]})
        await gone.close()
        collectors = [Collector(store, lambda: keeper.session, terms=SOON)]
        other = await store.open_session("another", ttl=10, lock_delay=1)
        assert await collectors[0].sweep() == ()
        assert await Collector(store, lambda: other, terms=SOON).sweep() == ()
        collecting = asyncio.create_task(collectors[0].run())
        for _ in range(600):
            if left not in (await store.look()).records:
                break
            await asyncio.sleep(0.05)
        view = await store.look()
        assert {record.host_id for record in view.records.values()} == {"keeper"}
        assert set(view.pointers) == {"keeper"}
        for task in (collecting, tasks[1]):
            task.cancel()
        await asyncio.wait({collecting, tasks[1]})


async def test_watch_tells_of_a_change_and_starts_again_where_the_index_falls(consul: ConsulAgent) -> None:
    async with clients(consul, 2) as (waiting, acting):
        store, other = NetworkStore(waiting, deadline=5), NetworkStore(acting, deadline=5)
        view, index = await store.watch()
        assert view.config is None
        asked = asyncio.create_task(store.watch(index, seen=view))
        await create_network(other, CONFIG)
        view, later = await asyncio.wait_for(asked, 30)
        assert view.config is not None
        assert later > index
        # Such as a server has that was restored from a snapshot.
        short = ConsulClient(ConsulSettings(address=consul.address, wait=1))
        try:
            same, index = await NetworkStore(short, deadline=5).watch(later + 1_000_000)
        finally:
            await short.close()
        assert (same.config, index) == (view.config, 0)


async def test_a_host_that_waits_for_its_network_asks_once(consul: ConsulAgent) -> None:
    """What was never there is not lost, though Consul answers a question about it at once: a key below the network's
    prefix left its tombstone, and others were written since."""
    consul.kv_put("proxygen/network/old", "")
    consul.kv_delete("proxygen/network/old")
    consul.kv_put("elsewhere", "")
    async with clients(consul, 2) as (waiting, acting):
        store = NetworkStore(waiting, deadline=5)
        view, index = await store.watch()
        asked = asyncio.create_task(store.watch(index, seen=view))
        for number in range(20):
            await acting.read("/v1/kv/elsewhere")
            assert not asked.done(), f"answered before answer {number} to another"
        await create_network(NetworkStore(acting, deadline=5), CONFIG)
        view, _ = await asyncio.wait_for(asked, 30)
        assert view.config is not None


class Host:
    """A simulated host on the real Consul, whose agent is killed and started again."""

    def __init__(self, client: Any, name: str, directory: Path) -> None:
        self.name = name
        self.subnet: IPv4Network | None = None
        self._client = client
        self._directory = directory
        self.lease: SubnetLease | None = None
        self._task: asyncio.Task[Any] | None = None

    def start(self) -> None:
        self.lease = make_lease(self._client, self.name, self._directory, terms=TERMS)
        self._task = asyncio.create_task(self.lease.keep())

    async def kill(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=60)
            assert self._task.cancelled(), f"a cancelled agent must end and do nothing else: {self._task}; {self}"
            self._task = None

    @property
    def runs(self) -> bool:
        return self._task is not None

    @property
    def standing(self) -> Standing | None:
        return self.lease.status.standing if self.lease is not None else None

    @property
    def reason(self) -> str:
        return self.lease.status.reason if self.lease is not None else ""

    def __str__(self) -> str:
        runs = "runs" if self.runs else "does not run"
        return f"{self.name} {runs}: {self.lease.status if self.lease is not None else 'never started'}"

    def look(self) -> None:
        """Note what containers got; it must never be another."""
        status = self.lease.status if self.lease is not None else None
        if status is not None and status.subnet is not None:
            assert self.subnet in (None, status.subnet), f"{self.name} lives, and its subnet changed"
            self.subnet = status.subnet


def _no_two_hold_the_same(hosts: list[Host]) -> None:
    for host in hosts:
        host.look()
    holding = [host.subnet for host in hosts if host.standing is Standing.HELD and host.subnet is not None]
    assert not any(one.overlaps(other) for one, other in combinations(holding, 2)), holding


@pytest.fixture
def chance() -> random.Random:
    return random.Random(20)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_laws_of_leases_hold_on_the_real_consul(
    consul: ConsulAgent, tmp_path: Path, chance: random.Random
) -> None:
    """Agents are killed, sessions destroyed, leases deleted, links cut and the whole store wiped, while hosts come
    and go."""
    async with relay(consul.address) as way, clients(consul, 1) as direct, clients(way, 1) as relayed:
        opened = (*direct, *relayed)
        store = NetworkStore(opened[0], deadline=5)
        # Seven subnets for five hosts.
        config = '{"Network": "10.9.0.0/24", "SubnetLen": 27}'
        await create_network(store, config)
        hosts = [Host(opened[number % 2], f"host-{number}", tmp_path) for number in range(5)]
        for host in hosts:
            host.start()
        await until(lambda: all(one.lease and one.lease.status.subnet for one in hosts), "five subnets", *hosts)
        for _ in range(40):
            host = chance.choice(hosts)
            match chance.randrange(6):
                case 0 if host.runs:
                    await host.kill()
                case 1 if not host.runs:
                    host.start()
                case 2 if host.lease is not None and host.lease.session:
                    await store.destroy(host.lease.session)
                case 3 if host.subnet is not None:
                    consul.kv_delete(f"{PREFIX}/{subnet_key(host.subnet)}")
                case 4 if chance.random() < 0.3:
                    for session in consul.get("/v1/session/list"):
                        consul.put(f"/v1/session/destroy/{session['ID']}")
                    consul.kv_delete(f"{PREFIX}/", recurse=True)
                    with suppress(LostRace):
                        await store.commit(store.replace("config", config.encode(), 0))
                case 5 if way.is_cut:
                    way.mend()
                case 5:
                    way.cut()
            for _ in range(4):
                await asyncio.sleep(chance.uniform(0.02, 0.1))
                _no_two_hold_the_same(hosts)
            view = await store.look()
            assert not any(one.overlaps(other) for one, other in combinations(view.records, 2))
        way.mend()
        for host in hosts:
            if not host.runs:
                host.start()
        await until(
            lambda: all(one.standing is Standing.HELD for one in hosts),
            "everybody holds in the end",
            *hosts,
        )
        _no_two_hold_the_same(hosts)
        for host in hosts:
            await host.kill()


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(900)
async def test_host_that_is_cut_off_loses_nothing_but_its_certainty(
    make_consul: Callable[..., ConsulAgent], tmp_path: Path
) -> None:
    """Its session ends, and nobody gets its subnet; all data is lost, and whoever lives keeps what he has. Only who
    cannot be asked by then is in conflict, keeps his subnet nevertheless, and harms nobody."""
    consul = make_consul()
    consul.start()
    config = '{"Network": "10.9.0.0/24", "SubnetLen": 26}'
    async with relay(consul.address) as way, clients(consul, 1) as (direct,), clients(way, 1) as (relayed,):
        store = NetworkStore(direct, deadline=5)
        await create_network(store, config)
        near, far = [Host(direct, f"near-{number}", tmp_path) for number in range(2)], Host(relayed, "far", tmp_path)
        for host in (*near, far):
            host.start()
        await until(lambda: all(one.standing is Standing.HELD for one in (*near, far)), "three subnets", *near, far)
        _no_two_hold_the_same([*near, far])
        left = far.subnet

        way.cut()
        await until(lambda: far.standing is Standing.UNCONFIRMED, "it knows that it may be unknown", far)
        late = Host(direct, "late", tmp_path)
        late.start()
        await until(lambda: not _is_locked(consul, left), "its session has ended", far)
        await until(lambda: "no free subnet" in late.reason, "nothing is free", late)

        await asyncio.to_thread(consul.restart)
        consul.kv_put(f"{PREFIX}/config", config)
        came_forward = "the newcomer has what nobody came forward for"
        await until(lambda: late.standing is Standing.HELD, came_forward, late, within=120)
        _no_two_hold_the_same([*near, far, late])
        assert late.subnet == left
        await until(lambda: all(host.standing is Standing.HELD for host in near), "they came forward", *near)

        way.mend()
        await until(lambda: far.standing is Standing.CONFLICT, "it says what is wrong", far)
        _no_two_hold_the_same([*near, far, late])
        assert far.subnet == left
        assert f"{left} is leased to host late" in far.reason
        for host in (*near, far, late):
            await host.kill()


def _is_locked(consul: ConsulAgent, subnet: IPv4Network | None) -> bool:
    assert subnet is not None
    (key,) = consul.get(f"/v1/kv/{PREFIX}/{subnet_key(subnet)}")
    return "Session" in key
