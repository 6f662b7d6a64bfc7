"""The image's health check: whether the sidecar in this container says that it is ready.

It asks over the unix socket, which is there even where `admin.listen` is off, and loads next to nothing:
`proxygen status` says the same and takes ten times the CPU. Exit code 0 is ready; else 1, with the sidecar's reasons.
"""

from __future__ import annotations

import os
import socket
import sys

PATIENCE = 4.0
"""Seconds; the image gives the whole check five."""


def main() -> int:
    output = os.environ.get("PROXYGEN_OUTPUT_DIRECTORY") or "/var/lib/proxygen"
    path = os.environ.get("PROXYGEN_ADMIN_SOCKET") or f"{output}/state/admin.sock"
    try:
        status, body = ask(path)
    except OSError as error:
        print(f"no sidecar answers at {path}: {error}")
        return 1
    print(body.strip())
    return 0 if status == "200" else 1


def ask(path: str) -> tuple[str, str]:
    """Return the status and the body of /readyz. HTTP/1.0: the answer ends with the connection."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE)
        connection.connect(path)
        connection.sendall(b"GET /readyz HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = b"".join(iter(lambda: connection.recv(65536), b"")).decode("utf-8", "replace")
    head, _, body = answer.partition("\r\n\r\n")
    words = head.split(maxsplit=2)
    return (words[1] if len(words) > 1 else "none"), body


if __name__ == "__main__":
    sys.exit(main())
