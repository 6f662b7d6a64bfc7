"""Metrics as a scraper reads them."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

import proxygen
from proxygen.kit.metrics import Family
from proxygen.proxy.admin.exposition import Scrape
from proxygen.proxy.admin.families import EVENTS, FAMILIES, PASSES, STAGES
from proxygen.proxy.admin.meter import Meter
from proxygen.proxy.admin.report import (
    ApplyReport,
    ConsulReport,
    HoldReport,
    LiveReport,
    NginxReport,
    State,
    StatusReport,
)
from proxygen.proxy.admin.service_report import ConflictReport, ServiceSummary
from proxygen.proxy.admin.traffic_report import ListenerReport
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.record.events import Condition, Kind, Topic
from tests.proxy.admin.sidecar import STATUS, WEB, RememberingSidecar

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


@pytest.fixture
def sidecar() -> RememberingSidecar:
    """One that has something to say about everything."""
    sidecar = RememberingSidecar()
    sidecar.report = replace(
        STATUS,
        hold=HoldReport(reason="why", since="2026-01-01T00:00:00+00:00", pinned=41, services={"web": 2}),
        nginx=replace(STATUS.nginx, visible=True, max_draining=16),
    )
    sidecar.listed = (WEB, replace(WEB, name="bad", state="quarantined", variants=(), instances={}))
    durations = {"plan": 0.001, "reload": 0.01, "prove": 0.4}
    sidecar.meter.passed(ApplyReport(outcome="applied", durations=durations, propagation=0.6))
    sidecar.meter.asked_consul("answered", 0.002)
    return sidecar


def families(sidecar: RememberingSidecar, accept: str = "", *, streams: int = 1) -> dict[str, Metric]:
    body, _ = Scrape(sidecar, streams=streams).text(accept)
    parse = parse_openmetrics if accept else parse_text
    return {family.name: family for family in parse(body.decode())}


def value(sidecar: RememberingSidecar, name: str, **labels: str) -> float | None:
    """The sample's value; None where there is no such series."""
    for family in families(sidecar).values():
        for sample in family.samples:
            if sample.name == name and sample.labels == labels:
                return float(sample.value)
    return None


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_what_is_exposed_is_what_is_documented(sidecar: RememberingSidecar, accept: str) -> None:
    """Name, type, text and labels; process metrics are the library's own."""
    exposed = {name: family for name, family in families(sidecar, accept).items() if not name.startswith("process_")}
    assert exposed.keys() == {family.name for family in FAMILIES}
    for family in FAMILIES:
        found = exposed[family.name]
        assert (found.type, found.documentation) == (family.type, family.help)
        assert found.samples, f"{family.name} has no series"
        for sample in found.samples:
            assert sample.labels.keys() - {"le"} == set(family.labels)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: str(family.name))
def test_no_metric_is_the_same_of_two_sidecars_that_have_nothing_in_common(
    sidecar: RememberingSidecar, family: Family
) -> None:
    """One that is declared, exposed and never updated would be."""
    told, of_another = (
        {(each.name, *each.labels.values(), each.value) for each in metrics[family.name].samples}
        for metrics in (families(sidecar), families(another(), streams=2))
    )
    assert told != of_another


def another() -> RememberingSidecar:
    """One of which everything is different."""
    other = RememberingSidecar()
    consul = ConsulReport(address="", freshness=9.5, fresh=9.0, limited=9, received=9, sockets=9, max_sockets=9)
    other.report = StatusReport(
        version="9",
        state=State.DEGRADED,
        live=LiveReport(number=9, digest="", since="2026-09-09T00:00:00+00:00", outcome="applied"),
        last_apply=ApplyReport(outcome="rejected"),
        consul=consul,
        conflicts=(ConflictReport(loser="thief", holder="web", route="app.example.com/"),),
        nginx=NginxReport(visible=True, accepting=4, draining=3),
        traffic=ListenerReport(lost=9),
    )
    other.reasons = ("why",)
    other.listed, other.told = (), {}
    other.meter.watch_connections("unix", lambda: 3, [])
    other.meter.turned_away("tcp", "refused")
    other.events.note(Topic.CONSUL, {"consul": Condition(text="lost", end="back", cause="lost")})
    return other


CLOSED: Final = frozenset({"outcome", "listener", "reason", "topic", "state", "end", "kind"})
"""Labels whose values are a few words of ours, so that the help says all of them."""


def test_the_help_of_a_metric_names_each_value_of_its_labels(sidecar: RememberingSidecar) -> None:
    told = families(sidecar)
    del told[EVENTS.name]  # its kinds have a page
    for name, found in told.items():
        for sample in found.samples:
            values = {sample.labels[label] for label in CLOSED & sample.labels.keys()}
            unnamed = {value for value in values if not re.search(rf"\b{value}\b", found.documentation)}
            assert not unnamed, f"{name}: {found.documentation}"


STAGE: Final = re.compile(r'\.(?:of|timed)\("(\w+)"\)')
SOURCES: Final = {path: path.read_text() for path in Path(proxygen.__file__).parent.rglob("*.py")}


def test_the_help_of_the_stages_names_each_that_is_timed_and_no_other() -> None:
    _, _, words = STAGES.help.partition(": ")
    named = re.sub(r" \(.*?\)", "", words).rstrip(".").split(", ")
    timed = {stage for source in SOURCES.values() for stage in STAGE.findall(source)}
    assert set(named) == timed


def test_every_way_a_pass_ends_has_a_series_from_the_start() -> None:
    (passes,) = (metric for metric in Meter().collect() if metric.name == PASSES.name)
    assert {sample.labels["outcome"] for sample in passes.samples} == {outcome.value for outcome in Outcome}


@pytest.mark.parametrize("method", [name for name in vars(Meter) if not name.startswith("_")])
def test_what_the_meter_counts_is_told_to_it(method: str) -> None:
    callers = [path for path, source in SOURCES.items() if path.stem != "meter" and f"eter.{method}" in source]
    assert callers, f"nothing calls Meter.{method}"


def test_only_what_is_read_at_the_scrape_may_name_a_service() -> None:
    """An instrument keeps its series for ever; a service does not last so long."""
    counted = {metric.name for metric in Meter().collect()}
    assert not [family.name for family in FAMILIES if "service" in family.labels and family.name in counted]


def test_traffic_is_told_as_prometheus_counts_it(sidecar: RememberingSidecar) -> None:
    """Buckets are cumulative; what nginx answered by itself has no response time."""
    labels = {"service": "web", "variant": "canary"}
    assert value(sidecar, "proxygen_traffic_requests_total", **labels, **{"class": "5xx"}) == 4
    assert value(sidecar, "proxygen_traffic_upstream_seconds_bucket", **labels, le="1.0") == 36
    assert value(sidecar, "proxygen_traffic_upstream_seconds_bucket", **labels, le="+Inf") == 40
    assert value(sidecar, "proxygen_traffic_upstream_seconds_count", **labels) == 40
    assert value(sidecar, "proxygen_traffic_upstream_seconds_sum", **labels) == 12.5
    assert value(sidecar, "proxygen_traffic_upstream_seconds_count", service="web", variant="") is None
    assert value(sidecar, "proxygen_traffic_lost_lines_total") == 4
    sidecar.report = replace(sidecar.report, traffic=replace(sidecar.report.traffic, lost=None))
    assert value(sidecar, "proxygen_traffic_lost_lines_total") is None


def test_a_gone_service_leaves_no_series(sidecar: RememberingSidecar) -> None:
    def services() -> set[str]:
        found = families(sidecar).values()
        return {sample.labels["service"] for family in found for sample in family.samples if "service" in sample.labels}

    assert services() == {"web", "bad"}
    sidecar.listed = ()
    sidecar.told = {}
    sidecar.report = STATUS
    assert services() == set()
    assert value(sidecar, "proxygen_services", state="served") == 0


def test_two_sidecars_in_one_process_count_apart(sidecar: RememberingSidecar) -> None:
    assert value(sidecar, "proxygen_passes_total", outcome="applied") == 1
    assert value(RememberingSidecar(), "proxygen_passes_total", outcome="applied") == 0


def test_counts_are_of_what_the_status_says(sidecar: RememberingSidecar) -> None:
    assert value(sidecar, "proxygen_generation") == 42
    assert value(sidecar, "proxygen_held", kind="rollback") == 1
    assert value(sidecar, "proxygen_held_services") == 1
    assert value(sidecar, "proxygen_service_kept_instances", service="web") == 2
    assert value(sidecar, "proxygen_services", state="quarantined") == 1
    assert value(sidecar, "proxygen_service_quarantined", service="bad") == 1
    assert value(sidecar, "proxygen_service_quarantined", service="web") is None
    assert value(sidecar, "proxygen_instances", state="serving") == 2
    assert value(sidecar, "proxygen_service_share", service="web", variant="stable") == 1
    assert value(sidecar, "proxygen_service_share_asked", service="web", variant="canary") == 0.1
    assert value(sidecar, "proxygen_nginx_workers", state="draining") == 1
    assert value(sidecar, "proxygen_event_streams") == 1


def test_a_reload_is_measured_from_asking_to_proof(sidecar: RememberingSidecar) -> None:
    assert value(sidecar, "proxygen_reload_seconds_sum") == pytest.approx(0.41)
    assert value(sidecar, "proxygen_propagation_seconds_sum") == 0.6


def test_a_reload_that_took_no_effect_is_none(sidecar: RememberingSidecar) -> None:
    sidecar.meter.passed(ApplyReport(outcome="rolled back", durations={"reload": 0.01, "prove": 9.0, "restore": 1.0}))
    assert value(sidecar, "proxygen_reload_seconds_count") == 1
    assert value(sidecar, "proxygen_stage_seconds_count", stage="restore") == 1


def test_a_query_that_waits_for_a_change_says_nothing_of_consuls_speed(sidecar: RememberingSidecar) -> None:
    sidecar.meter.asked_consul("answered", None)
    sidecar.meter.asked_consul("failed", 15.0)
    assert value(sidecar, "proxygen_consul_requests_total", outcome="answered") == 2
    assert value(sidecar, "proxygen_consul_request_seconds_count") == 1


def test_before_consul_has_answered_its_data_is_infinitely_old(sidecar: RememberingSidecar) -> None:
    sidecar.report = replace(STATUS, consul=replace(STATUS.consul, freshness=None), live=None)
    assert value(sidecar, "proxygen_consul_freshness_seconds") == float("inf")
    assert value(sidecar, "proxygen_generation") is None


def test_a_failed_pass_and_a_lost_readiness_show(sidecar: RememberingSidecar) -> None:
    assert (value(sidecar, "proxygen_ready"), value(sidecar, "proxygen_failing")) == (1, 0)
    sidecar.reasons = ("why",)
    sidecar.report = replace(STATUS, last_apply=ApplyReport(outcome="rolled back"))
    assert (value(sidecar, "proxygen_ready"), value(sidecar, "proxygen_failing")) == (0, 1)


def test_every_kind_of_event_has_a_series_from_the_start(sidecar: RememberingSidecar) -> None:
    """Only so does a rate see the first of its kind."""
    sidecar.events.append(Kind.ROLLED_BACK, "why")
    assert value(sidecar, "proxygen_events_total", kind="rolled back") == 1
    assert value(sidecar, "proxygen_events_total", kind="held") == 0


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_hostile_name_stays_one_label(sidecar: RememberingSidecar, accept: str) -> None:
    name = 'a"} 1\nproxygen_ready 0\n# {\\é'
    sidecar.listed = (ServiceSummary(name=name, state="quarantined", routes=(), variants=(), instances={}),)
    found = families(sidecar, accept)["proxygen_service_quarantined"].samples
    assert [sample.labels["service"] for sample in found] == [name]
    assert [sample.value for sample in families(sidecar, accept)["proxygen_ready"].samples] == [1]


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("text/html,application/xhtml+xml", "text/plain"),
        (OPENMETRICS, "application/openmetrics-text"),
        (f"{OPENMETRICS};q=0.8,text/plain;version=0.0.4;q=0.5", "application/openmetrics-text"),
        ("application/openmetrics-text;version=x.y", "application/openmetrics-text"),
        ("text/plain;version=\xff", "text/plain"),
        (";,;=,", "text/plain"),
    ],
)
def test_the_client_chooses_the_format(sidecar: RememberingSidecar, accept: str, expected: str) -> None:
    body, content_type = Scrape(sidecar, streams=0).text(accept)
    assert content_type.startswith(expected)
    assert body.endswith(b"# EOF\n") == (expected != "text/plain")


def test_the_live_generations_age_is_unix_time(sidecar: RememberingSidecar) -> None:
    live = LiveReport(number=1, digest="", since="1970-01-01T01:00:00.500+00:00", outcome="applied")
    sidecar.report = replace(STATUS, live=live)
    assert value(sidecar, "proxygen_generation_live_timestamp_seconds") == 3600.5
