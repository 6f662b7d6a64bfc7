"""What nginx serves where that is not what is asked for: in a sentence, for the page, `status`, `top` and `canary`, and
beside a service's lever."""

from __future__ import annotations

from dataclasses import replace

from proxygen.proxy.admin.report import StatusReport, Told
from proxygen.proxy.admin.service_report import InstanceState, ServiceDetail, VariantReport
from proxygen.proxy.apply.outcome import FAILED
from proxygen.proxy.rollout.steering import Lever
from proxygen.tags.shares import STABLE, Share


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


def with_served(lever: Lever, detail: ServiceDetail | None) -> Lever:
    """The lever that knows what nginx serves too; ``detail`` is the service as the sidecar tells of it, where it
    does."""
    if detail is None:
        return lever
    served = {one.name: Share(one.effective) for one in detail.variants if one.effective and one.name != STABLE}
    healthy = {one.name for one in detail.variants if _has_serving(one)}
    return replace(lever, served=served, healthy=lever.healthy | healthy)


def _has_serving(variant: VariantReport) -> bool:
    return any(item.state is InstanceState.SERVING for item in variant.instances)
