"""The sidecar's core, an nginx and a disk in simulated time, and the laws that hold at every moment of it."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from difflib import unified_diff
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

from proxygen.catalog import Catalog
from proxygen.kit.aio import Latest
from proxygen.kit.errors import ProxygenError
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.apply import Applied, Applier
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current, generations, hold_output, proven, read_generation
from proxygen.proxy.check import structure as check
from proxygen.proxy.check.structure import Refusal, StructureGate
from proxygen.proxy.draft import Draft
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.nginx.stamp import STAMP_FILE
from proxygen.proxy.pipeline import open_pipeline
from proxygen.proxy.render.renderer import Rendered
from proxygen.proxy.state.memory import recall
from proxygen.settings import Settings, load
from tests.model.clock import simulated_time
from tests.model.disk import Death, Disk
from tests.model.lua_model import in_force
from tests.model.nginx_model import Faults, Loaded, NginxModel, in_place_of_nginx

_CONF: Final = """\
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ }}
http {{ include {output}/current/http.d/*.conf; }}
stream {{ include {output}/current/stream.d/*.conf; }}
"""
_shipped: Final = cache(Templates)


def _templates(own: Path | None = None) -> Templates:
    """Compile the shipped ones once: every life has the same, and it takes longer than all the rest."""
    return _shipped() if own is None else Templates(own)


_parse_anew: Final = check._parse
_parsed: Final[dict[tuple[str, str], Any]] = {}


def _parse(units: Sequence[tuple[str, str]]) -> list[Any]:
    """Read each text once: the same ones come in every life of every world, and to read them takes a third of all
    time. That texts are read together as they are alone is for tests/proxy/check/test_structure.py."""
    new = [unit for unit in dict.fromkeys(units) if unit not in _parsed]
    _parsed.update(zip(new, _parse_anew(new), strict=True))
    return [_parsed[unit] for unit in units]


# In memory where there is such a place: thousands of small files come and go.
_PLACE: Final = next((path for path in ("/dev/shm",) if os.access(path, os.W_OK)), None)

STAMP: Final = "127.0.0.1:18082"


@dataclass(slots=True)
class _Process:
    """One life of the sidecar."""

    reconciler: Reconciler
    catalogs: Latest[Catalog]
    task: asyncio.Task[None]
    holding: ExitStack


class World:
    """Everything that a run needs; close it at the end."""

    def __init__(self, **knobs: str) -> None:
        self._stack: Final = ExitStack()
        self.directory: Final = Path(tempfile.mkdtemp(prefix="proxygen-model-", dir=_PLACE))
        self._stack.callback(shutil.rmtree, self.directory, ignore_errors=True)
        # nginx's workers, who are another user, read what is pushed.
        self.directory.chmod(0o755)
        self.output: Final = self.directory / "output"
        self.output.mkdir()
        etc, binary = self.directory / "etc", self.directory / "nginx"
        etc.mkdir()
        binary.touch(mode=0o755)
        conf = etc / "nginx.conf"
        conf.write_text(_CONF.format(directory=self.directory, output=self.output))
        values = {
            "nginx.binary": str(binary),
            "nginx.conf": str(conf),
            "nginx.prefix": str(self.directory),
            "nginx.stamp": STAMP,
            "output.directory": str(self.output),
            "proxy.seed": "model",
            # The fewest there are: to delete one is a step as well.
            "output.keep": "2",
            **knobs,
        }
        self.settings: Settings = load(values, environment={})
        """Those of the next life."""
        self.disk: Final = Disk(self.output)
        self.loop: Final = self._stack.enter_context(simulated_time())
        self.nginx: Final = NginxModel(self.loop, conf, self.directory / "error.log", self.disk)
        self._stack.enter_context(in_place_of_nginx(self.nginx))
        self._stack.enter_context(patch("proxygen.proxy.pipeline.Templates", _templates))
        self._stack.enter_context(patch("proxygen.proxy.check.structure._parse", _parse))
        self.laws: Final = Laws(self)
        self._stack.enter_context(self.laws.watching())
        self._stack.enter_context(self.disk.watching())
        self._process: _Process | None = None
        self.catalog: Catalog | None = None
        """What Consul would say."""
        self.is_fresh = True
        """Whether Consul can be asked."""

    def close(self) -> None:
        self.stop()
        self.nginx.kill()
        self._stack.close()

    # --- the sidecar's process

    @property
    def is_alive(self) -> bool:
        return self._process is not None

    @property
    def reconciler(self) -> Reconciler:
        assert self._process is not None
        return self._process.reconciler

    def start(self, *, with_consul: bool = True) -> None:
        """Begin a new life; it may end at once, as where the disk refuses."""
        assert self._process is None
        self.disk.revive()
        self.laws.judge_state()
        holding = ExitStack()
        try:
            output = holding.enter_context(hold_output(self.output))
            pipeline = self.loop.run_until_complete(open_pipeline(self.settings))
            catalogs: Latest[Catalog] = Latest()
            reconciler = Reconciler(self.settings, output, pipeline, catalogs, is_fresh=lambda: self.is_fresh)
        except (Death, ProxygenError):
            holding.close()
            return
        task = self.loop.create_task(reconciler.run(), name="reconcile")
        self._process = _Process(reconciler, catalogs, task, holding)
        if self.nginx.has_lua:
            self.loop.create_task(reconciler.watch_nginx(), name="watch of nginx")
        # Also where it is not the loop that is at work.
        self.disk.at_death = task.cancel
        if with_consul:
            self.tell(self.catalog)

    def tell(self, catalog: Catalog | None) -> None:
        """Have Consul say something new."""
        self.catalog = catalog
        if self._process is not None and catalog is not None:
            self._process.catalogs.put(catalog)

    def stop(self) -> None:
        """End it as SIGTERM does."""
        if self._process is not None:
            self._process.task.cancel()
            self.loop.run_until_complete(asyncio.wait({self._process.task}))
            if not self.disk.dead:
                finishing = self.loop.create_task(self._process.reconciler.finish(), name="finish")
                self.loop.run_until_complete(asyncio.wait({finishing}))
                self.disk.at_death = lambda: None
                if (error := finishing.exception()) is not None and not isinstance(error, Death):
                    self.laws.broken.append(f"the end failed: {type(error).__name__}: {error}")
            self._end()

    def end_loop(self) -> None:
        """Cancel the loop, as SIGTERM does, whatever it is at."""
        assert self._process is not None
        self._process.task.cancel()

    def wait(self, seconds: float) -> None:
        """Let time pass, whether the sidecar lives through it or not."""
        if self._process is None:
            self.loop.run_until_complete(asyncio.sleep(seconds))
        else:
            self.loop.run_until_complete(asyncio.wait({self._process.task}, timeout=seconds))
            if self._process.task.done():
                self._end()

    def ask(self, work: Any) -> Any:
        """Do what an operator asks of the running sidecar. Raise ProxygenError where it refuses."""
        assert self._process is not None
        asked = self.loop.create_task(work, name="operator")
        self.loop.run_until_complete(asyncio.wait({self._process.task, asked}, return_when=asyncio.FIRST_COMPLETED))
        if self._process.task.done():
            asked.cancel()
        self.loop.run_until_complete(asyncio.wait({asked}))
        error = asked.exception() if not asked.cancelled() else None
        if self.disk.dead or self._process.task.done():
            # An operator's request dies with the process, and the process with what kills the request.
            self._process.task.cancel()
            self._end()
            return None
        if error is not None:
            raise error
        return asked.result()

    def _end(self) -> None:
        assert self._process is not None
        process, self._process = self._process, None
        self.loop.run_until_complete(asyncio.wait({process.task}))
        rest = asyncio.all_tasks(self.loop)
        for task in rest:
            task.cancel()
        if rest:
            self.loop.run_until_complete(asyncio.wait(rest))
        process.holding.close()
        error = process.task.exception() if not process.task.cancelled() else None
        if error is not None and not isinstance(error, Death):
            self.laws.broken.append(f"the loop ended: {type(error).__name__}: {error}")

    # --- trouble, and its end

    def lose_power(self) -> None:
        """End sidecar and nginx at once, and leave only what was synced."""
        self.nginx.kill()
        live = self.laws.synced_link() if self.is_alive else None
        self.disk.dead = True
        if self._process is not None:
            self._process.task.cancel()
            self._end()
        self.disk.lose_power()
        self.disk.mend()
        self.laws.judge_recovered(live)

    def heal(self) -> None:
        """End every trouble; what was started again is given a moment."""
        self.disk.mend()
        self.forgive()
        self.nginx.drain = 0.3
        self.nginx.thaw()
        if not self.is_alive:
            self.start()
        assert self.is_alive
        if self._process is not None and self._process.catalogs.peek() is not self.catalog:
            self.tell(self.catalog)
        if not self.nginx.is_running:
            assert self.nginx.start(), (self.directory / "error.log").read_text()[-500:]

    def forgive(self) -> None:
        """Have nginx like everything; in a real one that takes another file of the operator's."""
        if self.nginx.faults != Faults():
            self.nginx.faults = Faults()
            if self.is_alive:
                self.reconciler.files_changed()

    def let_go(self) -> None:
        """Have the operator hold nothing back."""
        self.wait(10)
        self.laws.pinned = None
        if self.reconciler.state.pinned is not None:
            self.ask(self.reconciler.release_hold())

    # --- what is so

    def why(self) -> str:
        """What is known, for a failure's message."""
        process = self._process
        told = (
            f"last {process.reconciler.state.last}, held {process.reconciler.state.held}" if process else "not running"
        )
        log = self.directory / "error.log"
        return f"{told}; live {current(self.output)}; {log.read_text()[-300:] if log.exists() else ''}"

    def expected(self) -> Draft:
        """What should be served of the newest catalog, worked out anew."""
        assert self.catalog is not None

        async def draft() -> Draft:
            pipeline = await open_pipeline(self.settings)
            assert self.catalog is not None
            return pipeline.drafter.draft(self.catalog, recall(self.output).plan, {})

        return self.loop.run_until_complete(draft())

    def missing(self) -> list[str]:
        """What nginx serves otherwise than it should of the newest catalog."""
        expected = _lines(in_force(self.expected().rendered.contents, {}))
        served = self.nginx.served()
        found = [unified_diff(expected, _lines(each.files), "expected", "served", n=0, lineterm="") for each in served]
        return [line for each in found for line in each] if served else ["nobody serves"]


def _lines(files: Mapping[str, bytes]) -> list[str]:
    return [
        f"{name}: {line}"
        for name, content in sorted(files.items())
        if name != STAMP_FILE
        for line in content.decode().splitlines()
    ]


class Laws:
    """What must be so at every moment; where it is not, that is noted, for nobody may swallow it."""

    def __init__(self, world: World) -> None:
        self.broken: Final[list[str]] = []
        self.pinned: int | None = None
        """The generation to which the operator went back, and that was proven: nothing else may be live."""
        self._world: Final = world
        self._passed_first: Final[set[str]] = set()
        self._passed_in_force: Final[set[str]] = set()
        """The same, by what is in force of them."""
        self._passed_second: Final[set[str]] = set()
        self._generations: dict[int, str] = {}
        self._link: str | None = None
        self._errors_then = 0
        self._busy = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        self._world.nginx.at_test = self._note_tested
        self._world.nginx.at_load = self._judge_loaded
        self._world.nginx.at_push = self._judge_pushed
        self._world.disk.after_step = self._judge_link
        refusals = StructureGate.refusals

        def noting(gate: StructureGate, rendered: Rendered) -> tuple[Refusal, ...]:
            found = refusals(gate, rendered)
            if not found:
                self._passed_first.add(_mark(rendered.contents))
                self._passed_in_force.add(_mark(in_force(rendered.contents, {})))
            return found

        with ExitStack() as stack:
            stack.enter_context(patch.object(StructureGate, "refusals", noting))
            for name in ("apply", "finish_pending", "roll_back"):
                stack.enter_context(patch.object(Applier, name, self._counted(getattr(Applier, name))))
            yield

    def _counted(self, work: Callable[..., Awaitable[Applied]]) -> Callable[..., Awaitable[Applied]]:
        async def counted(*arguments: object, **named: object) -> Applied:
            self._busy += 1
            try:
                return await work(*arguments, **named)
            finally:
                self._busy -= 1

        return counted

    # --- nginx

    def _note_tested(self, loaded: Loaded) -> None:
        self._passed_second.add(_mark(loaded.files))

    def _judge_loaded(self, loaded: Loaded) -> None:
        """What nginx serves passed both gates; where the operator went back, it is what he went back to."""
        if not loaded.files:
            return
        if _mark(loaded.files) not in self._passed_second:
            self.broken.append(f"nginx serves what never passed nginx -t: {loaded.stamp}")
        if _mark(_without_stamp(loaded)) not in self._passed_first:
            self.broken.append(f"nginx serves what never passed the first gate: {loaded.stamp}")
        if self.pinned is not None and loaded.stamp is not None and loaded.stamp.generation != self.pinned:
            self.broken.append(f"nginx serves {loaded.stamp}, where the operator went back to {self.pinned}")

    def _judge_pushed(self, served: Loaded) -> None:
        """What is pushed makes nothing else of what is served than a whole candidate that passed the first gate; what
        the operator went back to stays."""
        if _mark(_without_stamp(served)) not in self._passed_in_force:
            self.broken.append(f"by a push nginx serves what nobody asked for: {served.stamp}")
        if self.pinned is not None and served.stamp is not None and served.stamp.generation != self.pinned:
            self.broken.append(f"{served.stamp} was pushed, where the operator went back to {self.pinned}")

    def judge_rest(self) -> None:
        """Between two applies, nginx serves what ``current`` names where the last one ended well, or well enough."""
        world = self._world
        if not world.is_alive or self._busy or world.nginx.is_reading or world.nginx.is_frozen:
            return
        last = world.reconciler.state.last
        if last is None or last.outcome not in (Outcome.APPLIED, Outcome.ROLLED_BACK):
            return
        live = current(world.output)
        served = {loaded.stamp.generation if loaded.stamp else None for loaded in world.nginx.served()}
        if world.nginx.has_lua:
            # What was pushed may be ahead of the files, and never behind them, but where somebody else just had nginx
            # read them.
            if world.nginx.is_read_by_others:
                return
            served = {number for number in served if number is None or live is None or number < live}
        if served and served != {live}:
            self.broken.append(f"nginx serves {served} and current names {live}, though it was {last.outcome}")

    # --- the disk

    def _judge_link(self) -> None:
        """``current`` is one whole generation that passed, at every step; it changes while nobody reads it."""
        link = self._read_link()
        if link == self._link:
            return
        before, self._link = self._link, link
        self._errors_then = self._world.disk.errors
        nginx = self._world.nginx
        # Nothing but the end of all patience is a reason to change it then.
        if nginx.is_reading and not nginx.is_frozen and not nginx.faults.taken and not nginx.is_read_by_others:
            self.broken.append(f"current became {link} while nginx was reading")
        if link is None and before is not None and proven(self._world.output):
            self.broken.append(f"current was taken away; it was {before}")
        self.judge_current()

    def judge_current(self) -> None:
        number = current(self._world.output)
        if number is None:
            return
        mark = self._mark_of(number)
        if mark is None:
            self.broken.append(f"current names generation {number}, which is not whole")
            return
        if mark not in self._passed_second:
            self.broken.append(f"current names generation {number}, which is not what passed nginx -t")
        if number not in self._generations and number < max(self._generations, default=0):
            self.broken.append(f"generation {number} came after {max(self._generations)}")
        if self._generations.setdefault(number, mark) != mark:
            self.broken.append(f"generation {number} is another one by now")

    def judge_state(self) -> None:
        """What a life left behind is whole: every generation, and every file of the state."""
        for generation in generations(self._world.output):
            known = self._generations.get(generation.number)
            if known is not None and self._mark_of(generation.number) != known:
                self.broken.append(f"generation {generation.number} is there and not whole")
        for path in (self._world.output / "state").glob("[a-z]*.json"):
            try:
                json.loads(path.read_bytes())
            except ValueError as error:
                self.broken.append(f"{path.name} is not whole: {error}")

    def synced_link(self) -> str | None:
        """What ``current`` is, where no error kept it from being synced."""
        self._judge_link()
        return self._link if self._world.disk.errors == self._errors_then else None

    def judge_recovered(self, link: str | None) -> None:
        """After the loss of the machine all is whole, and ``current`` is what it was; a number that nobody remembers
        may be given again."""
        self._link = self._read_link()
        if link is not None and self._link != link:
            self.broken.append(f"current was {link} and is {self._link} after the loss of the machine")
        numbers = {each.number for each in generations(self._world.output)}
        self._generations = {number: mark for number, mark in self._generations.items() if number in numbers}
        self.judge_current()
        self.judge_state()

    def _mark_of(self, number: int) -> str | None:
        directory = self._world.output / f"generations/{number:06d}"
        if read_generation(self._world.output, number) is None:
            return None
        paths = [path for folder in ("http.d", "stream.d") for path in (directory / folder).glob("*.conf")]
        return _mark({f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths})

    def _read_link(self) -> str | None:
        with suppress(OSError):
            return os.readlink(self._world.output / "current")
        return None


def _without_stamp(loaded: Loaded) -> Mapping[str, bytes]:
    return {name: content for name, content in loaded.files.items() if name != STAMP_FILE}


def _mark(files: Mapping[str, bytes]) -> str:
    whole = sha256()
    for name, content in sorted(files.items()):
        whole.update(f"{name}\0{len(content)}\0".encode() + content)
    return whole.hexdigest()
