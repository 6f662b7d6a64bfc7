"""Bringing FRR to a design: checked first, applied by its difference, proven by the daemons, or taken back."""

from __future__ import annotations

import asyncio
import os
import time
from ipaddress import IPv4Address
from pathlib import Path
from typing import Final

from proxygen.kit.disk import write_atomically
from proxygen.kit.errors import NetworkError
from proxygen.kit.log import get_logger
from proxygen.kit.texts import name_some
from proxygen.network.frr.daemons import Frr
from proxygen.network.frr.design import BgpDesign, Design
from proxygen.network.frr.render import render
from proxygen.network.frr.sections import conflicts, holds_ours, merge, missing, mute, says_the_same

_log: Final = get_logger(__name__)

_PROOF: Final = 15.0
"""Seconds in which the daemons must show what they were told. A static route that is withdrawn by a connected one, and
OSPF's five seconds between two of its own announcements (RFC 2328, MinLSInterval), fit into it."""
_BETWEEN: Final = 0.2
_NAMED: Final = 5
_TELLING: Final = 1.0
"""Seconds in which bgpd tells its peers of a change: ten times what it collects changes for."""


class Untaken(NetworkError):
    """FRR took a configuration in part, and was brought back to the one before."""

    def __init__(self, message: str, refused: tuple[IPv4Address, ...]) -> None:
        super().__init__(message)
        self.refused = refused
        """The neighbours it did not take; none: the cause is another."""


async def bring(frr: Frr, design: Design, link: str) -> bool:
    """Make FRR do what a design says, and return whether anything changed. Raise NetworkError, or Untaken.

    Where it cannot, FRR does what it did before. An operator's lines stay as they are.
    """
    before = await frr.running()
    in_the_way = conflicts(before, design, link)
    if in_the_way:
        raise NetworkError(
            f"FRR has a configuration that is not ours: {'; '.join(in_the_way)}. It stays; remove it, or choose a "
            "backend that does without FRR"
        )
    candidate = merge(before, render(design))
    if says_the_same(before, candidate):
        await _prove(frr, design, candidate)
        return False
    await _change(frr, before, candidate, design)
    _log.info("FRR configured", neighbours=len(design.neighbours), subnet=str(design.says.own))
    return True


async def stands(frr: Frr, design: Design) -> bool:
    """Tell whether FRR has been told what a design says."""
    running = await frr.running()
    return says_the_same(running, merge(running, render(design)))


def keep(frr: Frr, ours: str, running: str) -> str:
    """Put our part into FRR's own file too, for its next start. Return the problem there is, or nothing.

    What an operator wrote there stays, be it loaded yet or not.
    """
    config = frr.place.config
    try:
        text = config.read_text(encoding="utf-8") if config.exists() else merge(running, "")
        wanted = merge(text, ours)
        if not config.exists() or not says_the_same(text, wanted):
            _replace(config, wanted)
    except (OSError, UnicodeDecodeError) as error:
        return f"{config} cannot be changed ({error}), so that a restart of FRR brings back what stands there"
    return ""


async def take_out(frr: Frr) -> None:
    """Remove our part from FRR and from its file."""
    if frr.place.config.exists():
        text = frr.place.config.read_text(encoding="utf-8")
        if holds_ours(text):
            _replace(frr.place.config, merge(text, ""))
    if not frr.is_started():
        return
    before = await frr.running()
    if holds_ours(before):
        muted = mute(before)
        if not says_the_same(muted, before):
            # Peers hold on to what a session that ends had told them, for the two minutes of a graceful restart.
            await _load(frr, muted)
            await asyncio.sleep(_TELLING)
        bare = merge(before, "")
        await _load(frr, bare)
        left = missing(await frr.running(), bare)
        if left:
            raise NetworkError(f"FRR did not let go of {'; '.join(left)}")


async def _change(frr: Frr, before: str, candidate: str, design: Design) -> None:
    _write(frr.place.candidate, candidate)
    await frr.check(frr.place.candidate)
    _write(frr.place.good, before)
    try:
        await frr.reload(frr.place.candidate)
        await _prove(frr, design, candidate)
    except NetworkError as error:
        refused = await _untaken_neighbours(frr, design)
        await _go_back(frr, before, error)
        raise Untaken(f"{error}; FRR has the configuration from before", refused) from error
    _write(frr.place.good, candidate)


async def _prove(frr: Frr, design: Design, candidate: str) -> None:
    """Wait until the daemons show what they were told. Raise NetworkError with what they do not."""
    deadline = time.monotonic() + _PROOF
    while lacking := await _lacking(frr, design, candidate):
        if time.monotonic() > deadline:
            raise NetworkError(f"FRR does not show {lacking}")
        await asyncio.sleep(_BETWEEN)


async def _lacking(frr: Frr, design: Design, candidate: str) -> str:
    lines = missing(candidate, await frr.running())
    if lines:
        return f"the lines {name_some(lines, _NAMED, between='; ')}"
    is_bgp = isinstance(design, BgpDesign)
    known = await (frr.bgp_neighbours() if is_bgp else frr.ospf_neighbours())
    unknown = sorted(set(design.neighbours) - known)
    if unknown:
        return f"the neighbours {name_some([str(one) for one in unknown], _NAMED)}"
    own = design.says.own
    if not await (frr.announces_bgp(own) if is_bgp else frr.announces_ospf(own)):
        return f"that it announces {own}"
    return ""


async def _untaken_neighbours(frr: Frr, design: Design) -> tuple[IPv4Address, ...]:
    """Return the neighbours that FRR was told of and has no line about."""
    try:
        lines = (await frr.running()).split("\n")
    except NetworkError:
        return ()
    taken = {words[1] for words in map(str.split, lines) if words[:1] == ["neighbor"]}
    return tuple(address for address in design.neighbours if str(address) not in taken)


async def _go_back(frr: Frr, before: str, cause: NetworkError) -> None:
    """Bring FRR back to what it did. Where that fails too, say both."""
    _log.warning("FRR is brought back", reason=str(cause))
    try:
        await _load(frr, before)
        left = missing(before, await frr.running())
    except NetworkError as error:
        raise NetworkError(f"{cause}; and it could not be brought back to {frr.place.good}: {error}") from error
    if left:
        raise NetworkError(f"{cause}; and FRR lacks now {'; '.join(left)}, which {frr.place.good} has")


async def _load(frr: Frr, text: str) -> None:
    _write(frr.place.candidate, text)
    await frr.reload(frr.place.candidate)


def _write(file: Path, text: str) -> None:
    try:
        _replace(file, text)
    except OSError as error:
        raise NetworkError(f"{file} cannot be written: {error.strerror}") from error


def _replace(file: Path, text: str) -> None:
    """Put a file in another's place as a whole, with its owner and mode; a new one is its directory's owner's."""
    is_new = not file.exists()
    like = (file.parent if is_new else file).stat()

    def access(descriptor: int) -> None:
        os.fchown(descriptor, like.st_uid, like.st_gid)
        os.fchmod(descriptor, 0o640 if is_new else like.st_mode & 0o777)

    # It may hold passwords.
    write_atomically(file, text.encode(), mode=0o600, access=access)
