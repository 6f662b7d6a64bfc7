"""What a host believes of the network's keys: everything but a loss that looks like Consul's own."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network
from typing import Final, NoReturn

from proxygen.kit.aio import Pace, retrying
from proxygen.kit.errors import CatalogUnavailable, stay_away
from proxygen.kit.log import get_logger
from proxygen.network.config import NetworkConfig
from proxygen.network.fabric import Fabric, Member, see_fabric
from proxygen.network.records import View
from proxygen.network.store import NetworkStore

_log: Final = get_logger(__name__)

_LONGEST_PAUSE: Final = 5.0
_BURST: Final = 10.0
_RATE: Final = 2.0
"""Looks a second: a thousand hosts that start at once change the keys a thousand times, and a look reads them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caution:
    """Which losses are not believed at once."""

    loss: float
    """The part of the other hosts that may vanish in one step. One host alone may always: that is how it leaves."""
    hold: float
    """Seconds for which a greater loss must last."""


class ViewGuard:
    """Judges what is seen by what was believed before. It is told the time."""

    def __init__(self, caution: Caution, believed: Iterable[Member] = ()) -> None:
        self._caution = caution
        self._believed = {member.subnet: member for member in believed}
        self._missing: dict[IPv4Network, float | None] = {}
        """Members that are held, and since when they are missing; None: since the next look."""

    def judge(self, view: View, config: NetworkConfig, own: Member, now: float) -> Fabric:
        """Return the hosts that packets are to be carried to."""
        seen = see_fabric(view, config, own)
        members = {member.subnet: member for member in seen.others}
        unclear = {subnet: member for subnet, member in self._gone(members).items() if _still_claims(view, member)}
        members |= unclear
        whole = _is_whole(view, own)
        held = self._hold(self._gone(members), now, storm=self._is_storm(members), whole=whole)
        members |= held
        self._believed = members
        problems = [*seen.problems, *config_problems(view, config)]
        if held:
            problems.append(_tell_held(held.values(), self._caution.hold, whole=whole))
        return replace(
            seen,
            others=tuple(sorted(members.values(), key=lambda member: member.subnet)),
            problems=tuple(sorted(problems)),
        )

    def interrupted(self) -> None:
        """Take in that Consul did not answer: what is missing counts as missing from the next look on."""
        self._missing = dict.fromkeys(self._missing)

    def pause(self, now: float) -> float | None:
        """Return for how many seconds the last judgement stands while nothing changes; None: for ever."""
        return min((self._end(since) - now for since in self._missing.values() if since is not None), default=None)

    def _gone(self, members: Mapping[IPv4Network, Member]) -> dict[IPv4Network, Member]:
        """Return who was believed to be there, and whose subnet nobody has now."""
        return {
            subnet: replace(member, lives=False)
            for subnet, member in self._believed.items()
            if subnet not in members and not any(subnet.overlaps(other) for other in members)
        }

    def _is_storm(self, members: Mapping[IPv4Network, Member]) -> bool:
        """Tell whether a loss is more than hosts that leave."""
        return len(self._gone(members)) > max(1.0, self._caution.loss * len(self._believed))

    def _hold(
        self, gone: Mapping[IPv4Network, Member], now: float, *, storm: bool, whole: bool
    ) -> dict[IPv4Network, Member]:
        """Return those who are kept. Who once is kept stays so for the whole time: others may come back sooner.

        It begins once Consul's data is ``whole``: before that hosts cannot write again what was lost.
        """
        before, self._missing = self._missing, {}
        for subnet in gone:
            since = before.get(subnet) if whole else None
            since = now if since is None else since
            if (storm or before or not whole) and now < self._end(since):
                self._missing[subnet] = since if whole else None
        return {subnet: member for subnet, member in gone.items() if subnet in self._missing}

    def _end(self, since: float) -> float:
        return since + self._caution.hold


def _is_whole(view: View, own: Member) -> bool:
    """Tell whether Consul's data may be all there: it is not where even what this host wrote itself is missing."""
    return bool(view.config_index) and own.subnet in view.records


def _still_claims(view: View, member: Member) -> bool:
    """Tell whether a member's key is still there, but says nothing that could be used."""
    record = view.records.get(member.subnet)
    return member.subnet in view.strangers or (record is not None and record.host_id == member.host_id)


def _tell_held(held: Collection[Member], hold: float, *, whole: bool) -> str:
    names = ", ".join(sorted(member.node or member.host_id for member in held)[:5])
    since = "" if whole else ", counted from when Consul has the config and this host's own lease again"
    return (
        f"gone from Consul at once: {len(held)} of the other hosts ({names}{', …' if len(held) > 5 else ''}); their "
        f"routes are held until they are gone for {hold:g} s{since}"
    )


def config_problems(view: View, config: NetworkConfig) -> list[str]:
    """Say why a config in Consul is not the one that this host's data plane is for."""
    if view.config is None:
        return [
            f"{view.config_problem}; this host goes on with Network {config.network}, {config.backend.type}; "
            "write the config anew (proxygen network doctor says how)"
        ]
    said = []
    if view.config.network != config.network:
        said.append(
            f"Network was changed from {config.network} to {view.config.network}, which would cut containers off; "
            "release the lease of each host and start its agent again, or change it back"
        )
    if view.config.backend != config.backend:
        before, after = config.backend.type, view.config.backend.type
        what = (
            f"Backend was changed from {before} to {after}" if before != after else f"Options of {before} were changed"
        )
        said.append(f"{what}, which counts once the agent of each host is started again")
    return said


class FabricWatch:
    """Tells of each fabric that is believed, for as long as it runs."""

    def __init__(
        self,
        store: NetworkStore,
        config: NetworkConfig,
        own: Callable[[], Member],
        *,
        guard: ViewGuard,
        tell: Callable[[Fabric], None],
    ) -> None:
        self.view: View | None = None
        """The last look at Consul's keys."""
        self.answered: float | None = None
        """The monotonic time of it."""
        self.problem = ""
        """Why the look after it failed; empty where it did not."""
        self._store = store
        self._config = config
        self._own = own
        self._guard = guard
        self._tell = tell
        self._index = 0

    async def run(self) -> NoReturn:
        """Look, judge and wait for a change until cancelled. Consul's absence changes nothing."""
        pace = Pace(burst=_BURST, rate=_RATE)
        while True:
            await retrying(CatalogUnavailable, longest=_LONGEST_PAUSE, at_least=stay_away)(self._look)
            await pace.step()

    def judge_again(self) -> None:
        """Take in that this host itself is another: its address, or what its backend tells others."""
        if self.view is not None:
            self._tell(self._guard.judge(self.view, self._config, self._own(), time.monotonic()))

    async def _look(self) -> None:
        # A hold that is over ends with an answer that is fresh: a look from 0 is not cut short.
        patience = self._guard.pause(time.monotonic()) if self._index else None
        try:
            async with asyncio.timeout(patience):
                self.view, self._index = await self._store.watch(self._index, seen=self.view)
        except TimeoutError:
            self._index = 0
            return
        except CatalogUnavailable as error:
            self._failed(error)
            raise
        if self.problem:
            _log.info("Consul answers again")
        self.problem = ""
        self.answered = time.monotonic()
        self._tell(self._guard.judge(self.view, self._config, self._own(), self.answered))

    def _failed(self, error: CatalogUnavailable) -> None:
        self._index = 0
        self._guard.interrupted()
        if not self.problem:
            _log.warning("Consul not watched, routes stay as they are", reason=str(error))
        self.problem = str(error)
