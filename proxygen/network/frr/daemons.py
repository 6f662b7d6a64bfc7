"""FRR as it runs here: asked by vtysh, changed by frr-reload.py, both of which are programs."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any, Final

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkError, ProgramUnavailable
from proxygen.kit.programs import Completed, run
from proxygen.network.frr.version import FrrVersion

VTYSH: Final = "vtysh"
"""On PATH, as every package of FRR installs it."""
_ASKING: Final = 15.0
_RELOADING: Final = 120.0
"""A thousand neighbours are added in a few seconds; a busy host has time, a daemon that hangs is found out."""
_ROOM: Final = 64 * 1024 * 1024
"""A reflector's thousand neighbours are half a megabyte of JSON, and nothing may be missing from it."""
_RELEASE: Final = re.compile(r"FRRouting (\S+)")
_COMPLAINT: Final = re.compile(r"%.*|.*(error|ERROR|is locked).*")
_REFUSED_LINE: Final = re.compile(r"line \d+: .*line: +(.+)")
_COLOUR: Final = re.compile(r"\x1b\[\d*m")
_NOT_INTEGRATED: Final = "no service integrated-vtysh-config"


@dataclass(frozen=True, slots=True, kw_only=True)
class FrrPlace:
    """Where an FRR is. Several may run on one host, each in a namespace."""

    vtysh: str = VTYSH
    """By name or path."""
    reload: Path = Path("/usr/lib/frr/frr-reload.py")
    sockets: Path = Path("/var/run/frr")
    directory: Path = Path("/etc/frr")
    """Of frr.conf, which FRR reads when it starts."""
    state: Path = Path("/var/lib/proxygen/frr")
    """Ours: the candidate, and the last good configuration."""

    @property
    def config(self) -> Path:
        return self.directory / "frr.conf"

    @property
    def candidate(self) -> Path:
        """frr-reload.py runs ``write``, over the operator's file, unless its input is the frr.conf of its confdir."""
        return self.state / "frr.conf"

    @property
    def good(self) -> Path:
        """Our part of the configuration that FRR took last."""
        return self.state / "good.conf"


class Frr:
    """The daemons of one place. Every method raises NetworkError where they do not answer."""

    def __init__(self, place: FrrPlace) -> None:
        self.place: Final = place

    def settle(self) -> None:
        """Make the directory of our own, in which vtysh finds the options that it has in FRR's."""
        try:
            self.place.state.mkdir(mode=0o750, parents=True, exist_ok=True)
            write_atomically(self.place.state / "vtysh.conf", self._options().encode(), shared=True)
        except OSError as error:
            raise NetworkError(f"{self.place.state} cannot hold FRR's candidates: {error.strerror}") from error

    def leave(self) -> None:
        """Remove that directory."""
        shutil.rmtree(self.place.state, ignore_errors=True)

    def check_tools(self) -> None:
        """Raise NetworkError with the cure where a program is missing, or FRR has a file for each daemon."""
        place = self.place
        if shutil.which(place.vtysh) is None:
            raise NetworkError(f"{place.vtysh} is not here; install FRR (Debian: frr)")
        if not place.reload.is_file():
            raise NetworkError(f"{place.reload} is not here; install it (Debian: frr-pythontools)")
        if any(" ".join(line.split()) == _NOT_INTEGRATED for line in self._options().splitlines()):
            raise NetworkError(
                f"{place.directory / 'vtysh.conf'} says {_NOT_INTEGRATED}; frr-reload.py needs one frr.conf for all"
            )

    def is_started(self) -> bool:
        """By zebra's socket, which is removed at its stop."""
        return (self.place.sockets / "zebra.vty").exists()

    async def version(self) -> FrrVersion:
        """Raise NetworkError where vtysh says none that can be read."""
        said = (await self._ask("show version")).output
        match = _RELEASE.search(said)
        try:
            return FrrVersion.parse(match[1] if match else said)
        except ValueError as error:
            raise NetworkError(f"{self.place.vtysh} says no version: {error}") from error

    async def daemons(self) -> frozenset[str]:
        """Return the names of the daemons that answer."""
        return frozenset((await self._ask("show daemons")).output.split())

    async def running(self) -> str:
        """The configuration in force, of all daemons, as text."""
        return (await self._ask("show running-config no-header")).output

    async def check(self, file: Path) -> None:
        """Raise NetworkError where a file is not in FRR's language; nothing is changed either way."""
        checked = await self._run((*self._vtysh(), "-C", "-f", str(file)), seconds=_ASKING)
        if checked.returncode:
            raise NetworkError(f"FRR does not understand {file}: {_gist(checked.output)}")

    async def reload(self, file: Path) -> None:
        """Bring the running configuration to a file, line by line. Raise NetworkError where FRR refused any."""
        bindir = str(Path(shutil.which(self.place.vtysh) or self.place.vtysh).parent)
        state = str(self.place.state)
        places = ("--bindir", bindir, "--confdir", state, "--rundir", state, "--vty_socket", str(self.place.sockets))
        reloaded = await self._run((str(self.place.reload), "--reload", "--stdout", *places, str(file)), _RELOADING)
        if reloaded.returncode:
            raise NetworkError(f"FRR refused a part of {file}: {_gist(reloaded.output)}")

    async def bgp_neighbours(self) -> frozenset[IPv4Address]:
        """Those that bgpd has configured, connected or not."""
        summary = await self._json("show bgp ipv4 unicast summary json")
        # 8.x puts them below the family when asked for all of them.
        peers = summary.get("peers") or summary.get("ipv4Unicast", {}).get("peers") or {}
        return frozenset(map(IPv4Address, peers))

    async def announces_bgp(self, prefix: IPv4Network) -> bool:
        """Tell whether bgpd has the prefix from us and would give it to others."""
        said = await self._json(f"show bgp ipv4 unicast {prefix} json")
        return any(path.get("sourced") and path.get("local") and path.get("valid") for path in said.get("paths", ()))

    async def ospf_neighbours(self) -> frozenset[IPv4Address]:
        """Return those that are configured, whether they answer or not."""
        said = await self._json("show ip ospf neighbor all json")
        nested = said.get("neighbors", said)
        entries = (entry for group in nested.values() if isinstance(group, list) for entry in group)
        named = (entry.get("ifaceAddress") or entry.get("address") for entry in entries)
        return frozenset(IPv4Address(address) for address in named if address)

    async def announces_ospf(self, prefix: IPv4Network) -> bool:
        """Tell whether ospfd has originated the prefix."""
        said = await self._json("show ip ospf database external self-originate json")
        return str(prefix.network_address) in json.dumps(said)

    async def _json(self, command: str) -> Any:
        said = (await self._ask(command)).output
        try:
            return json.loads(said[said.index("{") :])
        except ValueError as error:
            raise NetworkError(f"FRR answers {command!r} with {_gist(said)}") from error

    async def _ask(self, command: str) -> Completed:
        asked = await self._run((*self._vtysh(), "-c", command), seconds=_ASKING)
        if asked.returncode:
            raise NetworkError(
                f"FRR does not answer at {self.place.sockets}: {_gist(asked.output)}; is it started, and may we ask it?"
            )
        return asked

    def _vtysh(self) -> tuple[str, ...]:
        return self.place.vtysh, "--config_dir", str(self.place.state), "--vty_socket", str(self.place.sockets)

    def _options(self) -> str:
        try:
            return (self.place.directory / "vtysh.conf").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            return ""

    @staticmethod
    async def _run(argv: tuple[str, ...], seconds: float) -> Completed:
        try:
            return await run(argv, timeout=seconds, room=_ROOM)
        except ProgramUnavailable as error:
            raise NetworkError(str(error)) from error


def _gist(output: str) -> str:
    """Return what matters of a program's output, on one line: the complaints, and the lines that they are about."""
    lines = [line.strip() for line in _COLOUR.sub("", output).splitlines() if line.strip()]
    complaints = dict.fromkeys(line for line in lines if _COMPLAINT.fullmatch(line))
    refused = dict.fromkeys(match[1] for match in map(_REFUSED_LINE.fullmatch, lines) if match)
    told = "; ".join(complaints or lines[:5]) + (f" ({'; '.join(refused)})" if refused else "")
    return told[:600] or "nothing"
