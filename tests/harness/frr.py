"""FRR's daemons in a host of the laboratory, beside any that the machine itself runs.

What they write in /var/run/frr is in a directory of the router's own: they see that one there, and nobody else does.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
from pathlib import Path
from typing import Any, Final

from proxygen.network.frr.daemons import FrrPlace
from tests.harness import process, seen
from tests.harness.hosts import Host
from tests.harness.tools import missing

_DAEMONS: Final = Path("/usr/lib/frr")
_RUN: Final = Path("/var/run/frr")
_APART: Final = f'mount --bind "$0" {_RUN} && exec "$@"'
"""``ip netns exec`` gives each command a view of the mounts of its own. Not all of FRR's files heed -N (ospfd's)."""


class FrrRouter:
    """zebra, staticd and one routing daemon or more, with nothing configured."""

    def __init__(self, host: Host, *daemons: str) -> None:
        if not (_DAEMONS / "zebra").exists() or shutil.which("vtysh") is None:
            missing("FRR")
        if not (_DAEMONS / "frr-reload.py").exists():
            missing("frr-reload.py")
        self.host = host
        self.daemons = ("zebra", "staticd", *daemons)
        directory = host.directory / "frr"
        directory.mkdir()
        # The path of a socket must be short; the temporary directory of a test seldom is.
        self._run = Path(tempfile.mkdtemp(prefix="pg-"))
        self.place = FrrPlace(
            reload=_DAEMONS / "frr-reload.py",
            sockets=self._run / host.name,
            directory=directory,
            state=host.directory / "frr-state",
        )

    def start(self) -> None:
        # Nobody makes it where FRR is installed and the machine has no systemd.
        _RUN.mkdir(parents=True, exist_ok=True)
        self.place.sockets.mkdir()
        for directory in (self._run, self.place.sockets):
            shutil.chown(directory, "frr", "frr")
        for daemon in self.daemons:
            self.start_daemon(daemon)

    def start_daemon(self, daemon: str) -> None:
        """Start one, as FRR's own supervisor would: it knows nothing until it is told what frr.conf says."""
        log = self.host.directory / f"{daemon}.log"
        options = ("-d", "-N", self.host.name, "-P", "0", "-f", "/dev/null", "--log", f"file:{log}")
        self.host.run("sh", "-c", _APART, self._run, _DAEMONS / daemon, *options)
        seen.log(log)
        process.wait_until((self.place.sockets / f"{daemon}.vty").exists, what=f"{daemon} of {self.host.name}")

    def load(self) -> None:
        """Tell the daemons what frr.conf says, as their supervisor does after it started one."""
        self.vtysh("-f", self.place.config)

    def pid(self, daemon: str) -> int:
        return int((self.place.sockets / f"{daemon}.pid").read_text())

    def kill_daemon(self, daemon: str, how: signal.Signals = signal.SIGKILL) -> None:
        pid = self.pid(daemon)
        os.kill(pid, how)
        process.wait_until(lambda: not process.is_alive(pid), what=f"the end of {daemon}")

    def stop(self) -> None:
        """End all daemons and remove what they left."""
        for daemon in self.daemons:
            # Of one that is dead the file stays; its number may be another's by now.
            if self._is_up(daemon):
                self.kill_daemon(daemon)
        shutil.rmtree(self._run, ignore_errors=True)

    def _is_up(self, daemon: str) -> bool:
        try:
            return Path(f"/proc/{self.pid(daemon)}/comm").read_text(encoding="utf-8").strip() == daemon
        except (OSError, ValueError):
            return False

    def vtysh(self, *arguments: str | Path) -> str:
        return self.host.run("vtysh", "--vty_socket", self.place.sockets, *arguments)

    def configure(self, *lines: str) -> None:
        """Type lines, as an operator would."""
        self.vtysh("-c", "configure terminal", *(part for line in lines for part in ("-c", line)))

    def running(self) -> str:
        return self.vtysh("-c", "show running-config no-header")

    def show(self, command: str) -> Any:
        """Return what a ``show … json`` says."""
        said = self.vtysh("-c", command)
        return json.loads(said[said.index("{") :])

    def peers(self) -> dict[str, dict[str, Any]]:
        """Return BGP's neighbours by address."""
        peers: dict[str, dict[str, Any]] = self.show("show bgp ipv4 unicast summary json").get("peers", {})
        return peers

    def delta(self, file: Path) -> str:
        """Return what frr-reload.py would do to bring FRR to a file; nothing: an empty text."""
        places = ("--confdir", self.place.state, "--rundir", self.place.state, "--vty_socket", self.place.sockets)
        said = self.host.run(self.place.reload, "--test", "--log-level", "error", *places, file)
        return "\n".join(line for line in said.splitlines() if not _says_nothing(line))


def _says_nothing(line: str) -> bool:
    return line in ("", "Lines To Add", "Lines To Delete", "service integrated-vtysh-config") or set(line) == {"="}
