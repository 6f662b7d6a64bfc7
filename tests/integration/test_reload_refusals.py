"""Changes that pass ``nginx -t`` and that the master refuses or does not survive, through the whole sidecar.

In each: the outcome, nginx's own words as the reason, ``current``, requests that work meanwhile, and recovery without
anybody's help once the cause is gone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness.app import App, TcpEcho, UdpEcho
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.waiting import HOST, ROUTE, answers, outcome, said, status_of, steady_load, until

MakeSidecar = Callable[..., Sidecar]
MakeNginx = Callable[..., NginxServer]

DEADLINE = 60
"""Seconds in which a reload is to be proven: so long that it shows whether it was waited for."""


@pytest.fixture
def snippets(tmp_path: Path) -> Path:
    directory = tmp_path / "snippets"
    directory.mkdir()
    return directory


@pytest.mark.incident("T8")
async def test_t8_a_taken_port_costs_its_own_service_alone(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """Injects a listen tag on a port that another process holds. That service is quarantined with nginx's words,
    what changed with it goes live, and it comes back when its registration changes and the port is free."""
    sidecar = make_sidecar(consul, nginx)
    port = free_port()
    tags = ["proxygen.protocol=tcp", f"proxygen.listen={port}"]
    with App("web-1") as app, TcpEcho("db-1") as db:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            with socket.create_server(("0.0.0.0", port)):
                consul.register("db", port=db.port, tags=tags)
                consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
                event = await outcome(sidecar, "reload rolled back")
                assert event["generation"] == 1
                assert f"0.0.0.0:{port}" in event["reason"]
                await answers(sidecar, "new.example.com")
                (quarantine,) = sidecar.status()["quarantined"]
                assert quarantine["service"] == "db"
                assert f"bind() to 0.0.0.0:{port} failed (98: Address" in quarantine["reason"]
                await until(lambda: sidecar.request("/readyz")[0] == 200, "ready: the others are served")
                for name in ("second", "third"):
                    consul.register(name, port=app.port, tags=[f"proxygen.route={name}.example.com"])
                    await answers(sidecar, f"{name}.example.com")
                assert len(said(sidecar, "reload rolled back")) == 1, "not tried again with each change"
            assert sidecar.generation() != 1
            consul.register("db", port=db.port, tags=[*tags, "proxygen.timeout=1m"])
            await until(lambda: _greeting(port) == "db-1", "the port served")
    assert sidecar.status()["quarantined"] == []


@pytest.mark.incident("T8")
async def test_t8_a_port_that_becomes_free_is_taken_without_any_change(
    consul: ConsulAgent, any_nginx: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """The service that a reload stumbled over is tried again, with growing pauses."""
    sidecar = make_sidecar(consul, any_nginx, reload__retry_max="1s")
    port = free_port()
    with App("web-1") as app, TcpEcho("db-1") as db:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        with socket.create_server(("0.0.0.0", port)):
            consul.register("db", port=db.port, tags=["proxygen.protocol=tcp", f"proxygen.listen={port}"])
            await until(lambda: sidecar.status()["quarantined"], "the service quarantined")
        async with steady_load(sidecar):
            await until(lambda: _greeting(port) == "db-1", "the port served")
    assert sidecar.status()["quarantined"] == []


@pytest.mark.incident("T50")
async def test_t50_a_port_at_which_another_program_gets_datagrams_is_taken(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: MakeSidecar
) -> None:
    """The kernel would give nginx a part of them, without a word: both say that they share the port."""
    sidecar = make_sidecar(consul, nginx, reload__retry_max="1s")
    port = free_port()
    with App("web-1") as app, UdpEcho("names-1") as names:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            other.bind(("0.0.0.0", port))
            consul.register("names", port=names.port, tags=["proxygen.protocol=udp", f"proxygen.listen={port}"])
            consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
            await answers(sidecar, "new.example.com")
            (quarantine,) = sidecar.status()["quarantined"]
            assert quarantine["service"] == "names"
            assert f"bind() to 0.0.0.0:{port} failed (98: Address already in use" in quarantine["reason"]
        await until(lambda: _datagram(port).startswith(b"names-1"), "the port served")
    assert sidecar.status()["quarantined"] == []


def _datagram(port: int) -> bytes:
    """What is answered to a datagram; nothing where it is nothing."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.connect(("127.0.0.1", port))
        try:
            client.send(b"x")
            return client.recv(100)
        except OSError:
            return b""


@pytest.mark.incident("T50")
@pytest.mark.parametrize("is_there", [False, True])
async def test_t50_a_taken_port_costs_its_own_service_where_no_log_can_be_read(
    consul: ConsulAgent,
    any_nginx_binary: NginxBinary,
    make_nginx: MakeNginx,
    make_sidecar: MakeSidecar,
    tmp_path: Path,
    *,
    is_there: bool,
) -> None:
    """Injects the same with an nginx that logs to standard error, as in a container: nobody reads why it refused the
    reload, in no log or in one that nginx does not write. What is new is suspected, its ports first, and what changed
    with it goes live."""
    server = make_nginx(any_nginx_binary)
    conf = server.conf.read_text()
    server.conf.write_text(conf.replace(f"error_log {server.error_log} notice;", "error_log stderr notice;"))
    assert server.conf.read_text() != conf
    server.start()
    log = tmp_path / "another.log"
    log.touch()
    knobs = {"nginx__error_log": str(log)} if is_there else {}
    sidecar = make_sidecar(consul, server, reload__retry_max="1s", reload__deadline="2s", **knobs)
    port = free_port()
    with App("web-1") as app, TcpEcho("db-1") as db:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            with socket.create_server(("0.0.0.0", port)):
                consul.register("db", port=db.port, tags=["proxygen.protocol=tcp", f"proxygen.listen={port}"])
                consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
                await answers(sidecar, "new.example.com")
                await until(lambda: _blamed(sidecar) == {"db"}, "the service found to be at fault")
                assert {item["service"] for item in sidecar.status()["quarantined"]} <= {"db"}
            await until(lambda: _greeting(port) == "db-1", "the port served")
    assert sidecar.status()["quarantined"] == []


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("limit_req_zone $uri zone=z:1m rate=9r/s;\n", "limit_req_zone $host zone=z:1m rate=9r/s;\n"),
        ("proxy_cache_path DIR/a keys_zone=c:1m;\n", "proxy_cache_path DIR/b keys_zone=c:1m;\n"),
    ],
    ids=["zone-with-another-key", "cache-moved"],
)
async def test_a_snippet_that_the_master_refuses_in_silence_is_rolled_back(
    consul: ConsulAgent,
    nginx: NginxServer,
    make_sidecar: MakeSidecar,
    snippets: Path,
    first: str,
    second: str,
) -> None:
    """Injects a snippet whose zone differs from the running one's. The generation before stays live, `/readyz` quotes
    nginx, and the snippet's way back ends it."""
    (snippets / "cache").mkdir()
    first, second = (text.replace("DIR", str(snippets / "cache")) for text in (first, second))
    (snippets / "http.conf").write_text(first)
    sidecar = make_sidecar(consul, nginx, proxy__snippets=str(snippets))
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            (snippets / "http.conf").write_text(second)
            event = await outcome(sidecar, "reload rolled back")
            assert "while previously it used" in event["reason"]
            assert event["generation"] == sidecar.generation() == 1
            await _says_why(sidecar, "while previously it used")
            (snippets / "http.conf").write_text(first)
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")
            consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
            await answers(sidecar, "new.example.com")


async def test_a_missing_working_directory_never_reaches_nginx(
    consul: ConsulAgent, any_nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a working_directory that is gone: a HUP would end every worker, the old ones included. No HUP is sent
    until it is back; then the change goes through by itself."""
    directory = tmp_path / "work"
    directory.mkdir()
    server = make_nginx(any_nginx_binary, main=f"working_directory {directory};")
    server.start()
    sidecar = make_sidecar(consul, server)
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        async with steady_load(sidecar):
            directory.rmdir()
            hangups = server.errors().count("(SIGHUP) received")
            consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
            event = await outcome(sidecar, "candidate rejected")
            assert f"working_directory {directory} does not exist" in event["reason"]
            await _says_why(sidecar, str(directory))
            assert server.errors().count("(SIGHUP) received") == hangups
            assert sidecar.generation() == 1
            directory.mkdir()
            await answers(sidecar, "new.example.com")


async def test_a_candidate_that_ends_every_worker_is_rolled_back_and_not_tried_again(
    consul: ConsulAgent, any_nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, snippets: Path
) -> None:
    """Injects a snippet with which every worker ends as it starts: a total outage that ``nginx -t`` cannot foresee.
    The old generation serves again at once, and the same candidate never gets a second chance."""
    if any_nginx_binary.modules is None or not (any_nginx_binary.modules / "ngx_http_lua_module.so").exists():
        pytest.skip("needs Debian's libnginx-mod-http-lua")
    server = make_nginx(any_nginx_binary, modules=["ndk_http", "ngx_http_lua"])
    server.start()
    sidecar = make_sidecar(consul, server, proxy__snippets=str(snippets), reload__deadline=f"{DEADLINE}s")
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE])
        sidecar.start()
        (snippets / "http.conf").write_text("init_worker_by_lua_block { os.exit(2) }\n")
        await until(lambda: not server.workers(), "the outage")
        began = time.monotonic()
        await answers(sidecar)
        assert time.monotonic() - began < DEADLINE / 2, "the proof's deadline was not waited for"
        event = await outcome(sidecar, "reload rolled back")
        assert "every worker ended" in event["reason"]
        assert event["generation"] == sidecar.generation() == 1
        await _says_why(sidecar, "every worker ended")
        async with steady_load(sidecar):
            await until(lambda: said(sidecar, "candidate rejected"), "it is kept back")
            kept_back = len(said(sidecar, "candidate rejected"))
            (snippets / "http.conf").touch()
            await until(lambda: len(said(sidecar, "candidate rejected")) > kept_back, "the file read once more")
            assert len(said(sidecar, "reload rolled back")) == 1, "a file that says the same is no other candidate"
            (snippets / "http.conf").unlink()
            await until(lambda: sidecar.request("/readyz")[0] == 200, "ready again")
            consul.register("new", port=app.port, tags=["proxygen.route=new.example.com"])
            await answers(sidecar, "new.example.com")
    assert await status_of(sidecar, HOST) in (502, 504)


def _blamed(sidecar: Sidecar) -> set[str]:
    """Those that are left out because of what nginx did with them, and do not only wait."""
    quarantined = sidecar.status()["quarantined"]
    return {item["service"] for item in quarantined if "did not take a reload with this service" in item["reason"]}


async def _says_why(sidecar: Sidecar, text: str) -> None:
    """Wait until /readyz and the status give the reason."""

    def told() -> bool:
        code, body = sidecar.request("/readyz")
        report: dict[str, Any] = sidecar.status()
        return code == 503 and any(text in reason for reason in body["reasons"]) and report["state"] == "degraded"

    await until(told, f"/readyz that says {text!r}")


def _greeting(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=2) as connection:
        return connection.recv(100).decode().strip()
