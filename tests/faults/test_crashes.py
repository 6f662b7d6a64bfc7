"""T10 and T19: proxygen killed in the middle of an apply, and output directories that cannot be renamed in."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
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


@pytest.fixture
def server(any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> NginxServer:
    server = make_nginx(any_nginx_binary)
    server.start()
    return server


@pytest.mark.incident("T10")
async def test_t10_killed_between_stage_and_swap(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a SIGKILL while ``nginx -t`` runs on the staged candidate. Nothing of it is live, nothing of it is
    left after the next start, and the change that it stood for goes through."""
    nginx = f'exec {server.binary.path} "$@"'
    turnstile = Turnstile.make(tmp_path / "nginx", condition='[ "$1" = -t ]', stopped=nginx, passed=nginx)
    sidecar = make_sidecar(consul, server, nginx__binary=str(turnstile.program))
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
    server: NginxServer,
    make_sidecar: MakeSidecar,
    tmp_path: Path,
    is_consul_back: bool,
) -> None:
    """Injects a SIGKILL after ``current`` names the new generation and before nginx is told. The next start tells
    it, whether Consul answers or not."""
    consul = make_consul()
    consul.start()
    turnstile = Turnstile.make(
        tmp_path / "reload", condition=":", stopped="exit 1", passed=f"kill -HUP $(cat {server.pid_file})"
    )
    sidecar = make_sidecar(consul, server, nginx__reload="command", nginx__reload_command=[str(turnstile.program)])
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
            await asyncio.to_thread(sidecar.start, ready=is_consul_back)
            await answers(sidecar, NEW)
        assert sidecar.generation() == 2, "the pending reload was done, not another generation made"


@pytest.mark.incident("T10")
@pytest.mark.slow
async def test_t10_killed_at_any_moment_of_an_apply(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a SIGKILL at ten random moments after a change. No request fails, ``current`` always names a
    whole generation, and each change is served after the next start."""
    sidecar = make_sidecar(consul, server)
    moments = random.Random(10)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            for number in range(10):
                consul.register(f"web{number}", port=app.port, tags=[f"proxygen.route=web{number}.example.com"])
                await asyncio.sleep(moments.uniform(0, 0.7))
                sidecar.kill()
                assert (sidecar.output / "current/manifest.json").is_file()
                await asyncio.to_thread(sidecar.start)
                await answers(sidecar, f"web{number}.example.com")
                assert _stage(sidecar) == []


# --- T19: OUTPUT is something that cannot be renamed in ---------------------------------------------------------------

needs_mounts = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare, to mount"
)


@pytest.mark.incident("T19")
@needs_mounts
def test_t19_a_bind_mounted_file_as_output_ends_the_start_with_advice(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a single file that is mounted where the output directory should be: one line, exit code 1, no loop."""
    (tmp_path / "one").touch()
    server.output.touch()
    sidecar = make_sidecar(consul, server)
    ended = subprocess.run(
        _mounted(sidecar, f"mount --bind {tmp_path}/one {server.output}"), capture_output=True, text=True, timeout=20
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert "mount a directory, never a single file" in ended.stderr


@pytest.mark.incident("T19")
@needs_mounts
def test_t19_a_foreign_file_system_inside_output_is_refused_with_advice_and_pauses(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects another file system below the output directory: every apply says what to do, with growing pauses, and
    the admin API lives."""
    (server.output / "generations").mkdir(parents=True)
    sidecar = make_sidecar(consul, server)
    consul.register("web", port=1, tags=[ROUTE])
    running = process.start(_mounted(sidecar, f"mount -t tmpfs none {server.output}/generations"), log=sidecar.log)
    try:
        process.wait_until(lambda: said(sidecar, "candidate rejected"), what="the refusal")
        time.sleep(3)
        refusals = said(sidecar, "candidate rejected")
        assert all("mount the directory itself, never something in it" in line["reason"] for line in refusals)
        assert 2 <= len(refusals) <= 5, "0.5 s, 1 s, 2 s … between attempts"
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
