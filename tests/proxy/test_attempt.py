"""The sentence: what is refused is left out, and the rest goes on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.errors import CheckRefused
from proxygen.kit.timings import Timings
from proxygen.proxy.attempt import MAX_ROUNDS, Stages, attempt
from proxygen.proxy.check.gates import RefusedCandidate, RefusedLines
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Memory, Plan, Quarantine
from proxygen.proxy.quarantine.quarantines import quarantines
from proxygen.settings import load
from tests.proxy.plan.catalogs import catalog, instance

WEB = ServiceName("web")
SHOP = instance("shop", 2, "route=shop.test")
BOTH = catalog(instance("web", 1, "route=web.test"), SHOP)


def refused(name: ServiceName) -> RefusedLines:
    return RefusedLines(
        refusals=(Refusal(gate="a gate", file="http.d/20-servers.conf", line=7, services=(name,), reason="nonsense"),)
    )


def drafter() -> Drafter:
    return Pipeline(load({"proxy.seed": "test"}, environment={}), binary=None, conf=None).drafter


@dataclass
class Scene(Stages[str, str]):
    """Draws its answers in turn; None: nothing is refused."""

    gate: Iterator[RefusedLines | None]
    reload: Iterator[RefusedLines | None] = field(default_factory=lambda: iter(()))
    drafter: Drafter = field(default_factory=drafter)
    left_out: dict[ServiceName, Quarantine] = field(default_factory=dict)
    walk: list[str] = field(default_factory=list)

    async def draft(self) -> Draft:
        self.walk.append("draft")
        return self.drafter.draft(BOTH, Memory(), self.left_out)

    async def check(self, draft: Draft) -> str | RefusedCandidate:
        self.walk.append("check")
        return next(self.gate, None) or "checked"

    async def deliver(self, draft: Draft, passed: str) -> str | RefusedCandidate:
        assert passed == "checked"
        self.walk.append("deliver")
        return next(self.reload, None) or ",".join(sorted({s.name for s in draft.plan.services} - set(self.left_out)))

    async def leave_out(self, draft: Draft, refused: RefusedCandidate) -> None:
        assert isinstance(refused, RefusedLines)
        self.walk.append("leave out")
        self.left_out |= quarantines(refused.refusals, self.left_out)

    async def record(self, draft: Draft, result: str) -> str:
        self.walk.append("record")
        return f"{result}, recorded"


async def test_each_stage_is_gone_through_once_where_nothing_is_refused() -> None:
    scene = Scene(iter(()))
    assert await attempt(scene) == "shop,web, recorded"
    assert scene.walk == ["draft", "check", "deliver", "record"]


async def test_what_a_gate_refuses_is_left_out_and_the_rest_goes_on() -> None:
    scene = Scene(iter([refused(WEB)]))
    assert await attempt(scene) == "shop, recorded"
    assert scene.walk == ["draft", "check", "leave out", "draft", "check", "deliver", "record"]


async def test_what_the_reload_refuses_is_checked_anew_without_it() -> None:
    scene = Scene(iter(()), reload=iter([refused(WEB)]))
    assert await attempt(scene) == "shop, recorded"
    assert scene.walk == ["draft", "check", "deliver", "leave out", "draft", "check", "deliver", "record"]


async def test_who_can_be_left_out_no_further_refuses_the_whole() -> None:
    scene = Scene(iter([refused(WEB)] * 3))
    with pytest.raises(CheckRefused, match="nonsense"):
        await attempt(scene)
    assert scene.left_out[WEB].withdrawn
    assert "record" not in scene.walk


async def test_a_refusal_without_end_refuses_the_whole() -> None:
    names = (ServiceName(f"bad-{number}") for number in range(1_000))
    scene = Scene(map(refused, names))
    with pytest.raises(CheckRefused, match=rf"{MAX_ROUNDS} candidates were refused in a row, .*nonsense"):
        await attempt(scene)
    assert len(scene.left_out) == MAX_ROUNDS


def test_what_is_held_is_what_is_rendered_and_every_stage_has_its_time() -> None:
    """The judge sees the plan that Consul asks for."""
    judged: list[Plan] = []

    def judge(plan: Plan, known: Catalog) -> Held:
        assert known is newest
        judged.append(plan)
        return Held(reason="held", services={ServiceName("shop"): 1}, catalog=BOTH)

    newest = catalog(instance("web", 1, "route=web.test"))
    timings = Timings()
    left_out = quarantines(refused(WEB).refusals, {})
    draft = drafter().draft(newest, Memory(), left_out, timings, judge=judge)
    assert [service.name for service in draft.plan.services] == ["shop", "web"]
    assert [[service.name for service in plan.services] for plan in judged] == [["web"]]
    assert [one.service for one in draft.plan.quarantined] == ["web"]
    assert draft.rendered.plan is draft.plan
    assert (draft.catalog, draft.held is None) == (BOTH, False)
    assert set(timings.seconds) == {"plan", "render"}
