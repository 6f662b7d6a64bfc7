"""A plan against what nginx serves: losses that look like Consul's trouble are held. Pure: who calls says what time
it is.

A service that is held loses no server: it keeps the instances that are gone beside those that are there, in the
catalog that `Held` carries. The other services go on as Consul says. Held are

- a service that would fall below its own minimum (``guard.minimum_instances``), for as long as it would;
- while more than ``guard.loss`` of all servers are gone within ``guard.window``: the services without whose losses it
  would be less; and every service that loses servers where most services lose that much, the worst one aside, for then
  it is Consul that lost them;
- every service that loses servers after Consul's store was wiped or restored.

Such a hold lasts until the servers are back, the operator lets go, or ``guard.hold`` is over. Servers do not go in one
moment: those that went first, when it was not known yet what follows, come back.

An instance that is drained or in maintenance is no loss: that is somebody's will. A quarantined service is judged
elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import Final

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.kit.texts import name_some
from proxygen.kit.units import format_duration
from proxygen.proxy.plan.types import Plan, PlannedState, Service

_Key = tuple[str, str]

LONE_SERVICE: Final = 5
"""Servers that one service may lose by itself, however few services there are: that is its own trouble."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the operator finds suspicious; times in seconds."""

    loss: float = 0.5
    window: float = 60.0
    hold: float = 300.0
    minimum: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Least instances by pattern of service names; the first that matches counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What is kept back, with the reason an operator reads."""

    reason: str
    services: Mapping[ServiceName, int]
    """How many instances each service keeps that Consul no longer shows as serving."""
    instances: tuple[Instance, ...] = ()
    """These, by service and key."""
    catalog: Catalog
    """What may go live: the newest catalog, in which these services keep their instances."""
    due: float | None = None
    """Seconds until the first of them is believed; below 0 while Consul cannot be asked; None where none ever is."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """A service's instances by what becomes of them."""

    service: Service
    serving: frozenset[_Key]
    there: frozenset[_Key]
    """Those that serve, or would if somebody had not taken them out."""


@dataclass(frozen=True, slots=True)
class _Step:
    """A loss that was accepted: so many servers until some moment, and those that went then."""

    count: int
    until: float
    gone: tuple[Instance, ...]


@dataclass(frozen=True, slots=True)
class _Losses:
    """What a plan takes away."""

    now: Mapping[ServiceName, int]
    """Servers that there are, of each service that has fewer than nginx serves."""
    recent: Mapping[ServiceName, int]
    """Servers that there were at most within the window, of each service that has fewer."""
    gone: Mapping[ServiceName, int]
    """How many of those are gone."""
    total: int
    """Of all servers of the window."""
    services: int
    """That had servers within the window."""

    @property
    def lost(self) -> int:
        return sum(self.gone.values())

    def share(self, name: ServiceName) -> float:
        """What part of its own servers a service lost."""
        return self.gone[name] / self.recent[name]


class Guard:
    """Knows what nginx serves, and judges the plans that follow."""

    def __init__(self, limits: Limits) -> None:
        self._limits: Final = limits
        self._accepted: Catalog | None = None
        self._serving: Mapping[ServiceName, frozenset[_Key]] = {}
        self._counts: dict[ServiceName, int] = {}
        """Servers of each service; of one that is held, those that it had when that began."""
        self._steps: dict[ServiceName, tuple[_Step, ...]] = {}
        """Losses within the window, oldest first."""
        self._known: dict[ServiceName, _Seen] = {}
        self._held: dict[ServiceName, int] = {}
        """Servers that the services had which the last plan judged would have lost some."""
        self._since: dict[ServiceName, float] = {}
        """When the suspicion began, of each service whose losses are not believed."""
        self._wide_since: float | None = None
        """When the suspicion began that Consul lost them, for all services."""
        self._wiped_at: float | None = None
        self._believed: frozenset[ServiceName] = frozenset()
        """Services that were suspected for so long that their losses are believed."""
        self._lets_go = False

    def judge(self, plan: Plan, catalog: Catalog, now: float, *, fresh: bool = True) -> Held | None:
        """Return what of a plan is held; None where it may go live as it is.

        ``now`` is in seconds of any clock that does not go back. ``fresh`` says whether Consul can be asked: what
        nobody can confirm is not believed, however long it lasts.
        """
        self._held = {}
        if self._accepted is None or self._lets_go:
            return None
        seen = {service.name: self._look(service) for service in plan.services if service.quarantine is None}
        absolved = {service.name for service in plan.services if service.quarantine is not None}
        losses = self._losses(seen, absolved, now)
        if _is_of_another_store(self._accepted, catalog):
            self._wiped_at = now
        below = {name: self._counts[name] for name, there in losses.now.items() if there < self._minimum(name)}
        why, suspects = self._suspicion(losses, catalog, now)
        began = now if self._wide_since is None else self._wide_since
        self._since = {name: self._since.get(name, began) for name in suspects}
        self._believed = frozenset(
            name for name, since in self._since.items() if fresh and now - since >= self._limits.hold
        )
        suspected = {name: losses.recent[name] for name in suspects - self._believed}
        self._held = below | suspected
        if not self._held:
            return None
        due = min((self._since[name] + self._limits.hold - now for name in suspected), default=None)
        return self._hold(why if suspected else "", catalog, seen, due)

    def accept(self, plan: Plan, catalog: Catalog, now: float) -> None:
        """Take note that nginx serves this plan, which was made from this catalog."""
        served = {service.name: self._look(service) for service in plan.services if service.quarantine is None}
        counts = {name: len(one.serving) for name, one in served.items()}
        counts |= self._held
        if self._lets_go or (self._believed and self._believed >= self._since.keys()):
            self._steps, self._wiped_at, self._wide_since, self._since = {}, None, None, {}
        else:
            self._note_steps(served, counts, now)
        self._accepted = catalog
        self._serving = {name: one.serving for name, one in served.items() if one.serving}
        self._counts = {name: count for name, count in counts.items() if count}
        self._known = {name: one for name, one in self._known.items() if name in served}
        self._believed, self._lets_go = frozenset(), False

    def release(self) -> None:
        """Let plans through whatever they lose, until one of them is live."""
        self._lets_go = True

    def _look(self, service: Service) -> _Seen:
        known = self._known.get(service.name)
        if known is not None and known.service is service:
            return known
        serving, there = [], []
        for instance in service.instances:
            key = (instance.node, instance.id)
            if instance.state is PlannedState.SERVING:
                serving.append(key)
            if instance.state in (PlannedState.SERVING, PlannedState.DRAINED) or (
                instance.health is Health.MAINTENANCE
            ):
                there.append(key)
        seen = self._known[service.name] = _Seen(service, frozenset(serving), frozenset(there))
        return seen

    def _losses(self, seen: Mapping[ServiceName, _Seen], absolved: set[ServiceName], now: float) -> _Losses:
        losing: dict[ServiceName, int] = {}
        recent: dict[ServiceName, int] = {}
        gone: dict[ServiceName, int] = {}
        total = services = 0
        for name in (self._counts.keys() | self._steps.keys()) - absolved:
            there = len(seen[name].there) if name in seen else 0
            count = self._counts.get(name, 0)
            most = max(count, *(step.count for step in self._recent_steps(name, now)), 0)
            total += most
            services += most > 0
            if there < most:
                recent[name] = most
                gone[name] = most - there
            if there < count:
                losing[name] = there
        return _Losses(losing, recent, gone, total, services)

    def _recent_steps(self, name: ServiceName, now: float) -> tuple[_Step, ...]:
        return tuple(step for step in self._steps.get(name, ()) if self._is_recent(step.until, now))

    def _suspicion(self, losses: _Losses, catalog: Catalog, now: float) -> tuple[str, frozenset[ServiceName]]:
        """Say why losses are not believed, and whose; "" and nobody's where they are."""
        everybody = frozenset(losses.recent)
        if self._wiped_at is not None and self._wide_since is None and not self._is_recent(self._wiped_at, now):
            self._wiped_at = None
        is_mass = losses.lost > self._limits.loss * losses.total
        if losses.now and self._wiped_at is not None:
            self._wide_since = now if self._wide_since is None else self._wide_since
            return (
                f"Consul's store was wiped or restored (its index went backwards), and {losses.lost} of"
                f" {losses.total} servers are gone"
            ), everybody
        if not losses.now or not is_mass or (len(everybody) == 1 and losses.lost < LONE_SERVICE):
            self._wide_since = None
            return "", frozenset()
        why = (
            f"{losses.lost} of {losses.total} servers went within {_duration(self._limits.window)}, more than"
            f" guard.loss = {self._limits.loss:g} of all"
        )
        if self._is_wide(losses):
            self._wide_since = now if self._wide_since is None else self._wide_since
            return why, everybody
        self._wide_since = None
        return why, frozenset(self._causes(losses))

    def _is_wide(self, losses: _Losses) -> bool:
        """Whether it is most services that lost so much, or all of them taken together, the worst one aside."""
        if self._wide_since is not None:
            # Some servers are back by now; that speaks for trouble rather than against it.
            return True
        shares = sorted(map(losses.share, losses.gone))
        heavy = sum(share > self._limits.loss for share in shares)
        return heavy > self._limits.loss * losses.services or sum(shares[:-1]) > self._limits.loss * (
            losses.services - 1
        )

    def _causes(self, losses: _Losses) -> Iterator[ServiceName]:
        """Yield the services that lost the most, until the others' losses together are nothing suspicious."""
        lost, total, least = losses.lost, losses.total, 0
        heavy = [name for name in losses.gone if losses.share(name) > self._limits.loss]
        for name in sorted(heavy, key=lambda name: -losses.gone[name]):
            if lost <= self._limits.loss * total and losses.gone[name] < least:
                return
            yield name
            least = losses.gone[name]
            lost, total = lost - losses.gone[name], total - losses.recent[name]

    def _is_recent(self, moment: float, now: float) -> bool:
        return now - moment <= self._limits.window

    def _minimum(self, name: ServiceName) -> int:
        patterns = self._limits.minimum
        return next((count for pattern, count in patterns.items() if fnmatchcase(name, pattern)), 0)

    def _hold(self, why: str, catalog: Catalog, seen: Mapping[ServiceName, _Seen], due: float | None) -> Held:
        services = dict(catalog.services)
        keeps: dict[ServiceName, int] = {}
        instances: list[Instance] = []
        for name in sorted(self._held):
            kept = self._kept(name, seen[name].there if name in seen else frozenset())
            others = [one for one in catalog.services.get(name, ()) if one.key not in kept]
            services[name] = tuple(sorted((*others, *kept.values()), key=_by_key))
            keeps[name] = len(kept)
            instances += sorted(kept.values(), key=_by_key)
        why = why or "services would fall below guard.minimum_instances"
        end = f", and after {_duration(self._limits.hold)} it is believed" if due is not None else ""
        return Held(
            reason=(
                f"held: {why}; {name_some(sorted(keeps))} keep{'s' if len(keeps) == 1 else ''} the instances that"
                f" nginx had: `proxygen release-hold` lets go of them{end}"
            ),
            services=MappingProxyType(keeps),
            instances=tuple(instances),
            catalog=replace(catalog, services=MappingProxyType(services)),
            due=due,
        )

    def _kept(self, name: ServiceName, there: frozenset[_Key]) -> dict[_Key, Instance]:
        """The instances that a held service keeps: all that nginx has and Consul has no longer, and of those that went
        shortly before as many as are missing."""
        assert self._accepted is not None
        gone = self._serving.get(name, frozenset()) - there
        # No longer for want of a check, where that was so before.
        kept = {
            one.key: replace(one, unchecked=False) for one in self._accepted.services.get(name, ()) if one.key in gone
        }
        for step in reversed(self._steps.get(name, ())):
            for one in step.gone:
                if len(there) + len(kept) < self._held[name] and one.key not in there:
                    kept.setdefault(one.key, one)
        return kept

    def _note_steps(self, served: Mapping[ServiceName, _Seen], counts: Mapping[ServiceName, int], now: float) -> None:
        for name in self._believed:
            self._steps.pop(name, None)
        for name, before in self._counts.items():
            if name not in self._believed and counts.get(name, 0) < before:
                there = served[name].there if name in served else frozenset()
                self._steps[name] = (*self._steps.get(name, ()), _Step(before, now, tuple(self._gone(name, there))))
        self._steps = {name: steps for name in self._steps if (steps := self._recent_steps(name, now))}

    def _gone(self, name: ServiceName, there: frozenset[_Key]) -> Iterator[Instance]:
        if self._accepted is not None:
            for one in self._accepted.services.get(name, ()):
                if one.key in self._serving.get(name, frozenset()) and one.key not in there:
                    yield one


def _is_of_another_store(before: Catalog, after: Catalog) -> bool:
    """Whether Consul's store was wiped or restored between two catalogs.

    The index of the listing alone does not tell: the services are read by themselves, so one that is half back may be
    seen before the listing is, and a new store may soon count as far as the old one did.
    """
    return after.index < before.index or any(
        _goes_backwards(before.services.get(name, ()), instances) for name, instances in after.services.items()
    )


def _goes_backwards(before: tuple[Instance, ...], after: tuple[Instance, ...]) -> bool:
    """Whether an instance changed at an index that its service had passed: one store gives what changes an index above
    all that it ever showed. Of an instance that was not there it is not known since when it is."""
    if before is after or not before:
        return False
    known = {one.key: one.modify_index for one in before}
    passed = max(known.values())
    return any(
        0 < one.modify_index <= passed and one.modify_index != known.get(one.key, one.modify_index) for one in after
    )


def _by_key(instance: Instance) -> _Key:
    return instance.key


def _duration(seconds: float) -> str:
    return format_duration(round(seconds * 1000))
