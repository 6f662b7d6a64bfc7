"""What the agent last believed of the network, for the one that is started after it in the same boot.

A Consul that is down, or that lost its data, then finds hosts whose data plane stands and is looked after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkConfigError
from proxygen.network.config import NetworkConfig, parse_config
from proxygen.network.fabric import Member


class _Member(msgspec.Struct, kw_only=True):
    host_id: str
    node: str
    subnet: str
    public_ip: str
    backend_type: str
    backend_data: dict[str, Any]


class _Written(msgspec.Struct, kw_only=True):
    """The file's JSON."""

    boot: str
    config: str
    members: list[_Member]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownNetwork:
    """The network as an agent of this boot left it."""

    config: NetworkConfig
    members: tuple[Member, ...]
    """The other hosts."""


def keep_known(path: Path, known: KnownNetwork, *, boot: str) -> None:
    """Write it whole. Raise OSError."""
    members = [
        _Member(
            host_id=member.host_id,
            node=member.node,
            subnet=str(member.subnet),
            public_ip=str(member.public_ip),
            backend_type=member.backend_type,
            backend_data=dict(member.backend_data),
        )
        for member in known.members
    ]
    written = _Written(boot=boot, config=write_config(known.config), members=members)
    # WireGuard's PSK may be in the config.
    write_atomically(path, msgspec.json.encode(written), mode=0o600)


def recall_known(path: Path, *, boot: str | None) -> KnownNetwork | None:
    """Return what was written in this boot; None where nothing was, or nothing that can be read.

    Without a ``boot`` it may be of any: FRR's files and AWS's routes outlive the kernel.
    """
    try:
        written = msgspec.json.decode(path.read_bytes(), type=_Written)
        if boot is not None and written.boot != boot:
            return None
        return KnownNetwork(config=parse_config(written.config), members=_members(written.members))
    except (OSError, ValueError, msgspec.MsgspecError, NetworkConfigError):
        return None


def write_config(config: NetworkConfig) -> str:
    """Return the JSON that `parse_config` reads as this config, with nothing left to defaults."""
    options: dict[str, object] = msgspec.to_builtins(config.backend)
    text = msgspec.json.encode(
        {
            "Network": str(config.network),
            "SubnetLen": config.subnet_len,
            "SubnetMin": str(config.first.network_address),
            "SubnetMax": str(config.last.network_address),
            "Backend": {"Type": config.backend.type, **{key: one for key, one in options.items() if one is not None}},
        }
    )
    return text.decode()


def _members(written: Sequence[_Member]) -> tuple[Member, ...]:
    return tuple(
        Member(
            host_id=member.host_id,
            node=member.node,
            subnet=IPv4Network(member.subnet),
            public_ip=IPv4Address(member.public_ip),
            backend_type=member.backend_type,
            backend_data=member.backend_data,
            lives=False,
        )
        for member in written
    )
