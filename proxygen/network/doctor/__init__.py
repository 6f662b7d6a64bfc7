"""What is wrong with a host's part of the network, and how to cure it: ``proxygen network doctor``.

Facts are gathered first (`gather`), each by itself; then checks judge them, which are pure (`checks`). Nothing is
changed on the host. The probes send pings and one ARP request.
"""

from __future__ import annotations

from proxygen.network.doctor.checks import CHECKS
from proxygen.network.doctor.finding import CheckOutcome, Examined, Finding, Report, Severity, describe
from proxygen.network.doctor.place import ExaminedHost
from proxygen.network.doctor.registry import judge

__all__ = ["CHECKS", "CheckOutcome", "Examined", "ExaminedHost", "Finding", "Report", "Severity", "describe", "examine"]


async def examine(place: ExaminedHost) -> Report:
    """Look at everything and report; what cannot be looked at is skipped, with the reason.

    `Report.healthy` tells whether any finding is an error; `describe` makes text of it, and msgspec makes JSON.
    """
    from proxygen.network.doctor.gather import gather

    return judge(await gather(place), CHECKS)
