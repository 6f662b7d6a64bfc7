"""An instance as a process of its own: ``python -m tests.harness.instance NAME PORT [CERTIFICATE KEY CA]``.

With a certificate it speaks TLS, and only with clients that have one from the CA.

It answers with its name, counts the requests that come after SIGTERM as late, finishes what it has begun, and ends
with 0; or with 9 when anything came late. ``/slow`` takes six seconds: longer than a drain.
"""

from __future__ import annotations

import signal
import ssl
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

LATE = 9


class Instance(ThreadingHTTPServer):
    """A server that knows when it was told to end. Its threads are waited for at the end."""

    daemon_threads = False
    request_queue_size = 128

    def __init__(self, name: str, port: int, *, host: str = "127.0.0.1") -> None:
        super().__init__((host, port), _Handler)
        self.name = name
        self.told = threading.Event()
        self.late = 0

    def tell(self, *_: object) -> None:
        self.told.set()
        threading.Thread(target=self.shutdown).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Instance

    def do_GET(self) -> None:
        if self.server.told.is_set():
            self.server.late += 1
        if self.path.startswith("/slow"):
            time.sleep(6)
        body = self.server.name.encode()
        self.send_response(200)
        self.send_header("X-Instance", self.server.name)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: the log of a test is for what is wrong."""


def main(name: str, port: str, *tls: str) -> int:
    instance = Instance(name, int(port))
    if tls:
        certificate, key, ca = tls
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=ca)
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_cert_chain(certificate, key)
        # Not in the thread that accepts: one client that does not speak would keep all others waiting.
        instance.socket = context.wrap_socket(instance.socket, server_side=True, do_handshake_on_connect=False)
    signal.signal(signal.SIGTERM, instance.tell)
    instance.serve_forever(poll_interval=0.05)
    instance.server_close()
    return LATE if instance.late else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
