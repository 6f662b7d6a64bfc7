"""Random faults, one after the other, while requests go on; and what must hold throughout."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from tests.harness.app import App
from tests.harness.consul import ConsulAgent, leader_of
from tests.harness.footprint import Footprint
from tests.harness.load import Load
from tests.harness.nginx import NginxServer
from tests.harness.outside import OutsideNode
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import call, until

HOSTILE: Final = (
    "route=evil;}.test",
    "route=evil.test/{ /x",
    "route=$host/",
    "route=evil.test\n/x",
    'route=evil.test/"x',
    "weight=heavy",
    "timeout=soon",
    "route=",
)
SETTINGS: Final[Mapping[str, object]] = {
    "output__keep": 1000,
    # On a machine that does much else, a reload that takes its time is no fault of anybody's.
    "reload__deadline": "30s",
    "consul__wait": "5s",
    "reload__interval": "1s",
}
MIB: Final = 1 << 20

Act = Callable[[], Awaitable[str]]


@dataclass(slots=True, kw_only=True)
class Site:
    """What the faults are injected into. None of the services ever lacks a healthy instance."""

    servers: Sequence[ConsulAgent]
    nginx: NginxServer
    sidecar: Sidecar
    """It asks the first of the servers, which is killed and frozen like the others."""
    snippets: Path
    steady: Mapping[str, int]
    """Ports by name of instances that nothing happens to."""
    restless: Mapping[str, int]
    """Ports of instances that live, and that Consul says all kinds of things about."""
    mortal: Sequence[App]
    """Instances that die and come back, one at a time."""


@dataclass(slots=True)
class Soak:
    """Does what a seed says, and keeps a diary."""

    site: Site
    seed: int
    diary: list[str] = field(default_factory=list)
    _random: random.Random = field(init=False)
    _outside: OutsideNode = field(init=False)
    _ids: dict[str, str] = field(default_factory=dict)
    _critical: set[str] = field(default_factory=set)
    _away: set[str] = field(default_factory=set)
    _tags: tuple[str, ...] = ()
    _begin: float = 0.0
    _numbers: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._random = random.Random(self.seed)
        self._outside = OutsideNode(self.site.servers)

    # --- the run

    def register_all(self) -> None:
        for port in self.site.steady.values():
            self._outside.register("steady", port, "route=steady.test")
        for name in self.site.restless:
            self._register(name)
        for app in self.site.mortal:
            self._outside.register("mortal", app.port, "route=mortal.test")

    async def run(self, acts: int) -> None:
        """Inject so many faults, then let everything come to rest. Raise AssertionError for what did not hold."""
        self._begin = time.monotonic()
        async with AsyncExitStack() as stack:
            for host in ("steady.test", "restless.test", "mortal.test"):
                await stack.enter_async_context(self._load(host))
            watch = await stack.enter_async_context(_beside(self._watch_current(), "watch of current"))
            # Whoever is killed cannot grow: the last process lives for the last third.
            await self._inject(acts * 2 // 3, self._acts(with_kills=True), watch)
            before = await self._rest()
            await self._inject(acts - acts * 2 // 3, self._acts(with_kills=False), watch)
            after = await self._rest()
            self._assert_flat(before, after)

    async def _inject(self, times: int, acts: Mapping[Act, int], watch: asyncio.Task[None]) -> None:
        for _ in range(times):
            if watch.done():
                watch.result()
            (act,) = self._random.choices(tuple(acts), weights=tuple(acts.values()))
            self._note(await act())
            await asyncio.sleep(self._random.uniform(0, 0.4))
            assert self.site.sidecar.running, f"the sidecar ended by itself\n{self.site.sidecar.tail()}"

    def _acts(self, *, with_kills: bool) -> Mapping[Act, int]:
        """What can happen, and how often beside the others."""
        acts: dict[Act, int] = {
            self._come_or_go: 6,
            self._turn: 6,
            self._flap: 2,
            self._retag: 4,
            self._insult: 3,
            self._die: 2,
            self._lose_leader: 1,
            self._freeze_agent: 1,
            self._edit: 2,
            self._break_file: 1,
            self._hang_up: 1,
        }
        return acts | {self._kill_sidecar: 2} if with_kills else acts

    def _note(self, what: str) -> None:
        self.diary.append(f"{time.monotonic() - self._begin:.1f} s: {what}")

    async def _rest(self) -> Footprint:
        """Mend everything, wait until nginx serves it all, and look at the process."""
        site = self.site
        self._write_snippet("add_header X-Rest yes always;\n")
        for name in tuple(self._away):
            await call(self._register, name)
        await call(self._outside.set_checks, dict.fromkeys(self._ids.values(), "passing"))
        self._critical.clear()
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, f"ready\n{site.sidecar.tail()}", timeout=90)
        await until(self._serves_all, f"every instance served\n{site.sidecar.tail()}", timeout=60)
        quarantined = {one["service"] for one in site.sidecar.status()["quarantined"]}
        assert all(name.startswith("hostile") for name in quarantined), quarantined
        return Footprint.of(site.sidecar.pid)

    def _serves_all(self) -> bool:
        ports = [*self.site.steady.values(), *self.site.restless.values(), *(app.port for app in self.site.mortal)]
        live = "".join(path.read_text() for path in (self.site.sidecar.output / "current/http.d").glob("*.conf"))
        return all(f"server 127.0.0.1:{port}" in live for port in ports)

    # --- what must hold

    @asynccontextmanager
    async def _load(self, host: str) -> AsyncIterator[None]:
        """Requests on new connections; not one of them may fail."""
        load = Load("127.0.0.1", self.site.sidecar.http, headers={"Host": host}, clients=2, pause=0.04, timeout=30)
        task = asyncio.create_task(load.send(1_000_000), name=f"load on {host}")
        await until(lambda: load.tally.total, "the load's first request")
        try:
            yield
        finally:
            load.stop()
            await task
        self._note(f"{host}: {load.tally.ok} requests answered")
        assert not load.tally.failures, (host, load.tally.failures)

    async def _watch_current(self) -> None:
        """``current`` names a whole generation at any time, its number never falls, and nginx accepts it."""
        output = self.site.sidecar.output
        while True:
            number = int((output / "current").readlink().name)
            if not self._numbers or number != self._numbers[-1]:
                assert not self._numbers or number > self._numbers[-1], (self._numbers[-1], number)
                self._numbers.append(number)
                assert (output / f"generations/{number:06}/manifest.json").is_file()
                await call(self._assert_valid, number)
            await asyncio.sleep(0.05)

    def _assert_valid(self, number: int) -> None:
        """nginx accepts the generation in the operator's own configuration."""
        nginx = self.site.nginx
        wrapper = nginx.directory / "soak.conf"
        wrapper.write_text(nginx.conf.read_text().replace("/current/", f"/generations/{number:06}/"))
        command = [*nginx.command, "-t"]
        command[command.index(str(nginx.conf))] = str(wrapper)
        tested = subprocess.run(command, capture_output=True, text=True, check=False)
        assert tested.returncode == 0, f"generation {number}: {tested.stderr}"

    def _assert_flat(self, before: Footprint, after: Footprint) -> None:
        self._note(f"from {before} to {after}")
        # A pool of threads fills as far as it is ever needed; connections to Consul come and go.
        assert after.threads <= before.threads + 8
        assert after.descriptors <= before.descriptors + 16
        assert after.memory <= before.memory + 24 * MIB

    # --- what happens

    def _register(self, name: str) -> None:
        tags = ("route=restless.test", *self._tags)
        status = "critical" if name in self._critical else "passing"
        self._ids[name] = self._outside.register("restless", self.site.restless[name], *tags, status=status)
        self._away.discard(name)

    def _some(self) -> str:
        """One of the restless; the first stays healthy."""
        return self._random.choice(tuple(self.site.restless)[1:])

    async def _come_or_go(self) -> str:
        name = self._some()
        if name in self._away:
            await call(self._register, name)
            return f"{name} came"
        self._away.add(name)
        await call(self._outside.deregister, self._ids.pop(name))
        return f"{name} went"

    async def _turn(self) -> str:
        name = self._some()
        if name in self._away:
            return f"{name} is not there"
        status = self._random.choice(("passing", "warning", "critical"))
        (self._critical.add if status == "critical" else self._critical.discard)(name)
        await call(self._outside.set_checks, {self._ids[name]: status})
        return f"{name} is {status}"

    async def _flap(self) -> str:
        there = [service for name, service in self._ids.items() if name != next(iter(self.site.restless))]
        for number in range(10):
            status = "critical" if number % 2 == 0 else "passing"
            await call(self._outside.set_checks, dict.fromkeys(there, status))
            await asyncio.sleep(0.05)
        self._critical.clear()
        return f"{len(there)} instances flapped"

    async def _retag(self) -> str:
        """As a rolling deploy does: instance after instance."""
        self._tags = self._random.choice(
            (("timeout=9s",), ("balance=least_conn",), ("retries=1",), ("weight=7",), ("rate=9000r/s:99",), ())
        )
        for name in self.site.restless:
            if name not in self._away:
                await call(self._register, name)
        return f"tags {self._tags}"

    async def _insult(self) -> str:
        tag, number = self._random.choice(HOSTILE), self._random.randrange(4)
        # One port per name, so that the next insult takes its place.
        await call(self._outside.register, f"hostile-{number}", 1 + number, f"route=hostile.test/{number}", tag)
        return f"hostile {tag!r}"

    async def _die(self) -> str:
        """An instance is killed, and only then taken out of the catalog; later it comes back."""
        app = self._random.choice(self.site.mortal)
        await call(app.stop)
        await asyncio.sleep(self._random.uniform(0, 0.5))
        service = f"mortal-{app.port}"
        await call(self._outside.deregister, service)
        await asyncio.sleep(self._random.uniform(0, 1))
        await call(app.start)
        await call(self._outside.register, "mortal", app.port, "route=mortal.test")
        return f"{app.name} died and is back"

    async def _lose_leader(self) -> str:
        leader = await call(leader_of, self.site.servers)
        await call(leader.kill)
        await asyncio.sleep(self._random.uniform(0.5, 2.5))
        await call(leader.start)
        return f"{leader.node} led, and was killed"

    async def _freeze_agent(self) -> str:
        agent = self.site.servers[0]
        agent.pause()
        await asyncio.sleep(self._random.uniform(0.5, 2))
        agent.resume()
        return "the sidecar's agent froze"

    async def _edit(self) -> str:
        self._write_snippet(f"add_header X-Edit {self._random.randrange(1000)} always;\n")
        return "a fragment of the operator's changed"

    async def _break_file(self) -> str:
        self._write_snippet(self._random.choice(("add_haeder X-Edit 1;\n", "}\n", "return 500\n", "if (\n")))
        return "a fragment of the operator's is broken"

    def _write_snippet(self, text: str) -> None:
        (self.site.snippets / "server.conf").write_text(text)

    async def _hang_up(self) -> str:
        # Before Python listens to signals, this one ends any process.
        await until(lambda: self.site.sidecar.request("/healthz")[0] == 200, "the sidecar up", timeout=30)
        os.kill(self.site.sidecar.pid, signal.SIGHUP)
        return "SIGHUP"

    async def _kill_sidecar(self) -> str:
        await call(self.site.sidecar.kill)
        await asyncio.sleep(self._random.uniform(0, 1))
        await call(self.site.sidecar.start, ready=False)
        return "the sidecar was killed and started"


@asynccontextmanager
async def _beside(work: Coroutine[None, None, None], name: str) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(work, name=name)
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
