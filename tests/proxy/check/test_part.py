"""Which candidates nginx may read in part: those in which whatever has a name is there as before."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.catalog import Health, Instance
from proxygen.kit.templating import Templates
from proxygen.proxy.check.part import COMMON, UPSTREAMS, new_part
from proxygen.proxy.render.rendered import Rendered
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.proxy.plan.catalogs import instance, plan

WEB = "route=web.example.com"
BEFORE = (
    instance("web", 1, WEB),
    instance("web", 2, WEB),
    instance("web", 3, WEB, "canary=10%"),
    instance("api", 4, "route=api.example.com", "rate=5r/s"),
    instance("db", 5, "protocol=tcp", "listen=5432"),
)


def _changed(*members: Instance, around: Surroundings | None = None) -> Rendered | None:
    renderer = Renderer(Templates(), around or Surroundings(), Snippets())
    passed = renderer.render(plan(*BEFORE))
    return new_part(passed.files, renderer.render(plan(*members)))


@pytest.mark.parametrize(
    "members",
    [
        (replace(BEFORE[0], port=9999), *BEFORE[1:]),
        (*BEFORE, instance("web", 9, WEB)),
        BEFORE[1:],
        (replace(BEFORE[0], health=Health.CRITICAL), *BEFORE[1:]),
        (replace(BEFORE[0], health=Health.WARNING, weight_warning=7), *BEFORE[1:]),
        (*BEFORE, instance("web", 9, WEB, "canary=10%", "weight=3")),
        (*BEFORE[:2], instance("web", 3, WEB, "canary=11%"), *BEFORE[3:]),
        (*BEFORE[:2], instance("web", 3, WEB, "canary=100%"), *BEFORE[3:]),
        (*BEFORE, instance("web", 9, WEB, "balance=least_conn")),
    ],
    ids=["port", "registered", "deregistered", "critical", "weight", "canaries", "share", "whole share", "method"],
)
@pytest.mark.parametrize("share_from", [0, 1])
def test_the_service_whose_servers_or_shares_changed_is_all_that_nginx_needs_to_read(
    members: tuple[Instance, ...], share_from: int
) -> None:
    part = _changed(*members, around=Surroundings(share_from=share_from))
    assert part is not None
    assert [file.path for file in part.files] == [COMMON, UPSTREAMS]
    assert [unit.owners_at(1) for unit in part.files[1].units] == [("web",)]


@pytest.mark.parametrize(
    "members",
    [
        (*BEFORE, instance("more", 9, "route=more.example.com")),
        (*BEFORE[:3], *BEFORE[4:]),
        (*BEFORE[:2], *BEFORE[3:]),
        (*BEFORE[:3], instance("api", 4, "route=api.example.com", "rate=6r/s"), *BEFORE[4:]),
        (*BEFORE[:2], instance("web", 3, WEB, "canary=10%", "force=header:X-Canary"), *BEFORE[3:]),
        (*BEFORE[:2], instance("web", 3, WEB, "canary=10%", "sticky=header:X-User"), *BEFORE[3:]),
        (*BEFORE[:3], instance("api", 4, "route=api.example.com", "rate=5r/s", "timeout=9s"), *BEFORE[4:]),
        (*BEFORE[:3], replace(BEFORE[3], health=Health.CRITICAL), *BEFORE[4:]),
        (*BEFORE[:4], replace(BEFORE[4], port=9999)),
    ],
    ids=[
        "new service", "service gone", "no canary", "rate", "force rule", "sticky", "time-out", "nobody left", "stream",
    ],
)  # fmt: skip
def test_whatever_else_changed_nginx_reads_it_all(members: tuple[Instance, ...]) -> None:
    assert _changed(*members) is None
