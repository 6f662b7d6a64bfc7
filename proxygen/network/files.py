"""The files by which a host's other programs learn of its subnet, as flannel writes them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkConfigError, NetworkError, quoted


@dataclass(frozen=True, slots=True, kw_only=True)
class SubnetFile:
    """What ``subnet.env`` says."""

    network: IPv4Network
    subnet: IPv4Network
    """This host's."""
    mtu: int
    masquerade: bool
    """Whether we hide containers behind the host's address; who reads the file must not do it again."""

    @property
    def bridge(self) -> IPv4Interface:
        """The first address of the subnet, as ``--bip`` takes it."""
        return IPv4Interface((int(self.subnet.network_address) + 1, self.subnet.prefixlen))


def write_subnet_env(file: SubnetFile) -> str:
    """Return the text of ``subnet.env``, key by key as flannel has it."""
    return (
        f"FLANNEL_NETWORK={file.network}\n"
        f"FLANNEL_SUBNET={file.bridge}\n"
        f"FLANNEL_MTU={file.mtu}\n"
        f"FLANNEL_IPMASQ={str(file.masquerade).lower()}\n"
    )


def read_subnet_env(text: str) -> SubnetFile:
    """Read what we or flannel wrote. Raise NetworkConfigError with the key.

    It is a hint and no proof: an image or a snapshot of a host carries the file to others.
    """
    values = dict(line.strip().split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
    network = _network("FLANNEL_NETWORK", values)
    subnet = _network("FLANNEL_SUBNET", values)
    mtu, masquerade = values.get("FLANNEL_MTU", ""), values.get("FLANNEL_IPMASQ", "false")
    if not mtu.isascii() or not mtu.isdigit():
        raise NetworkConfigError(f"FLANNEL_MTU: {quoted(mtu)} is no number of bytes")
    if not subnet.subnet_of(network):
        raise NetworkConfigError(f"FLANNEL_SUBNET {subnet} is not in FLANNEL_NETWORK {network}")
    return SubnetFile(network=network, subnet=subnet, mtu=int(mtu), masquerade=masquerade == "true")


def hinted_subnet(path: Path) -> IPv4Network | None:
    """Return the subnet that the host had by its ``subnet.env``; None where there is none that can be read."""
    try:
        return read_subnet_env(path.read_text(encoding="ascii")).subnet
    except (OSError, ValueError, NetworkConfigError):
        return None


def write_docker_opts_env(flags: Mapping[str, str]) -> str:
    """Return the text of ``docker_opts.env`` as mk-docker-opts.sh has it; a unit reads it with ``EnvironmentFile=``.

    ``flags`` are dockerd's by the names of their variables: ``{"BIP": "--bip=10.99.3.1/24"}``.
    """
    lines = [f'DOCKER_OPT_{name}="{flag}"\n' for name, flag in sorted(flags.items())]
    together = "".join(f"{flags[name]} " for name in sorted(flags))
    return "".join([*lines, f'DOCKER_OPTS=" {together}"\n'])


def write_file(path: Path, text: str) -> bool:
    """Put a file in place whole; return False where it was so already. Raise NetworkError.

    Who reads it at the same moment sees the old text or the new one, never a part. A new file is for all to read; one
    that is there stays as private as it was, and where its name is a link, the link stays.
    """
    try:
        place = path.resolve()
        with suppress(FileNotFoundError):
            if place.read_bytes() == text.encode():
                return False
        place.parent.mkdir(parents=True, exist_ok=True)
        mode = place.stat().st_mode & 0o777 if place.exists() else 0o644
        # Several agents of one host may write it.
        write_atomically(place, text.encode(), mode=0o600, access=lambda file: os.fchmod(file, mode), shared=True)
    except OSError as error:
        raise NetworkError(f"{path} cannot be written: {error.strerror or error}") from error
    return True


def remove_file(path: Path) -> None:
    """Remove a file that may be gone already. Raise NetworkError."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise NetworkError(f"{path} cannot be removed: {error.strerror or error}") from error


def _network(key: str, values: Mapping[str, str]) -> IPv4Network:
    text = values.get(key, "")
    try:
        return IPv4Interface(text).network
    except ValueError as error:
        raise NetworkConfigError(f"{key}: {quoted(text)} is no IPv4 network") from error
