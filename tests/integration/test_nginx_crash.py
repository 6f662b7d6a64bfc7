"""proxygen killed in the middle of an apply, at each of its steps in turn (T10)."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import current, hold_output
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.integration.proxy import Proxy

_CHILD = """
import asyncio, os, signal, sys
from pathlib import Path
from proxygen.proxy.apply.publish import hold_output
from tests.harness.nginx import NginxServer
from tests.harness.tools import find_nginx
from tests.integration.proxy import Proxy

binary, server, directory, port, stamp, body, fatal = sys.argv[1:]
STEPS = {"os.rename", "os.symlink", "os.kill", "os.mkdir", "socket.connect"}
count = 0

def die_at_step(event, arguments):
    global count
    count += event in STEPS
    if event in STEPS and count == int(fatal):
        # Straight to the kernel: os.kill is one of the steps.
        signal.raise_signal(signal.SIGKILL)

async def main():
    nginx = NginxServer(find_nginx(binary), Path(server), output=Path(directory))
    with hold_output(Path(directory)) as output:
        proxy = await Proxy.make(nginx, output, port=int(port), stamp=stamp)
        sys.addaudithook(die_at_step)
        await proxy.apply(body)

asyncio.run(main())
"""


@pytest.mark.slow
@pytest.mark.faults
async def test_killed_at_any_step_of_an_apply_the_next_start_finishes_it(
    any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], tmp_path: Path
) -> None:
    """Whatever the moment: nginx serves all along, and after the next start it serves what ``current`` names."""
    directory = tmp_path / "output"
    server = make_nginx(any_nginx_binary, output=directory)
    server.start()
    port, stamp = free_port(), f"127.0.0.1:{free_port()}"
    with hold_output(directory) as output:
        proxy = await Proxy.make(server, output, port=port, stamp=stamp)
        assert (await proxy.apply("start")).outcome is Outcome.APPLIED
    finished: set[Outcome] = set()
    for fatal in (1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 20):
        body = f"body{fatal}"
        arguments = (any_nginx_binary.name, server.directory, directory, port, stamp, body, fatal)
        child = subprocess.run(  # noqa: ASYNC221 - nothing else runs meanwhile
            [sys.executable, "-c", _CHILD, *map(str, arguments)], cwd=Path(__file__).parents[2], check=False
        )
        assert child.returncode == -signal.SIGKILL
        proxy.get()
        with hold_output(directory) as output:
            proxy = await Proxy.make(server, output, port=port, stamp=stamp)
            finished.add((await proxy.applier.finish_pending(proxy.conf, test_seconds=0)).outcome)
            number = current(directory)
            served = (directory / f"generations/{number:06d}/http.d/site.conf").read_text()
            assert proxy.get() in served
            assert (await proxy.apply(f"after{fatal}")).outcome is Outcome.APPLIED
            assert proxy.get() == f"after{fatal}"
    assert finished == {Outcome.APPLIED, Outcome.UNCHANGED}, "it was killed both before and after the reload"
