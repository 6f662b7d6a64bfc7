"""The catalog that is made of what was observed."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.consul.view import ObservedView
from proxygen.kit.aio import Latest

WEB = Instance(service=ServiceName("web"), id="web-1", node="n1", datacenter="dc1", address="10.0.0.1", port=80)


def test_nothing_is_shown_before_it_is_opened() -> None:
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
    view.observe("web", (WEB,))
    assert slot.peek() is None
    view.open()
    shown = slot.peek()
    assert shown is not None
    assert dict(shown.services) == {"web": (WEB,)}


def test_the_same_content_is_not_shown_again() -> None:
    """T13: contents are compared, not indexes."""
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
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
    view = ObservedView("dc1", slot)
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
    view = ObservedView("dc1", Latest())
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
    view = ObservedView("dc1", slot)
    view.count(100)
    view.observe("web", (WEB,))
    view.open()
    first = slot.peek()
    assert first is not None
    assert first.index == 100
    view.count(101)
    view.observe("web", (WEB,))
    assert slot.peek() is first


def shown(slot: Latest[Catalog]) -> Catalog:
    catalog = slot.peek()
    assert catalog is not None
    return catalog


def on(service: str, node: str, number: int = 1) -> Instance:
    return replace(WEB, service=ServiceName(service), id=f"{service}-{number}", node=node)


def test_a_service_that_is_gone_is_shown_empty_for_a_while_and_then_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads the slot sees it empty at least once: one that is missing was never observed."""
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
    view.observe("web", (WEB,))
    view.observe("shop", (on("shop", "n2"),))
    view.open()
    view.observe("web", ())
    view.retire("web")
    now += 600
    view.observe("shop", (on("shop", "n2", 2),))
    assert dict(shown(slot).services) == {"web": (), "shop": (on("shop", "n2", 2),)}
    now += 1
    view.observe("shop", (on("shop", "n2", 3),))
    assert list(shown(slot).services) == ["shop"]
    assert "web" not in view
    assert view.observe("web", (WEB,)), "it is new again"


def test_a_service_that_comes_back_in_time_is_not_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1_000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
    view.observe("web", (WEB,))
    view.open()
    view.retire("web")
    view.observe("web", (WEB,))
    now += 10_000
    view.observe("shop", (on("shop", "n2"),))
    assert set(shown(slot).services) == {"web", "shop"}


def test_which_services_are_on_a_node_follows_what_was_seen_last() -> None:
    view = ObservedView("dc1", Latest())
    view.observe("web", (on("web", "n1"), on("web", "n2", 2)))
    view.observe("shop", (on("shop", "n1"),))
    assert (view.services_on("n1"), view.services_on("n2"), view.services_on("n3")) == ({"web", "shop"}, {"web"}, set())
    assert view.instances_on("n2") == [on("web", "n2", 2)]
    view.observe("web", (on("web", "n3"),))
    assert (view.services_on("n1"), view.services_on("n2"), view.services_on("n3")) == ({"shop"}, set(), {"web"})
    assert view.instances_on("n2") == []
    assert (view.instances("web"), view.instances("nobody")) == ((on("web", "n3"),), ())
    found = view.services_on("n1")
    found.clear()
    assert view.services_on("n1") == {"shop"}


def test_overrides_and_other_datacenters_are_news_when_they_are_others() -> None:
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
    view.observe("web", (WEB,))
    view.open()
    view.observe_overrides({ServiceName("web"): "{}"})
    assert dict(shown(slot).overrides) == dict(view.overrides) == {"web": "{}"}
    there = replace(WEB, datacenter="dc2", address="10.2.0.1")
    assert view.instances_elsewhere("dc2", "web") is None
    assert view.observe_elsewhere("dc2", "web", (there,))
    first = shown(slot)
    assert first.elsewhere == {"dc2": {"web": (there,)}}
    assert not view.observe_elsewhere("dc2", "web", (replace(there, modify_index=99),))
    assert shown(slot) is first
    assert view.observe_elsewhere("dc2", "web", ())
    assert shown(slot).elsewhere == {"dc2": {"web": ()}}
    assert view.instances_elsewhere("dc2", "web") == ()
    view.forget_elsewhere("dc2", "web")
    view.forget_elsewhere("dc3", "web")
    view.observe("web", (replace(WEB, port=81),))
    assert shown(slot).elsewhere == {}


def test_opening_shows_once_what_there_is() -> None:
    slot: Latest[Catalog] = Latest()
    view = ObservedView("dc1", slot)
    view.open()
    first = shown(slot)
    assert (first.datacenter, dict(first.services)) == ("dc1", {})
    view.open()
    assert shown(slot) is first
