"""The catalog that is made of what was observed."""

from __future__ import annotations

from dataclasses import replace

from proxygen.aio import Latest
from proxygen.consul.view import View
from proxygen.model import Catalog, Instance, ServiceName

WEB = Instance(service=ServiceName("web"), id="web-1", node="n1", datacenter="dc1", address="10.0.0.1", port=80)


def test_nothing_is_shown_before_it_is_opened() -> None:
    slot: Latest[Catalog] = Latest()
    view = View("dc1", slot)
    view.observe("web", (WEB,))
    assert slot.peek() is None
    view.open()
    shown = slot.peek()
    assert shown is not None
    assert dict(shown.services) == {"web": (WEB,)}


def test_the_same_content_is_not_shown_again() -> None:
    """T13: contents are compared, not indexes."""
    slot: Latest[Catalog] = Latest()
    view = View("dc1", slot)
    view.observe("web", (WEB,))
    view.open()
    first = slot.peek()
    assert not view.observe("web", (replace(WEB, modify_index=99),))
    view.observe_overrides({})
    assert slot.peek() is first
    assert view.observe("web", (replace(WEB, port=81),))
    assert slot.peek() is not first


def test_a_catalog_that_was_shown_never_changes() -> None:
    slot: Latest[Catalog] = Latest()
    view = View("dc1", slot)
    view.observe("web", (WEB,))
    view.open()
    first = slot.peek()
    view.observe("web", ())
    assert first is not None
    assert dict(first.services) == {"web": (WEB,)}
    last = slot.peek()
    assert last is not None
    assert dict(last.services) == {"web": ()}


def test_the_index_rises_and_falls_only_by_a_read_that_began_after_what_was_known() -> None:
    """A server that lags behind, or a consistent read that was overtaken, is no wiped store."""
    view = View("dc1", Latest())
    view.count(100)
    view.count(90)
    assert view.index == 100
    view.count(120)
    view.recount(110, known=100)
    assert view.index == 120
    view.recount(11, known=120)
    assert view.index == 11


def test_a_catalog_carries_the_index_and_an_index_alone_is_no_news() -> None:
    slot: Latest[Catalog] = Latest()
    view = View("dc1", slot)
    view.count(100)
    view.observe("web", (WEB,))
    view.open()
    first = slot.peek()
    assert first is not None
    assert first.index == 100
    view.count(101)
    view.observe("web", (WEB,))
    assert slot.peek() is first
