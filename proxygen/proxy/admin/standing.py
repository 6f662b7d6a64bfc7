"""What nginx serves where that is not what is asked for, in a sentence: for the page, `status`, `top` and `canary`."""

from __future__ import annotations

from typing import Final

from proxygen.proxy.admin.report import StatusReport, Told

FAILED: Final = ("rejected", "rolled back")


def beside(status: StatusReport) -> str:
    """Say what nginx serves where that is not what is asked for; "" where it is."""
    live = f"generation {status.live.number}" if status.live else "what an earlier run left"
    last = status.last_apply
    if status.hold is not None and status.hold.pinned is not None:
        why, waits = ", to which an operator went back", "waits"
    elif last is not None and last.outcome in FAILED:
        why, waits = "", f"was {last.outcome}"
    else:
        return ""
    if status.told is Told.NEWEST:
        return f"nginx serves {live}{why}; what is told here is the newest plan, which {waits}."
    return f"nginx serves {live}{why}, and that is told here; what is asked for since {waits}."
