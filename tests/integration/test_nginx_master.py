"""Finding the right master among real processes, and the ways to ask it for a reload."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from aiohttp import web

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.apply.reload import ask_reload
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.nginx.master import Master, find_master, is_alive, workers
from proxygen.settings import NginxSettings
from tests.harness import process
from tests.harness.nginx import NginxServer
from tests.harness.tools import NginxBinary


async def _read(server: NginxServer) -> tuple[OperatorConf, Binary]:
    settings = NginxSettings(binary=str(server.binary.path), conf=server.conf, prefix=server.directory)
    binary = await inspect_binary(settings)
    return read_operator_conf(settings, server.output, binary), binary


async def test_the_master_of_the_pid_file_is_found(any_nginx: NginxServer) -> None:
    assert find_master(*await _read(any_nginx)) == Master(pid=any_nginx.pid, own_pid=any_nginx.pid)


@pytest.fixture
def stranger() -> Iterator[int]:
    """A process that has nothing to do with nginx."""
    sleeper = subprocess.Popen(["sleep", "60"])
    yield sleeper.pid
    sleeper.kill()
    sleeper.wait()


async def test_a_pid_file_with_the_number_of_another_process_is_not_believed(
    any_nginx: NginxServer, stranger: int
) -> None:
    """A stale file, or one of another pid namespace: HUP would end a process that has no handler for it."""
    any_nginx.pid_file.write_text(f"{stranger}\n")
    assert find_master(*await _read(any_nginx)) is None


async def test_a_pid_file_with_the_number_of_another_nginx_is_not_believed(
    any_nginx: NginxServer, any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]
) -> None:
    other = make_nginx(any_nginx_binary)
    other.start()
    any_nginx.pid_file.write_text(f"{other.pid}\n")
    assert find_master(*await _read(any_nginx)) is None
    assert find_master(*await _read(other)) == Master(pid=other.pid, own_pid=other.pid)


@pytest.mark.parametrize("content", ["", "garbage\n", None])
async def test_without_a_number_the_master_that_runs_the_conf_is_found(
    any_nginx: NginxServer, any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], content: str | None
) -> None:
    """nginx -t of somebody leaves an empty pid file."""
    make_nginx(any_nginx_binary).start()
    if content is None:
        any_nginx.pid_file.unlink()
    else:
        any_nginx.pid_file.write_text(content)
    assert find_master(*await _read(any_nginx)) == Master(pid=any_nginx.pid, own_pid=any_nginx.pid)


async def test_after_a_stop_no_master_is_found(any_nginx: NginxServer) -> None:
    conf, binary = await _read(any_nginx)
    master = find_master(conf, binary)
    assert master is not None
    assert is_alive(master)
    any_nginx.kill()
    any_nginx.pid_file.write_text(f"{master.pid}\n")
    assert not is_alive(master)
    assert find_master(conf, binary) is None
    assert workers(master) is None


@pytest.fixture
def in_namespace(any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer]) -> Iterator[NginxServer]:
    """An nginx in a pid namespace of its own, as in a container; its pid file says 1 or another small number."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("needs root and unshare, to make a pid namespace")
    server = make_nginx(any_nginx_binary)
    command = ["unshare", "--pid", "--fork", "--kill-child", *server.command, "-g", "daemon off;"]
    parent = process.start(command, log=server.directory / "unshare.log")
    try:
        process.wait_until(lambda: server.pid_file.read_text().strip(), what="nginx's pid file")
        yield server
    finally:
        process.stop(parent, signal.SIGKILL)


async def test_the_number_of_another_namespace_is_translated(in_namespace: NginxServer) -> None:
    """Facts 6: signalling that number here would hit somebody else, such as init."""
    assert in_namespace.pid_file.read_text().strip() == "1"
    master = find_master(*await _read(in_namespace))
    assert master is not None
    assert (master.pid != 1, master.own_pid) == (True, 1)
    assert is_alive(master)
    process.wait_until(lambda: (seen := workers(master)) and len(seen.accepting) == 2, what="two workers")


async def test_cache_processes_are_no_workers(
    any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], tmp_path: Path
) -> None:
    server = make_nginx(any_nginx_binary, http=f"proxy_cache_path {tmp_path}/cache keys_zone=c:1m;")
    server.start()
    master = find_master(*await _read(server))
    assert master is not None
    process.wait_until(lambda: (seen := workers(master)) and not seen.starting, what="all names")
    seen = workers(master)
    assert seen is not None
    assert (len(seen.accepting), seen.draining) == (2, frozenset())


async def test_the_engine_is_asked_to_send_hup(short_directory: Path) -> None:
    """Against what Docker and Podman answer: 204, or 404 and 409 with a message."""
    asked: list[tuple[str, str]] = []

    async def kill(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        asked.append((name, request.query["signal"]))
        if name == "gone":
            body = b'{"message": "No such container: gone"}'
            return web.Response(body=body, status=404, headers={"Content-Type": "application/json"})
        return web.Response(status=204)

    async def version(_: web.Request) -> web.Response:
        return web.json_response({"ApiVersion": "1.43", "Version": "24"})

    engine = web.Application()
    engine.router.add_get("/version", version)
    engine.router.add_post("/{version}/containers/{name}/kill", kill)
    runner = web.AppRunner(engine)
    await runner.setup()
    await web.UnixSite(runner, f"{short_directory}/docker.sock").start()
    settings = NginxSettings(reload="docker", container="web", docker_host=f"unix://{short_directory}/docker.sock")
    try:
        await ask_reload(settings, None)
        with pytest.raises(NginxUnavailable, match="did not send HUP to container gone: No such container"):
            await ask_reload(settings.model_copy(update={"container": "gone"}), None)
    finally:
        await runner.cleanup()
    assert asked == [("web", "HUP"), ("gone", "HUP")]
    with pytest.raises(NginxUnavailable, match="did not send HUP to container web"):
        await ask_reload(settings, None)


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        (NginxSettings(reload="docker"), "--nginx-container"),
        (NginxSettings(reload="command"), "--nginx-reload-command"),
        (NginxSettings(), "start nginx"),
    ],
)
async def test_what_a_way_to_reload_lacks_is_named(settings: NginxSettings, missing: str) -> None:
    with pytest.raises(NginxUnavailable, match=missing):
        await ask_reload(settings, None)
