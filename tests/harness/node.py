"""One node as an orchestrator has it: a host with Consul's agent, and an engine that starts pods on the host's bridge.

All of it lives in a network and a mount namespace: any number of nodes may run at once, and each is gone when it ends.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final, Self

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.engine import Engine
from tests.harness.hosts import Lab
from tests.harness.tools import missing

PODS: Final = IPv4Network("10.99.7.0/24")
_NETWORK: Final = "pods"
_CGROUPS: Final = Path("/sys/fs/cgroup")
_ASK: Final = """
import http.client, sys, urllib.parse
url = urllib.parse.urlsplit(sys.argv[1])
connection = http.client.HTTPConnection(url.hostname, url.port, timeout=30)
headers = dict(header.split("=", 1) for header in sys.argv[2:])
try:
    connection.request("GET", f"{url.path}?{url.query}", headers=headers)
    print("sent", flush=True)
    answer = connection.getresponse()
    print(answer.status, answer.read().decode())
except (OSError, http.client.HTTPException) as error:
    print(f"0 {error!r}")
"""
_LOAD: Final = """
import asyncio, json, sys
from tests.harness.load import Load
host, port, name, count, pause = sys.argv[1:]
load = Load(host, int(port), headers={"Host": name}, clients=4, pause=float(pause))
tally = asyncio.run(load.send(int(count)))
print(json.dumps({"instances": tally.by_instance, "failures": tally.failures}))
"""


def name_images(engine: Engine, proxygen: str, examples: Mapping[str, str]) -> None:
    """Give images the names that the manifests and jobs of deploy/ use; ``examples`` by version."""
    engine.call("tag", proxygen, "registry.example.com/proxygen:0.1.0")
    for version, name in examples.items():
        engine.call("tag", name, f"registry.example.com/web:{version}")


class Node:
    """``engine`` keeps the images; what is started here is known to it and has to be removed here."""

    def __init__(self, engine: Engine, directory: Path, *, consul: Mapping[str, object]) -> None:
        if shutil.which("catatonit") is None:
            missing("catatonit (Debian's and Ubuntu's package), process 1 of a pod")
        self._engine = engine
        self._directory = directory
        self._lab = Lab(directory / "lab")
        self._config = consul
        self._holder: subprocess.Popen[bytes] | None = None
        self._running: list[Running] = []

    def __enter__(self) -> Self:
        self._lab.__enter__()
        try:
            self.host = self._lab.hosts(1)[0]
            self._hold_mounts()
            self._mount_cgroups()
            self.podman("network", "create", f"--subnet={PODS}", "--disable-dns", _NETWORK)
            self.consul = HostConsul(self.host, servers=[self.host], config=self._config)
            self.consul.start()
        except BaseException:
            self._lab.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for running in self._running:
            running.stop()
        try:
            self.podman("pod", "rm", "--all", "--force", "--time=0")
            self.podman("rm", "--all", "--force", "--time=0")
            self.podman("secret", "rm", "--all")
            self.podman("volume", "rm", "--all", "--force")
        finally:
            self.consul.remove()
            self._lab.__exit__()

    @property
    def address(self) -> IPv4Address:
        return self.host.address

    @property
    def within(self) -> list[str]:
        """The command before a command that is to run on the node."""
        assert self._holder is not None, "not entered"
        namespaces = [f"--net=/run/netns/{self.host.name}", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        return ["nsenter", *namespaces, f"--wd={Path.cwd()}"]

    def podman(self, *arguments: str | Path, timeout: float = 120.0) -> str:
        """Run a Podman command on the node. Raise RuntimeError with what it said when it fails."""
        own = f"--network-config-dir={self._directory / 'networks'}"
        return self._run(*self._engine.command, own, *arguments, timeout=timeout)

    def play(self, manifest: Path, *, address: IPv4Address) -> None:
        """Start what a manifest says, one pod, at this address."""
        self.podman("kube", "play", f"--network={_NETWORK}", f"--ip={address}", manifest)

    def create_pod(self, name: str, *, address: IPv4Address) -> None:
        """Make a network for containers to come, which share nothing else."""
        self.podman("pod", "create", f"--name={name}", f"--network={_NETWORK}", f"--ip={address}", "--share=net")

    def logs(self, container: str) -> str:
        """Both of a container's streams, by one after the other."""
        command = [*self.within, *self._engine.command, "logs", container]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return f"{done.stdout}{done.stderr}"

    def pid(self, container: str) -> int:
        """A container's first process as the host knows it; 0 while there is none."""
        return int(self.podman("inspect", "--format={{.State.Pid}}", container))

    def crash(self, container: str) -> None:
        """Kill its first process, as a bug or the kernel's lack of memory would, and wait for another."""
        pid = self.pid(container)
        os.kill(pid, signal.SIGKILL)
        process.wait_until(lambda: self.pid(container) not in (0, pid), what=f"{container} started again", timeout=60)

    def ask(self, url: str, **headers: str) -> tuple[int, str]:
        """Return status and body as the node gets them; status 0 where nobody answers."""
        return self.begin(url, **headers).answer()

    def begin(self, url: str, **headers: str) -> Running:
        """Send a request, and return once it is sent."""
        running = self._start(_ASK, url, *(f"{name}={value}" for name, value in headers.items()))
        running.read_line()
        return running

    def start_load(self, address: IPv4Address, port: int, name: str, *, count: int, pause: float) -> Running:
        """Begin to send so many requests for the host ``name``, by four clients that wait between two of them."""
        return self._start(_LOAD, str(address), str(port), name, str(count), str(pause))

    def _start(self, program: str, *arguments: str) -> Running:
        running = Running([*self.within, sys.executable, "-c", program, *arguments])
        self._running = [each for each in self._running if each.is_on_its_way()] + [running]
        return running

    def _hold_mounts(self) -> None:
        self._holder = self.host.start("unshare", "--mount", "--propagation=private", "sleep", "3600")
        process.wait_until(lambda: self._program() == "sleep", what="a mount namespace of the node's own")

    def _program(self) -> str:
        assert self._holder is not None
        return Path(f"/proc/{self._holder.pid}/comm").read_text().strip()

    def _mount_cgroups(self) -> None:
        """Give the engine what it may write to: the namespace comes without, and some machines' own is read-only."""
        if (_CGROUPS / "cgroup.controllers").exists():
            self._run("mount", "-t", "cgroup2", "cgroup", _CGROUPS)
            return
        self._run("mount", "-t", "tmpfs", "cgroups", _CGROUPS)
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            controllers = line.split(":")[1]
            name = controllers.removeprefix("name=") or "unified"
            option = f"none,{controllers}" if controllers.startswith("name=") else controllers
            kind = ["-t", "cgroup", "-o", option] if controllers else ["-t", "cgroup2"]
            self._run("mkdir", _CGROUPS / name)
            self._run("mount", *kind, "cgroup", _CGROUPS / name)

    def _run(self, *command: str | Path, timeout: float = 60.0) -> str:
        done = subprocess.run(
            [*self.within, *map(str, command)], capture_output=True, text=True, timeout=timeout, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{' '.join(map(str, command))}: {done.stdout[-2000:]}{done.stderr[-2000:]}".strip())
        return done.stdout.strip()


class Running:
    """A request or a load on its way, by a process on the node."""

    def __init__(self, command: list[str]) -> None:
        self._said = ""
        self._started = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self._started.stdout is not None
        self._out = self._started.stdout

    def is_on_its_way(self) -> bool:
        return self._started.poll() is None

    def read_line(self) -> None:
        self._said += self._out.readline()

    def answer(self) -> tuple[int, str]:
        """Wait for a request's answer; status 0 where nobody gave one."""
        status, _, body = self._end().rpartition("sent\n")[2].partition(" ")
        return int(status), body.strip()

    def result(self) -> tuple[dict[str, int], dict[str, int]]:
        """Wait for a load's end; return how many good answers each instance gave, and what failed how often."""
        counts: dict[str, Any] = json.loads(self._end().splitlines()[-1])
        return counts["instances"], counts["failures"]

    def stop(self) -> None:
        if self.is_on_its_way():
            self._started.kill()
        self._started.wait()
        self._out.close()

    def _end(self) -> str:
        # Requests have a time limit of their own, and loads a count.
        self._said += self._out.read()
        self.stop()
        return self._said
