"""A small nginx for simulated time: what a master and its workers do that proxygen can tell from outside.

It reads its configuration when it is told to, as the real one does, through every include; keeps the old one where
the new one cannot be read or bound; has old and new workers accept side by side, and the old ones drain; and writes
why to its error log. `test_nginx_model` holds it against a real nginx.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from glob import glob
from itertools import count
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import crossplane

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx import master, process, stamp
from proxygen.proxy.nginx.master import Master, Workers
from proxygen.proxy.nginx.process import Completed
from proxygen.proxy.nginx.stamp import Stamp, parse_stamp
from tests.model.disk import Disk
from tests.model.lua_model import Dictionary, in_force

_READING: Final = 0.02
_SIDE_BY_SIDE: Final = 0.1
_BIND_PAUSE: Final = 0.5
_BIND_TRIES: Final = 5
_UNBOUND: Final = "still could not bind()"
_LUA_WORKS: Final = 43
_UNNOTICED: Final = 10.0
"""Seconds after which the sidecar has noticed, and done something about, what others did to nginx."""

VERSION: Final = "nginx version: nginx/1.22.1\nconfigure arguments: --with-stream --with-http_ssl_module"


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A configuration that can be read."""

    files: Mapping[str, bytes]
    """Those of the generation, by path inside it."""
    stamp: Stamp | None
    ports: frozenset[int]
    answers: Mapping[int, str]
    """What ``location /`` of a port's virtual server returns, where it returns a text."""
    document: str = ""
    """The file that is pushed by; "" where nothing can be pushed."""


class Unloadable(Exception):
    """A configuration that nginx refuses; the text is its own."""


@dataclass(slots=True, eq=False)
class _Worker:
    pid: int
    loaded: Loaded
    dictionary: Dictionary
    accepts: bool = True

    @property
    def serves(self) -> Loaded:
        """What it read, or what was pushed to it since."""
        stamp = parse_stamp(self.dictionary.stamp)
        return replace(self.loaded, files=in_force(self.loaded.files, self.dictionary.entries), stamp=stamp)


@dataclass(slots=True)
class Faults:
    """What can be wrong with nginx or around it. Texts stand for the configurations that have them."""

    refused: set[str] = field(default_factory=set)
    """``nginx -t`` and nginx itself refuse them, and name the line."""
    refused_at_reload: set[str] = field(default_factory=set)
    """Only a running nginx refuses them, and names nothing."""
    collide: frozenset[str] = frozenset()
    """``nginx -t`` and nginx itself refuse a configuration that has all of them, and name nothing."""
    refused_unnamed: set[str] = field(default_factory=set)
    """``nginx -t`` and nginx itself refuse a configuration that has one of them, and name nothing."""
    fatal: set[str] = field(default_factory=set)
    """They pass, and no worker survives them."""
    warnings: tuple[str, ...] = ()
    """``nginx -t`` says them and accepts."""
    taken: set[int] = field(default_factory=set)
    """Ports that another process holds."""
    is_signal_refused: bool = False
    is_test_stuck: bool = False


class NginxModel:
    """One nginx. It lives in the time of the loop it is given."""

    def __init__(self, loop: asyncio.AbstractEventLoop, conf: Path, error_log: Path, disk: Disk) -> None:
        self.faults = Faults()
        self.drain = 0.3
        """Seconds that the requests of an old worker still take."""
        self.test_seconds = 0.02
        """How long ``nginx -t`` takes."""
        self.at_load: Callable[[Loaded], None] = lambda loaded: None
        self.at_test: Callable[[Loaded], None] = lambda loaded: None
        self.at_push: Callable[[Loaded], None] = lambda served: None
        self.has_lua = False
        self.reloads = 0
        self.is_reading = False
        """It is between the signal and the end of its reading: nobody should change the files now."""
        self.is_frozen = False
        self._read_by_others_at = -_UNNOTICED
        self._loop: Final = loop
        self._conf: Final = conf
        self._error_log: Final = error_log
        self._disk: Final = disk
        self._pids: Final = count(100)
        self._master: int | None = None
        self._loaded: Loaded | None = None
        self._workers: list[_Worker] = []
        self._is_asked = False
        self._turn = 0

    # --- what the world does to it

    @property
    def is_running(self) -> bool:
        return self._master is not None

    @property
    def is_read_by_others(self) -> bool:
        """Whether somebody else than the sidecar had it read its configuration a moment ago."""
        return self._loop.time() - self._read_by_others_at < _UNNOTICED

    def reload_by_others(self) -> None:
        self._read_by_others_at = self._loop.time()
        self.hang_up()

    def start(self) -> bool:
        """Return whether it came up."""
        assert self._master is None
        self._read_by_others_at = self._loop.time()
        pid = next(self._pids)
        try:
            loaded = self._load(self._conf)
            self._refuse(loaded, self.faults.refused_at_reload)
            if self._log_taken(loaded.ports):
                raise Unloadable(_UNBOUND)
        except Unloadable as error:
            self._log(pid, str(error))
            return False
        self._master = pid
        self._run(loaded)
        return True

    def restart(self) -> None:
        """Have somebody restart it, if it runs and would come up again."""
        if self.is_running:
            self.kill()
            self.start()

    def kill(self) -> None:
        self._master = self._loaded = None
        self._workers = []
        self.is_reading = self.is_frozen = self._is_asked = False

    def freeze(self) -> None:
        """Stop the master; its workers go on."""
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        if self._is_asked:
            self.hang_up()

    def hang_up(self) -> None:
        """Take a HUP."""
        if self._master is None or self.is_frozen or self.is_reading:
            # Signals of one kind become one while they wait.
            self._is_asked = self._master is not None
            return
        self.reloads += 1
        self._is_asked, self.is_reading = False, True
        self._later(_READING, self._read)

    # --- what one sees of it

    @property
    def accepting(self) -> int:
        return sum(worker.accepts for worker in self._workers)

    def served(self) -> tuple[Loaded, ...]:
        """Return what the workers serve that take new connections."""
        return tuple(worker.serves for worker in self._workers if worker.accepts)

    def answer(self) -> Loaded | None:
        """What the worker serves that gets the next connection; None where nobody takes it."""
        worker = self._next_worker()
        return worker.serves if worker is not None else None

    def _next_worker(self) -> _Worker | None:
        accepting = [worker for worker in self._workers if worker.accepts]
        self._turn += 1
        return accepting[self._turn % len(accepting)] if accepting else None

    # --- in place of proxygen's doors to nginx

    async def run(self, argv: tuple[str, ...], *, timeout: float, **_: object) -> Completed:  # noqa: ASYNC109
        """Be nginx's binary with ``-V`` or ``-t``, or asked for its Lua."""
        await asyncio.sleep(0.001)
        if "-t" not in argv and "-c" in argv:
            said = "" if self.has_lua else 'nginx: [emerg] unknown directive "lua_shared_dict"'
            return Completed(argv=argv, returncode=_LUA_WORKS if self.has_lua else 1, output=said, seconds=0.001)
        if "-t" not in argv:
            return Completed(argv=argv, returncode=0, output=VERSION, seconds=0.001)
        self._disk.step("nginx -t")
        if self.faults.is_test_stuck:
            await asyncio.sleep(timeout)
            raise NginxUnavailable(f"{' '.join(argv)} did not end within {timeout:g}s and was ended")
        await asyncio.sleep(self.test_seconds)
        try:
            loaded = self._load(Path(argv[argv.index("-c") + 1]))
        except Unloadable as error:
            text = f"nginx: [emerg] {error}\nnginx: configuration file {argv[-1]} test failed\n"
            return Completed(argv=argv, returncode=1, output=text, seconds=0.02)
        self.at_test(loaded)
        said = "".join(f"nginx: [warn] {text}\n" for text in self.faults.warnings)
        return Completed(argv=argv, returncode=0, output=f"{said}nginx: test is successful\n", seconds=0.02)

    def find_master(self, _conf: object, _binary: object) -> Master | None:
        return None if self._master is None else Master(pid=self._master, own_pid=self._master)

    def is_alive(self, found: Master) -> bool:
        return found.pid == self._master

    def workers(self, found: Master) -> Workers | None:
        if found.pid != self._master:
            return None
        accepting = frozenset(worker.pid for worker in self._workers if worker.accepts)
        every = frozenset(worker.pid for worker in self._workers)
        return Workers(accepting=accepting, draining=every - accepting, starting=frozenset())

    def send_reload(self, found: Master) -> None:
        self._disk.step("HUP")
        if found.pid != self._master:
            raise NginxUnavailable(f"nginx's master process {found.pid} is gone")
        if self.faults.is_signal_refused:
            raise NginxUnavailable(f"uid 1 may not signal nginx's master process {found.pid} of uid 0")
        self.hang_up()

    async def read_stamp(self, _address: str) -> Stamp | None:
        await asyncio.sleep(0.001)
        worker = self._next_worker()
        return parse_stamp(worker.dictionary.stamp) if worker is not None else None

    async def ask(self, _address: str, _path: str, *, patience: float) -> tuple[str, str]:
        """Be told that there is something to take."""
        await asyncio.sleep(0.001)
        self._disk.step("push")
        return self.take()

    def take(self) -> tuple[str, str]:
        """Take what lies in the file of what is pushed, if anything does."""
        worker = self._next_worker()
        if worker is None:
            return "", ""
        try:
            text = Path(worker.loaded.document).read_text()
        except OSError as error:
            return "404", str(error)
        before = worker.dictionary.stamp
        answer = worker.dictionary.take(text)
        if worker.dictionary.stamp != before:
            self.at_push(worker.serves)
        return answer

    # --- inside

    def _later(self, seconds: float, work: Callable[[], None]) -> None:
        pid = self._master

        def if_still_there() -> None:
            if self._master == pid:
                work()

        self._loop.call_later(seconds, if_still_there)

    def _read(self) -> None:
        try:
            loaded = self._load(self._conf)
            self._refuse(loaded, self.faults.refused_at_reload)
        except Unloadable as error:
            self._refuse_reload(str(error))
            return
        self._bind(loaded, _BIND_TRIES)

    def _bind(self, loaded: Loaded, tries: int) -> None:
        bound = self._loaded.ports if self._loaded is not None else frozenset()
        is_taken = self._log_taken(loaded.ports - bound)
        if is_taken and tries > 1:
            self._later(_BIND_PAUSE, lambda: self._bind(loaded, tries - 1))
        elif is_taken:
            self._refuse_reload(_UNBOUND)
        else:
            old = list(self._workers)
            self._run(loaded)
            self._later(_SIDE_BY_SIDE, lambda: self._drain(old))
            self._end_reading()

    def _log_taken(self, ports: frozenset[int]) -> bool:
        taken = sorted(ports & self.faults.taken)
        for port in taken:
            self._log(self._master or 0, f"bind() to 0.0.0.0:{port} failed (98: Address already in use)")
        return bool(taken)

    def _refuse_reload(self, reason: str) -> None:
        self._log(self._master, reason)
        self._end_reading()

    def _end_reading(self) -> None:
        self.is_reading = False
        if self._is_asked:
            self.hang_up()

    def _run(self, loaded: Loaded) -> None:
        """Start workers."""
        self._loaded = loaded
        self.at_load(loaded)
        if any(_line_of(loaded.files, text) for text in self.faults.fatal):
            for _ in range(2):
                self._log(next(self._pids), "a worker cannot start")
            return
        dictionary = Dictionary(str(loaded.stamp or ""))
        self._workers += [_Worker(next(self._pids), loaded, dictionary) for _ in range(2)]

    def _drain(self, old: Iterable[_Worker]) -> None:
        for worker in old:
            worker.accepts = False
        self._later(self.drain, lambda: self._end(old))

    def _end(self, old: Iterable[_Worker]) -> None:
        self._workers = [worker for worker in self._workers if worker not in old]

    def _log(self, pid: int | None, reason: str) -> None:
        with self._error_log.open("a", encoding="utf-8") as log:
            log.write(f"2026/01/01 00:00:00 [emerg] {pid}#{pid}: {reason}\n")

    def _refuse(self, loaded: Loaded, texts: Iterable[str]) -> None:
        for text in sorted(texts):
            if _line_of(loaded.files, text):
                raise Unloadable(f'the zone "{text}" uses another key than before')

    def _load(self, conf: Path) -> Loaded:
        paths = [Path(path) for pattern in _includes(conf) for path in sorted(glob(pattern))]
        files = {f"{path.parent.name}/{path.name}": path.read_bytes() for path in paths}
        servers = [server for path in paths for server in _servers_of(path)]
        for text in sorted(self.faults.refused):
            for path in paths:
                if found := _line_of({str(path): path.read_bytes()}, text):
                    raise Unloadable(f'unwelcome "{text}" in {found[0]}:{found[1]}')
        if self.faults.collide and all(_line_of(files, text) for text in self.faults.collide):
            raise Unloadable("could not build server_names_hash")
        if any(_line_of(files, text) for text in self.faults.refused_unnamed):
            raise Unloadable("something is wrong")
        return Loaded(
            files=files,
            stamp=next(filter(None, map(_stamp, servers)), None) or _base_stamp(files.get(stamp.STAMP_FILE, b"")),
            ports=frozenset(_ports(servers)),
            answers=dict(_answers(servers)),
            document=_document(files.get(stamp.STAMP_FILE, b"")),
        )


@contextmanager
def in_place_of_nginx(model: NginxModel) -> Iterator[None]:
    """Have all of proxygen meet the model where it would meet nginx."""
    doors: dict[int, object] = {
        id(process.run): model.run,
        id(master.find_master): model.find_master,
        id(master.is_alive): model.is_alive,
        id(master.workers): model.workers,
        id(master.send_reload): model.send_reload,
        id(stamp.read_stamp): model.read_stamp,
        id(stamp.ask): model.ask,
    }
    with ExitStack() as stack:
        for name, module in sorted(sys.modules.items()):
            if name.startswith("proxygen."):
                for attribute, value in list(vars(module).items()):
                    if id(value) in doors:
                        stack.enter_context(patch.object(module, attribute, doors[id(value)]))
        yield


_Block = list[dict[str, Any]]
_parsed: Final[dict[bytes, _Block]] = {}


def _parse(path: Path) -> _Block:
    """Read one file by itself. The same texts come again and again, and to read one takes longer than all the rest."""
    content = path.read_bytes()
    if content not in _parsed:
        read = crossplane.parse(str(path), single=True, check_ctx=False)
        for error in read["errors"]:
            raise Unloadable(str(error["error"]))
        _parsed[content] = read["config"][0]["parsed"]
    return _parsed[content]


def _includes(conf: Path) -> Iterator[str]:
    for context in _parse(conf):
        for directive in context.get("block", ()):
            if directive["directive"] == "include":
                yield directive["args"][0]


def _servers_of(path: Path) -> list[_Block]:
    return list(_servers(_parse(path)))


def _line_of(files: Mapping[str, bytes], text: str) -> tuple[str, int] | None:
    for name, content in sorted(files.items()):
        for number, line in enumerate(content.splitlines(), 1):
            if text.encode() in line:
                return name, number
    return None


def _servers(block: Iterable[dict[str, Any]]) -> Iterator[_Block]:
    for directive in block:
        if directive["directive"] == "server" and "block" in directive:
            yield directive["block"]
        else:
            yield from _servers(directive.get("block", ()))


def _stamp(server: _Block) -> Stamp | None:
    text = _returned(server, ["=", stamp.PATH])
    return parse_stamp(text) if text is not None else None


def _base_stamp(text: bytes) -> Stamp | None:
    """What Lua tells, before anything is pushed."""
    found = re.search(rb'proxygen_base {\s+default "?([0-9]+ [0-9a-f]+)', text)
    return parse_stamp(found[1].decode()) if found is not None else None


def _document(text: bytes) -> str:
    found = re.search(rb'proxygen\.take\("([^"]+)"\)', text)
    return found[1].decode() if found is not None else ""


def _answers(servers: Iterable[_Block]) -> Iterator[tuple[int, str]]:
    for server in servers:
        text = _returned(server, ["/"])
        if text is not None:
            yield from ((port, text) for port in _ports([server]))


def _returned(server: _Block, place: list[str]) -> str | None:
    for location in server:
        if location["directive"] == "location" and location["args"] == place:
            for directive in location["block"]:
                if directive["directive"] == "return" and len(directive["args"]) == 2:
                    return str(directive["args"][1])
    return None


def _ports(servers: Iterable[_Block]) -> Iterator[int]:
    for server in servers:
        for directive in server:
            if directive["directive"] == "listen":
                port = directive["args"][0].rpartition(":")[2]
                if port.isdigit():
                    yield int(port)
