"""What an operator's tools see of a real sidecar: the event stream, the metrics, a Prometheus that scrapes both."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxygen.proxy.admin.families import FAMILIES
from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.prometheus import RULES, Prometheus, expressions, is_silent
from tests.harness.sidecar import Sidecar
from tests.harness.stream import Listener
from tests.harness.tools import find_prometheus, missing

OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@pytest.fixture
def watched(any_sidecar: Sidecar) -> Sidecar:
    """A sidecar at work."""
    any_sidecar.start()
    return any_sidecar


def metrics(sidecar: Sidecar) -> dict[tuple[str, frozenset[str]], float]:
    """Every sample by its name and its labels' values."""
    with OPENER.open(f"http://127.0.0.1:{sidecar.admin}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
        return {
            (sample.name, frozenset(sample.labels.values())): sample.value
            for family in families
            for sample in family.samples
        }


def value(sidecar: Sidecar, name: str, *labels: str) -> float | None:
    return metrics(sidecar).get((name, frozenset(labels)))


def test_what_is_on_its_way_is_not_called_live(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: Callable[..., Sidecar]
) -> None:
    """The proof is made to take a second, in which ``current`` names what nobody has seen nginx serve."""
    sidecar = make_sidecar(consul, nginx, reload__alive_after="1s", reload__gap=0)
    sidecar.start()
    before = sidecar.status()["live"]
    consul.register("web", port=9, tags=["proxygen.route=web.example.com"])
    process.wait_until(lambda: sidecar.generation() != before["number"], what="another generation published")
    assert sidecar.status()["live"] == before
    assert value(sidecar, "proxygen_generation") == before["number"]
    assert [each["number"] for each in sidecar.request("/api/v1/generations")[1] if each["live"]] == [before["number"]]
    process.wait_until(lambda: sidecar.status()["live"] != before, what="another live generation")
    after = sidecar.status()["live"]
    assert (after["number"], after["outcome"]) == (sidecar.generation(), "applied")
    assert after["since"] > before["since"]
    assert value(sidecar, "proxygen_generation") == after["number"]


def test_what_goes_live_what_is_left_out_and_what_is_held_are_seen_in_events_and_metrics(
    consul: ConsulAgent, watched: Sidecar
) -> None:
    listener = Listener(watched)
    with App("web-1") as app:
        web = consul.register("web", port=app.port, tags=["proxygen.route=web.example.com"])
        listener.wait_for("applied")
        process.wait_until(lambda: value(watched, "proxygen_services", "served") == 1, what="web is counted")
        assert value(watched, "proxygen_service_serving", "web", "stable") == 1

        bad = consul.register("bad", port=app.port, tags=["proxygen.route=bad.example.com", "proxygen.weight=x"])
        event = listener.wait_for("quarantined", services=["bad"])
        assert "is not a whole number" in event["text"]
        assert value(watched, "proxygen_service_quarantined", "bad") == 1

        assert watched.command("rollback").returncode == 0
        held = listener.wait_for("held")
        assert "went back" in held["text"]
        process.wait_until(lambda: value(watched, "proxygen_held", "rollback") == 1, what="the hold is counted")
        assert value(watched, "proxygen_ready") == 0

        assert watched.command("release-hold").returncode == 0
        listener.wait_for("hold ended")
        process.wait_until(lambda: value(watched, "proxygen_held", "rollback") == 0, what="the hold's end is counted")

        consul.deregister(bad)
        listener.wait_for("quarantine ended", services=["bad"])
        consul.deregister(web)
        process.wait_until(
            lambda: not any("web" in labels or "bad" in labels for _, labels in metrics(watched)),
            what="gone services leave no series",
            timeout=30,
        )
    found = metrics(watched)
    assert found["proxygen_passes_total", frozenset({"applied"})] >= 3
    assert found["proxygen_reload_seconds_count", frozenset()] >= 3
    assert found["proxygen_propagation_seconds_count", frozenset()] >= 2
    assert found["proxygen_consul_requests_total", frozenset({"answered"})] > 0
    assert found["proxygen_consul_received_bytes_total", frozenset()] > 0
    assert found["process_resident_memory_bytes", frozenset()] > 0
    assert watched.stop() == 0
    listener.close()
    ids = [event["id"] for event in listener.events]
    assert ids == sorted(set(ids))


def test_held_servers_are_named_until_the_operator_lets_go(consul: ConsulAgent, any_sidecar: Sidecar) -> None:
    with App("web-1") as app:
        tags = ["proxygen.route=many.example.com"]
        ids = [consul.register("many", port=app.port, id=f"many-{n}", tags=tags) for n in range(8)]
        any_sidecar.start()
        listener = Listener(any_sidecar)
        listener.wait_for("applied")
        for service in ids:
            consul.deregister(service)
        listener.wait_for("held", services=["many"])
        process.wait_until(lambda: value(any_sidecar, "proxygen_held", "guard") == 1, what="the hold is counted")
        assert value(any_sidecar, "proxygen_held_services") == 1
        # Not all eight: those that went first may have been believed.
        assert value(any_sidecar, "proxygen_service_kept_instances", "many")
        assert any_sidecar.request("/api/v1/services/many")[1]["kept"] > 0
        any_sidecar.command("release-hold")
        listener.wait_for("hold ended")
        process.wait_until(
            lambda: value(any_sidecar, "proxygen_service_kept_instances", "many") is None, what="none is kept any more"
        )
    any_sidecar.stop()
    listener.close()


def test_settings_that_change_cost_no_event(consul: ConsulAgent, watched: Sidecar) -> None:
    """The parts are put together anew; ids go on, and what lasts is not told again."""
    with App("web-1") as app:
        consul.register("bad", port=app.port, tags=["proxygen.route=bad.example.com", "proxygen.weight=x"])
        before = Listener(watched)
        quarantined = before.wait_for("quarantined")
        text = watched.config.read_text().replace("[admin]\n", '[admin]\nfresh = "90s"\n')
        watched.config.write_text(text)
        before.close()
        live = watched.generation()
        assert live is not None
        process.wait_until(
            lambda: value(watched, "proxygen_consul_freshness_limit_seconds") == 90, what="the new settings", timeout=30
        )
        consul.register("web", port=app.port, tags=["proxygen.route=web.example.com"])
        after = Listener(watched)
        after.wait_for("applied", generation=live + 1)
        assert after.wait_for("quarantined") == quarantined
        assert after.kinds().count("quarantined") == 1
    watched.stop()
    after.close()


def test_a_rollback_is_told_and_counted_though_the_same_pass_goes_on_without_its_cause(
    consul: ConsulAgent, watched: Sidecar
) -> None:
    """A port that another program holds: nginx -t lets it pass, the master refuses, the service is left out."""
    listener = Listener(watched)
    port = free_port()
    tags = ["proxygen.protocol=tcp", f"proxygen.listen={port}"]
    with socket.create_server(("0.0.0.0", port)):
        consul.register("db", port=free_port(), tags=tags)
        event = listener.wait_for("rolled back")
        assert f"0.0.0.0:{port}" in event["text"]
        listener.wait_for("quarantined", services=["db"])
        assert value(watched, "proxygen_passes_total", "rolled back") == 1
        assert value(watched, "proxygen_stage_seconds_count", "restore") == 1
    watched.stop()
    listener.close()


# --- a real Prometheus


@pytest.fixture
def promtool() -> Path:
    tool = find_prometheus("promtool")
    if tool is None:
        missing("promtool")
    return tool


def test_the_alert_rules_are_sound(promtool: Path) -> None:
    done = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_on_its_trouble_and_on_no_other(promtool: Path, tmp_path: Path) -> None:
    cases = (
        (Path(__file__).parents[1] / "deploy" / "alerts_test.yml").read_text().replace("RULES", json.dumps(str(RULES)))
    )
    (tmp_path / "cases.yml").write_text(cases)
    command = [str(promtool), "test", "rules", str(tmp_path / "cases.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_nothing_wrong_with_the_metrics(promtool: Path, watched: Sidecar) -> None:
    with OPENER.open(f"http://127.0.0.1:{watched.admin}/metrics", timeout=10) as answer:
        text = answer.read()
    done = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


@pytest.fixture
def prometheus(watched: Sidecar, make_prometheus: Callable[[Sidecar], Prometheus]) -> Prometheus:
    return make_prometheus(watched)


def request(sidecar: Sidecar, host: str) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.http, timeout=10)
    connection.request("GET", "/", headers={"Host": host})
    connection.getresponse().read()
    connection.close()


@pytest.mark.slow
def test_a_real_prometheus_scrapes_it_and_the_dashboard_has_something_to_show(
    consul: ConsulAgent, watched: Sidecar, prometheus: Prometheus
) -> None:
    with App("web-1") as app:
        tags = ["proxygen.route=web.example.com"]
        consul.register("web", port=app.port, tags=tags)
        consul.register("web", port=app.port, id="web-canary", tags=[*tags, "proxygen.canary=10%"])
        consul.register("bad", port=app.port, tags=["proxygen.route=bad.example.com", "proxygen.weight=x"])
        process.wait_until(
            lambda: prometheus.query('proxygen_service_share{service="web", variant="canary"} == 0.1'),
            what="Prometheus sees the canary",
            timeout=60,
        )
        process.wait_until(
            lambda: prometheus.query('proxygen_service_quarantined{service="bad"} == 1'),
            what="Prometheus sees the quarantine",
            timeout=60,
        )
        asked = expressions()
        assert len(asked) > 20
        loud = [text for text in asked if not is_silent(text)]

        def have_data() -> bool:
            for _ in range(20):
                request(watched, "web.example.com")
            return all(prometheus.query(text) for text in loud)

        process.wait_until(have_data, what="every panel has data", timeout=60)
        for text in asked:
            prometheus.query(text)
        process.wait_until(
            lambda: (
                "ProxygenQuarantined" in {alert["labels"]["alertname"] for alert in prometheus.get("alerts")["alerts"]}
            ),
            what="the alert on the quarantine",
            timeout=60,
        )
        process.wait_until(prometheus.is_scraping, what="a look that came to an end", timeout=60)
        known = set(prometheus.get("label/__name__/values"))
        # Those of which a sound sidecar without a hold and without certificates has no series.
        silent = {
            "proxygen_certificate_expiry_timestamp_seconds",
            "proxygen_service_kept_instances",
            "proxygen_service_unusable_instances",
        }
        assert {family.series for family in FAMILIES if family.type != "histogram"} - silent <= known
