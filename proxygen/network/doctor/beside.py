"""What other programs of the host say of themselves, in files and by their commands."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterable, Mapping
from configparser import Error as ConfigError
from configparser import RawConfigParser
from pathlib import Path
from typing import Final

from proxygen.kit.errors import ProgramUnavailable
from proxygen.kit.programs import run
from proxygen.network.docker import installed_docker
from proxygen.network.doctor.facts import DockerFacts, FrrFacts, ManagerFacts, ModuleFacts, NetworkdFacts
from proxygen.network.doctor.finding import Skipped, Unknown
from proxygen.network.doctor.iptables import IPTABLES, read_iptables
from proxygen.network.doctor.nft import read_nft
from proxygen.network.doctor.packets import Chain, Ruleset
from proxygen.network.frr.daemons import VTYSH
from proxygen.settings import NetworkSettings

_PATIENCE: Final = 20.0
_LEGACY_TABLES: Final = Path("/proc/net/ip_tables_names")
_NETWORKD_RUNS: Final = Path("/run/systemd/netif/links")
_NETWORKD_FILES: Final = tuple(Path(folder, "systemd") for folder in ("/etc", "/run", "/usr/local/lib", "/usr/lib"))
"""In the order of precedence, see networkd.conf(5)."""
_MODULES: Final = Path("/sys/module")
_DAEMONS: Final = ("zebra", "staticd", "bgpd", "ospfd")


# --- firewall


async def read_firewall() -> Ruleset | Unknown:
    """List all rules of nft, and of iptables, whichever there are."""
    try:
        saved = [*await _read_iptables(), *await _read_legacy()]
        chains = [*await _read_nft(), *saved] if shutil.which("nft") or not saved else saved
    except (Skipped, ProgramUnavailable) as error:
        return Unknown(str(error))
    except (ValueError, KeyError, TypeError) as error:
        return Unknown(f"the firewall's rules cannot be read: {error}")
    # What today's iptables makes is in nft's tables, but only iptables can say what its matches are.
    told = {chain.table.replace(IPTABLES, "ip") for chain in saved}
    return Ruleset([chain for chain in chains if chain.table not in told])


async def _read_nft() -> tuple[Chain, ...]:
    listing = await _listing("nft", "-j", "list", "ruleset")
    # Warnings stand before the listing.
    return read_nft(listing[max(0, listing.find('{"nftables"')) :])


async def _read_iptables() -> tuple[Chain, ...]:
    """Read what iptables can tell; a table that others have changed too it leaves to nft."""
    program = next((name for name in ("iptables-nft-save", "iptables-save") if shutil.which(name)), None)
    if program is None:
        return ()
    listing = await _listing(program)
    is_old = program == "iptables-save" and "(nf_tables)" not in listing
    # Whose tables are not among nft's.
    return () if is_old and shutil.which("nft") else read_iptables(listing)


async def _read_legacy() -> tuple[Chain, ...]:
    return read_iptables(await _listing("iptables-legacy-save")) if _has_legacy_tables() else ()


async def _listing(*command: str) -> str:
    listed = await run(command, timeout=_PATIENCE)
    if listed.returncode:
        raise Skipped(f"{command[0]} does not list the rules: {listed.output.strip()}")
    if " bytes left out ..." in listed.output:
        raise Skipped("the firewall has more rules than the doctor reads")
    return listed.output


def _has_legacy_tables() -> bool:
    try:
        return bool(_LEGACY_TABLES.read_text(encoding="ascii").strip())
    except OSError:
        return False


# --- Docker


async def read_docker(file: Path) -> DockerFacts | Unknown:
    """Ask dockerd's program for its version, and read the file of its options."""
    version = await installed_docker()
    options: object = {}
    try:
        options = json.loads(await asyncio.to_thread(file.read_bytes))
    except FileNotFoundError:
        if version is None:
            return Unknown("there is no Docker on this host")
    except (OSError, ValueError) as error:
        return Unknown(f"{file} cannot be read: {error}")
    if not isinstance(options, dict):
        return Unknown(f"{file} holds no JSON object")
    return DockerFacts(version=version, options=options, file=str(file))


# --- systemd-networkd and NetworkManager


def read_networkd(*, runs: Path = _NETWORKD_RUNS, folders: Iterable[Path] = _NETWORKD_FILES) -> NetworkdFacts | Unknown:
    """Read networkd.conf and its drop-ins, as networkd does."""
    if not runs.is_dir():
        return Unknown("systemd-networkd does not run on this host")
    text = "\n".join(_networkd_texts(tuple(folders)))
    parser = _AsWritten(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    try:
        parser.read_string(text)
    except ConfigError as error:
        return Unknown(f"networkd.conf cannot be read: {error.message}")
    section: Mapping[str, str] = parser["Network"] if parser.has_section("Network") else {}
    return NetworkdFacts(
        foreign_routes=_is_on(section.get("ManageForeignRoutes", "")),
        foreign_rules=_is_on(section.get("ManageForeignRoutingPolicyRules", "")),
    )


class _AsWritten(RawConfigParser):
    """Keys in capitals and small letters, as systemd tells them apart."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def _networkd_texts(folders: tuple[Path, ...]) -> list[str]:
    """Return the main file's text and those of the drop-ins, by name; of one name the first folder's counts."""
    main = next((path for folder in folders if (path := folder / "networkd.conf").is_file()), None)
    drop_ins: dict[str, Path] = {}
    for folder in reversed(folders):
        drop_ins |= {path.name: path for path in sorted((folder / "networkd.conf.d").glob("*.conf"))}
    found = [*([main] if main else []), *(path for _, path in sorted(drop_ins.items()))]
    return [path.read_text(encoding="utf-8", errors="replace") for path in found]


def _is_on(value: str) -> bool:
    # An empty value is as none, and both are on by default.
    return value.strip().lower() not in ("no", "false", "off", "0", "n", "f")


async def read_manager() -> ManagerFacts | Unknown:
    """Ask NetworkManager for its devices."""
    try:
        asked = await run(("nmcli", "-t", "-f", "DEVICE,STATE", "device"), timeout=_PATIENCE)
    except ProgramUnavailable:
        return Unknown("there is no NetworkManager on this host")
    if asked.returncode:
        return Unknown("NetworkManager does not run on this host")
    lines = (line.rpartition(":") for line in asked.output.splitlines() if ":" in line)
    return ManagerFacts(states={device.replace("\\:", ":"): state for device, _, state in lines})


# --- FRR


async def read_frr(settings: NetworkSettings) -> FrrFacts:
    """Ask each daemon through vtysh. Raise ProgramUnavailable where there is none."""
    vtysh = (VTYSH, "--vty_socket", str(settings.frr_sockets))
    answering = set()
    for daemon in _DAEMONS:
        asked = await run((*vtysh, "-d", daemon, "-c", "show version"), timeout=_PATIENCE)
        if asked.returncode == 0 and "FRRouting" in asked.output:
            answering.add(daemon)
    return FrrFacts(
        daemons=frozenset(answering), has_reload=settings.frr_reload.is_file(), reload_path=str(settings.frr_reload)
    )


# --- the kernel's modules


async def read_module(name: str, *, exists: bool) -> ModuleFacts:
    """Tell whether a module is loaded, built in, or there to be loaded. ``exists``: a device of its kind is there."""
    if exists or (_MODULES / name).exists():
        return ModuleFacts(module=name, present=True)
    try:
        # A dry run, which knows those that are built in.
        asked = await run(("modprobe", "--dry-run", "--quiet", name), timeout=_PATIENCE)
    except ProgramUnavailable:
        return ModuleFacts(module=name, present=False)
    return ModuleFacts(module=name, present=asked.returncode == 0)
