"""The tags protocol, listen and websocket: every way in which nginx speaks to an instance."""

from __future__ import annotations

import socket
import ssl
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import ClientSession, WSMsgType, WSServerHandshakeError

from tests.harness.app import TcpEcho, UdpEcho
from tests.harness.gateways import FastCgi, GrpcEcho, Uwsgi
from tests.harness.ports import free_port
from tests.integration.site import Site


@pytest.fixture(scope="module")
def keys(site: Site, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of the instances that speak TLS themselves; NAME.key lies beside it."""
    return site.authority.issue(tmp_path_factory.mktemp("keys"), "instance", "https.proto.example.com")


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    return {name: free_port() for name in ("tcp", "udp", "split", "sticky", "shut", "meta", "nobody")}


@pytest.fixture(scope="module")
def protocols(site: Site, keys: Path, ports: dict[str, int]) -> Iterator[Site]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(keys, keys.with_suffix(".key"))
    pair = (keys.with_suffix(".key").read_bytes(), keys.read_bytes())
    instances: dict[str, tuple[Any, list[str]]] = {
        "http": (site.app("http"), ["protocol=http"]),
        "https": (site.app("https", tls=context), ["protocol=https"]),
        "grpc": (site.keep(GrpcEcho("grpc")), ["protocol=grpc", "tls=auto"]),
        "grpcs": (site.keep(GrpcEcho("grpcs", certificate=pair)), ["protocol=grpcs", "tls=auto"]),
        "fastcgi": (site.keep(FastCgi("fastcgi")), ["protocol=fastcgi"]),
        "uwsgi": (site.keep(Uwsgi("uwsgi")), ["protocol=uwsgi"]),
        "sockets": (site.app("sockets"), []),
        "no-sockets": (site.app("no-sockets"), ["websocket=false"]),
    }
    for name, (instance, tags) in instances.items():
        domain = "tls" if "tls=auto" in tags else "proto"
        site.register(f"proto-{name}", instance, f"route={name}.{domain}.example.com", *tags)
    echoes = [
        ("tcp", TcpEcho("tcp-1"), ["protocol=tcp"]),
        ("udp", UdpEcho("udp-1"), ["protocol=udp"]),
        ("split", TcpEcho("split-stable"), ["protocol=tcp"]),
        ("split", TcpEcho("split-canary"), ["protocol=tcp", "canary=50%"]),
        ("sticky", TcpEcho("sticky-stable"), ["protocol=tcp", "sticky=ip"]),
        ("sticky", TcpEcho("sticky-canary"), ["protocol=tcp", "canary=50%"]),
        ("shut", TcpEcho("shut-1"), ["protocol=tcp", "deny=127.0.8.0/24", "timeout=1s"]),
    ]
    for name, echo, tags in echoes:
        echo.__enter__()
        site.register(f"proto-{name}", echo, *tags, f"listen={ports[name]}")
    in_meta = TcpEcho("meta-1").__enter__()
    meta = {"proxygen-protocol": "tcp", "proxygen-listen": str(ports["meta"]), "proxygen-route": "unused.example.com"}
    site.register("proto-meta", in_meta, meta=meta)
    site.until_served(*(instance for instance, _ in instances.values()), *(echo for _, echo, _ in echoes), in_meta)
    yield site
    for echo in (*(echo for _, echo, _ in echoes), in_meta):
        echo.__exit__()


# --- HTTP and its relatives


@pytest.mark.parametrize("name", ["http", "https"])
def test_http_and_https_reach_the_instance(protocols: Site, name: str) -> None:
    answer = protocols.ask(f"{name}.proto.example.com", "/x?y=z", method="PUT", body=b"body")
    assert answer.instance == name
    assert (answer.seen["method"], answer.seen["path"], answer.seen["body"]) == ("PUT", "/x?y=z", "body")


@pytest.mark.parametrize("name", ["fastcgi", "uwsgi"])
def test_a_gateway_gets_the_request_as_parameters(protocols: Site, name: str) -> None:
    answer = protocols.ask(
        f"{name}.proto.example.com", "/run/me?q=1", method="POST", body=b"form", headers={"Proxy": "evil"}
    )
    assert (answer.status, answer.instance) == (200, name)
    parameters = answer.seen["parameters"]
    assert answer.seen["body"] == "form"
    expected = {
        "REQUEST_METHOD": "POST",
        "QUERY_STRING": "q=1",
        "REQUEST_URI": "/run/me?q=1",
        "CONTENT_LENGTH": "4",
        "SERVER_NAME": f"{name}.proto.example.com",
        "HTTP_HOST": f"{name}.proto.example.com",
        "REMOTE_ADDR": "127.0.0.1",
    }
    assert {key: parameters.get(key) for key in expected} == expected
    assert parameters.get("SCRIPT_NAME" if name == "fastcgi" else "PATH_INFO") == "/run/me"
    # "httpoxy": a client's Proxy header must not become HTTP_PROXY, which programs take for their own setting.
    assert not parameters.get("HTTP_PROXY")


@contextmanager
def _channel(site: Site, name: str) -> Iterator[grpc.Channel]:
    credentials = grpc.ssl_channel_credentials(site.authority.pem)
    options = [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{site.sidecar.https}", credentials, options) as channel:
        yield channel


@pytest.mark.parametrize("name", ["grpc", "grpcs"])
def test_a_grpc_call_goes_through_tls_and_back(protocols: Site, name: str) -> None:
    with _channel(protocols, f"{name}.tls.example.com") as channel:
        say = channel.unary_unary("/test.Echo/Say")
        assert say(b"hello", timeout=10) == f"{name}:hello".encode()
        stream = channel.stream_stream("/test.Echo/Stream")
        assert list(stream(iter([b"1", b"2", b"3"]), timeout=10)) == [b"1", b"2", b"3"]
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary("/test.Echo/Nothing")(b"", timeout=10)
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED


# --- WebSocket


async def test_a_websocket_is_passed_on(protocols: Site) -> None:
    url = f"http://127.0.0.1:{protocols.sidecar.http}/chat"
    async with (
        ClientSession() as session,
        session.ws_connect(url, headers={"Host": "sockets.proto.example.com"}) as socket,
    ):
        assert await socket.receive_str(timeout=5) == "sockets"
        for text in ("one", "two", "x" * 70_000):
            await socket.send_str(text)
            assert await socket.receive_str(timeout=5) == text
        await socket.send_bytes(b"\0\xff")
        message = await socket.receive(timeout=5)
        assert (message.type, message.data) == (WSMsgType.BINARY, b"\0\xff")


async def test_websocket_false_passes_no_upgrade_on(protocols: Site) -> None:
    host = {"Host": "no-sockets.proto.example.com"}
    async with ClientSession() as session:
        with pytest.raises(WSServerHandshakeError):
            await session.ws_connect(f"http://127.0.0.1:{protocols.sidecar.http}/", headers=host)
    seen = protocols.ask(host["Host"], headers={"Upgrade": "websocket", "Connection": "upgrade"}).seen["headers"]
    assert "upgrade" not in seen


@pytest.mark.parametrize("upgrade", ["h2c", "websocket, h2c", "websocketx", "TLS/1.0"])
def test_no_other_upgrade_is_passed_on(protocols: Site, upgrade: str) -> None:
    headers = {"Upgrade": upgrade, "Connection": "Upgrade, HTTP2-Settings", "HTTP2-Settings": "AAMAAABk"}
    seen = protocols.ask("http.proto.example.com", headers=headers).seen["headers"]
    assert "upgrade" not in seen
    assert "upgrade" not in seen.get("connection", "")


# --- streams


def _tcp(port: int, *, source: str = "127.0.0.1") -> tuple[str, bytes]:
    """The instance that answered on a TCP port, and what came back for ``ping``."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0)) as connection,
        closing(connection.makefile("rb")) as stream,
    ):
        name = stream.readline().decode().strip()
        connection.sendall(b"ping")
        return name, stream.read(4)


def test_a_tcp_service_answers_on_its_port(protocols: Site, ports: dict[str, int]) -> None:
    assert _tcp(ports["tcp"]) == ("tcp-1", b"ping")
    assert _tcp(ports["meta"]) == ("meta-1", b"ping")


def test_a_udp_service_answers_on_its_port(protocols: Site, ports: dict[str, int]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(5)
        for number in range(3):
            client.sendto(b"datagram %d" % number, ("127.0.0.1", ports["udp"]))
            assert client.recv(100) == b"udp-1:datagram %d" % number


def test_streams_are_divided_by_share(protocols: Site, ports: dict[str, int]) -> None:
    count = Counter(_tcp(ports["split"])[0] for _ in range(200))
    assert count.keys() == {"split-stable", "split-canary"}
    assert 60 < count["split-canary"] < 140


def test_a_sticky_stream_keeps_its_client_on_one_side(protocols: Site, ports: dict[str, int]) -> None:
    sides = [{_tcp(ports["sticky"], source=f"127.0.9.{n}")[0] for _ in range(4)} for n in range(1, 25)]
    assert all(len(side) == 1 for side in sides)
    assert set.union(*sides) == {"sticky-stable", "sticky-canary"}


def test_a_stream_may_be_shut_by_address_and_ends_after_its_timeout(protocols: Site, ports: dict[str, int]) -> None:
    assert _tcp(ports["shut"]) == ("shut-1", b"ping")
    assert _tcp(ports["shut"], source="127.0.8.1") == ("", b"")
    with socket.create_connection(("127.0.0.1", ports["shut"]), timeout=5) as connection:
        assert connection.recv(100) == b"shut-1\n"
        begin = time.monotonic()
        assert connection.recv(100) == b""
        assert 0.5 < time.monotonic() - begin < 3


def test_a_stream_with_nobody_behind_it_is_closed_at_once(protocols: Site, ports: dict[str, int]) -> None:
    with TcpEcho("nobody") as echo:
        tags = ["protocol=tcp", f"listen={ports['nobody']}"]
        service = protocols.register("proto-nobody", echo, *tags, status="critical")
        protocols.until(f"listen {ports['nobody']};")
        assert _closed(ports["nobody"])
        protocols.consul.set_check(service, "passing")
        protocols.until_served(echo)
        assert _tcp(ports["nobody"]) == ("nobody", b"ping")


def _closed(port: int) -> bool:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        return connection.recv(100) == b""


def test_a_port_that_the_proxy_needs_is_refused_and_costs_nobody_anything(
    protocols: Site, ports: dict[str, int]
) -> None:
    with TcpEcho("greedy") as echo:
        protocols.register("proto-greedy", echo, "protocol=tcp", f"listen={protocols.sidecar.http}")
        protocols.until_status(
            lambda status: "proto-greedy" in {item["service"] for item in status["quarantined"]}, "quarantined"
        )
        late = protocols.app("after-greedy")
        protocols.register("proto-late", late, "route=late.proto.example.com")
        protocols.until_served(late)
        assert protocols.ask("late.proto.example.com").instance == "after-greedy"


def test_the_port_of_a_stream_may_change_one_instance_after_the_other(protocols: Site) -> None:
    old, new = free_port(), free_port()
    with TcpEcho("moving-1") as first, TcpEcho("moving-2") as second:
        protocols.register("proto-moving", first, "protocol=tcp", f"listen={old}")
        protocols.register("proto-moving", second, "protocol=tcp", f"listen={new}")
        protocols.until(f"listen {old};", f"listen {new};")
        assert {_tcp(old)[0] for _ in range(4)} == {_tcp(new)[0] for _ in range(4)} == {"moving-1", "moving-2"}


def test_the_route_of_a_stream_says_nothing_to_http(protocols: Site) -> None:
    assert protocols.ask("unused.example.com").status == 404
