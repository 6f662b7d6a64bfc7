"""What a service manager is told of the sidecar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from proxygen.kit.notify import CommandState
from proxygen.proxy.admin.sidecar import RunningSidecar
from proxygen.proxy.loop import PATIENCE, Reconciler

_PATIENCE: Final = 2 * PATIENCE
"""Seconds after which a start counts as done without a pass: Consul is away, and nothing of it is on disk."""
_LONGEST_PASS: Final = 600.0
"""Seconds after which a pass is taken to hang. All that it waits for has a limit of its own (nginx -t, the proof,
workers that drain), and those of the largest catalogs take seconds; what has none is our own code that loops."""


class SidecarCondition:
    """Ready once a catalog was carried to an end, whatever it came to: what nginx serves is then Consul's word, or the
    reason why not is known. Not once Consul answers: it may be away for longer than anybody should wait for us."""

    def __init__(self, sidecar: RunningSidecar, reconciler: Reconciler) -> None:
        self._sidecar: Final = sidecar
        self._reconciler: Final = reconciler
        self._since = time.monotonic()
        self._awaited = 1

    def expect_pass(self) -> None:
        """Be ready again once a pass ended that begins from now on."""
        self._awaited = self._reconciler.begun + 1
        self._since = time.monotonic()

    def look(self, *, settings_problem: str) -> CommandState:
        """``settings_problem``: why the newest settings are not in force; empty where they are."""
        refused = [f"settings refused, the old ones stay: {settings_problem}"] if settings_problem else []
        reconciler, now = self._reconciler, time.monotonic()
        is_done = reconciler.carried >= self._awaited
        return CommandState(
            is_ready=is_done or now > self._since + _PATIENCE,
            text="; ".join([*refused, *self._texts(is_done=is_done)]),
            is_well=reconciler.busy_since is None or now < reconciler.busy_since + _LONGEST_PASS,
        )

    def _texts(self, *, is_done: bool) -> Iterator[str]:
        report = self._sidecar.overview()
        yield str(report.state.value) if is_done or report.live is None else "starting"
        if report.live is not None:
            yield f"generation {report.live.number}"
        plan = self._reconciler.state.plan
        if plan is not None:
            yield f"{len(plan.services)} services"
            if plan.quarantined:
                yield f"{len(plan.quarantined)} quarantined"
        yield from report.reasons
