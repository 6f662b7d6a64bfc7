"""What must not wait is passed on as it comes, and what a client takes long to send is not waited for without end."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.instance import SILENCE, Record, Scripted
from tests.conformance.sending import unique
from tests.conformance.site import Service, Site, proxied
from tests.conformance.wire import Connection
from tests.harness.ports import free_ports
from tests.harness.tools import NginxBinary

_TAGS = {
    "plain": (),
    "streamed": ("request-buffering=false", "response-buffering=false"),
    "brief": ("timeout=500ms", "idle-timeout=30s"),
}


@pytest.fixture(scope="module")
def site(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        record = Record()
        port = stack.enter_context(Scripted("only", record)).port
        services = [
            Service(name=name, tags=(f"route={name}.req.example.com", *tags), ports=(port,))
            for name, tags in _TAGS.items()
        ]
        # Nobody listens on its first instance's port.
        half = Service(
            name="half", tags=("route=half.req.example.com", "request-buffering=false"), ports=(*free_ports(1), port)
        )
        services.append(half)
        directory = tmp_path_factory.mktemp(f"streaming-{binary.name}")
        yield stack.enter_context(proxied(binary, directory, services, record))


def _send(connection: Connection, service: str, query: str, *lines: str, method: str = "GET") -> None:
    head = [f"{method} /?{query} HTTP/1.1", f"Host: {service}.req.example.com", *lines, "", ""]
    connection.send("\r\n".join(head).encode())


@pytest.mark.parametrize(
    ("service", "method", "lines"),
    [
        ("streamed", "GET", ()),
        ("streamed", "PUT", ("Content-Length: 0",)),
        ("plain", "GET", ("Accept: text/event-stream",)),
        ("plain", "POST", ("Accept: text/event-stream", "Content-Length: 0")),
    ],
)
def test_an_answer_is_passed_on_as_it_comes(site: Site, service: str, method: str, lines: tuple[str, ...]) -> None:
    name = unique("gated")
    with site.connect("") as connection:
        _send(connection, service, f"id={name}&do=gated:{name}", *lines, method=method)
        assert b"first" in connection.read_until(b"first")
        site.record.open(name)
        assert b"other" in connection.read_until(b"other")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
@pytest.mark.parametrize("line", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_an_upload_is_passed_on_as_it_comes(site: Site, method: str, line: str) -> None:
    name = unique("upload")
    chunked = "chunked" in line
    with site.connect("") as connection:
        _send(connection, "streamed", f"id={name}", line, method=method)
        connection.send(b"5\r\nhello\r\n" if chunked else b"hello")
        site.record.wait_begun(name)
        connection.send(b"5\r\nworld\r\n0\r\n\r\n" if chunked else b"world")
        assert connection.reply().status == 200
    (received,) = site.record.of(name)
    assert received.body == b"helloworld"


def test_who_is_meant_to_wait_may_stop_sending_for_longer(site: Site) -> None:
    name = unique("pausing")
    with site.connect("") as connection:
        _send(connection, "brief", f"id={name}", "Content-Length: 10", "Accept: text/event-stream", method="POST")
        connection.send(b"hello")
        time.sleep(SILENCE)
        connection.send(b"world")
        assert connection.reply().status == 200
    assert [received.body for received in site.record.of(name)] == [b"helloworld"]


def test_an_upload_on_its_way_is_sent_to_one_instance_only(site: Site) -> None:
    """nginx cannot begin it anew; it once waited for ever."""
    name = unique("refused")
    with site.connect("") as connection:
        _send(connection, "half", f"id={name}", "Content-Length: 600000", method="PUT")
        connection.send(b"x" * 600_000)
        assert connection.reply().status in {200, 502}
    assert len(site.record.of(name)) <= 1
