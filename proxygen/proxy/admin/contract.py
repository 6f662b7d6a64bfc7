"""What the admin API needs from the running sidecar."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from proxygen.proxy.admin.report import ApplyReport, DiffReport, GenerationReport, StatusReport
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary
from proxygen.proxy.record.events import EventLog
from proxygen.proxy.traffic.tally import Figures, Name

if TYPE_CHECKING:
    # The commands that ask a sidecar read these types too, and need no metrics library.
    from proxygen.proxy.admin.meter import Meter
    from proxygen.proxy.rollout.steering import Lever, Shares


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether a load balancer may send requests here; without reasons it may."""

    reasons: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    """What is wrong and no reason to send requests elsewhere: a service in quarantine, settings that were refused."""

    @property
    def ready(self) -> bool:
        """Whether there is no reason against it."""
        return not self.reasons


class Sidecar(Protocol):
    """What the admin API needs from the running sidecar.

    Every method may raise a ProxygenError, whose text the caller gets.
    """

    @property
    def events(self) -> EventLog: ...

    @property
    def meter(self) -> Meter:
        """What was measured as it happened; the rest is read at the scrape."""
        ...

    def status(self) -> StatusReport:
        """Return everything; any thread may call it."""
        ...

    def readiness(self) -> Readiness: ...

    def overview(self) -> StatusReport:
        """Return the status without its services, which is cheap however many there are."""
        ...

    def services(self) -> tuple[ServiceSummary, ...]:
        """Return all routed services by name; any thread may call it."""
        ...

    def service(self, name: str) -> ServiceDetail | None:
        """Return one routed service; None where there is none of that name.

        Raise CatalogUnavailable before the first plan, for one that nginx is not known to serve.
        """
        ...

    def traffic(self) -> Mapping[Name, Figures]:
        """Return what was counted of each service and variant that is still planned; any thread may call it."""
        ...

    def generations(self) -> tuple[GenerationReport, ...]:
        """Return the generations on disk, newest first."""
        ...

    async def read_lever(self, service: str) -> Lever:
        """Read a service's shares from Consul, consistently and in bounded time, whether there is such a service."""
        ...

    async def move_lever(self, lever: Lever, shares: Shares | None) -> Lever:
        """Write shares over a lever that was read, or give them back to the tags; see
        `proxygen.proxy.rollout.steering.Steering`."""
        ...

    def applies(self) -> tuple[ApplyReport, ...]:
        """Return the last attempts to make a plan live, also those that came to nothing, newest first."""
        ...

    def difference(self, number: int, against: int | None) -> DiffReport:
        """Compare a generation with another, or with the one before it that is on disk for None. Reads files.

        Raise UnknownGeneration where one of them is not there.
        """
        ...

    async def rollback(self, number: int | None, *, confirm: Callable[[], None]) -> ApplyReport:
        """Make ``number`` live again, the generation before the live one for None.

        ``confirm`` is called when nothing else can change any more, and stops it by what it raises.
        """
        ...

    async def release_hold(self, *, confirm: Callable[[], None]) -> ApplyReport:
        """Let the held plan through and return what became of it. ``confirm`` as in `rollback`."""
        ...
