"""Upstreams that an nginx of one worker has twice: with nginx's own balancer, and with the one that servers are pushed
to. Whatever is asked of both must go the same way."""

from __future__ import annotations

import http.server
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Literal, Self

from proxygen.kit.templating import Templates
from proxygen.proxy.render.views import ServerLine, ServiceLabel, UpstreamView
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.process import PATIENCE
from tests.harness.tools import LUA, NginxBinary

_TEMPLATES: Final = Templates()

Method = Literal["round_robin", "least_conn", "ip_hash", "hash", "random"]
_DIRECTIVES: Final[dict[Method, str]] = {
    "round_robin": "",
    "least_conn": "least_conn;",
    "ip_hash": "ip_hash;",
    "hash": "hash $http_x_key consistent;",
    "random": "random;",
}
_BATCH: Final = 100
"""Requests that are sent before the first answer is read: less than a socket takes."""
_MARGIN: Final = 0.2
"""Seconds of a second's end in which no question begins that both must be asked within."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One server of an upstream, with what nginx's own ``server`` line may say."""

    address: str
    weight: int = 1
    max_fails: int = 0
    fail_timeout: int = 10
    max_conns: int = 0
    backup: bool = False

    @property
    def line(self) -> str:
        """The words that follow ``server`` in nginx's configuration."""
        limits = f"max_fails={self.max_fails} fail_timeout={self.fail_timeout}s max_conns={self.max_conns}"
        return f"{self.address} weight={self.weight} {limits}{' backup' if self.backup else ''}"

    @property
    def server(self) -> ServerLine:
        """What the template of upstreams takes."""
        return ServerLine(
            address=self.address,
            weight=self.weight,
            max_fails=self.max_fails,
            fail_timeout=self.fail_timeout,
            backup=self.backup,
        )

    @property
    def word(self) -> str:
        """The same in a document that is pushed."""
        numbers = f"{self.weight}/{self.max_fails}/{self.fail_timeout}/{self.max_conns}"
        return f"{self.address}/{numbers}/{'b' if self.backup else 'p'}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An upstream that exists twice."""

    name: str
    method: Method
    peers: Sequence[Peer]
    again: str = "error timeout"
    """What ``proxy_next_upstream`` says."""
    tries: int = 0
    """What ``proxy_next_upstream_tries`` says."""

    @property
    def upstreams(self) -> str:
        """Both upstreams, as nginx reads them."""
        servers = "\n".join(f"server {peer.line};" for peer in self.peers)
        own = f"upstream {self.name}_own {{ {_DIRECTIVES[self.method]} {servers} keepalive 16; }}\n"
        ours = UpstreamView(
            name=f"{self.name}_ours",
            least_conn=False,
            random=False,
            ip_hash=False,
            hash=None,
            servers=tuple(peer.server for peer in self.peers),
            keepalive=16,
            keepalive_timeout=60_000,
            pushed=tuple(self._words),
        )
        parts = {"upstreams": (ours,), "maps": (), "splits": (), "zones": ()}
        return own + _TEMPLATES.render("upstream.conf.j2", {"service": ServiceLabel(label=self.name), **parts})

    @property
    def text(self) -> str:
        """What a document says of the upstream."""
        return " ".join(self._words)

    @property
    def _words(self) -> Sequence[str]:
        return (f"{self.method} {'http_x_key' if self.method == 'hash' else '-'}", *(peer.word for peer in self.peers))

    @property
    def locations(self) -> str:
        """Where to ask both; with ``/round`` behind it, what fails goes through the upstream for a second time."""
        return "".join(
            f"""
            location /{self.name}_{side} {{
                proxy_pass http://{self.name}_{side};
                proxy_next_upstream {self.again};
                proxy_next_upstream_tries {self.tries};
            }}
            location /{self.name}_{side}/round {{
                error_page 502 504 = @{self.name}_{side};
                proxy_pass http://{self.name}_{side};
                proxy_next_upstream off;
            }}
            location @{self.name}_{side} {{
                proxy_pass http://{self.name}_{side};
                proxy_next_upstream error timeout;
            }}"""
            for side in ("own", "ours")
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What a client sends to either upstream."""

    key: str = ""
    """What ``hash`` is over."""
    client: str = ""
    """The address that the client has; "" for the one that it really has."""
    query: str = ""
    path: str = ""


PLAIN: Final = Request()
NO_SERVER: Final = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Which servers were tried, and how each try and the request ended."""

    status: int
    rounds: tuple[tuple[str, ...], ...]
    """One, and another for each time that an error page led through the upstream again."""
    statuses: str
    second: float = field(compare=False)
    """nginx's clock, in whole seconds."""

    @property
    def tried(self) -> tuple[str, ...]:
        """The servers of the last round."""
        return self.rounds[-1]


class Client:
    """One connection to nginx, on which requests can be sent before earlier ones are answered."""

    def __init__(self, port: int | None, path: Path) -> None:
        """``port``: of loopback; where it is None, ``path`` is that of a unix socket."""
        family, address = (socket.AF_UNIX, str(path)) if port is None else (socket.AF_INET, ("127.0.0.1", port))
        self._socket = socket.socket(family)
        self._socket.settimeout(PATIENCE)
        self._socket.connect(address)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self._file = self._socket.makefile("rb")

    def send(self, upstream: str, *requests: Request) -> None:
        """Send requests without reading an answer."""
        self._socket.sendall(b"".join(_written(upstream, request) for request in requests))

    def read(self) -> Answer:
        """Return the next answer."""
        status = int(self._file.readline().split()[1])
        headers: dict[str, str] = {}
        while line := self._file.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = line.partition(": ")
            headers[name.lower()] = value
        if "transfer-encoding" in headers:
            while size := int(self._file.readline(), 16):
                self._file.read(size + 2)
            self._file.readline()
        else:
            self._file.read(int(headers["content-length"]))
        return Answer(
            status=status,
            rounds=tuple(_tried(round_.split(", ")) for round_ in headers.get("x-tried", "").split(" : ")),
            statuses=headers.get("x-statuses", ""),
            second=parsedate_to_datetime(headers["date"]).timestamp(),
        )

    def ask(self, upstream: str, requests: Sequence[Request]) -> list[Answer]:
        """Send all of them, and return their answers in order."""
        answers = []
        for start in range(0, len(requests), _BATCH):
            batch = requests[start : start + _BATCH]
            self.send(upstream, *batch)
            answers += [self.read() for _ in batch]
        return answers

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _tried(servers: list[str]) -> tuple[str, ...]:
    """Where no server is left to try, nginx names the upstream; behind Lua it names the server of before, or none."""
    *others, last = servers
    return (*others, NO_SERVER if ":" not in last or others[-1:] == [last] else last)


def _written(upstream: str, request: Request) -> bytes:
    query = f"?{request.query}" if request.query else ""
    lines = [f"GET /{upstream}{request.path}{query} HTTP/1.1", "Host: twins"]
    if request.key:
        lines.append(f"X-Key: {request.key}")
    if request.client:
        lines.append(f"X-Client: {request.client}")
    return "\r\n".join((*lines, "", "")).encode()


class Twins:
    """The nginx, and servers behind it: each address of loopback at ``port``. ``?404=127.0.0.2,127.0.0.3`` has two of
    them answer 404; so do 500 and 503, and 444 closes the connection."""

    def __init__(self, start: Callable[..., NginxServer], binary: NginxBinary, directory: Path) -> None:
        self.port: Final = free_port()
        self._front: Final = free_port()
        self._directory: Final = directory
        self._start: Final = start
        self._binary: Final = binary
        self._served = _STAMP

    def start(self, *pairs: Pair) -> Client:
        """Start nginx with these upstreams, and connect to it."""
        server = self._start(self._binary, modules=LUA, workers=1, http=self._http(pairs))
        server.start()
        return self.client()

    def client(self, *, by_unix_socket: bool = False) -> Client:
        return Client(None if by_unix_socket else self._front, self._unix)

    def push(self, client: Client, pair: Pair) -> None:
        """Have our twin use other servers, or another method."""
        before, self._served = self._served, f"{int(self._served.split()[0]) + 1} {'b' * 8}"
        document = f"proxygen 1\nfrom {before}\nto {self._served}\nu {pair.name}_ours {pair.text}\nend 1\n"
        (self._directory / "document").write_text(document, encoding="utf-8")
        client.send("take", PLAIN)
        assert client.read().status == HTTPStatus.OK

    @property
    def _unix(self) -> Path:
        return self._directory / "front"

    def _http(self, pairs: Sequence[Pair]) -> str:
        balancers, push = (_TEMPLATES.read(f"lua/{name}.lua") for name in ("balancers", "push"))
        maps = "\n".join(_map(status) for status in _STATUSES)
        answers = "\n".join(f'if ($answer_{status} = "yes") {{ return {status}; }}' for status in _STATUSES)
        return f"""
            lua_shared_dict proxygen 4m;
            init_by_lua_block {{
                local balancers = (function()
                {balancers}
                end)()
                {push}
            }}
            map "" $proxygen_base {{ default "{_STAMP}"; }}
            {maps}
            keepalive_requests 1000000;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            {"".join(pair.upstreams for pair in pairs)}
            server {{
                listen 127.0.0.1:{self._front};
                listen unix:{self._unix};
                set_real_ip_from 127.0.0.1;
                real_ip_header X-Client;
                add_header X-Tried $upstream_addr always;
                add_header X-Statuses $upstream_status always;
                log_by_lua_block {{ proxygen.log() }}
                {"".join(pair.locations for pair in pairs)}
                location = /take {{ content_by_lua_block {{ proxygen.take("{self._directory}/document") }} }}
            }}
            server {{
                listen 0.0.0.0:{self.port};
                listen [::1]:{self.port};
                {answers}
                return 200;
            }}"""


_STAMP: Final = f"1 {'a' * 8}"
_STATUSES: Final = (404, 444, 500, 503)


def _map(status: int) -> str:
    """Whether the server that is asked is among those that answer with a status."""
    among = r'"~^([0-9.]+)\|(?:.*,)?\1(?:,|$)"'
    return f'map "$server_addr|$arg_{status}" $answer_{status} {{ default ""; {among} yes; }}'


class Held:
    """A server at each IPv4 address of loopback that answers a request with a query when it is let, others at once."""

    def __init__(self) -> None:
        self.port: Final = free_port()
        self._arrivals: queue.Queue[tuple[str, str]] = queue.Queue()
        self._may: Final[dict[str, queue.Queue[bool]]] = {}
        self._server: Final = http.server.ThreadingHTTPServer(("0.0.0.0", self.port), _handler(self))

    def next_arrival(self) -> tuple[str, str]:
        """Wait for a request that is held; return its query and the address that it came to."""
        return self._arrivals.get(timeout=PATIENCE)

    def let(self, query: str, *, answer: bool = True) -> None:
        """Have a held request answered, or its connection closed."""
        self._may[query].put(answer)

    def hold(self, query: str, address: str) -> bool:
        self._may[query] = queue.Queue()
        self._arrivals.put((query, address))
        return self._may[query].get(timeout=PATIENCE)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._may.values():
            each.put(False)
        self._server.shutdown()
        self._server.server_close()


def _handler(held: Held) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = self.path.partition("?")[2]
            if query and not held.hold(query, f"{self.connection.getsockname()[0]}:{held.port}"):
                self.close_connection = True
                return
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


class TornAcrossSeconds(Exception):
    """nginx's clock went on between questions that had to be asked within one second."""


def within_a_second(ask: Callable[[], list[Answer]]) -> list[Answer]:
    """Ask in one of the clock's seconds, of which enough is left. Raise TornAcrossSeconds where it was not enough."""
    if (into := time.time() % 1) > 1 - _MARGIN:
        time.sleep(1 - into)
    second = int(time.time())
    answers = ask()
    if {answer.second for answer in answers} != {second}:
        raise TornAcrossSeconds
    return answers
