"""Those who turn Consul's catalog into nginx's configuration: proxygen, and consul-template as it is usually set up.

Each starts from nothing, with an nginx of its own that serves nothing yet.
"""

from __future__ import annotations

import json
import shlex
import shutil
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import psutil

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.harness.tools import LUA, NginxBinary

HASHES: Final = "server_names_hash_max_size 32768; variables_hash_max_size 32768;"

PUSHED: Final = "proxygen, pushed"

CONNECTIONS: Final = 16_384
"""Of each nginx worker: idle connections to instances of thousands of services count too."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """What a process used so far."""

    cpu: float
    """Seconds, of its finished children (nginx -t, nginx -s reload) too."""
    peak: int
    """Bytes of resident memory at its highest, without children."""
    sockets: int
    """Connections to Consul now."""
    nginx: int
    """Bytes that nginx's processes hold together now."""
    reloads: int
    """How often nginx was told to read its configuration anew."""


class Contender(Protocol):
    """One way from Consul to nginx."""

    name: str
    http: int
    """Where its virtual servers listen."""

    def start(self) -> None:
        """Start from nothing; return at once."""
        ...

    def usage(self) -> Usage: ...

    def log(self) -> str:
        """The end of its log, for whoever must know why nothing happens."""
        ...

    def stop(self) -> None: ...


Maker = Callable[[Path], Contender]


class Proxygen:
    """proxygen with an nginx that it reloads; with one that has Lua where ``pushed``."""

    def __init__(self, consul: ConsulAgent, binary: NginxBinary, directory: Path, *, pushed: bool = False) -> None:
        self.name = PUSHED if pushed else "proxygen"
        self._consul = consul
        self._nginx = NginxServer(
            binary,
            directory / "nginx",
            output=directory / "output",
            connections=CONNECTIONS,
            modules=LUA if pushed else (),
        )
        self._sidecar = Sidecar(consul, self._nginx, directory / "sidecar", {"log.level": "info"})
        self.http = self._sidecar.http

    def start(self) -> None:
        self._nginx.start()
        self._sidecar.start(ready=False, cold=True)

    def usage(self) -> Usage:
        return usage_of(self._sidecar.pid, self._consul, self._nginx)

    def log(self) -> str:
        return self._sidecar.tail()

    def stop(self) -> None:
        self._sidecar.stop()
        self._nginx.stop()


# What its documentation shows for nginx, with a virtual server for each service in place of a location. The route
# comes from the tag, and a share for the canary from KV by one dependency more.
_TEMPLATE: Final = """\
{{- scratch.MapSet "share" "" "" -}}
{{- range ls "proxygen/canary" }}{{ scratch.MapSet "share" .Key (.Value | parseJSON).canary }}{{ end -}}
{{ range services }}{{ $name := .Name }}{{ scratch.Set "host" "" -}}
{{- range .Tags }}{{ if . | regexMatch "^proxygen\\\\.route=" -}}
{{- scratch.Set "host" (. | replaceAll "proxygen.route=" "") }}{{ end }}{{ end -}}
{{ $host := scratch.Get "host" }}{{ if $host }}{{ $instances := service $name }}
upstream {{ $name }} {
  zone upstream-{{ $name }} 64k;
  {{ range $instances }}
  {{- if not (or (.Tags | contains "proxygen.canary=0%") (.Tags | contains "proxygen.weight=0")) -}}
  server {{ .Address }}:{{ .Port }} max_fails=3 fail_timeout=60 weight=1;
  {{ end }}{{ else }}server 127.0.0.1:65535; # force a 502{{ end }}
}
{{ $share := index (scratch.Get "share") $name }}{{ if $share }}
upstream {{ $name }}-canary {
  server 127.0.0.1:65535 down; # nginx refuses an upstream without any
  {{ range $instances }}{{ if .Tags | contains "proxygen.canary=0%" -}}
  server {{ .Address }}:{{ .Port }} max_fails=3 fail_timeout=60 weight=1;
  {{ end }}{{ end }}
}
split_clients $request_id $side_{{ $name | replaceAll "-" "_" }} {
  {{ $share }} {{ $name }}-canary;
  * {{ $name }};
}
{{ end }}
server {
  listen 127.0.0.1:PORT;
  server_name {{ $host }};
  location / {
    proxy_set_header Host $host;
    proxy_pass http://{{ if $share }}$side_{{ $name | replaceAll "-" "_" }}{{ else }}{{ $name }}{{ end }};
  }
}
{{ end }}{{ end }}
"""


def find_consul_template() -> Path | None:
    found = shutil.which("consul-template")
    return Path(found) if found else None


class ConsulTemplate:
    """consul-template with ``nginx -s reload``, and first ``nginx -t`` where ``checked``."""

    def __init__(
        self, program: Path, consul: ConsulAgent, binary: NginxBinary, directory: Path, *, checked: bool
    ) -> None:
        self.name = "consul-template, -t" if checked else "consul-template"
        self.http = free_port()
        self._consul = consul
        self._directory = directory
        self._nginx = NginxServer(
            binary, directory / "nginx", output=directory / "output", http=HASHES, connections=CONNECTIONS
        )
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str | Path] = [program, "-config", directory / "consul-template.json"]
        destination = directory / "output/current/http.d/services.conf"
        destination.parent.mkdir(parents=True)
        (directory / "services.ctmpl").write_text(_TEMPLATE.replace("PORT", str(self.http)), encoding="utf-8")
        nginx = shlex.join(self._nginx.command)
        template = {
            "source": str(directory / "services.ctmpl"),
            "destination": str(destination),
            "command": f"{nginx} -t && {nginx} -s reload" if checked else f"{nginx} -s reload",
        }
        config = {"consul": {"address": consul.address}, "log_level": "info", "template": [template]}
        (directory / "consul-template.json").write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        self._nginx.start()
        self._process = process.start(self._command, log=self._directory / "consul-template.log")

    def usage(self) -> Usage:
        assert self._process is not None
        return usage_of(self._process.pid, self._consul, self._nginx)

    def log(self) -> str:
        path = self._directory / "consul-template.log"
        return "\n".join(path.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGINT)
        self._nginx.stop()


def usage_of(pid: int, consul: ConsulAgent, nginx: NginxServer) -> Usage:
    watched = psutil.Process(pid)
    cpu = watched.cpu_times()
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line for line in status.splitlines() if line.startswith("VmHWM:"))
    sockets = [
        connection
        for connection in watched.net_connections("tcp")
        if connection.status == psutil.CONN_ESTABLISHED and connection.raddr.port == consul.http_port
    ]
    return Usage(
        cpu=cpu.user + cpu.system + cpu.children_user + cpu.children_system,
        peak=int(peak.split()[1]) * 1024,
        sockets=len(sockets),
        nginx=sum(psutil.Process(each).memory_full_info().pss for each in (nginx.pid, *nginx.workers())),
        reloads=nginx.errors().count(", reconfiguring"),
    )
