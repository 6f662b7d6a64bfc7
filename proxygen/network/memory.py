"""What a host's agent must know after its own crash: the subnet that containers have, and the session."""

from __future__ import annotations

import hashlib
import hmac
import re
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import msgspec

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkConfigError, quoted

MACHINE_ID: Final = Path("/etc/machine-id")
BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_HOST_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,63}")


class _Written(msgspec.Struct, kw_only=True):
    """The file's JSON."""

    boot: str
    host_id: str
    live: str = ""
    hint: str = ""
    session: str = ""
    confirmed: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Predecessor:
    """What an agent knows of the one before it."""

    live: IPv4Network | None = None
    """The subnet that containers may have got since the host booted."""
    hint: IPv4Network | None = None
    """The one that the host had last, in this boot or before."""
    session: str = ""
    confirmed: float | None = None
    """The monotonic time, which runs from boot, at which Consul was last asked and confirmed ``live``."""


class AgentMemory:
    """A file that outlives the agent, and of which little is believed after a reboot or on another host.

    An image or a snapshot of a host carries the file to others, which must not take that host's subnet.
    """

    def __init__(self, path: Path, *, boot: str) -> None:
        self._path = path
        self._boot = boot

    def recall(self, host_id: str) -> Predecessor:
        """What an agent before this one had. After another boot, only a hint; a file that cannot be read is none."""
        try:
            written = msgspec.json.decode(self._path.read_bytes(), type=_Written)
            live, hint = _subnet(written.live), _subnet(written.hint)
        except (OSError, ValueError, msgspec.MsgspecError):
            return Predecessor()
        if written.host_id != host_id:
            return Predecessor()
        if written.boot != self._boot:
            return Predecessor(hint=live or hint)
        return Predecessor(live=live, hint=live or hint, session=written.session, confirmed=written.confirmed)

    def keep(self, host_id: str, remembered: Predecessor) -> None:
        """Write it whole. Raise OSError."""
        written = _Written(
            boot=self._boot,
            host_id=host_id,
            live=str(remembered.live or ""),
            hint=str(remembered.hint or ""),
            session=remembered.session,
            confirmed=remembered.confirmed,
        )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self._path, msgspec.json.encode(written))

    def forget(self) -> None:
        """Remove the file, so that the next start asks for any subnet."""
        self._path.unlink(missing_ok=True)


def _subnet(text: str) -> IPv4Network | None:
    return IPv4Network(text) if text else None


def read_boot_id() -> str:
    """Return the id that the kernel made at this boot."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def read_host_id() -> str:
    """Return this host's identity, which survives other names and addresses. Raise NetworkConfigError.

    It is derived from the machine id, which itself is not for others to see (machine-id(5)).
    """
    try:
        machine = MACHINE_ID.read_text(encoding="ascii").strip()
    except (OSError, ValueError) as error:
        raise NetworkConfigError(f"{MACHINE_ID} cannot be read ({error}); give the host an id of its own") from error
    if not re.fullmatch(r"[0-9a-f]{32}", machine):
        raise NetworkConfigError(f"{MACHINE_ID} holds no machine id; run systemd-machine-id-setup")
    return hmac.new(machine.encode(), b"proxygen.network", hashlib.sha256).hexdigest()[:32]


def check_host_id(text: str) -> str:
    """Return an id that an operator chose. Raise NetworkConfigError for one that cannot be a key."""
    if not _HOST_ID.fullmatch(text) or re.fullmatch(r"[0-9.]+-[0-9]+", text):
        raise NetworkConfigError(
            f"host id {quoted(text)}: 1 to 64 letters, digits, '.', '_', ':' and '-', and not like a subnet's key"
        )
    return text
