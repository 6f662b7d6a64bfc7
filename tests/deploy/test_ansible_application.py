"""The role proxygen_application on this machine: real containers, Consul, nginx and sidecar, under steady load."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

from tests.harness import process
from tests.harness.ansible import Ansible, Played
from tests.harness.bases import build
from tests.harness.beside import beside_nginx
from tests.harness.consul import ConsulAgent
from tests.harness.engine import Engine
from tests.harness.load import Load, Tally
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar

pytestmark = pytest.mark.slow

SITE = "app.example.com"
MINE = "--filter=label=proxygen.application=web"
BROKEN = '''\
"""Version 3: healthy, and of no use."""
import os
import sys

sys.path.insert(0, "/opt/example")
import app as example
from aiohttp import web

make = example.application


@web.middleware
async def fail(request, handler):
    if request.path == "/healthz":
        return await handler(request)
    raise web.HTTPInternalServerError()


def application(version, name):
    made = make(version, name)
    made.middlewares.append(fail)
    return made


example.application = application
example.main(os.environ)
'''


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """Consul, nginx and a sidecar, and Ansible that runs containers beside them."""

    consul: ConsulAgent
    sidecar: Sidecar
    engine: Engine
    ansible: Ansible
    port: int

    def play(self, image: str, *options: str, **variables: object) -> Played:
        return self.ansible.play("application.yml", *options, **{**self._variables(), "image": image, **variables})

    def _variables(self) -> dict[str, object]:
        own = {
            "routes": [SITE],
            "pull": "missing",
            "instances": 2,
            "port": self.port,
            "consul": self.consul.address,
            "docker_host": self.engine.url,
            "instance_variables": {"APP_NAME": "id"},
            "admin": f"http://127.0.0.1:{self.sidecar.admin}",
            "command": [sys.executable, "-m", "proxygen"],
            "command_environment": {"PROXYGEN_CONFIG": str(self.sidecar.config)},
            "step_seconds": 4,
            "check_seconds": 4,
        }
        return {
            "service": "web",
            "steps": "20,60",
            **{f"proxygen_application_{name}": value for name, value in own.items()},
        }

    def images(self) -> dict[str, str]:
        """The image of each container by the container's name."""
        lines = self.engine.call("ps", MINE, "--format={{.Names}} {{.Image}}").splitlines()
        return dict(line.split() for line in lines)

    def canary(self) -> dict[str, Any]:
        """What the sidecar tells of the variant; a share of 0 where there is none."""
        status, service = self.sidecar.request("/api/v1/services/web")
        assert status == 200
        return next((item for item in service["variants"] if item["name"] == "canary"), {"effective": 0})

    def share(self) -> int:
        """The canary's, in basis points, as nginx has it."""
        share: int = self.canary()["effective"]
        return share

    def lever(self) -> Any:
        return self.consul.get("/v1/kv/proxygen/canary/web")

    @contextmanager
    def load(self) -> Iterator[Tally]:
        """Send requests all the while."""
        load = Load("127.0.0.1", self.sidecar.http, headers={"Host": SITE}, clients=4, pause=0.02)
        thread = threading.Thread(target=lambda: asyncio.run(load.send(1_000_000)), name="load")
        thread.start()
        try:
            yield load.tally
        finally:
            load.stop()
            thread.join(30)


@pytest.fixture(scope="module")
def images(yard: Engine, example_images: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The example's versions 1 and 2, and 3, which answers with 500."""
    context = tmp_path_factory.mktemp("broken")
    (context / "broken.py").write_text(BROKEN)
    lines = [f"FROM {example_images['2']}", "COPY broken.py /opt/example/broken.py"]
    lines += ['ENTRYPOINT ["python3", "/opt/example/broken.py"]', "ENV APP_VERSION=3"]
    (context / "Dockerfile").write_text("\n".join(lines) + "\n")
    name = "localhost/proxygen-example-broken:3"
    return {**example_images, "3": build(yard, context, name=name, scratch=tmp_path_factory.mktemp("scratch"))}


@pytest.fixture(scope="module")
def world(yard: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    directory = tmp_path_factory.mktemp("application")
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "ansible_pipelining": True}
    hosts = {
        "all": {"vars": local, "children": {group: {"hosts": {"here": {}}} for group in ("applications", "proxies")}}
    }
    with ExitStack() as stack:
        parts = stack.enter_context(beside_nginx(directory, {"reload.gap": "0ms"}))
        parts.sidecar.start()
        stack.callback(remove_containers, yard)
        yield World(
            consul=parts.consul,
            sidecar=parts.sidecar,
            engine=yard,
            ansible=Ansible(directory / "ansible", hosts),
            port=ports(),
        )


class Growth:
    """What the canary's part of the answers really was, at each share that nginx had.

    A new share is told once nginx is proven to serve it, and as waiting from before nginx is asked to. So what was
    counted before a look that finds none waiting was answered by the share of that look, or by one before it.
    """

    def __init__(self, world: World, tally: Tally) -> None:
        self._world = world
        self._tally = tally
        self._ended = threading.Event()
        self._seen: dict[int, list[tuple[int, int]]] = {}
        self._thread = threading.Thread(target=self._watch, name="growth")

    def __enter__(self) -> Growth:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(10)

    def _watch(self) -> None:
        while not self._ended.wait(0.1):
            counts = dict(self._tally.by_instance)
            tried = sum(count for name, count in counts.items() if "-canary-" in name)
            canary = self._world.canary()
            if canary.get("waiting") is None:
                self._seen.setdefault(canary["effective"], []).append((tried, sum(counts.values())))

    @property
    def measured(self) -> dict[int, float]:
        """By share in the order in which they were seen, both in basis points.

        What was counted before the first look at a share may be of the one before.
        """
        return {share: 10_000 * _part(seen[1:]) for share, seen in self._seen.items() if len(seen) > 2}


def _part(seen: list[tuple[int, int]]) -> float:
    (tried, total), (last_tried, last_total) = seen[0], seen[-1]
    return (last_tried - tried) / (last_total - total)


def ports() -> int:
    """Return the first of three free ports in a row: two instances and a canary."""
    while True:
        first = free_port()
        if first < 65000 and all(process_free(first + number) for number in (1, 2)):
            return first


def process_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


@contextmanager
def silenced(engine: Engine, containers: list[str]) -> Iterator[None]:
    """Have what registers the applications stand still; it goes on afterwards."""
    engine.call("kill", "--signal=STOP", *containers)
    try:
        yield
    finally:
        engine.call("kill", "--signal=CONT", *containers)


def remove_containers(engine: Engine) -> None:
    names = engine.call("ps", "--all", "--quiet", MINE).split()
    if names:
        engine.call("rm", "--force", "--time=0", *names)


def test_the_first_deployment_serves_and_a_second_run_changes_nothing(world: World, images: dict[str, str]) -> None:
    played = world.play(images["1"])
    assert played.code == 0, played.said[-4000:]
    with world.load() as tally:
        again = world.play(images["1"])
    assert (again.code, again.changed) == (0, {"here": 0}), again.said[-4000:]
    assert tally.failed == 0
    assert len(tally.by_instance) == 2
    assert world.images() == {"web-0": images["1"], "web-1": images["1"]}


def test_a_version_is_rolled_by_a_growing_canary_and_no_request_fails(
    world: World, images: dict[str, str], record_property: Any
) -> None:
    with world.load() as tally:
        with Growth(world, tally) as growth:
            canary = world.play(images["2"], stage="canary")
        assert canary.code == 0, canary.said[-4000:]
        assert "at 20.0%: good" in canary.said
        assert "at 60.0%: good" in canary.said
        assert world.images()["web-0"] == images["1"]
        promoted = world.play(images["2"], stage="promote")
        assert promoted.code == 0, promoted.said[-4000:]
    assert tally.failed == 0, tally
    assert list(growth.measured) == [0, 2000, 6000]
    # A second has some 100 requests: five standard deviations.
    assert growth.measured == {0: 0, 2000: pytest.approx(2000, abs=900), 6000: pytest.approx(6000, abs=1200)}
    # Two of each version, and the canary.
    assert len(tally.by_instance) == 5, tally
    assert world.images() == {"web-0": images["2"], "web-1": images["2"]}
    assert world.lever() is None
    record_property("requests while rolled", tally.total)


def test_a_dry_run_foretells_and_changes_nothing(world: World, images: dict[str, str]) -> None:
    before = world.images()
    played = world.play(images["3"], "--check")
    assert played.code == 0, played.said[-4000:]
    assert played.changed["here"] > 0
    assert (world.images(), world.lever()) == (before, None)


def test_a_canary_that_answers_500_is_taken_away_and_the_exit_code_says_it(
    world: World, images: dict[str, str]
) -> None:
    before = world.images()
    with world.load() as tally:
        played = world.play(images["3"])
        assert played.code == 2, played.said[-4000:]
        assert "at 20.0%: " in played.said
        assert "stable serves as before" in played.said
        assert world.images() == before
        assert world.lever() is None
        process.wait_until(lambda: world.share() == 0, what="the canary gone")
        failed = tally.failed
        assert failed > 0
        served = tally.ok
        process.wait_until(lambda: tally.ok > served + 200, what="more requests")
    # Those that were under way when it was counted.
    assert tally.failed - failed <= 4, tally


def test_what_was_not_tried_is_not_promoted(world: World, images: dict[str, str]) -> None:
    before = world.images()
    played = world.play(images["1"], stage="promote")
    assert played.code == 2
    assert "try it first" in played.said
    assert world.images() == before


def test_where_nobody_knows_the_canary_waits_and_can_be_aborted(world: World, images: dict[str, str]) -> None:
    stopping = {"proxygen_application_inconclusive": "stop", "steps": "20,60"}
    played = world.play(images["1"], stage="canary", **stopping)
    assert played.code == 2
    assert "inconclusive" in played.said
    assert world.share() == 2000
    aborted = world.play("", stage="abort")
    assert aborted.code == 0, aborted.said[-4000:]
    assert world.images() == {"web-0": images["2"], "web-1": images["2"]}
    assert world.lever() is None
    again = world.play("", stage="abort")
    assert (again.code, again.changed) == (0, {"here": 0})


def test_a_service_that_consul_does_not_know_can_be_given_a_new_version(world: World, images: dict[str, str]) -> None:
    """As where each start of the old one fails: its containers are there, and none of them is registered."""
    before = world.images()
    other = images["2" if before["web-0"] == images["1"] else "1"]
    with silenced(world.engine, list(before)):
        for instance in world.consul.instances("web"):
            world.consul.deregister(instance["Service"]["ID"])
        played = world.play(other, stage="canary")
        assert played.code == 0, played.said[-4000:]
        assert world.images() == {**before, "web-canary-0": other}
        aborted = world.play("", stage="abort")
        assert aborted.code == 0, aborted.said[-4000:]
    assert (world.images(), world.lever()) == (before, None)
