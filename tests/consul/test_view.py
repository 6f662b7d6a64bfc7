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
