"""The demo as a real Prometheus sees it: every figure that the manual names, and not an alert."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import process, warm
from tests.harness.prometheus import Prometheus, expressions, is_silent
from tests.harness.tools import NginxBinary, find_consul, find_nginx, find_prometheus, missing

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

SHARE = 0.2
SECONDS = 20
ENOUGH = 500
"""Requests of which a share can be told; that many come on a busy machine too."""


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    consul, nginx = find_consul(), find_nginx("debian") or find_nginx("wheel")
    if consul is None or nginx is None:
        missing("Consul or nginx")
    environment = {**os.environ, "PATH": f"{links(tmp_path, consul, nginx)}{os.pathsep}{os.environ['PATH']}"}
    command = [*warm.COLD, "demo", "--seconds", str(SECONDS), "--canary", f"{SHARE:.0%}"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as demo:
        try:
            yield demo
        finally:
            if demo.poll() is None:
                demo.send_signal(signal.SIGINT)
            demo.wait(30)


def links(directory: Path, consul: Path, nginx: NginxBinary) -> Path:
    tools = directory / "tools"
    tools.mkdir()
    (tools / "consul").symlink_to(consul)
    (tools / "nginx").symlink_to(nginx.path)
    return tools


def admin_port(demo: subprocess.Popen[str]) -> int:
    """As the demo prints it for people."""
    assert demo.stdout is not None
    for line in demo.stdout:
        if found := re.match(r"status page +http://127\.0\.0\.1:(\d+)/", line):
            return int(found[1])
    raise AssertionError("the demo names no status page")


def test_prometheus_scrapes_the_demo(demo: subprocess.Popen[str], tmp_path: Path) -> None:
    binary = find_prometheus("prometheus")
    if binary is None:
        missing("prometheus")
    prometheus = Prometheus(binary, tmp_path, scraped=admin_port(demo))
    try:
        process.wait_until(lambda: told(prometheus) >= ENOUGH, what="enough requests in Prometheus", timeout=SECONDS)
        process.wait_until(lambda: not dark_panels(prometheus), what="data in every panel", timeout=SECONDS)
        assert_share(prometheus)
        process.wait_until(prometheus.is_scraping, what="a look that came to an end", timeout=SECONDS)
        assert prometheus.number("proxygen_ready") == 1
        # A kernel whose queue for datagrams is short loses lines, and says so.
        assert prometheus.alerts() <= {"ProxygenTrafficLost"}
    finally:
        prometheus.stop()
    assert demo.stdout is not None
    last = demo.stdout.read().splitlines()[-1]
    assert json.loads(last)["failed"] == 0


def dark_panels(prometheus: Prometheus) -> list[str]:
    """What the dashboard asks in vain; in the demo nothing is quarantined."""
    asked = [text for text in expressions() if not is_silent(text) and "quarantined" not in text]
    return [text for text in asked if not prometheus.query(text)]


def told(prometheus: Prometheus) -> float:
    """Requests by the figures that Prometheus has."""
    return prometheus.number("sum(proxygen_traffic_requests_total{service='web'})") or 0.0


def assert_share(prometheus: Prometheus) -> None:
    """The canary got its share, within four standard deviations."""
    requests = told(prometheus)
    # One evaluation, so that both are of one scrape.
    parts = "sum(proxygen_traffic_requests_total{service='web', variant='canary'})"
    measured = prometheus.number(f"{parts} / sum(proxygen_traffic_requests_total{{service='web'}})")
    assert measured == pytest.approx(SHARE, abs=4 * (SHARE * (1 - SHARE) / requests) ** 0.5)
