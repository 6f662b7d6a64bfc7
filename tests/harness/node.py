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
import sys, urllib.error, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
headers = dict(header.split("=", 1) for header in sys.argv[2:])
try:
    answer = opener.open(urllib.request.Request(sys.argv[1], headers=headers), timeout=20)
except urllib.error.HTTPError as error:
    answer = error
except OSError as error:
    sys.exit(f"0 {error}")
print(answer.status, answer.read().decode())
"""
_LOAD: Final = """
import asyncio, json, sys
from tests.harness.load import Load
host, port, name, count, pause = sys.argv[1:]
load = Load(host, int(port), headers={"Host": name}, clients=4, pause=float(pause))
tally = asyncio.run(load.send(int(count)))
print(json.dumps({"instances": tally.by_instance, "failures": tally.failures}))
"""


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
        process.wait_until(lambda: self.pid(container) not in (0, pid), what=f"{container} started again", timeout=30)

    def ask(self, url: str, **headers: str) -> tuple[int, str]:
        """Return status and body as the node gets them; status 0 where nobody answers."""
        given = [f"{name}={value}" for name, value in headers.items()]
        done = subprocess.run(
            [*self.within, sys.executable, "-c", _ASK, url, *given], capture_output=True, text=True, check=False
        )
        status, _, body = (done.stdout or done.stderr).partition(" ")
        return int(status), body.strip()

    def start_load(self, address: IPv4Address, port: int, name: str, *, count: int, pause: float) -> Running:
        """Begin to send so many requests for the host ``name``, by four clients that wait between two of them."""
        arguments = [str(address), str(port), name, str(count), str(pause)]
        return Running(
            subprocess.Popen(
                [*self.within, sys.executable, "-c", _LOAD, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )

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
    """A load on its way."""

    def __init__(self, started: subprocess.Popen[str]) -> None:
        self._started = started

    def result(self, timeout: float = 60.0) -> tuple[dict[str, int], dict[str, int]]:
        """Wait for its end; return how many good answers each instance gave, and what failed how often."""
        said, _ = self._started.communicate(timeout=timeout)
        counts: dict[str, Any] = json.loads(said.splitlines()[-1])
        return counts["instances"], counts["failures"]
