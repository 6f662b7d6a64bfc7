"""A host that systemd runs: a container whose process 1 is the real one, with units, a journal and a network.

It reaches the package registries as this machine does (see `tests.harness.bases`), so that what people are told to
install can be installed in it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

from tests.harness import process
from tests.harness.bases import DEBIAN, build, registry_volumes
from tests.harness.engine import Engine
from tests.harness.tools import find_consul, missing

ROOT: Final = Path(__file__).parents[2]

BARE: Final = "localhost/proxygen-test-host"
"""Debian as one finds it after an installation: systemd, and nothing that proxygen needs."""

FURNISHED: Final = "localhost/proxygen-test-furnished-host"
"""The same with what hosts of proxygen have in the end."""

# A journal on disk outlives a reboot. Mounts are shared as systemd shares them on a machine; in a container it leaves
# that to the container's manager, and without it no unit gets its credentials.
_BARE_FILE: Final = f"""\
FROM {DEBIAN}
ENV DEBIAN_FRONTEND=noninteractive
RUN apt-get update && apt-get install -y --no-install-recommends \\
      systemd systemd-sysv dbus ca-certificates iproute2 procps \\
    && mkdir -p /var/log/journal && rm -f /etc/machine-id && touch /etc/machine-id
STOPSIGNAL SIGRTMIN+3
CMD ["/bin/sh", "-c", "mount --make-rshared / && exec /sbin/init"]
"""

_FURNISHED_FILE: Final = f"""\
FROM {BARE}
RUN apt-get install -y --no-install-recommends \\
      nginx libnginx-mod-stream openssh-server python3-venv python3-apt sudo rsyslog logrotate curl polkitd acl
"""

# A host's root may mount and shape its own network; units that are hardened are built on that.
_POWERS: Final = ("--cap-add=SYS_ADMIN,NET_ADMIN,NET_RAW", "--security-opt=unmask=ALL")


def build_hosts(engine: Engine, scratch: Path) -> None:
    """Build the images of hosts, from Debian's base image."""
    for name, text in ((BARE, _BARE_FILE), (FURNISHED, _FURNISHED_FILE)):
        context = scratch / PurePosixPath(name).name
        context.mkdir()
        (context / "Dockerfile").write_text(text)
        build(engine, context, name=name, scratch=scratch)


@contextmanager
def network(engine: Engine, name: str) -> Iterator[str]:
    """Make a network on which hosts reach each other and the package registries, and this machine reaches them."""
    # Its range is one that no other network of this machine has.
    engine.call("network", "create", name)
    try:
        yield name
    finally:
        engine.call("network", "rm", "--force", name)


class SystemdHost:
    """One host. Its disk lives until `remove`; a reboot keeps it, and empties /run and /tmp as Debian does."""

    def __init__(
        self,
        engine: Engine,
        name: str,
        *,
        network: str,
        scratch: Path,
        image: str = FURNISHED,
        options: Sequence[str] = (),
    ) -> None:
        self.name: Final = name
        self._engine: Final = engine
        volumes = registry_volumes(scratch)
        created = [*_POWERS, "--systemd=always", f"--name={name}", f"--hostname={name}", f"--network={network}"]
        engine.call("create", *created, *volumes, *options, image)

    @property
    def address(self) -> str:
        """Its address on the network, which this machine reaches too. A reboot may change it."""
        networks = json.loads(self._engine.call("inspect", "--format={{json .NetworkSettings.Networks}}", self.name))
        return str(next(iter(networks.values()))["IPAddress"])

    # --- its life

    def start(self, *, wait: bool = True) -> None:
        """Boot; with ``wait`` until systemd has started what is enabled."""
        self._engine.call("start", self.name)
        if wait:
            self.wait_until_booted()

    def wait_until_booted(self) -> str:
        """Return ``running``, or ``degraded`` where a unit failed."""
        process.wait_until(lambda: self._state() in {"running", "degraded"}, what=f"boot of {self.name}", timeout=60.0)
        return self._state()

    def _state(self) -> str:
        return self.run("systemctl", "is-system-running", check=False)

    def shut_down(self) -> None:
        """Stop as a machine does: units in order."""
        self._engine.call("stop", "--time=30", self.name)

    def reboot(self, *, wait: bool = True) -> None:
        self.shut_down()
        self.start(wait=wait)

    def remove(self) -> None:
        self._engine.call("rm", "--force", "--time=0", self.name)

    # --- what is done on it

    def run(
        self,
        *argv: str | Path,
        check: bool = True,
        timeout: float = 60.0,
        stdin: str | None = None,
        environment: Mapping[str, str] | None = None,
        user: str = "root",
        directory: str = "/root",
    ) -> str:
        """Run a command to its end; return what it wrote. Raise RuntimeError with that when it fails and ``check``."""
        variables = [f"--env={name}={value}" for name, value in (environment or {}).items()]
        where = [f"--user={user}", f"--workdir={directory}", *(["--interactive"] if stdin is not None else [])]
        # Podman has its own remarks about cgroups, on each call.
        podman = [*self._engine.command, "--log-level=error", "exec", *where, *variables, self.name]
        done = subprocess.run(
            [*podman, *map(str, argv)], capture_output=True, text=True, errors="replace", timeout=timeout, input=stdin
        )
        said = f"{done.stdout}{done.stderr}".strip()
        if check and done.returncode:
            raise RuntimeError(
                f"{self.name}: {shlex.join(map(str, argv))} ended with {done.returncode}: {said[-6000:]}"
            )
        return said

    def shell(self, script: str, *, timeout: float = 60.0, directory: str = "/root") -> str:
        """Run what a page tells people to type; the first command that fails ends it."""
        return self.run("bash", "-e", "-o", "pipefail", "-c", script, timeout=timeout, directory=directory)

    def write(self, path: str, text: str, *, mode: int = 0o644, owner: str = "root") -> None:
        """Write a file, its directories included."""
        self.run("mkdir", "-p", str(PurePosixPath(path).parent))
        self.run("install", "-m", f"{mode:o}", "-o", owner, "/dev/stdin", path, stdin=text)

    def read(self, path: str) -> str:
        return self.run("cat", path)

    def copy_in(self, source: Path, target: str) -> None:
        """Copy a file or a directory of this machine to a path on the host; a directory's own name is kept nowhere."""
        self.run("mkdir", "-p", str(PurePosixPath(target).parent))
        self._engine.call("cp", f"{source}/." if source.is_dir() else source, f"{self.name}:{target}")

    def copy_checkout(self, target: str, scratch: Path) -> None:
        """Put there what somebody has who cloned the project, as far as it is needed to install and run it."""
        archive = scratch / "checkout.tar"
        with tarfile.open(archive, "w") as tar:
            for name in _CHECKOUT:
                tar.add(ROOT / name, name, filter=_without_caches)
        self.copy_in(archive, "/var/tmp/checkout.tar")
        self.run("mkdir", "-p", target)
        self.run("tar", "--directory", target, "--extract", "--no-same-owner", "--file", "/var/tmp/checkout.tar")

    # --- systemd

    def systemctl(self, *arguments: str, check: bool = True, timeout: float = 90.0) -> str:
        return self.run("systemctl", "--no-pager", *arguments, check=check, timeout=timeout)

    def show(self, unit: str, name: str) -> str:
        """Return one property of a unit, such as ``MainPID`` or ``StatusText``."""
        return self.systemctl("show", f"--property={name}", "--value", unit)

    def is_active(self, unit: str) -> bool:
        return self.systemctl("is-active", unit, check=False) == "active"

    def journal(self, unit: str | None = None, *, boot: bool = True) -> str:
        """Return what a unit, or everything, logged: in this boot, or ever."""
        chosen = [*(["--unit", unit] if unit else []), *(["--boot"] if boot else [])]
        return self.run("journalctl", "--no-pager", "--output=short-precise", *chosen)

    # --- Consul

    def install_consul(self) -> None:
        """Put the real Consul there, as a service of its own that is not started yet. Its data outlives a reboot."""
        binary = find_consul()
        if binary is None:
            missing("Consul")
        self.copy_in(Path(os.path.realpath(binary)), "/usr/local/bin/consul")
        self.write("/etc/systemd/system/consul.service", _CONSUL_UNIT)
        self.write("/etc/consul/agent.json", json.dumps(_CONSUL_CONFIG))
        self.systemctl("daemon-reload")

    def start_consul(self) -> None:
        """Start Consul and wait until it has a leader and its own node in the catalog."""
        self.systemctl("start", "consul")
        process.wait_until(self._consul_answers, what=f"Consul on {self.name}", timeout=60.0)

    def _consul_answers(self) -> bool:
        nodes = self.run("consul", "catalog", "nodes", check=False)
        return self.name in nodes


_CHECKOUT: Final = ("pyproject.toml", "README.md", "LICENSE", "proxygen", "templates", "deploy")


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = PurePosixPath(entry.name).name
    return None if name == "__pycache__" or name.endswith("_cache") else entry


_CONSUL_UNIT: Final = """\
[Unit]
Description=Consul
After=network-online.target

[Service]
ExecStart=/usr/local/bin/consul agent -config-dir=/etc/consul
ExecReload=/bin/kill -HUP $MAINPID
KillSignal=SIGINT
StateDirectory=consul

[Install]
WantedBy=multi-user.target
"""

_CONSUL_CONFIG: Final[Mapping[str, object]] = {
    "server": True,
    "bootstrap_expect": 1,
    "data_dir": "/var/lib/consul",
    "bind_addr": "127.0.0.1",
    "performance": {"raft_multiplier": 1},
    "disable_update_check": True,
    "disable_host_node_id": True,
    "enable_script_checks": False,
}
