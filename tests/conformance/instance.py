"""An instance that does with each request what the request says, and keeps the bytes that reached it.

A request names itself and what becomes of it in its query: ``?id=NAME&do=hang-up,ok``. Of several the first is for the
first time that the request is seen by any instance of the `Record`, and so on; the last is for all that follow.
"""

from __future__ import annotations

import contextlib
import re
import socket
import socketserver
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final
from urllib.parse import unquote

from tests.harness.ports import free_port

SILENCE: Final = 1.5
"""Seconds for which a silent instance says nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One request, byte for byte."""

    instance: str
    connection: int
    head: bytes
    body: bytes

    @property
    def line(self) -> str:
        """Method and target, without the query that is the suite's own."""
        method, target, *_ = self.head.decode("latin-1").split(" ", 2)
        return f"{method} {re.sub(r'[?&]id=.*', '', target)}"

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        lines = self.head.decode("latin-1").split("\r\n")[1:]
        return tuple((name, value.strip()) for name, _, value in (line.partition(":") for line in lines if line))

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]


class Record:
    """What reached the instances of one site."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._received: defaultdict[str, list[Received]] = defaultdict(list)
        self._begun: set[str] = set()
        self._opened: set[str] = set()
        self._closed: set[int] = set()
        self._connections = 0

    def of(self, name: str) -> tuple[Received, ...]:
        """What reached any instance of the request of this name, in order."""
        with self._lock:
            return tuple(self._received[name])

    def connect(self) -> int:
        with self._lock:
            self._connections += 1
            return self._connections

    def add(self, name: str, received: Received) -> int:
        """Keep it, and return how often the request was seen before."""
        with self._lock:
            self._received[name].append(received)
            self._lock.notify_all()
            return len(self._received[name]) - 1

    def begin(self, name: str) -> None:
        """Note that the head of a request came."""
        with self._lock:
            self._begun.add(name)
            self._lock.notify_all()

    def wait_begun(self, name: str, timeout: float = 60.0) -> None:
        """Wait until a request's head reached an instance, whatever of its body is still on the way."""
        with self._lock:
            assert self._lock.wait_for(lambda: name in self._begun, timeout), f"{name} never came"

    def open(self, name: str) -> None:
        """Let an answer that waits go on."""
        with self._lock:
            self._opened.add(name)
            self._lock.notify_all()

    def wait_opened(self, name: str, timeout: float = 60.0) -> None:
        with self._lock:
            self._lock.wait_for(lambda: name in self._opened, timeout)

    def close(self, connection: int) -> None:
        with self._lock:
            self._closed.add(connection)
            self._lock.notify_all()

    def wait_for(self, name: str, *, times: int = 1, timeout: float = 60.0) -> tuple[Received, ...]:
        """Wait until the request was seen so often."""
        with self._lock:
            assert self._lock.wait_for(lambda: len(self._received[name]) >= times, timeout), f"{name} never came"
            return tuple(self._received[name])

    def wait_closed(self, connection: int, timeout: float) -> bool:
        """Wait until nginx has closed the connection; tell whether it did in time."""
        with self._lock:
            return self._lock.wait_for(lambda: connection in self._closed, timeout)


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 256
    name: str
    record: Record
    idle: float | None

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away, which is what half of the suite is about."""


class Scripted:
    """A listening instance. ``idle``: seconds after which it closes a connection on which nothing is asked."""

    def __init__(self, name: str, record: Record, *, port: int | None = None, idle: float | None = None) -> None:
        self.name = name
        self.port = port or free_port()
        self._record = record
        self._idle = idle
        self._server: _Server | None = None

    def start(self) -> Scripted:
        self._server = _Server(("127.0.0.1", self.port), _Handler)
        self._server.name, self._server.record, self._server.idle = self.name, self._record, self._idle
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Stop listening; connections that are open stay."""
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Scripted:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _HangUp(Exception):
    """The connection is to be closed without another word."""


class _Handler(socketserver.StreamRequestHandler):
    server: _Server
    timeout = None
    disable_nagle_algorithm = True
    _number: int

    def handle(self) -> None:
        self._number = self.server.record.connect()
        self.connection.settimeout(self.server.idle)
        with contextlib.suppress(_HangUp, OSError, TimeoutError):
            while head := self._head():
                self._serve(head)
                if re.search(rb"(?im)^connection: *close|\A[^\r]* HTTP/1\.0\r", head):
                    break
        self.server.record.close(self._number)

    def _head(self) -> bytes:
        head = b""
        while line := self.rfile.readline():
            if line == b"\r\n":
                return head
            head += line
        return b""

    def _serve(self, head: bytes) -> None:
        target = head.split(b" ", 2)[1].decode("latin-1")
        name = re.search(r"[?&]id=([\w.-]+)", target)
        script = re.search(r"[?&]do=([^&]*)", target)
        steps = unquote(script[1] if script else "ok").split(",")
        if steps[0] == "hang-up-early":
            self._keep(name, head, b"")
            raise _HangUp
        self.server.record.begin(name[1] if name else "")
        body = self._body(head)
        seen = self._keep(name, head, body)
        step, _, argument = steps[min(seen, len(steps) - 1)].partition(":")
        self._steps[step](self, argument, head)

    def _keep(self, name: re.Match[str] | None, head: bytes, body: bytes) -> int:
        received = Received(instance=self.server.name, connection=self._number, head=head, body=body)
        return self.server.record.add(name[1] if name else "", received)

    def _body(self, head: bytes) -> bytes:
        if re.search(rb"(?im)^transfer-encoding: *chunked", head):
            return b"".join(self._chunks())
        length = re.search(rb"(?im)^content-length: *(\d+)", head)
        return self.rfile.read(int(length[1])) if length else b""

    def _chunks(self) -> Iterator[bytes]:
        while size := int(self.rfile.readline(), 16):
            yield self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()

    def _say(self, status: str, *headers: str, body: bytes = b"", length: int | None = None) -> None:
        lines = [f"HTTP/1.1 {status}", f"X-Instance: {self.server.name}", *headers]
        lines.append(f"Content-Length: {len(body) if length is None else length}")
        self.wfile.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)

    # --- what a request can ask for; the argument is what follows the colon -----------------------------------------

    def _ok(self, _: str, head: bytes) -> None:
        self._say("200 OK", body=b"" if head.startswith(b"HEAD ") else b"hello")

    def _hang_up(self, _: str, head: bytes) -> None:
        raise _HangUp

    def _silent(self, _: str, head: bytes) -> None:
        """Say nothing until nginx gives up."""
        self.connection.settimeout(None)
        self.rfile.read(1)
        raise _HangUp

    def _slow(self, _: str, head: bytes) -> None:
        time.sleep(SILENCE)
        self._say("200 OK", body=b"late")

    def _headers(self, size: str, head: bytes) -> None:
        """So many bytes of headers, in lines of a kilobyte."""
        lines = [f"X-Large-{number:02}: {'x' * 1009}" for number in range(int(size) // 1024)]
        self._say("200 OK", *lines, body=b"hello")

    def _early(self, _: str, head: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 103 Early Hints\r\nLink: </style.css>; rel=preload\r\n\r\n")
        self._say("200 OK", body=b"hello")

    def _status(self, status: str, head: bytes) -> None:
        self._say(f"{status} Own", "Content-Type: text/plain", body=b"the application's own words")

    def _location(self, location: str, head: bytes) -> None:
        self._say("302 Found", f"Location: {location}")

    def _cookie(self, cookie: str, head: bytes) -> None:
        self._say("200 OK", f"Set-Cookie: {cookie}", body=b"hello")

    def _header(self, header: str, head: bytes) -> None:
        self._say("200 OK", header, body=b"hello")

    def _unbuffered(self, name: str, head: bytes) -> None:
        """As gated, for a proxy that does not keep answers back on its own."""
        self._say("200 OK", "X-Accel-Buffering: no", body=b"first\n", length=12)
        self.server.record.wait_opened(name)
        self.wfile.write(b"other\n")

    def _half(self, _: str, head: bytes) -> None:
        """Break off in the middle of the answer."""
        self._say("200 OK", body=b"half", length=1000)
        raise _HangUp

    def _gated(self, name: str, head: bytes) -> None:
        """Send half of the answer, and the rest when the test has seen that."""
        self._say("200 OK", body=b"first\n", length=12)
        self.server.record.wait_opened(name)
        self.wfile.write(b"other\n")

    def _events(self, _: str, head: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n")
        time.sleep(SILENCE)
        self.wfile.write(b"data: late\n\n")
        raise _HangUp

    def _websocket(self, _: str, head: bytes) -> None:
        if not re.search(rb"(?im)^upgrade: *websocket", head):
            self._say("400 Bad Request", body=b"no upgrade")
            return
        self.wfile.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n")
        time.sleep(SILENCE)
        self.wfile.write(b"late")
        self.connection.settimeout(None)
        self.rfile.read(1)
        raise _HangUp

    _steps: ClassVar[dict[str, Callable[[_Handler, str, bytes], None]]] = {
        "ok": _ok,
        "hang-up": _hang_up,
        "silent": _silent,
        "slow": _slow,
        "headers": _headers,
        "early": _early,
        "status": _status,
        "location": _location,
        "cookie": _cookie,
        "header": _header,
        "unbuffered": _unbuffered,
        "half": _half,
        "gated": _gated,
        "events": _events,
        "websocket": _websocket,
    }


class Switch:
    """A TCP instance that says its name to whoever connects, and can be closed and opened on the same port."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._listener: socket.socket | None = None

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = listener.accept()
                guest.sendall(self.name.encode())
                guest.close()

    def close(self) -> None:
        if self._listener is not None:
            # A thread that waits in accept keeps a socket that is only closed.
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None


class Hanging:
    """A TCP instance that reads something from whoever connects, and hangs up."""

    def __init__(self) -> None:
        self.port = free_port()
        self.asked = 0
        self._listener: socket.socket | None = None

    def __enter__(self) -> Hanging:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=256)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                guest, _ = listener.accept()
                if guest.recv(65_536):
                    self.asked += 1
                guest.close()
