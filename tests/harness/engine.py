"""A container engine of the tests' own: Podman, which serves Docker's API on a unix socket.

Its storage, sockets and containers live in one directory and end with it; nothing is downloaded.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from tests.harness import process, seen
from tests.harness.nginx import NginxServer
from tests.harness.tools import NginxBinary, missing, unusable

# crun, Podman's first choice, refuses a hybrid cgroup hierarchy; limits above the host's own are refused as well. Locks
# in files, or one in shared memory would outlive us.
_CONF = """\
[network]
network_backend = "netavark"
[engine]
runtime = "runc"
lock_type = "file"
events_logger = "file"
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
"""

_TAIL = 4000
"""Characters of what a failed command said."""


class Engine:
    """Podman as root. ``directory`` must leave room for a unix socket's path.

    ``driver`` is how layers are stored: ``vfs`` works everywhere and copies each layer whole, ``overlay`` suits images
    of many layers.
    """

    def __init__(self, directory: Path, *, driver: Literal["vfs", "overlay"] = "vfs") -> None:
        self.environment = {"CONTAINERS_CONF": f"{directory}/containers.conf"}
        """What Podman's own command needs, for a tool that starts it by itself, together with `options`."""
        # Without systemd there is nobody but the cgroup file system to ask.
        self.options = [
            *(f"--root={directory}/storage", f"--runroot={directory}/run", f"--tmpdir={directory}/tmp"),
            *(f"--storage-driver={driver}", "--cgroup-manager=cgroupfs"),
        ]
        self.socket = directory / "engine.sock"
        self._directory = directory
        self._log = directory / "service.log"
        self._service: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    @property
    def command(self) -> list[str]:
        """Podman with this engine's storage, to which a subcommand can be added."""
        variables = [f"{name}={value}" for name, value in self.environment.items()]
        return ["env", *variables, "podman", *self.options]

    def call(self, *arguments: str | Path, timeout: float = 60.0) -> str:
        """Run a Podman command to its end. Raise RuntimeError with what it said when it fails."""
        done = subprocess.run([*self.command, *map(str, arguments)], capture_output=True, text=True, timeout=timeout)
        if done.returncode:
            # A build says on standard output what failed.
            said = f"{done.stdout[-_TAIL:]}{done.stderr[-_TAIL:]}".strip()
            raise RuntimeError(f"podman {' '.join(map(str, arguments))}: {said}")
        return done.stdout.strip()

    def logs(self) -> str:
        """Return the last lines of each container."""
        names = self.call("ps", "--all", "--format={{.Names}}").split()
        return "\n".join(f"{name}: {line}" for name in names for line in self._tail(name))

    def _tail(self, container: str) -> list[str]:
        command = [*self.command, "logs", "--tail=20", container]
        done = subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=20, check=False
        )
        return done.stdout.splitlines()

    def start(self) -> None:
        """Serve the API. Skip the test where there is no engine, or it cannot run here."""
        if os.getuid() != 0:
            unusable("containers of the tests' own need root")
        for tool in ("podman", "runc"):
            if shutil.which(tool) is None:
                missing(f"{tool} (Debian's and Ubuntu's package)")
        (self._directory / "containers.conf").write_text(_CONF)
        self._service = process.start([*self.command, "system", "service", "--time=0", self.url], log=self._log)
        process.wait_until(self.socket.is_socket, what="the engine's socket")

    def restart(self, how: signal.Signals = signal.SIGKILL) -> None:
        """End the service and start another; containers run on, streams of events end."""
        assert self._service is not None
        process.stop(self._service, how)
        self.socket.unlink(missing_ok=True)
        self.start()

    def import_nginx(self, binary: NginxBinary) -> str:
        """Make an image of nothing but a static nginx and return its name. Skip the test where it does not run."""
        image = "localhost/proxygen-test-nginx"
        archive = self._directory / "image.tar"
        with tarfile.open(archive, "w") as tar:
            tar.add(binary.path, "nginx", filter=_executable)
            for name, text in (("etc/passwd", "root:x:0:0::/:/nginx\n"), ("etc/group", "root:x:0:\n")):
                entry = tarfile.TarInfo(name)
                entry.size = len(text)
                tar.addfile(entry, io.BytesIO(text.encode()))
        self.call("import", "--quiet", archive, image)
        archive.unlink()
        try:
            self.call("run", "--rm", "--network=host", image, "/nginx", "-v")
        except RuntimeError as error:
            unusable(f"no container can be started here: {error}")
        return image

    def stop(self) -> None:
        """Remove every container and image, and end the service."""
        if self._service is None:
            return
        try:
            self.call("rm", "--all", "--force", "--time=0")
            self.call("rmi", "--all", "--force")
        finally:
            process.stop(self._service)


@contextmanager
def own_engine(*, driver: Literal["vfs", "overlay"] = "vfs", trusted: Path | None = None) -> Iterator[Engine]:
    """An engine in a directory of its own, both gone at the end; ``trusted`` vouches for registries."""
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    engine = Engine(directory, driver=driver)
    if trusted is not None:
        engine.environment["SSL_CERT_FILE"] = str(trusted)
    try:
        engine.start()
        seen.source(f"containers of {directory.name}", engine.logs)
        yield engine
    finally:
        seen.forget(f"containers of {directory.name}")
        engine.stop()
        shutil.rmtree(directory)


def _executable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.mode = 0o755
    return entry


class NginxContainer:
    """A container on the host's network that runs the conf of an `NginxServer`, which is not started itself.

    Paths are the same inside and outside. nginx's master is process 1 of a pid namespace of its own.
    """

    def __init__(self, engine: Engine, image: str, name: str, server: NginxServer) -> None:
        self.engine = engine
        self.name = name
        self.server = server
        server.output.mkdir(parents=True, exist_ok=True)
        # nginx never writes what proxygen publishes.
        mounts = [f"--volume={server.directory}:{server.directory}", f"--volume={server.output}:{server.output}:ro"]
        command = ["/nginx", *server.command[1:], "-g", "daemon off;"]
        engine.call("create", f"--name={name}", "--network=host", *mounts, image, *command)

    @property
    def pid(self) -> int:
        """The master's process id as the host knows it; 0 while the container is stopped."""
        return int(self.engine.call("inspect", "--format={{.State.Pid}}", self.name))

    def start(self) -> None:
        self.engine.call("start", self.name)
        try:
            process.wait_until(self._serves, what=f"nginx in {self.name}")
        except TimeoutError as error:
            raise TimeoutError(f"{error}\n{self.server.errors()}{self.engine.call('logs', self.name)}") from error

    def _serves(self) -> bool:
        return Path(f"/proc/{self.pid}/cmdline").read_bytes().startswith(b"nginx: master process") and (
            self.server.pid_file.read_text().strip() == "1"
        )

    def stop(self) -> None:
        self.engine.call("stop", "--time=5", self.name)

    def remove(self) -> None:
        self.engine.call("rm", "--force", "--time=0", self.name)
