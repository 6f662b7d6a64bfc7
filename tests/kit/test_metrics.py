"""Metrics of the agents without an admin API: over real HTTP, and as Prometheus' own tool wants them."""

from __future__ import annotations

import ast
import http.client
import re
import subprocess
import threading
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import msgspec
import pytest

import proxygen
from proxygen.consul.client import Statistics
from proxygen.kit.errors import SettingsError
from proxygen.kit.metrics import Reading, serving
from proxygen.network.agent import metrics as network
from proxygen.network.agent.status import AgentStatus, CarryStatus, HostState, MemberStatus
from proxygen.proxy.admin import families as sidecar
from proxygen.registration import metrics as registrator
from tests.harness.ports import free_port
from tests.harness.tools import find_prometheus, missing

PACKAGE = Path(proxygen.__file__).parent
CONSUL = Statistics(requests=12, failures=2, refused=0, received=0, sockets=1, waiting=0)
MEMBER = MemberStatus(host_id="b", node="b", subnet="10.99.2.0/24", public_ip="10.0.0.2", lives=True)
STATUS = AgentStatus(
    version="1.2.3",
    pid=1,
    at=1.0,
    state=HostState.DEGRADED,
    host_id="a",
    node="a",
    standing="held",
    reason="",
    network="10.99.0.0/16",
    subnet="10.99.1.0/24",
    backend="vxlan",
    mtu=1450,
    interface="eth0",
    public_ip="10.0.0.1",
    consul_answered=1.0,
    members=(MEMBER,),
    problems=("one",),
    carried=CarryStatus(at=1.0, seconds=0.25, error="", done=7, failed=1),
)
FIGURES = registrator.ContainerCounts(
    connected=True, registered=3, skipped=1, ignored=2, serving=4, withdrawn=1, events=9, synced=1.0
)
ANOTHER_CONSUL = Statistics(requests=9, failures=1, refused=0, received=0, sockets=1, waiting=0)
ANOTHER_STATUS = msgspec.structs.replace(
    STATUS,
    version="9",
    state=HostState.READY,
    standing="waiting",
    mtu=9,
    consul_answered=9.0,
    members=(),
    problems=(),
    carried=CarryStatus(at=9.0, seconds=9.0, error="", done=9, failed=9),
)
OTHER_FIGURES = registrator.ContainerCounts(
    connected=False, registered=0, skipped=0, ignored=0, serving=0, withdrawn=0, events=0, synced=9.0
)
PAGES = {
    "network": (network.FAMILIES, tuple(network.readings(STATUS, CONSUL))),
    "registrator": (registrator.FAMILIES, tuple(registrator.readings(FIGURES, CONSUL))),
}


def scrape(readings: Iterable[Reading]) -> str:
    port = free_port()
    with serving(f"127.0.0.1:{port}", lambda: readings, setting="x.metrics"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        assert answer.status == 200
        text = answer.read().decode()
        connection.close()
    with pytest.raises(ConnectionRefusedError):
        http.client.HTTPConnection("127.0.0.1", port, timeout=10).connect()
    return text


@pytest.mark.parametrize("page", PAGES)
def test_every_metric_is_told_and_none_that_is_not_declared(page: str) -> None:
    families, readings = PAGES[page]
    told = {line.split()[2] for line in scrape(readings).splitlines() if line.startswith("# TYPE")}
    assert told == {family.series for family in families}
    assert {reading.family for reading in readings} == set(families)
    for reading in readings:
        assert all(len(labels) == len(reading.family.labels) for labels in reading.values)


def _declared(source: str) -> tuple[list[str], int]:
    """Return the names under which a module declares metrics, and how many it makes anywhere."""
    tree = ast.parse(source)
    names = [ast.unparse(node.target) for node in tree.body if isinstance(node, ast.AnnAssign) and _makes(node.value)]
    return names, sum(map(_makes, ast.walk(tree)))


def _makes(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] == "Family"


def test_every_metric_that_is_declared_is_in_a_table() -> None:
    """The tables are what is exposed and what the reference page is written from."""
    found = {}
    for path in PACKAGE.rglob("*.py"):
        names, made = _declared(path.read_text())
        assert made == len(names), f"{path} makes a metric that is no constant of the module"
        if names:
            found[".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)] = names
    for module, names in found.items():
        assert [vars(import_module(module))[name] for name in names] == list(import_module(module).FAMILIES), module
    assert found.keys() == {sidecar.__name__, network.__name__, registrator.__name__}


def test_a_metric_beside_the_declarations_is_seen() -> None:
    assert _declared("A: Final = Family('a')\ndef f():\n    return metrics.Family('b')") == (["A"], 2)


@pytest.mark.parametrize(
    ("readings", "others"),
    [
        (network.readings(STATUS, CONSUL), network.readings(ANOTHER_STATUS, ANOTHER_CONSUL)),
        (registrator.readings(FIGURES, CONSUL), registrator.readings(OTHER_FIGURES, ANOTHER_CONSUL)),
    ],
)
def test_no_metric_is_the_same_of_two_agents_that_have_nothing_in_common(
    readings: Iterable[Reading], others: Iterable[Reading]
) -> None:
    """One that is declared, exposed and never updated would be."""
    for reading, other in zip(readings, others, strict=True):
        assert reading.family is other.family
        assert reading.values != other.values, reading.family.name


@pytest.mark.parametrize("page", PAGES)
def test_the_help_of_a_metric_names_each_value_of_its_labels(page: str) -> None:
    for reading in PAGES[page][1]:
        family = reading.family
        if family is not network.INFO:
            words = {word for values in reading.values for word in values} - {"true", "false"}
            assert not [word for word in words if not re.search(rf"\b{word}\b", family.help)], family.help


@pytest.mark.parametrize("page", PAGES)
def test_prometheus_finds_nothing_to_complain_of(page: str) -> None:
    promtool = find_prometheus("promtool")
    if promtool is None:
        missing("promtool")
    done = subprocess.run(
        [promtool, "check", "metrics"], input=scrape(PAGES[page][1]), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_figures_are_those_of_the_moment() -> None:
    text = scrape(PAGES["network"][1])
    assert 'proxygen_network_state{state="degraded"} 1.0\n' in text
    assert 'proxygen_network_members{lives="true"} 1.0\n' in text
    assert 'proxygen_network_carries_total{outcome="failed"} 1.0\n' in text
    text = scrape(PAGES["registrator"][1])
    assert 'proxygen_registrator_containers{state="skipped"} 1.0\n' in text
    assert 'proxygen_registrator_consul_requests_total{outcome="answered"} 10.0\n' in text


def test_off_is_off() -> None:
    before = threading.active_count()
    with serving("off", lambda: (), setting="x.metrics"):
        assert threading.active_count() == before


def test_an_address_that_is_taken_names_the_setting() -> None:
    port = free_port()
    with (
        serving(f"127.0.0.1:{port}", lambda: (), setting="x.metrics"),
        pytest.raises(SettingsError, match=r"^network\.metrics = .*choose another"),
        serving(f"127.0.0.1:{port}", lambda: (), setting="network.metrics"),
    ):
        pass
