"""What stands where on the screen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.proxy.admin.report import GenerationReport, State
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary, VariantReport, VariantSummary
from proxygen.proxy.admin.traffic_report import HistoryReport, TrafficReport
from proxygen.top.rows import (
    COLUMNS,
    INSTANCE_COLUMNS,
    Order,
    arrange,
    bars,
    generation_cells,
    headline,
    instance_cells,
    service_cells,
    variant_lines,
)
from tests.proxy.admin.sidecar import CANARY, STATUS, WEB


def traffic(requests: float, errors: float, share: int | None = None) -> TrafficReport:
    return TrafficReport(
        seconds=10.0,
        requests=requests,
        errors=errors,
        classes={},
        retried=0.0,
        backed_up=0.0,
        share=share,
        p50=0.01,
        p95=0.2,
        p99=1.5,
    )


def service(name: str, requests: float = 0, errors: float = 0, state: str = "served") -> ServiceSummary:
    told = traffic(requests, errors, 900) if requests else None
    variants = (VariantSummary(name="canary", asked=1000, effective=0, serving=1, registered=2, traffic=told),)
    return ServiceSummary(name=name, state=state, routes=(f"{name}.example.com/",), variants=variants, instances={})


def test_a_service_is_told_in_one_row() -> None:
    cells = dict(zip(COLUMNS, service_cells(service("web", 100, 5)), strict=True))
    assert (cells["INSTANCES"], cells["REQUESTS"], cells["ERRORS"], cells["P95"]) == ("1/2", "10/s", "5.0 %", "200 ms")
    assert cells["SHARES"] == "canary 0% (asked 10%) (measured 9%)"


def test_without_traffic_nothing_is_claimed() -> None:
    cells = dict(zip(COLUMNS, service_cells(WEB), strict=True))
    assert (cells["REQUESTS"], cells["ERRORS"], cells["P95"]) == ("–", "–", "–")


def test_a_generation_that_was_pushed_says_so() -> None:
    reloaded = GenerationReport(number=4, digest="a", created="2026-03-01T11:59:00+00:00", live=True, outcome="live")
    states = [generation_cells(each)[1] for each in (replace(reloaded, by="reload"), replace(reloaded, by="push"))]
    assert states == ["live", "live by push"]


@pytest.mark.parametrize(
    ("order", "names"),
    [
        (Order.TROUBLE, ["gone", "bad", "busy", "calm"]),
        (Order.NAME, ["bad", "busy", "calm", "gone"]),
        (Order.REQUESTS, ["busy", "bad", "calm", "gone"]),
        (Order.ERRORS, ["bad", "busy", "calm", "gone"]),
    ],
)
def test_each_order_puts_its_own_first(order: Order, names: list[str]) -> None:
    services = [service("calm"), service("busy", 900), service("bad", 10, 5), service("gone", state="nobody")]
    assert [each.name for each in arrange(services, query="", order=order)] == names


def test_all_words_of_a_query_must_be_in_the_name_or_a_route() -> None:
    services = [service("web"), service("shop")]
    assert [each.name for each in arrange(services, query="EXAMPLE sh", order=Order.NAME)] == ["shop"]


def test_every_order_comes_round() -> None:
    order, seen = Order.TROUBLE, set()
    for _ in Order:
        seen.add(order)
        order = order.next
    assert (seen, order) == (set(Order), Order.TROUBLE)


def test_problems_are_named_and_no_name_breaks_a_line() -> None:
    head = headline(replace(STATUS, state=State.DEGRADED, reasons=("Consul's data is 90s old",)))
    assert (head.healthy, head.title) == (False, "degraded")
    assert head.problems[0] == "because: Consul's data is 90s old"
    assert r"evil\nname" in head.problems[1]
    assert all(line.isprintable() for line in (*head.lines, *head.problems))


def test_a_figure_that_is_there_has_a_bar() -> None:
    assert bars((0, 1, 1000)) == " ▁█"
    assert bars(()) == ""


def test_a_variant_tells_its_last_minutes() -> None:
    history = HistoryReport(step=5, requests=(0, 10), errors=(0, 0), p95=(None, 0.2))
    variant = VariantReport(
        name="canary", asked=1000, effective=1000, instances=(CANARY,), traffic=traffic(100, 5, 950), history=history
    )
    detail = ServiceDetail(name="web", state="served", variants=(variant,))
    first, second = variant_lines(detail)
    assert first == "canary 10% (measured 9.5%): 10/s, 5.0 % errors, p50 10 ms, p95 200 ms, p99 1.5 s"
    assert second == "  requests  █  errors     last 10 s"
    (row,) = instance_cells(detail)
    assert dict(zip(INSTANCE_COLUMNS, row, strict=True))["ADDRESS"] == "10.0.0.9:80"
