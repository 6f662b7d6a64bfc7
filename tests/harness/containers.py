"""Containers that answer with a name, as somebody's application would: a static nginx and three lines of conf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.harness.engine import Engine

PORT = 8080

_CONF = """\
user root;
daemon off;
pid /tmp/nginx.pid;
error_log stderr notice;
worker_processes 1;
events {}
http {
    access_log off;
    client_body_temp_path /tmp/body;
    proxy_temp_path /tmp/proxy;
    fastcgi_temp_path /tmp/fastcgi;
    uwsgi_temp_path /tmp/uwsgi;
    scgi_temp_path /tmp/scgi;
    server {
        listen 8080;
        listen 9090;
        location / {
            add_header X-Instance $hostname;
            return 200 $hostname;
        }
    }
}
"""


class Containers:
    """Runs containers of one engine and remembers none of them; the engine's end removes them all."""

    def __init__(self, engine: Engine, image: str, directory: Path) -> None:
        self.engine = engine
        self.image = image
        self._conf = directory / "answering.conf"
        self._conf.write_text(_CONF)

    def run(self, name: str, *options: str, labels: dict[str, str] | None = None, publish: bool = True) -> None:
        """Start a container that answers on 8080 and 9090; ``publish`` puts 8080 on some port of loopback."""
        given = [f"--label={key}={value}" for key, value in (labels or {}).items()]
        published = [f"--publish=127.0.0.1::{PORT}"] if publish else []
        mounts = [f"--volume={self._conf}:/answering.conf:ro", "--tmpfs=/tmp"]
        command = ["/nginx", "-e", "stderr", "-p", "/tmp", "-c", "/answering.conf"]
        self.engine.call(
            *("run", "--detach", f"--name={name}", f"--hostname={name}", *given, *published, *mounts, *options),
            *(self.image, *command),
        )

    def published(self, name: str, port: int = PORT) -> int:
        """The host's port at which a container's is published."""
        return int(self.engine.call("port", name, f"{port}/tcp").rpartition(":")[2])

    def address(self, name: str) -> str:
        """A container's own address."""
        template = "--format={{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return self.engine.call("inspect", template, name)

    def call(self, *arguments: str) -> Any:
        return self.engine.call(*arguments)

    def remove_all(self) -> None:
        self.engine.call("rm", "--all", "--force", "--time=0")
