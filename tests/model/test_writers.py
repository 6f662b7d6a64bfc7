"""What a part of proxygen keeps on disk for its next start is there after a power cut."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

import pytest

from proxygen.kit.disk import sync_directory
from proxygen.network.agent.known import KnownNetwork, keep_known
from proxygen.network.config import parse_config
from proxygen.network.files import write_file
from proxygen.network.frr import apply
from proxygen.network.frr.backend import BgpBackend
from proxygen.network.frr.daemons import Frr
from proxygen.network.kernel.wireguard import keep_keys
from proxygen.network.memory import AgentMemory, Predecessor
from proxygen.proxy.apply.publish import Output, mark_proven
from proxygen.proxy.policy.certificate_copies import CertificateCopies, KnownPair, Pair
from proxygen.proxy.state.memory import Remembered, remember
from tests.model.disk import Disk
from tests.network.frr.fabrics import member, underlay
from tests.network.frr.test_daemons import says

Writer = Callable[[Path], Awaitable[object]]


async def lease_of_the_host(directory: Path) -> None:
    AgentMemory(directory / "lease.json", boot="1").keep("host", Predecessor(hint=IPv4Network("10.99.3.0/24")))


async def known_network(directory: Path) -> None:
    known = KnownNetwork(config=parse_config('{"Network": "10.99.0.0/16"}'), members=())
    keep_known(directory / "known.json", known, boot="1")


async def subnet_file(directory: Path) -> None:
    write_file(directory / "subnet.env", "FLANNEL_MTU=1450\n")


async def wireguard_key(directory: Path) -> None:
    keep_keys(directory / "wireguard.key")


def _frr(directory: Path) -> Frr:
    frr = says(directory.parent, "FRRouting 8.4.4 (host) zebra staticd bgpd")
    return Frr(replace(frr.place, directory=directory, state=directory))


async def frr_seniority(directory: Path) -> None:
    own = member(1)
    await BgpBackend(underlay(own), _frr(directory).place, node=own.node).prepare()


async def frr_configuration(directory: Path) -> None:
    assert apply.keep(_frr(directory), "", "hostname router\n") == ""


async def proven_generations(directory: Path) -> None:
    mark_proven(Output(directory=directory), 1)


async def plan_memory(directory: Path) -> None:
    remember(directory, Remembered(pinned=7))


async def certificate_pair(directory: Path) -> None:
    source = directory.parent / "source"
    source.write_bytes(b"")
    copies = CertificateCopies(directory, may_write=True)
    assert copies.keep(Pair(chain=b"chain", key=b"key"), source, source)
    copies.note({"web": KnownPair("0")})


WRITERS: Final = (
    lease_of_the_host,
    known_network,
    subnet_file,
    wireguard_key,
    frr_seniority,
    frr_configuration,
    proven_generations,
    plan_memory,
    certificate_pair,
)
"""The agent's status is none of them: it is believed only while the agent runs."""


@pytest.mark.parametrize("write", WRITERS)
async def test_what_was_kept_outlives_a_power_cut(write: Writer, tmp_path: Path) -> None:
    """Whole, under its name, with its mode."""
    root = tmp_path / "disk"
    for folder in ("generations/000001", "state"):
        (root / folder).mkdir(parents=True)
    disk = Disk(root)
    with disk.watching():
        for folder in (root / "generations", root):
            sync_directory(folder)
        await write(root)
        kept = files_below(root)
        disk.lose_power()
    assert kept
    assert files_below(root) == kept


def files_below(root: Path) -> Mapping[str, tuple[bytes, int]]:
    found = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mode) for path in found}
