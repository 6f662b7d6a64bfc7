"""The demo: the whole system comes up, measures its split, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxygen.demo.load import Count, is_within_tolerance
from proxygen.tags.shares import Share
from tests.harness import warm
from tests.harness.consul import chosen_consul
from tests.harness.tools import Consul, NginxBinary


@pytest.fixture
def environment(which_consul: Consul, tmp_path: Path, any_nginx_binary: NginxBinary) -> dict[str, str]:
    """PATH with nginx and Consul, a temporary directory of the demo's own, and what a user may have set for a system of
    their own."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "consul").symlink_to(chosen_consul())
    (tools / "nginx").symlink_to(any_nginx_binary.path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    users = {
        "CONSUL_HTTP_ADDR": "127.0.0.1:1",
        "CONSUL_HTTP_SSL": "true",
        "PROXYGEN_PROXY_TAG_PREFIX": "edge",
        "NGINX": str(any_nginx_binary.path),
    }
    return {**os.environ, **users, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "TMPDIR": str(scratch)}


def processes_in(folder: str) -> Iterator[int]:
    """Every process whose command line names the folder."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if folder.encode() in path.read_bytes():
                yield int(path.parent.name)
        except OSError:
            continue


def assert_nothing_is_left(environment: dict[str, str]) -> None:
    assert list(Path(environment["TMPDIR"]).iterdir()) == []
    assert list(processes_in(environment["TMPDIR"])) == []


def test_the_demo_measures_its_split_and_removes_itself(environment: dict[str, str]) -> None:
    """Exit 0 and a last line of JSON: nothing failed, and the share is within tolerance of the asked one."""
    command = [*warm.COLD, "demo", "--seconds", "2", "--canary", "20%"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert summary["failed"] == 0
    assert summary["requests"] > 20, "as many as the machine has time for; what the share may differ goes by them"
    assert summary["canary_share_asked"] == 0.2
    assert abs(summary["canary_share_measured"] - 0.2) < 4 * (0.2 * 0.8 / summary["requests"]) ** 0.5
    assert_nothing_is_left(environment)


def test_ctrl_c_ends_the_demo_and_all_that_it_started(environment: dict[str, str]) -> None:
    """Until then the command that it prints steers it, and never its user's own system."""
    with subprocess.Popen([*warm.COLD, "demo"], env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("Ctrl-C"):
                break
            if "or: proxygen" in line:
                steer = shlex.split(line.partition("or: proxygen ")[2])
        steered = subprocess.run([*warm.COLD, *steer], env=environment, capture_output=True, text=True, timeout=90)
        assert steered.returncode == 0, steered.stderr
        assert len(list(processes_in(environment["TMPDIR"]))) >= 3
        process.send_signal(signal.SIGINT)
        assert process.wait(90) == 0
    assert_nothing_is_left(environment)


def test_without_consul_the_demo_says_where_to_get_it(environment: dict[str, str]) -> None:
    command = [*warm.COLD, "demo", "--seconds", "1"]
    done = subprocess.run(
        command, env={**environment, "PATH": "/nowhere"}, capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 2
    assert done.stderr == (
        "proxygen: there is no consul on PATH; deploy/demo fetches one, or install any version from 1.8\n"
    )
    assert_nothing_is_left(environment)


def test_a_split_far_from_the_asked_one_is_not_within_tolerance() -> None:
    """10,000 requests: four standard deviations of 10 % are 1.2 points."""
    fair, unfair = Count(), Count()
    fair.answers.update({"canary-1": 1_100, "stable-1": 8_900})
    unfair.answers.update({"canary-1": 1_130, "stable-1": 8_870})
    assert is_within_tolerance(fair, "canary-1", Share(1_000))
    assert not is_within_tolerance(unfair, "canary-1", Share(1_000))
    assert not is_within_tolerance(Count(), "canary-1", Share(1_000))
