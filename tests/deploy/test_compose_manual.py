"""What deploy/README.md says about Compose, word for word; and that one configuration serves three environments."""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxygen.settings import knobs
from tests.harness.bases import registry_volumes
from tests.harness.compose import COMPOSE, plain_podman, podman_compose
from tests.harness.engine import Engine
from tests.harness.tools import unusable

pytestmark = pytest.mark.slow

ENVIRONMENTS = ("development", "test", "production")
PAGE = COMPOSE.parent / "README.md"
PORTS = (8080, 18081)
_PODMAN = """\
#!{python} -I
import os, sys
words = sys.argv[1:]
# What a build needs on this machine; the rest of the words stay as the page has them.
if words[:1] == ["build"]:
    words[1:1] = {options!r}
os.execv("/usr/bin/podman", ["podman", *words])
"""


def _blocks() -> list[str]:
    section = PAGE.read_text().split("\n## With Compose\n")[1].split("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


@pytest.fixture
def typed(yard: Engine, tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a shell in which the page's words mean the tests' engine."""
    path = tmp_path / "bin"
    path.mkdir()
    podman = path / "podman"
    options = ["--isolation=chroot", "--network=host", *registry_volumes(tmp_path)]
    podman.write_text(_PODMAN.format(python=sys.executable, options=options))
    podman.chmod(0o755)
    (path / "podman-compose").symlink_to(podman_compose())
    environment = {**os.environ, **plain_podman(yard, tmp_path), "PATH": f"{path}:{os.environ['PATH']}"}
    yield environment
    down = [podman_compose(), "--env-file=development.env", "down", "--volumes", "--timeout=1"]
    subprocess.run(down, cwd=COMPOSE, env=environment, capture_output=True, check=False)


def test_from_a_clone_to_a_served_request(
    example_images: dict[str, str], consul_image: str, typed: dict[str, str], tmp_path: Path
) -> None:
    for port in PORTS:
        if _is_taken(port):
            unusable(f"something else listens on port {port}, which the page uses")
    script = tmp_path / "page.sh"
    build, *rest = _blocks()
    script.write_text("set -eu\n" + "\n".join([build, *rest]))
    done = subprocess.run(["sh", script], cwd=PAGE.parents[1], env=typed, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r'\{"version": "[12]", "name": "web-[a-z0-9]+"', done.stdout), done.stdout
    assert re.search(r"state: +ready", done.stdout), done.stdout
    assert "web canary: 10% (tags) -> 50%" in done.stdout, done.stdout


def _is_taken(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def _variables(environment: str) -> dict[str, str]:
    lines = (COMPOSE / f"{environment}.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@functools.cache
def _configuration(environment: str) -> dict[str, Any]:
    """What podman-compose makes of the file in an environment."""
    command = [podman_compose(), f"--env-file={environment}.env", "config"]
    kept = {name: value for name, value in os.environ.items() if name not in _variables(environment)}
    done = subprocess.run(command, cwd=COMPOSE, env=kept, capture_output=True, text=True, check=True)
    found: dict[str, Any] = yaml.safe_load(done.stdout)
    return found


def test_the_environments_set_the_same_variables_and_the_file_reads_each() -> None:
    named = {environment: set(_variables(environment)) for environment in ENVIRONMENTS}
    assert named["development"] == named["test"] == named["production"]
    text = (COMPOSE / "compose.yaml").read_text()
    assert named["test"] <= set(re.findall(r"\$\{([A-Z_]+)", text))
    known = {knob.variable for knob in knobs()} | {"PROXYGEN_IMAGE"}
    assert {name for name in named["test"] if name.startswith("PROXYGEN_")} <= known


@pytest.mark.parametrize("environment", ENVIRONMENTS)
def test_an_environment_changes_values_and_never_the_shape(environment: str) -> None:
    """The same services with the same mounts and rights everywhere: what was tested is what runs."""
    here, reference = _configuration(environment), _configuration("test")
    assert set(here["services"]) == set(reference["services"])
    for name, service in here["services"].items():
        other = reference["services"][name]
        free = {"image", "environment", "ports", "container_name", "pid"}
        assert set(service) == set(other), name
        assert {key: service[key] for key in service if key not in free} == {
            key: other[key] for key in other if key not in free
        }, name
        assert set(service.get("environment", {})) == set(other.get("environment", {})), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name


def test_production_opens_nothing_but_the_proxy() -> None:
    services = _configuration("production")["services"]
    assert services["sidecar"]["environment"]["PROXYGEN_ADMIN_LISTEN"].startswith("127.0.0.1:")
    published = {name: service["ports"] for name, service in services.items() if service.get("ports")}
    assert set(published) == {"pod"}
    assert [port for port in map(str, published["pod"]) if not port.startswith("127.0.0.1:")] == ["0.0.0.0:80:8080"]


def test_tokens_come_as_files_never_as_variables() -> None:
    for environment in ENVIRONMENTS:
        for name, service in _configuration(environment)["services"].items():
            secret = [key for key in service.get("environment", {}) if re.search(r"TOKEN$|AUTH$|PASSWORD", key)]
            assert secret == [], (environment, name)
