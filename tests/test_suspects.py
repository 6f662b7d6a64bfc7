"""Who is new is suspected first of a reload that names no cause."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.suspects import Suspects
from tests.plan.catalogs import instance, plan, service

WEB = instance("web", 1, "route=web.test")
PLAN = plan(
    WEB,
    instance("db", 2, "protocol=tcp", "listen=15432"),
    instance("old", 3, "route=old.test"),
    instance("new", 4, "route=new.test"),
)
SERVED = {"web": service(PLAN, "web")}


@pytest.mark.incident("T50")
def test_new_ports_come_first_then_the_newest_and_never_what_is_served() -> None:
    suspects, chosen = Suspects(), []
    left = PLAN
    while (suspect := suspects.choose(left, SERVED)) is not None:
        chosen.append(suspect.name)
        left = replace(left, services=tuple(each for each in left.services if each.name != suspect.name))
    assert chosen == ["db", "new", "old"]
    assert suspects.conclude() == ("db", "new")
    assert suspects.conclude() == ()


def test_a_service_whose_tags_changed_is_new() -> None:
    changed = plan(instance("web", 1, "route=web.test", "timeout=9s"))
    assert Suspects().choose(changed, SERVED) == service(changed, "web")


def test_other_instances_make_nobody_new() -> None:
    more = plan(WEB, instance("web", 9, "route=web.test"))
    assert Suspects().choose(more, SERVED) is None
