"""nginx in a container, reloaded through Docker's API or an engine's command: a real engine and a real HUP."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.apply.reload import ask_reload
from proxygen.settings import NginxSettings
from tests.harness.app import App, TcpEcho
from tests.harness.consul import ConsulAgent
from tests.harness.engine import Engine, NginxContainer
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.harness.tools import find_nginx
from tests.integration.waiting import ROUTE, answers, outcome, said, status_of, until

MakeSidecar = Callable[..., Sidecar]

NAME = "proxygen-nginx"
OTHER = "other.example.com"
OVERLAP = 1.0

SEEN: tuple[str, ...] = ()
"""proxygen on the host, whose /proc shows the processes of every container."""
OUT_OF_SIGHT = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
"""proxygen where a container of its own would put it."""

sights = pytest.mark.parametrize("within", [SEEN, OUT_OF_SIGHT], ids=["seen", "out of sight"])


@pytest.fixture
def container(engine: Engine, image: str, make_nginx: Callable[..., NginxServer]) -> Iterator[NginxContainer]:
    """nginx in a running container."""
    container = NginxContainer(engine, image, NAME, make_nginx(find_nginx("wheel")))
    container.start()
    yield container
    container.remove()


@pytest.fixture
def sidecar(consul: ConsulAgent, container: NginxContainer, make_sidecar: MakeSidecar) -> Sidecar:
    """A sidecar that asks the engine; not started."""
    return make_sidecar(consul, container.server, **by_engine(container.engine.url))


def by_engine(url: str, name: str = NAME) -> dict[str, object]:
    return {
        "nginx__reload": "docker",
        "nginx__container": name,
        "nginx__docker_host": url,
        "reload__overlap": f"{OVERLAP * 1000:.0f}ms",
        "reload__retry_max": "1s",
    }


@pytest.mark.slow
@sights
async def test_each_change_takes_effect_by_the_engines_hup(
    consul: ConsulAgent, container: NginxContainer, sidecar: Sidecar, within: tuple[str, ...]
) -> None:
    """What registers is served and what deregisters is not, by the one master that was started at first.

    From the host its workers are seen to turn over; out of sight the new stamp must answer alone for the overlap.
    """
    master = container.pid
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(within=within)
        await answers(sidecar)
        other = consul.register("other", port=app.port, tags=[f"proxygen.route={OTHER}"])
        await answers(sidecar, OTHER)
        consul.deregister(other)
        await answers(sidecar, OTHER, 404)
    await until(lambda: sidecar.applies() == 3, "three generations")
    assert sidecar.status()["nginx"]["master"] == (master if within == SEEN else None)
    proofs = [event["seconds"]["prove"] for event in said(sidecar, "generation applied")]
    assert all((seconds >= OVERLAP) is (within == OUT_OF_SIGHT) for seconds in proofs), proofs
    assert container.pid == master
    assert container.server.errors().count("signal 1 (SIGHUP) received") == 3


@pytest.mark.slow
@sights
async def test_a_refused_reload_is_rolled_back_with_nginxs_own_reason(
    consul: ConsulAgent, container: NginxContainer, sidecar: Sidecar, within: tuple[str, ...]
) -> None:
    """The engine says that HUP was sent, and nginx refuses it: the port of a stream is taken (passes ``nginx -t``)."""
    port = free_port()
    with App("web-1") as app, TcpEcho("db-1") as db, socket.create_server(("0.0.0.0", port)):
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(within=within)
        consul.register("db", port=db.port, tags=["proxygen.protocol=tcp", f"proxygen.listen={port}"])
        event = await outcome(sidecar, "reload rolled back")
        assert f"bind() to 0.0.0.0:{port} failed (98: " in event["reason"]
        assert event["generation"] == 1
        assert await status_of(sidecar) == 200


async def test_a_stopped_container_is_named_and_what_came_meanwhile_is_served_when_it_starts(
    consul: ConsulAgent, container: NginxContainer, sidecar: Sidecar
) -> None:
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        container.stop()
        other = consul.register("other", port=app.port, tags=[f"proxygen.route={OTHER}"])
        event = await outcome(sidecar, "candidate rejected")
        assert event["reason"].startswith(f"{container.engine.url} did not send HUP to container {NAME}: ")
        # Podman's words; Docker's are "is not running".
        assert "can only kill running containers" in event["reason"]
        assert sidecar.request("/readyz")[0] == 503
        container.start()
        await answers(sidecar)
        await answers(sidecar, OTHER)
        await until(lambda: sidecar.request("/readyz")[0] == 200, "ready by itself")
        consul.deregister(other)
        await answers(sidecar, OTHER, 404)


async def test_a_wrong_name_is_one_clear_line_and_ends_nothing(
    consul: ConsulAgent, container: NginxContainer, make_sidecar: MakeSidecar
) -> None:
    sidecar = make_sidecar(consul, container.server, **by_engine(container.engine.url, "elsewhere"))
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(ready=False)
        event = await outcome(sidecar, "candidate rejected")
    assert event["reason"] == (
        f"{container.engine.url} did not send HUP to container elsewhere: "
        'no container with name or ID "elsewhere" found: no such container; see nginx.container (--nginx-container)'
    )
    assert sidecar.request("/readyz")[0] == 503
    assert sidecar.running


async def test_an_engine_that_is_not_there_is_one_clear_line_and_is_asked_again(
    consul: ConsulAgent, container: NginxContainer, make_sidecar: MakeSidecar, short_directory: Path
) -> None:
    """Once the socket is there, the service is served; nobody restarts proxygen."""
    late = short_directory / "late.sock"
    sidecar = make_sidecar(consul, container.server, **by_engine(f"unix://{late}"))
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start(ready=False)
        event = await outcome(sidecar, "candidate rejected")
        assert event["reason"] == (
            f"unix://{late} did not send HUP to container {NAME}: No such file or directory; start the engine, or see "
            "nginx.docker_host (--nginx-docker-host)"
        )
        late.symlink_to(container.engine.socket)
        await answers(sidecar)
        await until(lambda: sidecar.request("/readyz")[0] == 200, "ready by itself")


async def test_the_engines_own_command_does_as_well(
    consul: ConsulAgent, container: NginxContainer, make_sidecar: MakeSidecar
) -> None:
    command = [*container.engine.command, "kill", "--signal", "HUP", NAME]
    sidecar = make_sidecar(consul, container.server, nginx__reload="command", nginx__reload_command=command)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        await answers(sidecar)
        container.stop()
        consul.register("other", port=app.port, tags=[f"proxygen.route={OTHER}"])
        event = await outcome(sidecar, "candidate rejected")
        assert f"kill --signal HUP {NAME} ended with 125: " in event["reason"]
        assert "can only kill running containers" in event["reason"]


async def test_whoever_answers_and_is_no_engine_is_said_to_be_none() -> None:
    with App("stranger") as stranger:
        url = f"tcp://127.0.0.1:{stranger.port}"
        with pytest.raises(NginxUnavailable, match=rf"^{url} did not send HUP to container web: .* is no engine; see "):
            await ask_reload(NginxSettings(reload="docker", container="web", docker_host=url), None)
