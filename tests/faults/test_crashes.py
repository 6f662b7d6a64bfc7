"""T10 and T19: proxygen killed in the middle of an apply, and output directories that cannot be renamed in."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.history import assert_pauses_grew, has_given_up_often
from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, said, status_of, steady_load, until

MakeSidecar = Callable[..., Sidecar]

NEW = "new.example.com"


@dataclass(frozen=True, slots=True)
class Turnstile:
    """A program that stops where a test wants it to, until the test lets it go."""

    program: Path

    @classmethod
    def make(cls, program: Path, *, condition: str, stopped: str, passed: str) -> Turnstile:
        """``condition`` chooses the calls that may be stopped; ``stopped`` is done after one was, else ``passed``."""
        program.write_text(f"""#!/bin/sh
if {condition} && [ -e {program}.closed ]; then
    touch {program}.reached
    while [ -e {program}.closed ]; do sleep 0.02; done
    {stopped}
else
    {passed}
fi
""")
        program.chmod(0o755)
        return cls(program)

    def close(self) -> None:
        self.program.with_name(f"{self.program.name}.closed").touch()

    def open(self) -> None:
        self.program.with_name(f"{self.program.name}.closed").unlink()

    @property
    def reached(self) -> bool:
        return self.program.with_name(f"{self.program.name}.reached").exists()


@pytest.mark.incident("T10")
async def test_t10_killed_between_stage_and_swap(
    consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a SIGKILL while ``nginx -t`` runs on the staged candidate. Nothing of it is live, nothing of it is
    left after the next start, and the change that it stood for goes through."""
    nginx = f'exec {any_nginx.binary.path} "$@"'
    turnstile = Turnstile.make(tmp_path / "nginx", condition='[ "$1" = -t ]', stopped=nginx, passed=nginx)
    sidecar = make_sidecar(consul, any_nginx, nginx__binary=str(turnstile.program))
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            turnstile.close()
            consul.register("new", port=app.port, tags=[f"proxygen.route={NEW}"])
            await until(lambda: turnstile.reached, "the candidate tested")
            sidecar.kill()
            assert sidecar.generation() == 1
            assert len(_stage(sidecar)) == 1
            turnstile.open()
            await asyncio.to_thread(sidecar.start)
            await answers(sidecar, NEW)
        assert sidecar.generation() == 2
        assert _stage(sidecar) == []


@pytest.mark.incident("T10")
@pytest.mark.parametrize("is_consul_back", [True, False], ids=["consul-there", "consul-down"])
async def test_t10_killed_between_swap_and_reload(
    make_consul: Callable[..., ConsulAgent],
    any_nginx: NginxServer,
    make_sidecar: MakeSidecar,
    tmp_path: Path,
    is_consul_back: bool,
) -> None:
    """Injects a SIGKILL after ``current`` names the new generation and before nginx is told. The next start tells
    it, whether Consul answers or not."""
    consul = make_consul()
    consul.start()
    turnstile = Turnstile.make(
        tmp_path / "reload", condition=":", stopped="exit 1", passed=f"kill -HUP $(cat {any_nginx.pid_file})"
    )
    sidecar = make_sidecar(consul, any_nginx, nginx__reload="command", nginx__reload_command=[str(turnstile.program)])
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            turnstile.close()
            consul.register("new", port=app.port, tags=[f"proxygen.route={NEW}"])
            await until(lambda: turnstile.reached, "nginx about to be told")
            sidecar.kill()
            turnstile.open()
            assert sidecar.generation() == 2
            assert await status_of(sidecar, NEW) == 404
            if not is_consul_back:
                consul.kill()
            await asyncio.to_thread(sidecar.start, ready=is_consul_back, cold=True)
            await answers(sidecar, NEW)
        assert sidecar.generation() == 2, "the pending reload was done, not another generation made"


@pytest.mark.incident("T10")
@pytest.mark.slow
async def test_t10_killed_at_any_moment_of_an_apply(
    consul: ConsulAgent,
    any_nginx: NginxServer,
    make_sidecar: MakeSidecar,
    times: Callable[[int, int], int],
    saw: Callable[[str], None],
) -> None:
    """Injects a SIGKILL as soon as a step of an apply can be seen from outside, for each of its steps; the long form
    does it again some milliseconds later. No request fails, ``current`` always names a whole generation, and each
    change is served after the next start."""
    sidecar = make_sidecar(consul, any_nginx)
    chance = random.Random(10)
    # What happens at each step in a world where it can be placed exactly is tests/model/test_every_step.py.
    delays = [0.0, *(chance.uniform(0, 0.1) for _ in range(times(0, 4)))]
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            for number, (step, delay) in enumerate((step, delay) for delay in delays for step in STEPS):
                host = f"web{number}.example.com"
                has_come = _watching(step, sidecar, any_nginx)
                consul.register(f"web{number}", port=app.port, tags=[f"proxygen.route={host}"])
                await asyncio.to_thread(_spin_until, has_come, step)
                await asyncio.sleep(delay)
                sidecar.kill()
                saw(f"killed when {step}: {_left_behind(sidecar)}")
                assert (sidecar.output / "current/manifest.json").is_file()
                await asyncio.to_thread(sidecar.start)
                await answers(sidecar, host)
                assert _stage(sidecar) == []


STEPS = ("registered", "staged", "published", "current", "told", "applied")


def _watching(step: str, sidecar: Sidecar, server: NginxServer) -> Callable[[], bool]:
    """Tell from now on whether the next apply has come so far; once it has, that stays so."""
    live = sidecar.generation()
    assert live is not None
    new = sidecar.output / f"generations/{live + 1:06}"
    hangups, applies = _hangups(server), sidecar.applies()
    come: Mapping[str, Callable[[], bool]] = {
        "registered": lambda: True,
        "staged": lambda: bool(_stage(sidecar)) or new.exists(),
        "published": new.exists,
        "current": lambda: sidecar.generation() != live,
        "told": lambda: _hangups(server) > hangups,
        "applied": lambda: sidecar.applies() > applies,
    }
    return come[step]


def _spin_until(has_come: Callable[[], bool], step: str) -> None:
    """Wait without a pause that would let the moment pass."""
    deadline = time.monotonic() + 60
    while not has_come():
        assert time.monotonic() < deadline, f"never {step}"
        time.sleep(0.001)


def _left_behind(sidecar: Sidecar) -> str:
    return f"generation {sidecar.generation()}, {len(_stage(sidecar))} staged"


def _hangups(server: NginxServer) -> int:
    return server.errors().count("(SIGHUP) received")


# --- T19: OUTPUT is something that cannot be renamed in ---------------------------------------------------------------

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare, to mount"
)


@pytest.mark.incident("T19")
@needs_mounts
def test_t19_a_bind_mounted_file_as_output_ends_the_start_with_advice(
    consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a single file that is mounted where the output directory should be: one line, exit code 1, no loop."""
    (tmp_path / "one").touch()
    any_nginx.output.touch()
    sidecar = make_sidecar(consul, any_nginx)
    ended = subprocess.run(
        _mounted(sidecar, f"mount --bind {tmp_path}/one {any_nginx.output}"), capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "mount a directory, never a single file" in ended.stderr


@pytest.mark.incident("T19")
@needs_mounts
def test_t19_a_foreign_file_system_inside_output_is_refused_with_advice_and_pauses(
    consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects another file system below the output directory: every apply says what to do, with growing pauses, and
    the admin API lives."""
    (any_nginx.output / "generations").mkdir(parents=True)
    sidecar = make_sidecar(consul, any_nginx)
    consul.register("web", port=1, tags=[ROUTE])
    running = process.start(_mounted(sidecar, f"mount -t tmpfs none {any_nginx.output}/generations"), log=sidecar.log)
    try:
        process.wait_until(lambda: has_given_up_often(sidecar), what="refusals", timeout=60)
        refusals = said(sidecar, "candidate rejected")
        assert all("mount the directory itself, never something in it" in line["reason"] for line in refusals)
        assert_pauses_grew(refusals)
        code, body = sidecar.request("/readyz")
        assert code == 503
        assert any("is another file system" in reason for reason in body["reasons"])
    finally:
        assert process.stop(running) == 0


def _mounted(sidecar: Sidecar, mount: str) -> list[str | Path]:
    """The sidecar's command in a mount namespace of its own."""
    run = f"{mount} && exec {sys.executable} -m proxygen run --config {sidecar.config}"
    return ["unshare", "--mount", "sh", "-c", run]


def _stage(sidecar: Sidecar) -> list[str]:
    return os.listdir(sidecar.output / "stage")
