"""Instances that speak something else than HTTP, or HTTP badly: FastCGI, uwsgi, gRPC, and one that hangs up."""

from __future__ import annotations

import json
import queue
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Self

import grpc  # type: ignore[import-untyped]

from tests.harness.ports import free_port


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    name: str
    served: int
    kept: int


class _Instance:
    """A TCP server of one handler class on a port of its own."""

    handler: ClassVar[type[socketserver.BaseRequestHandler]]

    def __init__(self, name: str) -> None:
        self.name = name
        self.port = free_port()
        self._server: _Server | None = None

    @property
    def served(self) -> int:
        """How many requests were received whole."""
        assert self._server is not None, "not started"
        return self._server.served

    @property
    def kept(self) -> int:
        """How many connections were to be kept for a second request; a gateway's alone are counted."""
        assert self._server is not None, "not started"
        return self._server.kept

    def start(self) -> Self:
        self._server = _Server(("127.0.0.1", self.port), self.handler)
        self._server.name, self._server.served, self._server.kept = self.name, 0, 0
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.shutdown()
            self._server.server_close()
            self._server = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()


class _Handler(socketserver.StreamRequestHandler):
    server: _Server

    def answer(self, parameters: dict[str, str], body: bytes) -> bytes:
        """CGI's answer, as both gateways send it: who answered, and what was asked."""
        self.server.served += 1
        said = {"name": self.server.name, "parameters": parameters, "body": body.decode("latin-1")}
        content = json.dumps(said).encode()
        fields = (
            "Content-Type: application/json",
            f"Content-Length: {len(content)}",
            f"X-Instance: {self.server.name}",
        )
        return "\r\n".join((*fields, "", "")).encode() + content


class _FastCgiHandler(_Handler):
    """One request per connection (FastCGI specification, section 3.3: 8-byte headers, big endian)."""

    def handle(self) -> None:
        parameters, body = b"", b""
        while header := self.rfile.read(8):
            _, kind, _, length, padding = struct.unpack(">BBHHBx", header)
            content = self.rfile.read(length + padding)[:length]
            if kind == 1:
                self.server.kept += content[2] & 1
            elif kind == 4:
                parameters += content
            elif kind == 5 and content:
                body += content
            elif kind == 5:
                break
        answer = b"Status: 200 OK\r\n" + self.answer(dict(_fastcgi_pairs(parameters)), body)
        for start in range(0, len(answer), 60_000):
            self._send(6, answer[start : start + 60_000])
        self._send(6, b"")
        self._send(3, b"\0" * 8)

    def _send(self, kind: int, content: bytes) -> None:
        self.wfile.write(struct.pack(">BBHHBx", 1, kind, 1, len(content), 0) + content)


def _fastcgi_pairs(data: bytes) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(data):
        sizes = []
        for _ in range(2):
            # Lengths from 128 take four bytes, marked by the highest bit.
            long = data[position] & 0x80
            sizes.append(struct.unpack_from(">I", data, position)[0] & 0x7FFFFFFF if long else data[position])
            position += 4 if long else 1
        name = data[position : position + sizes[0]].decode("latin-1")
        position += sizes[0]
        yield name, data[position : position + sizes[1]].decode("latin-1")
        position += sizes[1]


class FastCgi(_Instance):
    handler = _FastCgiHandler


class _UwsgiHandler(_Handler):
    """The uwsgi protocol: modifier, size (16 bits), modifier; then pairs with 16-bit sizes, little endian."""

    def handle(self) -> None:
        _, size, _ = struct.unpack("<BHB", self.rfile.read(4))
        data, position, texts = self.rfile.read(size), 0, []
        while position < size:
            length = struct.unpack_from("<H", data, position)[0]
            texts.append(data[position + 2 : position + 2 + length].decode("latin-1"))
            position += 2 + length
        parameters = dict(zip(texts[::2], texts[1::2], strict=True))
        body = self.rfile.read(int(parameters.get("CONTENT_LENGTH") or 0))
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + self.answer(parameters, body))
        self.server.kept += bool(self.rfile.read(1))


class Uwsgi(_Instance):
    handler = _UwsgiHandler


class _HangUpHandler(_Handler):
    def handle(self) -> None:
        length = 0
        while (line := self.rfile.readline()) not in (b"\r\n", b""):
            if line.lower().startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self.rfile.read(length)
        self.server.served += bool(line)


class HangUp(_Instance):
    """An HTTP server that reads a whole request and closes the connection without a word."""

    handler = _HangUpHandler


class FullHouse:
    """A listening port whose queue is full: whoever connects waits, and nobody answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self._sockets: list[socket.socket] = []

    def __enter__(self) -> Self:
        listener = socket.create_server(("127.0.0.1", self.port), backlog=0)
        self._sockets.append(listener)
        for _ in range(4):
            guest = socket.socket()
            guest.setblocking(False)
            guest.connect_ex(("127.0.0.1", self.port))
            self._sockets.append(guest)
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()


class GrpcEcho:
    """A gRPC server: ``/test.Echo/Say`` answers NAME, a colon and the message; ``/test.Echo/Stream`` each byte;
    ``/test.Echo/Metadata`` what came with the call, as JSON: all values by key."""

    def __init__(self, name: str, *, certificate: tuple[bytes, bytes] | None = None) -> None:
        """``certificate``: key and certificate in PEM, for a server that speaks TLS."""
        self.name = name
        self.port = free_port()
        self._certificate = certificate
        self._server: grpc.Server | None = None

    def start(self) -> Self:
        methods = {
            "Say": grpc.unary_unary_rpc_method_handler(self._say),
            "Metadata": grpc.unary_unary_rpc_method_handler(self._metadata),
            "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
        }
        self._server = grpc.server(ThreadPoolExecutor(4))
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Echo", methods),))
        address = f"127.0.0.1:{self.port}"
        if self._certificate is None:
            self._server.add_insecure_port(address)
        else:
            self._server.add_secure_port(address, grpc.ssl_server_credentials([self._certificate]))
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(None).wait(5)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _say(self, message: bytes, _: Any) -> bytes:
        return self.name.encode() + b":" + message

    def _metadata(self, _message: bytes, context: Any) -> bytes:
        found: dict[str, list[str]] = {}
        for key, value in context.invocation_metadata():
            found.setdefault(key, []).append(str(value))
        return json.dumps(found).encode()

    def _stream(self, messages: Iterator[bytes], _: Any) -> Iterator[bytes]:
        yield from messages


class RpcStream:
    """One stream of `GrpcEcho` that stays open; `echo` says something and waits for it to come back."""

    def __init__(self, port: int, host: str, trusted: bytes) -> None:
        """``trusted``: the authority behind the host's certificate, in PEM."""
        options = [
            ("grpc.ssl_target_name_override", host),
            ("grpc.default_authority", host),
            ("grpc.enable_http_proxy", 0),
        ]
        self._channel = grpc.secure_channel(f"127.0.0.1:{port}", grpc.ssl_channel_credentials(trusted), options)
        self._to_send: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._answers = self._channel.stream_stream("/test.Echo/Stream")(iter(self._to_send.get, None))

    def echo(self, message: bytes) -> bytes:
        """Raise grpc.RpcError when the stream was cut."""
        self._to_send.put(message)
        answer: bytes = next(self._answers)
        return answer

    def is_open(self) -> bool:
        """Whether something that is said still comes back."""
        try:
            return self.echo(b"hello") == b"hello"
        except grpc.RpcError:
            return False

    def close(self) -> None:
        self._to_send.put(None)
        self._channel.close()
