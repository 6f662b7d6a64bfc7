"""deploy/nomad/: read by the types of Nomad's own API, and run by an engine as Nomad's docker driver does.

There is no Nomad to be had where tests run; see `tests.harness.allocation` for what stands in for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import process
from tests.harness.allocation import Allocation, Job
from tests.harness.engine import Engine
from tests.harness.node import PODS, Node, name_images
from tests.harness.tools import missing
from tests.integration.acl import DENYING, policy, take_over, token

ROOT: Final = Path(__file__).parents[2]
READER: Final = Path(__file__).parent / "nomad_parse"
PROXYGEN: Final = ROOT / "deploy" / "nomad" / "proxygen.nomad.hcl"
WEB: Final = ROOT / "deploy" / "nomad" / "web.nomad.hcl"
HOST: Final = "app.example.com"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


# --- read


class Reader:
    """The program that reads job files, compiled."""

    def __init__(self, program: Path) -> None:
        self._program = program

    def read(self, *files: Path) -> list[Job]:
        """Raise ValueError with what is wrong."""
        done = subprocess.run([self._program, *files], capture_output=True, text=True, timeout=30, check=False)
        if done.returncode:
            raise ValueError(done.stderr)
        jobs: list[Job] = json.loads(done.stdout)
        return jobs


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    if shutil.which("go") is None:
        missing("go, which compiles the reader of Nomad's job files")
    program = tmp_path_factory.mktemp("nomad") / "nomad_parse"
    # Modules as go.sum has them, whatever this machine's own settings are.
    environment = {**os.environ, "GOFLAGS": "-mod=readonly -buildvcs=false"}
    subprocess.run(["go", "build", "-o", program, "."], cwd=READER, env=environment, check=True, timeout=500)
    return Reader(program)


@pytest.fixture(scope="module")
def jobs(reader: Reader) -> dict[str, Job]:
    return {job["ID"]: job for job in reader.read(PROXYGEN, WEB)}


def test_the_jobs_are_jobs(jobs: dict[str, Job]) -> None:
    assert jobs.keys() == {"proxygen", "web"}


@pytest.mark.parametrize(
    ("right", "wrong", "complaint"),
    [
        ("kill_signal ", "kil_signal ", "no such attribute: kil_signal"),
        ("ephemeral_disk {", "ephemeral_disc {", "no such block: ephemeral_disc"),
        ('"70s"', '"70 seconds"', "kill_timeout"),
        ("max_parallel     = 1", 'max_parallel     = "one"', "a number is required"),
        ("local.nginx_conf", "local.nginx", "Unsupported attribute"),
    ],
)
def test_a_job_with_a_mistake_is_none(reader: Reader, tmp_path: Path, right: str, wrong: str, complaint: str) -> None:
    text = PROXYGEN.read_text(encoding="utf-8")
    assert right in text
    file = tmp_path / "wrong.nomad.hcl"
    file.write_text(text.replace(right, wrong), encoding="utf-8")
    with pytest.raises(ValueError, match=complaint):
        reader.read(file)


def test_every_task_has_the_least_privileges(jobs: dict[str, Job]) -> None:
    for job in jobs.values():
        for task in job["TaskGroups"][0]["Tasks"]:
            config = task["Config"]
            assert config["cap_drop"] == ["all"]
            assert config["security_opt"] == ["no-new-privileges"]
            assert config["readonly_rootfs"] is True
            assert not {"privileged", "cap_add", "volumes", "devices", "network_mode"} & config.keys()
            assert config.get("pid_mode", "container:") != "host"


def test_both_tasks_read_the_same_nginx_conf_at_the_same_path(jobs: dict[str, Job]) -> None:
    tasks = {task["Name"]: task for task in jobs["proxygen"]["TaskGroups"][0]["Tasks"]}
    conf = [
        {(each["DestPath"], each["EmbeddedTmpl"]) for each in tasks[name]["Templates"]} for name in ("nginx", "sidecar")
    ]
    assert len(conf[0] & conf[1]) == 1


# --- run


@pytest.fixture(scope="module")
def node(
    yard: Engine, proxygen_image: str, example_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Node]:
    """A node with a Consul that denies by default, and the images under the names that the jobs use."""
    scratch = tmp_path_factory.mktemp("nomad-node")
    name_images(yard, proxygen_image, example_images)
    with Node(yard, scratch / "node", consul=DENYING) as node:
        take_over(node.consul)
        yield node


@pytest.fixture(scope="module")
def proxy(node: Node, jobs: dict[str, Job], tmp_path_factory: pytest.TempPathFactory) -> Allocation:
    given = token(node.consul, policy("sidecar"))
    proxy = Allocation(node, jobs["proxygen"], address=PODS[20], token=given)
    proxy.start(tmp_path_factory.mktemp("proxy"))
    return proxy


class Version:
    """An instance that is registered as Nomad does it: with its tags, or with canary tags until it is promoted."""

    def __init__(self, allocation: Allocation) -> None:
        self.allocation = allocation
        (self._service,) = allocation.group["Services"]

    def register(self, tags: str) -> None:
        self.allocation.node.consul.register(
            self._service["Name"],
            id=f"_nomad-task-{self.allocation.id}",
            address=str(self.allocation.address),
            port=self.allocation.port(self._service["PortLabel"]),
            tags=self._service[tags],
        )

    def deregister(self) -> None:
        self.allocation.node.consul.deregister(f"_nomad-task-{self.allocation.id}")


def launch(allocation: Allocation, directory: Path) -> Version:
    """Start the application, and register it as stable once it answers."""
    version = Version(allocation)
    allocation.start(directory)
    process.wait_until(lambda: allocation.check("answers") == 200, what="the application", timeout=60)
    version.register("Tags")
    return version


class Versions:
    """Which instance of the application is stable: the one that was promoted last, or the first."""

    def __init__(self, node: Node, job: Job, proxy: Allocation, directory: Path) -> None:
        self._node, self._job, self._proxy, self._directory = node, job, proxy, directory
        self._addresses = (address for address in PODS.hosts() if address > proxy.address)
        self.stable: Version | None = None

    def allocate(self) -> Allocation:
        return Allocation(self._node, self._job, address=next(self._addresses))

    def serve(self) -> Version:
        """Have a stable one serve, started now or by a test before."""
        if self.stable is None:
            self.stable = launch(self.allocate(), self._directory)
        process.wait_steady(lambda: ask(self._proxy) == 200, what="the application behind nginx", timeout=60)
        return self.stable


@pytest.fixture(scope="module")
def versions(node: Node, jobs: dict[str, Job], proxy: Allocation, tmp_path_factory: pytest.TempPathFactory) -> Versions:
    return Versions(node, jobs["web"], proxy, tmp_path_factory.mktemp("stable"))


@pytest.fixture
def stable(versions: Versions) -> Version:
    """The stable instance, which serves."""
    return versions.serve()


def ask(proxy: Allocation, host: str = HOST) -> int:
    return proxy.node.ask(f"http://{proxy.address}:{proxy.port('http')}/", Host=host)[0]


def generation(proxy: Allocation) -> str:
    read = "import os; print(os.readlink('/alloc/data/proxygen/current'))"
    return proxy.node.podman("exec", proxy.container("sidecar"), "python3", "-I", "-c", read)


def test_an_allocation_is_healthy_once_it_serves_a_generation(proxy: Allocation) -> None:
    process.wait_until(lambda: proxy.check("serves a generation") == 200, what="a generation", timeout=60)
    assert proxy.check("the sidecar lives") == 200


def test_a_canary_has_its_share_until_it_is_promoted(
    node: Node, proxy: Allocation, versions: Versions, stable: Version, tmp_path: Path
) -> None:
    canary = Version(versions.allocate())
    canary.allocation.start(tmp_path, images={"web": "registry.example.com/web:2"})
    process.wait_until(lambda: canary.allocation.check("answers") == 200, what="the canary", timeout=60)
    canary.register("CanaryTags")
    names = {version: version.allocation.host_name("web") for version in (stable, canary)}
    process.wait_until(lambda: names[canary] in sample(proxy, 60)[0], what="the canary's first request", timeout=60)
    instances, failures = sample(proxy, 1000)
    assert not failures
    # Four standard deviations of 10 % of 1,000 requests.
    assert instances[names[canary]] == pytest.approx(100, abs=38)
    # Promoted, it is one instance of two, and then the only one: Nomad deregisters the other before it ends it.
    canary.register("Tags")
    versions.stable = canary
    process.wait_until(
        lambda: sample(proxy, 100)[0][names[canary]] > 40, what="the promoted instance's half", timeout=30
    )
    load = node.start_load(proxy.address, proxy.port("http"), HOST, count=800, pause=0.03)
    stable.deregister()
    process.wait_until(lambda: names[stable] not in sample(proxy, 20)[0], what="the old version gone", timeout=60)
    stable.allocation.stop()
    assert load.result()[1] == {}


@pytest.mark.usefixtures("stable")
def test_a_sidecar_that_ends_is_started_again_and_nobody_notices(node: Node, proxy: Allocation) -> None:
    before = generation(proxy)
    load = node.start_load(proxy.address, proxy.port("http"), HOST, count=500, pause=0.03)
    node.crash(proxy.container("sidecar"))
    process.wait_until(lambda: proxy.check("the sidecar lives") == 200, what="the sidecar back", timeout=60)
    assert load.result()[1] == {}
    assert generation(proxy) == before
    see_a_change(proxy, "after-the-sidecar")


@pytest.mark.usefixtures("stable")
def test_nginx_that_ends_is_started_again_with_the_generation_that_it_had(node: Node, proxy: Allocation) -> None:
    before, sidecar = generation(proxy), node.pid(proxy.container("sidecar"))
    node.crash(proxy.container("nginx"))
    # The sidecar may not have noticed yet: it says that it is ready while nobody listens.
    process.wait_until(lambda: ask(proxy) == 200, what="nginx back", timeout=60)
    process.wait_until(lambda: proxy.check("serves a generation") == 200, what="the sidecar's word", timeout=60)
    assert generation(proxy) == before
    assert node.pid(proxy.container("sidecar")) == sidecar
    see_a_change(proxy, "after-nginx")


@pytest.mark.usefixtures("stable")
def test_nginx_finishes_what_it_has_begun(node: Node, proxy: Allocation) -> None:
    """It ends as Nomad ends it, by the job's own signal."""
    begun = node.begin(f"http://{proxy.address}:{proxy.port('http')}/slow?seconds=6", Host=HOST)
    node.podman("stop", "--time=60", proxy.container("nginx"))
    assert begun.answer()[0] == 200
    node.podman("start", proxy.container("nginx"))
    process.wait_steady(lambda: ask(proxy) == 200, what="nginx back", timeout=60)


def sample(proxy: Allocation, count: int) -> tuple[dict[str, int], dict[str, int]]:
    return proxy.node.start_load(proxy.address, proxy.port("http"), HOST, count=count, pause=0).result()


def see_a_change(proxy: Allocation, name: str) -> None:
    """A service comes: the sidecar hears of it, nginx reloads, and the reload is proven."""
    node: Any = proxy.node
    node.consul.register(name, address=str(PODS[1]), port=9, tags=[f"proxygen.route={name}.example.com"])
    process.wait_until(
        lambda: ask(proxy, f"{name}.example.com") == 502, what=f"{name}, whose instance is not there", timeout=60
    )
