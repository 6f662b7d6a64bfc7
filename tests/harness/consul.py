"""A real Consul agent on ports of its own."""

from __future__ import annotations

import http.client
import json
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.harness import process
from tests.harness.hosts import Host
from tests.harness.ports import free_port
from tests.harness.tools import STREAMING_VERSION, Consul, consul_version, find_consul, missing

_chosen: Consul | Path = "first"


def choose_consul(which: Consul | Path) -> None:
    """Say which Consul agents run from now on that are not told otherwise: a test, before its fixtures, or a bench."""
    global _chosen
    _chosen = which


def chosen_consul() -> Path:
    """Return the program that was chosen; skip the test where it is missing."""
    if isinstance(_chosen, Path):
        return _chosen
    binary = find_consul(_chosen)
    if binary is None:
        missing("Consul" if _chosen == "first" else f"Consul {STREAMING_VERSION} (built where Go is)")
    return binary


_NOT_YET = (
    "leader",
    "No known Consul servers",
    "rpc error making call: EOF",
    "rpc error getting client",
    "failed to get conn",
    "connection refused",
)
"""What an agent says before it has found its servers, or they one another, and while it turns from one to the next."""


class ConsulAgent:
    """A server of its own cluster: in memory as ``-dev``, or on disk when ``persistent``.

    ``config`` is given to Consul as a second configuration file, which it merges over the first: ACLs, TLS,
    limits, ``addresses``, ``ports.https``. Plain HTTP on ``address`` stays, so that the methods below work.
    A restart of a dev agent forgets everything, as in production; a persistent one remembers. ``binary`` is the
    Consul that runs; by default the one that the test was given.
    """

    def __init__(
        self,
        directory: Path,
        *,
        config: Mapping[str, object] | None = None,
        token: str | None = None,
        persistent: bool = False,
        binary: Path | None = None,
    ) -> None:
        self.binary = binary or chosen_consul()
        self.directory = directory
        self.persistent = persistent
        self.token = token
        self.http_port = free_port()
        self.serf_port = free_port()
        self.wan_port = free_port()
        self.address = f"127.0.0.1:{self.http_port}"
        self.node = f"node-{self.http_port}"
        self._process: subprocess.Popen[bytes] | None = None
        self._within: Sequence[str] = ()
        self._files = ["agent.json", "extra.json"]
        self._opener = urllib.request.build_opener()
        directory.mkdir(parents=True, exist_ok=True)
        self._write("agent.json", self._base_config())
        self._write("extra.json", dict(config or {}))

    def _base_config(self) -> dict[str, object]:
        ports = {
            "http": self.http_port,
            "serf_lan": self.serf_port,
            "serf_wan": self.wan_port,
            "server": free_port(),
            "dns": -1,
            **self._without_grpc(),
        }
        config: dict[str, object] = {
            "node_name": self.node,
            "bind_addr": "127.0.0.1",
            "client_addr": "127.0.0.1",
            "ports": ports,
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
        }
        if self.persistent:
            config |= {"server": True, "bootstrap_expect": 1, "data_dir": str(self.directory / "data")}
        return config

    def _without_grpc(self) -> dict[str, int]:
        return {"grpc": -1, **({"grpc_tls": -1} if self.version >= (1, 14, 0) else {})}

    def _write(self, name: str, config: Mapping[str, object]) -> None:
        (self.directory / name).write_text(json.dumps(config), encoding="utf-8")

    @property
    def version(self) -> tuple[int, int, int]:
        return consul_version(self.binary)

    @property
    def streams(self) -> bool:
        """Whether its standing answers come from views (`proxygen.consul.answers.QueryBackend`)."""
        return self.version >= (1, 10, 0)

    @property
    def log(self) -> Path:
        return self.directory / "consul.log"

    @property
    def pid(self) -> int:
        assert self._process is not None, "not started"
        return self._process.pid

    def start(self, *, wait: bool = True) -> None:
        """Start, and wait until there is a leader and the agent's own node stands in the catalog."""
        arguments: list[str | Path] = [self.binary, "agent", "-disable-host-node-id"]
        if not self.persistent:
            arguments.append("-dev")
        for name in self._files:
            arguments += ["-config-file", self.directory / name]
        self._process = process.start([*self._within, *arguments], log=self.log)
        if not wait:
            return
        try:
            process.wait_until(self._ready, what=f"Consul on {self.address}", timeout=60.0)
        except TimeoutError as error:
            self.kill()
            raise RuntimeError(f"{error}\n{self.log.read_text(errors='replace')[-3000:]}") from error
        except BaseException:
            self.kill()
            raise

    def _ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"consul ended at once:\n{self.log.read_text(errors='replace')[-3000:]}")
        if not self.get("/v1/status/leader"):
            return False
        answer = self.get("/v1/catalog/nodes")
        return bool(answer) or self._denies_reads()

    def _denies_reads(self) -> bool:
        """With ACLs and no token of ours the catalog looks empty for ever; a leader is all we can see."""
        return self.token is None and "acl" in (self.directory / "extra.json").read_text(encoding="utf-8")

    def stop(self) -> None:
        if self._process is not None:
            process.stop(self._process)

    def kill(self) -> None:
        if self._process is not None:
            process.stop(self._process, signal.SIGKILL)

    def pause(self) -> None:
        """Freeze the agent: its sockets stay open and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def restart(self) -> None:
        """Stop and start on the same ports; only a persistent agent comes back with its data."""
        self.stop()
        self.start()

    # The API, as far as tests need it.

    def request(self, method: str, path: str, body: object = None, *, token: str | None = None) -> Any:
        """Ask Consul and return the decoded JSON, or None for an answer without a body.

        ``bytes`` are sent as they are, everything else as JSON. Raise RuntimeError with Consul's own words.
        """
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{self.address}{path}", data=data, method=method)
        if token or self.token:
            request.add_header("X-Consul-Token", token or self.token or "")
        try:
            with self._opener.open(request, timeout=10) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                said = error.read().decode(errors="replace")
            if error.code == 404 and method == "GET":
                return None
            is_early = error.code == 403 and said == "ACL not found" and not (token or self.token)
            if is_early or (error.code == 500 and any(word in said for word in _NOT_YET)):
                raise ConnectionError(said) from error
            raise RuntimeError(f"{method} {path}: {error.code} {said}") from error
        return json.loads(text) if text.strip() else None

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def put(self, path: str, body: object = None) -> Any:
        return self.request("PUT", path, body)

    def register(
        self,
        name: str,
        *,
        id: str | None = None,
        address: str = "127.0.0.1",
        port: int = 0,
        tags: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        weights: tuple[int, int] | None = None,
        status: str | None = None,
        check: Mapping[str, object] | None = None,
    ) -> str:
        """Register on the local agent and return the ServiceID.

        With a ``status`` there is a TTL check that `set_check` moves; ``check`` is one in Consul's own words; without
        any there is no check, which means passing.
        """
        service_id = id or f"{name}-{port}"
        body: dict[str, object] = {
            "Name": name,
            "ID": service_id,
            "Address": address,
            "Port": port,
            "Tags": list(tags),
            "Meta": dict(meta or {}),
        }
        if weights is not None:
            body["Weights"] = {"Passing": weights[0], "Warning": weights[1]}
        if status is not None:
            body["Check"] = {"CheckID": f"check:{service_id}", "TTL": "24h", "Status": status}
        if check is not None:
            body["Check"] = dict(check)
        self.put("/v1/agent/service/register", body)
        return service_id

    def deregister(self, service_id: str) -> None:
        self.put(f"/v1/agent/service/deregister/{urllib.parse.quote(service_id, safe='')}")

    def set_check(self, service_id: str, status: str, output: str = "") -> None:
        """Set the TTL check that `register` made: passing, warning or critical."""
        check = urllib.parse.quote(f"check:{service_id}", safe="")
        self.put(f"/v1/agent/check/update/{check}", {"Status": status, "Output": output})

    def set_maintenance(self, service_id: str, enabled: bool) -> None:
        service = urllib.parse.quote(service_id, safe="")
        self.put(f"/v1/agent/service/maintenance/{service}?enable={str(enabled).lower()}&reason=test")

    def kv_put(self, key: str, value: str | bytes) -> None:
        data = value.encode() if isinstance(value, str) else value
        self.put(f"/v1/kv/{urllib.parse.quote(key)}", data)

    def kv_delete(self, key: str, *, recurse: bool = False) -> None:
        self.request("DELETE", f"/v1/kv/{urllib.parse.quote(key)}{'?recurse=true' if recurse else ''}")

    def instances(self, name: str) -> list[dict[str, Any]]:
        """Return what ``/v1/health/service/NAME`` answers."""
        answer: list[dict[str, Any]] = self.get(f"/v1/health/service/{urllib.parse.quote(name, safe='')}")
        return answer

    def clean(self) -> None:
        """Remove every service, check, key, session and foreign node, and wait until the catalog shows it."""
        for service_id in self.get("/v1/agent/services"):
            self.deregister(service_id)
        for check_id in self.get("/v1/agent/checks"):
            self.put(f"/v1/agent/check/deregister/{urllib.parse.quote(check_id, safe='')}")
        for node in self.get("/v1/catalog/nodes"):
            if node["Node"] != self.node:
                self.put("/v1/catalog/deregister", {"Node": node["Node"]})
        for session in self.get("/v1/session/list"):
            self.put(f"/v1/session/destroy/{session['ID']}")
        self.kv_delete("", recurse=True)
        process.wait_until(lambda: set(self.get("/v1/catalog/services")) <= {"consul"}, what="an empty catalog")


class HostConsul(ConsulAgent):
    """The server or client of a host in a namespace, on Consul's own ports.

    Inside, everybody finds it on 127.0.0.1:8500, and containers on their host's address. The test itself, which is
    outside, goes through a unix socket.
    """

    def __init__(self, host: Host, *, servers: Sequence[Host], config: Mapping[str, object] | None = None) -> None:
        self.host = host
        self._servers = servers
        # Its path must be short; the temporary directory of a test seldom is.
        self._socket = Path(tempfile.mkdtemp(prefix="pg-")) / "consul"
        super().__init__(host.directory / "consul", persistent=True, config=config)
        self._within = host.within
        self._opener = urllib.request.build_opener(_Through(self._socket))
        self.address = "127.0.0.1:8500"
        self.node = host.label
        self._write("agent.json", self._host_config())

    @property
    def unix_address(self) -> str:
        """By which what is outside of the host reaches it."""
        return f"unix://{self._socket}"

    def _host_config(self) -> dict[str, object]:
        is_server = self.host in self._servers
        return {
            "node_name": self.node,
            "bind_addr": str(self.host.address),
            "addresses": {"http": f"127.0.0.1 {self.host.address} unix://{self._socket}"},
            "ports": {"dns": -1, "serf_wan": -1, **self._without_grpc()},
            "server": is_server,
            **({"bootstrap_expect": len(self._servers)} if is_server else {}),
            "data_dir": str(self.directory / "data"),
            "retry_join": [str(server.address) for server in self._servers],
            "retry_interval": "1s",
            "performance": {"raft_multiplier": 1},
            "disable_update_check": True,
        }

    def remove(self) -> None:
        self.kill()
        shutil.rmtree(self._socket.parent, ignore_errors=True)


class _Through(urllib.request.HTTPHandler):
    """Sends every request of plain HTTP through a unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        path = str(self._path)

        class Connection(http.client.HTTPConnection):
            def connect(self) -> None:
                self.sock = socket.socket(socket.AF_UNIX)
                self.sock.settimeout(self.timeout)
                self.sock.connect(path)

        return self.do_open(Connection, request)


def start_host_cluster(hosts: Sequence[Host]) -> list[HostConsul]:
    """Start a server on each host, of one cluster."""
    agents = [HostConsul(host, servers=hosts) for host in hosts]
    try:
        for agent in agents:
            agent.start(wait=False)
        for agent in agents:
            process.wait_until(agent._ready, what=f"a leader for {agent.node}", timeout=60.0)
    except BaseException:
        for agent in agents:
            agent.remove()
        raise
    return agents


def start_cluster(directory: Path, size: int = 3) -> list[ConsulAgent]:
    """Start servers of one cluster that keep their data on disk; any of them may be killed and started again."""
    agents = [ConsulAgent(directory / f"server{number}", persistent=True) for number in range(size)]
    _start_servers(agents, ())
    return agents


def rebuild_cluster(servers: Sequence[ConsulAgent], clients: Sequence[ConsulAgent] = ()) -> None:
    """Kill all servers at once, wipe what they stored, and start them as an empty cluster that finds its clients."""
    for server in servers:
        server.kill()
        shutil.rmtree(server.directory / "data")
    _start_servers(servers, clients)


def _start_servers(servers: Sequence[ConsulAgent], clients: Sequence[ConsulAgent]) -> None:
    peers = [f"127.0.0.1:{agent.serf_port}" for agent in (*servers, *clients)]
    for server in servers:
        server._write("extra.json", {"bootstrap_expect": len(servers), "retry_join": peers, "retry_interval": "1s"})
        server.start(wait=False)
    try:
        for server in servers:
            process.wait_until(server._ready, what=f"a leader for {server.address}", timeout=60.0)
    except BaseException:
        for server in servers:
            server.kill()
        raise


def start_client(directory: Path, servers: Sequence[ConsulAgent]) -> ConsulAgent:
    """Start an agent of their cluster that is no server, and wait until it sees a leader."""
    peers = [f"127.0.0.1:{server.serf_port}" for server in servers]
    config = {"server": False, "bootstrap_expect": 0, "retry_join": peers, "retry_interval": "1s"}
    agent = ConsulAgent(directory, persistent=True, config=config)
    agent.start()
    return agent


def start_datacenters(directory: Path, sizes: Mapping[str, int]) -> dict[str, list[ConsulAgent]]:
    """Start a cluster in each datacenter, by name the number of its servers, and join them over their WAN."""
    datacenters = {
        name: [ConsulAgent(directory / f"{name}-{number}", persistent=True) for number in range(size)]
        for name, size in sizes.items()
    }
    wan = [f"127.0.0.1:{agent.wan_port}" for agents in datacenters.values() for agent in agents]
    for name, agents in datacenters.items():
        for agent in agents:
            agent._write(
                "extra.json",
                {
                    "datacenter": name,
                    "bootstrap_expect": len(agents),
                    "retry_join": [f"127.0.0.1:{peer.serf_port}" for peer in agents],
                    "retry_join_wan": wan,
                    "retry_interval": "1s",
                    "retry_interval_wan": "1s",
                },
            )
            agent.start(wait=False)
    for agent in (agent for agents in datacenters.values() for agent in agents):
        process.wait_until(agent._ready, what=f"a leader for {agent.address}", timeout=60.0)
        process.wait_until(
            lambda: set(agent.get("/v1/catalog/datacenters")) == datacenters.keys(),  # noqa: B023 - called at once
            what=f"all datacenters seen from {agent.address}",
            timeout=60.0,
        )
    return datacenters


def leader_of(agents: Sequence[ConsulAgent]) -> ConsulAgent:
    """Return the agent that leads, asking those that answer; wait while there is an election."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        for agent in agents:
            try:
                if agent.get("/v1/agent/self")["Stats"]["consul"]["leader"] == "true":
                    return agent
            except OSError:
                continue
        time.sleep(0.1)
    raise TimeoutError("no leader within 30 s")
