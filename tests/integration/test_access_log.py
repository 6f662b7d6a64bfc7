"""nginx's access log in ECS (deploy/logging/access-log.conf) and the name that a request has everywhere.

A sidecar that trusts some clients as proxies, in front of an instance for each protocol; the log goes to a file.
"""

from __future__ import annotations

import base64
import json
import re
import socket
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.gateways import FastCgi, GrpcEcho, Uwsgi
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import each_nginx, find_nginx, missing, shared_layout
from tests.integration.certificates import Authority
from tests.integration.site import NO_HEADERS, Site

ACCESS_LOG = Path(__file__).parents[2] / "deploy" / "logging" / "access-log.conf"
TRUSTED = "127.0.7.1"
TRACE = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "congo=t61rcWkgMzE"}
OUR_FORM = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True)
class Logged:
    """The site, and what nginx wrote of it."""

    site: Site
    log: Path

    def lines(self) -> list[bytes]:
        return self.log.read_bytes().splitlines()

    def document(self, path: str) -> Any:
        """The only line about a path of its own."""
        found: list[Any] = []

        def is_there() -> bool:
            found[:] = [line for line in map(json.loads, self.lines()) if line["url"]["path"] == path]
            return bool(found)

        process.wait_until(is_there, what=f"a line about {path}")
        (only,) = found
        return only

    def ask(self, name: str, path: str, headers: Mapping[str, str] = NO_HEADERS, source: str = "127.0.0.1") -> Any:
        """What the instance saw of a request."""
        return self.site.ask(f"{name}.example.com", path, headers=headers, source=source).seen


@pytest.fixture(scope="module", params=[*each_nginx("logged"), shared_layout("logged")])
def logged(
    request: pytest.FixtureRequest, consul_session: ConsulAgent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Logged]:
    kind, _, layout = request.param.partition(", ")
    binary = find_nginx(kind)
    if binary is None:
        missing(f"nginx ({kind})")
    directory = tmp_path_factory.mktemp("logged")
    log = directory / "access.json"
    http = f"include {ACCESS_LOG}; access_log {log} ecs;"
    nginx = NginxServer(binary, directory / "nginx", output=directory / "output", workers=1, http=http)
    authority = Authority()
    (directory / "certificates").mkdir()
    authority.issue(directory / "certificates", "wildcard", "*.example.com")
    # Twice, and once more in another spelling: nginx warns of that in a geo block, and a warning is a refusal.
    settings = {
        "proxy.trusted_proxies": ["127.0.7.0/24", "127.0.7.0/24", "::7/128", "0::7/128", "127.0.8.1"],
        "proxy.certificates": str(directory / "certificates"),
        "proxy.share_servers_from": 1 if layout else 0,
    }
    sidecar = Sidecar(consul_session, nginx, directory / "sidecar", settings)
    site = Site(consul_session, nginx, sidecar, authority)
    nginx.start()
    try:
        sidecar.start()
        _populate(site)
        yield Logged(site, log)
    finally:
        sidecar.kill()
        nginx.stop()
        site.close()
        consul_session.clean()


def _populate(site: Site) -> None:
    instances: dict[str, tuple[Any, list[str]]] = {
        "http": (site.app("http"), []),
        "plain": (site.app("plain"), ["websocket=false"]),
        "fastcgi": (site.keep(FastCgi("fastcgi")), ["protocol=fastcgi"]),
        "uwsgi": (site.keep(Uwsgi("uwsgi")), ["protocol=uwsgi"]),
        "grpc": (site.keep(GrpcEcho("grpc")), ["protocol=grpc", "tls=auto"]),
        "shut": (site.app("shut"), ["deny=127.0.0.1"]),
    }
    for name, (instance, tags) in instances.items():
        site.register(f"Logged.{name}", instance, f"route={name}.example.com", *tags)
    split = [site.app("stable"), site.app("blue-green")]
    site.register("split-two", split[0], "route=split.example.com")
    site.register("split-two", split[1], "route=split.example.com", "variant=blue-green:50%")
    site.until_served(*(instance for instance, _ in instances.values()), *split)


# --- one name for a request


@pytest.mark.parametrize("name", ["http", "plain"])
def test_the_id_in_the_log_is_the_one_that_the_application_sees(logged: Logged, name: str) -> None:
    seen = logged.ask(name, f"/same-{name}")["headers"]["x-request-id"]
    assert OUR_FORM.fullmatch(seen)
    assert logged.document(f"/same-{name}")["http"]["request"]["id"] == seen


@pytest.mark.parametrize("name", ["fastcgi", "uwsgi"])
def test_a_gateway_sees_it_too_and_never_the_clients_own(logged: Logged, name: str) -> None:
    """nginx hands a client's headers to these by itself, so ours must stand in the same place."""
    for number, headers in enumerate([{}, {"X-Request-ID": "from-a-client-1"}]):
        seen = logged.ask(name, f"/gateway-{name}-{number}", headers)["parameters"]["HTTP_X_REQUEST_ID"]
        assert OUR_FORM.fullmatch(seen)
        assert logged.document(f"/gateway-{name}-{number}")["http"]["request"]["id"] == seen


def test_a_grpc_call_has_it_as_metadata(logged: Logged) -> None:
    credentials = grpc.ssl_channel_credentials(logged.site.authority.pem)
    name = "grpc.example.com"
    options = [("grpc.ssl_target_name_override", name), ("grpc.default_authority", name), ("grpc.enable_http_proxy", 0)]
    with grpc.secure_channel(f"127.0.0.1:{logged.site.sidecar.https}", credentials, options) as channel:
        call = channel.unary_unary("/test.Echo/Metadata")
        seen = json.loads(call(b"", timeout=10, metadata=[*TRACE.items(), ("x-request-id", "from-a-client-1")]))
    document = logged.document("/test.Echo/Metadata")
    assert seen["x-request-id"] == [document["http"]["request"]["id"]]
    assert OUR_FORM.fullmatch(seen["x-request-id"][0])
    assert {key: seen[key] for key in TRACE} == {key: [value] for key, value in TRACE.items()}


@pytest.mark.parametrize("given", ["from-a-proxy-1", "01HV3.Z_x-" + "9" * 118])
def test_a_trusted_proxys_id_is_kept(logged: Logged, given: str) -> None:
    path = f"/trusted-{len(given)}"
    seen = logged.ask("http", path, {"X-Request-ID": given, "X-Forwarded-For": "203.0.113.9"}, source=TRUSTED)
    document = logged.document(path)
    assert (seen["headers"]["x-request-id"], document["http"]["request"]["id"]) == (given, given)
    assert document["source"]["ip"] == "203.0.113.9"


@pytest.mark.parametrize(
    ("source", "given"),
    [
        ("127.0.0.1", "from-a-client-1"),
        ("127.0.0.1", "1:from-a-client"),
        (TRUSTED, "short"),
        (TRUSTED, "x" * 129),
        (TRUSTED, 'a"b","evil":"1'),
        (TRUSTED, "one-two-three, four-five"),
        (TRUSTED, ""),
    ],
)
def test_any_other_id_gives_way_to_ours(logged: Logged, source: str, given: str) -> None:
    """From whom nobody trusts, or in a form that could mean something to whoever reads it."""
    path = f"/other-{source}-{given.encode().hex()}"
    seen = logged.ask("http", path, {"X-Request-ID": given}, source=source)["headers"]["x-request-id"]
    assert OUR_FORM.fullmatch(seen)
    assert logged.document(path)["http"]["request"]["id"] == seen


def test_trace_context_goes_through_untouched_and_into_the_log(logged: Logged) -> None:
    seen = logged.ask("http", "/traced", TRACE)["headers"]
    assert {key: seen[key] for key in TRACE} == TRACE
    assert logged.document("/traced")["trace"] == {"id": TRACE["traceparent"].split("-")[1]}


# --- what a line says


def test_a_line_says_what_happened_in_the_schemas_names(logged: Logged) -> None:
    before = datetime.now(UTC)
    answer = logged.site.ask(
        "http.example.com",
        "/said?delay=0.05&token=secret",
        method="POST",
        body=b"12345",
        headers={
            "User-Agent": 'agent "7" \\ ä'.encode().decode("latin-1"),
            "Referer": "http://a.example/b?token=secret",
        },
    )
    document = logged.document("/said")
    assert "secret" not in json.dumps(document)
    assert before.timestamp() - 1 < datetime.fromisoformat(document["@timestamp"]).timestamp() < before.timestamp() + 5
    duration = document["event"].pop("duration")
    assert duration == int(duration)
    # Seconds in nginx, nanoseconds in ECS.
    assert 45e6 < duration < 5e9
    assert document["event"] == {
        "kind": "event", "category": ["web"], "type": ["access"], "outcome": "success", "module": "nginx",
        "dataset": "nginx.access",
    }  # fmt: skip
    assert document["url"] == {"scheme": "http", "domain": "http.example.com", "path": "/said"}
    assert (document["http"]["version"], document["http"]["request"]["method"]) == ("1.1", "POST")
    assert document["http"]["request"]["referrer"] == "http://a.example/b"
    assert document["http"]["response"]["status_code"] == 200
    assert document["http"]["response"]["body"]["bytes"] == len(answer.body)
    assert document["user_agent"] == {"original": 'agent "7" \\ ä'}
    assert document["source"] == {"ip": "127.0.0.1"}
    upstream = document["nginx"]["upstream"]
    assert upstream["address"] in {app.address for app in logged.site.apps if app.name == "http"}
    assert float(upstream["response_time"]) == pytest.approx(duration / 1e9, abs=0.02)
    assert document["proxygen"] == {"service": "Logged.http", "variant": "stable"}


@pytest.mark.parametrize("name", ["fastcgi", "uwsgi"])
def test_services_of_every_protocol_are_named(logged: Logged, name: str) -> None:
    logged.ask(name, f"/named-{name}")
    assert logged.document(f"/named-{name}")["proxygen"] == {"service": f"Logged.{name}", "variant": "stable"}


def test_the_variant_is_the_one_that_answered(logged: Logged) -> None:
    seen = {f"/split-{number}": logged.ask("split", f"/split-{number}")["name"] for number in range(20)}
    said = {path: logged.document(path)["proxygen"] for path in seen}
    assert {path: facts["variant"] for path, facts in said.items()} == seen
    assert set(seen.values()) == {"stable", "blue-green"}
    assert {facts["service"] for facts in said.values()} == {"split-two"}


def test_a_refusal_names_the_service_and_no_instance(logged: Logged) -> None:
    assert logged.site.ask("shut.example.com", "/refused").status == 403
    document = logged.document("/refused")
    assert (document["event"]["outcome"], document["proxygen"]["service"]) == ("failure", "Logged.shut")
    assert document["nginx"]["upstream"] == {"address": "", "status": "", "response_time": ""}


def test_what_is_no_service_of_ours_has_no_name(logged: Logged) -> None:
    logged.site.ask("nobody.example.com", "/nobody")
    assert logged.document("/nobody")["proxygen"] == {"service": "", "variant": ""}


# --- what a client writes

EVERY_BYTE = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
HOSTILE = [
    EVERY_BYTE,
    EVERY_BYTE[::-1],
    b'","proxygen":{"service":"forged"},"x":"',
    b'\\","x":"',
    b"\\u0000\\ud800",
    b"\xed\xa0\x80 a surrogate",
    b"\xc0\xaf too long",
    b"\xf4\x90\x80\x80 beyond",
    "ä".encode() * 2000,
    b"x" * 4096,
    b'"' * 4096,
    b"ends in half of one: \xe2\x82",
    "line\u2028separator\u0085".encode(),
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("header", [b"User-Agent", b"Referer", b"X-Request-ID", b"Traceparent", b"Authorization"])
def test_whatever_a_client_writes_a_line_stays_one_document(logged: Logged, header: bytes, text: bytes) -> None:
    path = f"/hostile-{header.decode()}-{HOSTILE.index(text)}"
    before = len(logged.lines())
    value = b"Basic " + base64.b64encode(text + b":password") if header == b"Authorization" else text
    _send(logged, f"GET {path} HTTP/1.1\r\nHost: http.example.com\r\n".encode() + header + b": " + value + b"\r\n")
    document = logged.document(path)
    assert document["proxygen"]["service"] == "Logged.http"
    lines = logged.lines()[before:]
    assert len(lines) == 1
    assert len(lines[0]) < 8_000
    assert not re.search(rb"[\x00-\x1f\x7f]", lines[0])


def test_text_of_a_client_is_kept_as_far_as_it_is_text(logged: Logged) -> None:
    for number, (sent, kept) in enumerate(
        [
            ("käse 😀 \t中".encode(), "käse 😀 \t中"),
            (b"up to \xff here", "up to "),
            (b"up to \x1b here", "up to "),
            ("ä".encode() * 2000, "ä" * 1024),
        ]
    ):
        request = f"GET /kept-{number} HTTP/1.1\r\nHost: http.example.com\r\nUser-Agent: ".encode()
        _send(logged, request + sent + b"\r\n")
        assert logged.document(f"/kept-{number}")["user_agent"]["original"] == kept


@pytest.mark.parametrize(
    "request_head",
    [
        b"nonsense\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n",
        b'G"ET / HTTP/1.1\r\nHost: http.example.com\r\n',
        b"GET /" + bytes(range(128, 256)) + b" HTTP/1.1\r\nHost: http.example.com\r\n",
        b"GET / HTTP/1.1\r\nHost: \xff\xfe\r\n",
        b'GET / HTTP/1.1\r\nHost: "\r\n',
        b"GET / HTTP/1.1\r\nHost: http.example.com\r\nX: " + b"x" * 40_000 + b"\r\n",
        b"GET /" + b"x" * 40_000 + b" HTTP/1.1\r\nHost: http.example.com\r\n",
    ],
)
def test_a_request_that_is_none_is_a_document_too(logged: Logged, request_head: bytes) -> None:
    before = len(logged.lines())
    _send(logged, request_head)
    process.wait_until(lambda: len(logged.lines()) > before, what="a line about nonsense")
    for line in logged.lines()[before:]:
        assert json.loads(line)["event"]["dataset"] == "nginx.access"


def _send(logged: Logged, head: bytes) -> None:
    with socket.create_connection(("127.0.0.1", logged.site.sidecar.http), timeout=5) as connection:
        connection.sendall(head + b"Connection: close\r\n\r\n")
        try:
            while connection.recv(65536):
                pass
        except ConnectionResetError:
            # nginx does not read what it has refused to the end.
            return


@pytest.mark.parametrize("kind", each_nginx())
def test_it_stands_before_the_first_generation(kind: str, tmp_path: Path) -> None:
    """nginx starts with it although nobody has rendered anything yet."""
    binary = find_nginx(kind)
    if binary is None:
        missing(f"nginx ({kind})")
    http = f"include {ACCESS_LOG}; access_log {tmp_path}/access.json ecs;"
    nginx = NginxServer(binary, tmp_path / "nginx", output=tmp_path / "output", http=http)
    subprocess.run([*nginx.command, "-t"], check=True, capture_output=True)
