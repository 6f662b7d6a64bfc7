"""What the scenarios share: parts that survive each other, and a place to say what was seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.consul import ConsulAgent, start_client, start_cluster
from tests.harness.nginx import NginxServer
from tests.harness.tools import Consul, NginxBinary

_SAW = "saw"


@pytest.fixture
def saw(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Say what a scenario saw: printed after the tests, and kept in a JUnit report."""

    def say(text: str) -> None:
        record_property(_SAW, text)

    return say


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, ())]
    seen = [(report.nodeid, text) for report in reports for key, text in report.user_properties if key == _SAW]
    if seen:
        terminalreporter.section("what the scenarios saw")
    for name, text in dict.fromkeys(seen):
        terminalreporter.write_line(f"{name.rpartition('::')[2]}: {text}")


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> Callable[[float, float], float]:
    """Choose how long a scenario runs: the first figure, or the second with --long."""
    is_long = bool(request.config.getoption("--long"))
    return lambda short, long: long if is_long else short


@pytest.fixture
def times(request: pytest.FixtureRequest) -> Callable[[int, int], int]:
    """Choose how often a scenario does something: a busy machine takes longer for it, and proves the same."""
    is_long = bool(request.config.getoption("--long"))
    return lambda short, long: long if is_long else short


@pytest.fixture
def cluster(which_consul: Consul, tmp_path: Path) -> Iterator[list[ConsulAgent]]:
    """Three servers that elect a leader; any of them may be killed and started again."""
    agents = start_cluster(tmp_path / "cluster")
    yield agents
    for agent in agents:
        agent.kill()


@pytest.fixture
def local_agent(tmp_path: Path, cluster: list[ConsulAgent]) -> Iterator[ConsulAgent]:
    """An agent that is no server, as it runs on each host beside proxygen."""
    agent = start_client(tmp_path / "client", cluster)
    yield agent
    agent.kill()


@pytest.fixture
def server(any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> NginxServer:
    """One nginx, not started."""
    return make_nginx(any_nginx_binary)


@pytest.fixture
def running(server: NginxServer) -> NginxServer:
    server.start()
    return server
