"""Rolling replacement under load, by images with a stop signal of their own, with a real engine.

New before old, twice, by ``podman stop``: a passing instance is always there, and no request fails.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.harness import host_image
from tests.harness.consul import ConsulAgent
from tests.harness.containers import PORT
from tests.harness.engine import Engine
from tests.harness.ports import free_port
from tests.harness.registrator import Registrator
from tests.harness.watching_passing import watching_passing
from tests.integration.test_registrator_names import own, passing, until_passing
from tests.integration.waiting import call, until

pytestmark = [pytest.mark.incident("T66"), pytest.mark.slow]

SIGNALS: Final = ("TERM", "USR1", "WINCH", "QUIT", "RTMIN+3")

APPLICATION: Final = '"python3", "-m", "tests.harness.rolled", "web"'

REGISTERED: Final = f"""\
STOPSIGNAL SIG{{signal}}
ENTRYPOINT ["proxygen", "register", "--"]
CMD [{APPLICATION}, "{{port}}", "{{signal}}"]
ENV PROXYGEN_REGISTER_NAME=web PROXYGEN_REGISTER_STOP_SIGNAL={{signal}} PROXYGEN_REGISTER_CHECK_HTTP=/
ENV PROXYGEN_REGISTER_ADDRESS=127.0.0.1 PROXYGEN_REGISTER_PORT={{port}} PROXYGEN_REGISTER_DRAIN=2s
"""
"""As the page has it, for the host's network."""

LABELLED: Final = f"""\
STOPSIGNAL SIG{{signal}}
CMD [{APPLICATION}, "{PORT}", "{{signal}}", "5"]
LABEL proxygen.name=web proxygen.check-http=/ proxygen.check-interval=1s
"""
"""An application that lets its clients go first, as it must where nothing does so for it."""


@pytest.fixture
def rolling(engine: Engine) -> Iterator[Engine]:
    yield engine
    engine.call("rm", "--all", "--force", "--time=0")


async def run(engine: Engine, name: str, image: str, *options: str) -> None:
    await call(engine.call, "run", "--detach", f"--name={name}", *host_image.MOUNTS, *options, image)


async def stop(engine: Engine, name: str) -> None:
    """End it as an operator does; it must have ended by itself, with nothing that came too late."""
    await call(engine.call, "stop", "--time=30", name)
    code = await call(engine.call, "inspect", "--format={{.State.ExitCode}}", name)
    assert code == "0", await call(engine.call, "logs", name)


@pytest.mark.parametrize("signal", SIGNALS)
async def test_containers_that_register_themselves_are_replaced_without_a_gap(
    consul: ConsulAgent, rolling: Engine, tmp_path: Path, signal: str
) -> None:
    async def start(name: str) -> int:
        port = free_port()
        image = host_image.build(rolling, name, REGISTERED.format(signal=signal, port=port), tmp_path)
        await run(rolling, name, image, "--network=host", f"--env=CONSUL_HTTP_ADDR={consul.address}")
        await until(lambda: port in passing(consul).values(), f"{name} passing")
        return port

    await start("w0")
    async with watching_passing(consul, "web") as seen:
        await until(lambda: seen.requests > 10, "load")
        for number in (1, 2):
            port = await start(f"w{number}")
            await stop(rolling, f"w{number - 1}")
            assert set(passing(consul).values()) == {port}
    seen.require_no_gap()


@pytest.mark.parametrize("signal", SIGNALS)
async def test_containers_with_labels_are_replaced_without_a_gap(
    consul: ConsulAgent, rolling: Engine, tmp_path: Path, signal: str
) -> None:
    image = host_image.build(rolling, "labelled", LABELLED.format(signal=signal), tmp_path)
    running = Registrator(consul, rolling, tmp_path / "registrator.log", "--registrator-host", "here")
    running.start()

    async def start(name: str) -> dict[str, int]:
        await run(rolling, name, image, f"--publish=127.0.0.1::{PORT}")
        return {own(name): int(rolling.call("port", name, f"{PORT}/tcp").rpartition(":")[2])}

    try:
        before = await start("w0")
        await until_passing(consul, running, before)
        async with watching_passing(consul, "web") as seen:
            await until(lambda: seen.requests > 10, "load")
            for number in (1, 2):
                new = await start(f"w{number}")
                await until_passing(consul, running, before | new)
                await stop(rolling, f"w{number - 1}")
                await until_passing(consul, running, new)
                before = new
        seen.require_no_gap()
    finally:
        running.kill()
