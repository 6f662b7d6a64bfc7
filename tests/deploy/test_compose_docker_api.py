"""The sidecar reloads nginx by Docker's API, where the two share no PID namespace."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.harness import process
from tests.harness.compose import Project
from tests.harness.engine import Engine

pytestmark = pytest.mark.slow


@pytest.fixture
def project(
    yard: Engine, example_images: dict[str, str], consul_image: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Project]:
    scratch = tmp_path_factory.mktemp("compose")
    project = Project(yard, f"pgapi{os.getpid()}", scratch, ENGINE_SOCKET=str(yard.socket))
    project.override("compose.docker-api.yaml")
    # As a host has it where a group may use the engine.
    yard.socket.chmod(0o660)
    try:
        project.compose("up", "--detach", "pod", "nginx", "sidecar", "consul", "web-1", "web-canary")
        yield project
    finally:
        project.down()


def test_a_share_is_applied_through_the_engine(project: Project) -> None:
    process.wait_until(project.answers, what="an answer", timeout=120)
    # Both instances are in it, so what comes next is the share.
    process.wait_until(
        lambda: len(project.status()["services"][0]["variants"]) == 2, what="stable and canary", timeout=30
    )
    project.wait_for_generation()
    project.set_share("100%")
    process.wait_until(
        lambda: {project.version() for _ in range(10)} == {"2"}, what="ten answers by the canary", timeout=60
    )
    # nginx is process 1 of its own namespace: the signal can only have come from the engine.
    assert project.inspect("nginx")["HostConfig"]["PidMode"] == "private"
    assert project.status()["nginx"]["visible"] is False
