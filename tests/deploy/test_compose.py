"""deploy/compose/compose.yaml on a real engine: what is served, and what happens when one part is gone for a while."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness import process
from tests.harness.compose import HOST, Project
from tests.harness.engine import Engine
from tests.harness.load import Load, Tally

pytestmark = pytest.mark.slow

SERVICES = ("pod", "nginx", "sidecar", "consul", "web-1", "web-2", "web-canary")
GENERATIONS = "import os; print(*sorted(os.listdir('/var/lib/proxygen/generations')))"


@pytest.fixture(scope="module")
def project(
    yard: Engine, example_images: dict[str, str], consul_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    """The file's services, all up; the canary has 10 % and is of version 2."""
    project = Project(yard, f"pg{os.getpid()}", tmp_path_factory.mktemp("compose"))
    try:
        project.compose("up", "--detach")
        process.wait_until(lambda: instances(project) == 3, what="three instances that serve", timeout=60)
        # The services are told as they are planned: they may be on their way to nginx yet.
        process.wait_steady(project.answers, what="the application", timeout=60)
        yield project
    finally:
        project.down()


def instances(project: Project) -> int:
    services = project.status().get("services", [])
    return sum(
        instance["state"] == "serving"
        for service in services
        for variant in service["variants"]
        for instance in variant["instances"]
    )


def generations(project: Project) -> set[str]:
    """Those on disk, as nginx's container sees them."""
    return set(project.podman("exec", project.container("nginx"), "python3", "-c", GENERATIONS).split())


async def under_load(project: Project, act: Callable[[], object]) -> Tally:
    """Send requests while something happens, before it and after it."""
    load = Load("127.0.0.1", project.port, headers={"Host": HOST}, clients=4, pause=0.05)
    sending = asyncio.create_task(load.send(100_000))
    await load.until_more(20)
    await asyncio.to_thread(act)
    await load.until_more(150)
    load.stop()
    return await sending


def crash(project: Project, service: str) -> None:
    """End a container's first process as a crash would: the engine was not asked to."""
    os.kill(project.pid(service), signal.SIGKILL)


def set_share(project: Project, share: str) -> int:
    """Change the canary's share, and return the generation in which it is live."""
    before = project.wait_for_generation()
    project.set_share(share)
    return project.wait_for_generation(before)


def is_canary(name: str) -> bool:
    return name == "web-canary"


async def test_requests_flow_through_nginx_and_the_canary_has_its_share(project: Project) -> None:
    tally = await Load("127.0.0.1", project.port, headers={"Host": HOST}).send(2000)
    assert not tally.failures
    assert set(tally.by_instance) == {"web-1", "web-2", "web-canary"}
    # Each request is drawn: 3 points are more than four standard deviations of that.
    assert tally.share(is_canary) == pytest.approx(0.10, abs=0.03)


async def test_the_sidecar_counts_what_nginx_served(project: Project) -> None:
    """The socket lies on a volume that nginx's container may only read."""
    before = project.status()["traffic"]["counted"]
    await Load("127.0.0.1", project.port, headers={"Host": HOST}).send(200)

    process.wait_until(lambda: project.status()["traffic"]["counted"] >= before + 200, what="200 requests told of")


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_has_more_rights_than_it_needs(project: Project, service: str) -> None:
    status = Path(f"/proc/{project.pid(service)}/status").read_text()
    facts = {key: value.split() for key, _, value in (line.partition(":") for line in status.splitlines())}
    assert "0" not in facts["Uid"] + facts["Gid"] + facts["Groups"]
    assert {facts[name][0] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert facts["NoNewPrivs"] == ["1"]
    # The root file system is the first mount; "ro" stands among its options.
    root = next(
        line for line in Path(f"/proc/{project.pid(service)}/mountinfo").read_text().splitlines() if " / / " in line
    )
    assert "ro" in root.split()[5].split(",")


def test_nginx_cannot_write_what_the_sidecar_publishes(project: Project) -> None:
    code = "open('/var/lib/proxygen/current/http.d/evil.conf', 'w')"
    with pytest.raises(RuntimeError, match="Read-only file system"):
        project.podman("exec", project.container("nginx"), "python3", "-c", code)


@pytest.mark.parametrize("service", ["sidecar", "consul"])
async def test_requests_keep_flowing_while_one_is_restarted(project: Project, service: str) -> None:
    before, kept = project.wait_for_generation(), generations(project)
    started = {name: project.started(name) for name in SERVICES}
    tally = await under_load(project, lambda: project.compose("restart", service))
    assert not tally.failures
    assert tally.ok > 50
    assert {name for name in SERVICES if project.started(name) != started[name]} == {service}
    # It came back to what it had, and can do something with it.
    assert project.wait_for_generation() == before
    assert kept <= generations(project)
    set_share(project, "20%")
    set_share(project, "10%")


async def test_nginx_restarted_alone_serves_the_same_generation_and_takes_the_next(project: Project) -> None:
    before, kept = project.wait_for_generation(), generations(project)
    started = {name: project.started(name) for name in SERVICES}
    await asyncio.to_thread(project.compose, "restart", "nginx")
    process.wait_until(project.answers, what="an answer")
    assert {name for name in SERVICES if project.started(name) != started[name]} == {"nginx"}
    assert project.wait_for_generation() == before
    assert kept <= generations(project)
    set_share(project, "20%")
    set_share(project, "10%")


def test_nginx_starts_with_the_last_generation_while_all_else_is_down(project: Project) -> None:
    before = project.wait_for_generation()
    project.compose("stop", "sidecar", "consul")
    try:
        project.compose("restart", "nginx")
        process.wait_until(project.answers, what="an answer from what is on disk")
    finally:
        project.compose("start", "consul", "sidecar")
    assert project.wait_for_generation() == before
    set_share(project, "10.5%")


@pytest.mark.parametrize("service", ["sidecar", "nginx"])
def test_what_crashes_comes_back(project: Project, service: str) -> None:
    before, started = project.wait_for_generation(), project.started(service)
    crash(project, service)
    process.wait_until(lambda: project.started(service) != started, what=f"another {service}", timeout=30)
    process.wait_until(project.answers, what="an answer", timeout=30)
    assert project.wait_for_generation() == before


def test_all_comes_back_when_the_shared_namespaces_ended(project: Project) -> None:
    """The kernel ends all that shares them. Podman may then start one before what it joins, and give up."""
    before, kept = project.wait_for_generation(), generations(project)
    crash(project, "pod")
    process.wait_until(lambda: not project.answers(), what="nobody who answers")
    project.compose("up", "--detach")
    process.wait_until(project.answers, what="an answer", timeout=30)
    assert project.wait_for_generation() == before
    assert kept <= generations(project)


async def test_a_rolling_update_with_a_canary_step_loses_no_request(project: Project) -> None:
    """As the manual has it: the canary's share up, then stable one by one, then the canary away."""
    new = {"WEB_IMAGE": "localhost/proxygen-example:2"}
    halfway: list[Tally] = []

    def roll() -> None:
        set_share(project, "50%")
        halfway.append(asyncio.run(Load("127.0.0.1", project.port, headers={"Host": HOST}).send(400)))
        for service in ("web-1", "web-2"):
            before = project.wait_for_generation()
            project.compose("up", "--detach", "--no-deps", service, variables=new)
            process.wait_until(lambda: instances(project) == 3, what=f"{service} back", timeout=30)
            project.wait_for_generation(before)
        set_share(project, "0%")
        project.compose("stop", "web-canary")

    tally = await under_load(project, roll)
    assert not tally.failures
    # Far from the 10 % that it had. A canary that is starved for a moment has stable stand in for it.
    assert 0.3 < halfway[0].share(is_canary) < 0.7
    assert {project.version() for _ in range(20)} == {"2"}
    assert instances(project) == 2
