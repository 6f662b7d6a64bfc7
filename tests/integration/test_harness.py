"""The harness tells the truth: each real part starts, answers, shows what it is asked for, and ends."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest

from tests.harness.app import App, TcpEcho, UdpEcho
from tests.harness.consul import ConsulAgent, leader_of, start_cluster
from tests.harness.load import Load, fetch
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port, free_ports
from tests.harness.process import is_alive, wait_until


def _publish(nginx: NginxServer, conf: str) -> None:
    """Write one configuration where an operator's nginx.conf looks for the live generation."""
    folder = nginx.output / "current" / "http.d"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "test.conf").write_text(conf)


def test_ports_are_never_given_twice() -> None:
    ports = free_ports(300)
    assert len(set(ports)) == 300
    assert all(10_000 <= port < 32_768 for port in ports)


def test_registered_services_show_and_are_gone_in_the_next_test(consul: ConsulAgent) -> None:
    service = consul.register("web", port=80, tags=["a"], meta={"k": "v"}, weights=(5, 2), status="critical")
    consul.kv_put("proxygen/canary/web", '{"canary": "5%"}')
    wait_until(lambda: consul.instances("web"), what="the registration")
    consul.set_check(service, "passing")
    wait_until(lambda: consul.instances("web")[0]["Checks"][-1]["Status"] == "passing", what="the check")
    entry = consul.instances("web")[0]["Service"]
    assert (entry["Tags"], entry["Meta"], entry["Weights"]["Warning"]) == (["a"], {"k": "v"}, 2)
    consul.clean()
    assert consul.instances("web") == []
    assert consul.get("/v1/kv/proxygen/canary/web") is None


def test_restart_forgets_unless_persistent(make_consul: Callable[..., ConsulAgent]) -> None:
    for persistent in (False, True):
        agent = make_consul(persistent=persistent)
        agent.start()
        agent.kv_put("key", "value")
        agent.restart()
        assert (agent.get("/v1/kv/key") is not None) is persistent


def test_a_denying_consul_starts_and_obeys_its_token(make_consul: Callable[..., ConsulAgent]) -> None:
    acl = {"enabled": True, "default_policy": "deny", "tokens": {"master": "root-token"}}
    agent = make_consul(config={"acl": acl, "primary_datacenter": "dc1"}, token="root-token")
    agent.start()
    wait_until(lambda: agent.get("/v1/catalog/services"), what="the catalog")
    assert agent.request("GET", "/v1/catalog/services", token="anonymous") == {}


@pytest.mark.slow
def test_cluster_elects_another_leader(tmp_path: Path) -> None:
    agents = start_cluster(tmp_path)
    try:
        first = leader_of(agents)
        first.kill()
        rest = [agent for agent in agents if agent is not first]
        assert leader_of(rest) is not first
    finally:
        for agent in agents:
            agent.kill()


async def test_load_is_counted_by_instance_and_by_failure(nginx: NginxServer) -> None:
    port = free_port()
    with App("one") as one, App("two") as two:
        upstream = f"upstream u {{ server {one.address}; server {two.address}; }}"
        _publish(nginx, f"{upstream} server {{ listen {port}; location / {{ proxy_pass http://u; }} }}")
        nginx.reload()
        await _answers(port)
        tally = await Load("127.0.0.1", port).send(200)
        assert (tally.ok, tally.failed) == (200, 0)
        assert 0.4 < tally.share(lambda name: name == "one") < 0.6
        kept = await Load("127.0.0.1", port, keepalive=True, path="/?status=503").send(50)
        assert kept.failures == {"status 503": 50}
    gone = await Load("127.0.0.1", one.port).send(3)
    assert gone.failures == {"ConnectionRefusedError": 3}


async def test_keepalive_uses_few_connections_and_close_many() -> None:
    with App("one") as app:
        await Load(app.host, app.port, clients=4, keepalive=True).send(100)
        assert (app.requests, app.connections) == (100, 4)
        await Load(app.host, app.port, clients=4).send(100)
        assert (app.requests, app.connections) == (200, 104)


async def test_app_echoes_requests_and_websockets() -> None:
    with App("one") as app:
        async with aiohttp.ClientSession(f"http://{app.address}") as session:
            async with session.post("/a?b=c", data="body", headers={"X-Seen": "yes"}) as answer:
                said = await answer.json()
            assert (said["name"], said["path"], said["body"]) == ("one", "/a?b=c", "body")
            assert said["headers"]["x-seen"] == "yes"
            async with session.ws_connect("/ws") as socket:
                await socket.send_str("hello")
                assert [await socket.receive_str(), await socket.receive_str()] == ["one", "hello"]


def test_stream_echoes_tell_their_names() -> None:
    with TcpEcho("tcp") as tcp, socket.create_connection(("127.0.0.1", tcp.port), 5) as client:
        client.sendall(b"ping")
        wait_until(lambda: client.recv(100, socket.MSG_PEEK).endswith(b"ping"), what="the echo")
        assert client.recv(100) == b"tcp\nping"
    with UdpEcho("udp") as udp, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        client.sendto(b"ping", ("127.0.0.1", udp.port))
        assert client.recv(100) == b"udp:ping"


def test_nginx_ends_with_its_workers(nginx: NginxServer) -> None:
    for end in (nginx.kill, nginx.stop):
        workers = nginx.workers()
        assert len(workers) == 2
        assert nginx.accepting() == workers
        end()
        assert not nginx.running
        wait_until(lambda pids=workers: not any(is_alive(pid) for pid in pids), what="no workers")  # type: ignore[misc]
        nginx.start()


async def _answers(port: int) -> None:
    for _ in range(200):
        try:
            status, _ = await fetch("127.0.0.1", port)
        except (OSError, EOFError):
            status = 0
        if status == 200:
            return
        await asyncio.sleep(0.02)
    raise TimeoutError(f"nothing answers on {port}")
