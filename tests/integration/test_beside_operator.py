"""An operator's own servers answer as they did, whatever stands around ours, and however a listen is spelt."""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from proxygen.kit.errors import CheckRefused
from proxygen.proxy.apply.publish import write_files
from proxygen.proxy.check.gates import Checked
from proxygen.proxy.nginx import default_copies
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.pipeline import open_pipeline
from proxygen.proxy.plan.operators import answering
from proxygen.proxy.plan.types import Memory, OperatorNames
from proxygen.settings import Settings, load
from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_ports
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority
from tests.proxy.plan.catalogs import catalog, instance

MakeNginx = Callable[..., NginxServer]
MakeSidecar = Callable[..., Sidecar]

PORTS = free_ports(4)
"""Where proxygen listens, where only the operator does, and two of streams; the second one is the tag's."""
CATALOG = catalog(
    instance("web", 1, "route=claimed.test", "route=/anything"),
    instance("db", 2, "protocol=tcp", f"listen={PORTS[3]}"),
)
HOSTS = ("a.test", "b.test", "x.b.test", "x.c.test", "nobody.test")
SPELT = ("PORT", "*:PORT", "0.0.0.0:PORT", "127.0.0.1:PORT", "127.1:PORT", "[::]:PORT", "[::1]:PORT", "localhost:PORT")


@dataclass(frozen=True)
class Operator:
    """What an operator's nginx.conf says."""

    servers: tuple[str, ...]
    streams: tuple[str, ...]
    ours_at: int
    """Before which of the servers ours are included."""
    ours: str
    """Where proxygen listens."""

    def conf(self, directory: Path, binary: NginxBinary) -> str:
        current = directory / "output/current"
        servers = [*self.servers[: self.ours_at], f"include {current}/http.d/*.conf;", *self.servers[self.ours_at :]]
        modules = f"load_module {binary.modules}/ngx_stream_module.so;" if binary.modules else ""
        user = "user root;" if os.geteuid() == 0 else ""
        return (
            f"{modules} {user} pid {directory}/pid; error_log {directory}/error.log; worker_processes 1;\n"
            f"events {{ }}\nhttp {{\naccess_log off;\n{chr(10).join(servers)}\n}}\n"
            f"stream {{\n{chr(10).join(self.streams)}\ninclude {current}/stream.d/*.conf;\n}}\n"
        )


def spelt(port: int) -> st.SearchStrategy[str]:
    return st.sampled_from(SPELT).map(lambda text: text.replace("PORT", str(port)))


@st.composite
def operators(draw: st.DrawFn) -> Operator:
    servers = []
    for number in range(draw(st.integers(0, 4))):
        listens = draw(st.lists(st.sampled_from(PORTS[:2]).flatmap(spelt), max_size=2, unique=True))
        # A server without a listen would be on port 80.
        said = [f"listen {text}{draw(st.sampled_from(('', '', ' default_server')))};" for text in listens]
        names = draw(st.sampled_from(("", "server_name a.test;", "server_name .b.test;", "server_name *.c.test _;")))
        if said:
            servers.append(f"server {{ {' '.join(said)} {names} return 200 s{number}; }}")
    streams = []
    if draw(st.booleans()):
        streams = [f"server {{ listen {draw(spelt(draw(st.sampled_from(PORTS[2:]))))}; return stream; }}"]
    return Operator(
        servers=tuple(servers),
        streams=tuple(streams),
        ours_at=draw(st.integers(0, len(servers))),
        ours=draw(st.sampled_from(("PORT", "0.0.0.0:PORT", "127.0.0.1:PORT", "[::]:PORT"))).replace(
            "PORT", str(PORTS[0])
        ),
    )


@pytest.mark.incident("T35")
@pytest.mark.incident("T39")
@given(operator=operators())
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
def test_what_no_tag_claims_is_answered_as_without_us(nginx_binary: NginxBinary, operator: Operator) -> None:
    """By the operator, or by nobody; and what cannot be so is refused before nginx is told."""
    with TemporaryDirectory(prefix="pg-beside-") as folder:
        directory = Path(folder)
        conf = directory / "nginx.conf"
        conf.write_text(operator.conf(directory, nginx_binary))
        assume(_test(nginx_binary, conf))
        with _running(nginx_binary, conf) as is_up:
            assume(is_up)
            before = _answers()
        pipeline = asyncio.run(open_pipeline(_settings(nginx_binary, conf, operator)))
        drafted = pipeline.drafter.draft(CATALOG, Memory(), {})
        files = pipeline.files_of(drafted.rendered, Stamp(generation=1, digest="0" * 16))
        staged = directory / "output/generations/000001"
        write_files(staged, {"http.d/": b"", "stream.d/": b"", **files})
        candidate = pipeline.candidate(drafted.rendered, staged)
        reason = ""
        try:
            assert isinstance(asyncio.run(pipeline.gates.syntax(candidate)), Checked)
        except CheckRefused as error:
            reason = str(error)
        if reason:
            assert operator.ours.startswith("127."), reason
            assert "write the same listen for both" in reason
            return
        assert not pipeline.ground.problems
        (directory / "output/current").symlink_to("generations/000001")
        with _running(nginx_binary, conf) as is_up:
            assert is_up, (directory / "error.log").read_text()
            assert _answers(before) == before


def _settings(binary: NginxBinary, conf: Path, operator: Operator) -> Settings:
    return load(
        {
            "proxy.http_listen": operator.ours,
            "nginx.binary": str(binary.path),
            "nginx.conf": str(conf),
            "nginx.prefix": str(conf.parent),
            "nginx.stamp": f"unix:{conf.parent}/stamp.sock",
            "output.directory": str(conf.parent / "output"),
        },
        environment={},
    )


def _command(binary: NginxBinary, conf: Path) -> list[str]:
    return [str(binary.path), "-p", f"{conf.parent}/", "-c", str(conf), "-e", str(conf.parent / "start.log")]


def _test(binary: NginxBinary, conf: Path) -> bool:
    return subprocess.run([*_command(binary, conf), "-t"], capture_output=True, check=False, timeout=60).returncode == 0


@contextmanager
def _running(binary: NginxBinary, conf: Path) -> Iterator[bool]:
    """nginx, and whether it came up."""
    pid = conf.parent / "pid"
    pid.unlink(missing_ok=True)
    started = process.start([*_command(binary, conf), "-g", "daemon off;"], log=conf.parent / "out.log")
    try:
        process.wait_until(lambda: started.poll() is not None or pid.exists(), what="nginx up, or ended")
        yield started.poll() is None
    finally:
        process.stop(started)


Place = tuple[str, int, str]
"""Address, port and host; no host where a stream is asked."""
PLACES = (
    *((address, port, host) for address in ("127.0.0.1", "127.0.0.2", "::1") for port in PORTS[:2] for host in HOSTS),
    *((address, port, "") for address in ("127.0.0.1", "127.0.0.2", "::1") for port in PORTS[2:]),
)


def _answers(places: Iterable[Place] = PLACES) -> dict[Place, bytes]:
    """What is answered where somebody listens."""
    found = {}
    for place in places:
        with suppress(ConnectionRefusedError):
            found[place] = _ask(*place)
    return found


def _ask(address: str, port: int, host: str) -> bytes:
    if not host:
        with socket.create_connection((address, port), timeout=60) as stream:
            return stream.recv(100)
    connection = http.client.HTTPConnection(address, port, timeout=60)
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return b"%d %s" % (answer.status, answer.read())
    finally:
        connection.close()


@pytest.mark.incident("T35")
@pytest.mark.parametrize(
    ("late", "trouble"), [("log_format late x;", ""), ("log_format late x;", "nonsense on;"), ("", "")]
)
def test_a_copy_that_nginx_refuses_is_left_out_and_told(
    nginx_binary: NginxBinary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: str, trouble: str
) -> None:
    """Also where nothing known keeps a server from being copied; what is not a copy's fault leaves it be."""
    monkeypatch.setattr(default_copies, "_obstacle", lambda _conf, _server: "")
    log = "access_log /dev/null late;" if late else ""
    server = f"server {{ listen {PORTS[0]}; {log} return 200 operator; }}"
    operator = Operator(servers=(late, server, trouble), streams=(), ours_at=0, ours=str(PORTS[0]))
    conf = tmp_path / "nginx.conf"
    conf.write_text(operator.conf(tmp_path, nginx_binary))
    pipeline = asyncio.run(open_pipeline(_settings(nginx_binary, conf, operator)))
    rendered = b"".join(pipeline.drafter.draft(CATALOG, Memory(), {}).rendered.contents.values())
    is_copied = not late or bool(trouble)
    assert (b"return 200 operator" in rendered) is is_copied
    assert bool(pipeline.ground.problems) is not is_copied
    if not is_copied:
        assert "nginx refuses the copy: " in pipeline.ground.problems[0]
        assert 'unknown log format "late"' in pipeline.ground.problems[0]
        assert pipeline.ground.problems[0].startswith(
            f"nginx.conf includes what proxygen writes before the server at {conf}:"
        )


# --- by the sidecar


@pytest.mark.incident("T35")
@pytest.mark.parametrize("tls", [False, True])
def test_t35_the_operators_only_server_answers_on(
    nginx_binary: NginxBinary,
    make_nginx: MakeNginx,
    make_sidecar: MakeSidecar,
    consul: ConsulAgent,
    tmp_path: Path,
    *,
    tls: bool,
) -> None:
    """Without the word default_server: nginx takes the first one of a port."""
    own = tmp_path / "own.conf"
    own.write_text("")
    nginx = make_nginx(nginx_binary, http=f"include {own};")
    authority = Authority()
    certificate = authority.issue(tmp_path, "own", "own.example.com")
    (tmp_path / "certificates").mkdir()
    authority.issue(tmp_path / "certificates", "web", "web.example.com")
    sidecar = make_sidecar(consul, nginx, proxy__certificates=str(tmp_path / "certificates"))
    port = sidecar.https if tls else sidecar.http
    words = f"ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate.with_suffix('.key')}" if tls else ""
    own.write_text(f"server {{ listen 127.0.0.1:{port} {words}; return 200 operator; }}")
    nginx.start()
    assert _get(port, "www.own.example.com", tls=tls) == (200, b"operator")
    with App("web") as app:
        sidecar.start()
        assert _get(port, "www.own.example.com", tls=tls) == (200, b"operator")
        consul.register("web", port=app.port, tags=["proxygen.route=web.example.com", "proxygen.tls=auto"])
        process.wait_until(lambda: _get(port, "web.example.com", tls=tls)[1] != b"operator", what="the service served")
        assert _get(port, "www.own.example.com", tls=tls) == (200, b"operator")


@pytest.mark.incident("T35")
def test_t35_a_copy_is_told_and_kept_secret(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent, tmp_path: Path
) -> None:
    """A generation is never changed once it was judged, so a rollback brings back its copy; nobody reads more of it."""
    own = tmp_path / "own.conf"
    own.touch(0o644)
    nginx = make_nginx(nginx_binary)
    nginx.conf.write_text(nginx.conf.read_text().replace("}\nstream", f"include {own};\n}}\nstream"))
    sidecar = make_sidecar(consul, nginx)

    def answers(text: str) -> None:
        own.write_text(f"server {{ listen 127.0.0.1:{sidecar.http}; return 200 {text}; }}")
        process.wait_until(lambda: _get(sidecar.http, "nobody.test") == (200, text.encode()), what=f"{text} answered")

    own.write_text(f"server {{ listen 127.0.0.1:{sidecar.http}; return 200 first; }}")
    nginx.start()
    sidecar.start()
    (told,) = (text for text in sidecar.status()["warnings"] if "a copy of the server at" in text)
    assert f"{own}:1" in told
    assert "write default_server" in told
    assert told in sidecar.command("check", "--catalog", str(_empty(tmp_path))).stderr
    process.wait_until(lambda: told in str([e for e in sidecar.events() if e["level"] == "warning"]), what="it logged")
    first = sidecar.generation()
    own.chmod(0o600)
    answers("second")
    second = sidecar.generation()
    copies = [sidecar.output / f"generations/{number:06d}/http.d/15-operator.conf" for number in (first, second)]
    assert [path.stat().st_mode & 0o777 for path in copies] == [0o600, 0o600]
    diff = sidecar.request(f"/api/v1/generations/{second}/diff")[1]
    assert [file["path"] for file in diff["files"]] == ["http.d/15-operator.conf"]
    assert "not shown" in diff["diff"]
    assert "return 200" not in diff["diff"]
    assert sidecar.command("rollback", str(first)).returncode == 0
    assert sidecar.generation() == first
    process.wait_until(lambda: _get(sidecar.http, "nobody.test") == (200, b"first"), what="the copy of that generation")
    assert sidecar.command("release-hold").returncode == 0
    process.wait_until(lambda: _get(sidecar.http, "nobody.test") == (200, b"second"), what="the newest copy")


@pytest.mark.incident("T37")
def test_t37_a_port_of_the_operators_own_streams_stays_his(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent
) -> None:
    """Whichever side of the include he stands on, and whatever nginx would say of it."""
    nginx = make_nginx(nginx_binary)
    sidecar = make_sidecar(consul, nginx)
    (port,) = free_ports(1)
    text = nginx.conf.read_text()
    last = text.rindex("}")
    nginx.conf.write_text(f"{text[:last]}server {{ listen {port}; return operator; }}\n}}\n")
    nginx.start()
    with App("db") as db, App("web") as web:
        consul.register("db", port=db.port, tags=["proxygen.protocol=tcp", f"proxygen.listen={port}"])
        consul.register("web", port=web.port, tags=["proxygen.route=web.example.com"])
        sidecar.start()
        process.wait_until(lambda: _get(sidecar.http, "web.example.com")[0] == 200, what="the other service served")
        (quarantined,) = sidecar.status()["quarantined"]
        assert quarantined["service"] == "db"
        assert f"port {port} is in use by the server at {nginx.conf}:" in quarantined["reason"]
        with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
            assert connection.recv(100) == b"operator"


@pytest.mark.incident("T51")
def test_t51_a_server_of_the_operators_for_this_host_alone_is_reached_by_no_tag(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent
) -> None:
    """An instance there would have the request come from the address that he lets in."""
    (port,) = free_ports(1)
    inside = f"server {{ listen 127.0.0.1:{port}; allow 127.0.0.1; deny all; location / {{ return 200 inside; }} }}"
    nginx = make_nginx(nginx_binary, http=inside)
    nginx.start()
    sidecar = make_sidecar(consul, nginx)
    with App("web") as web:
        consul.register("evil", port=port, tags=["proxygen.route=evil.example.com"])
        consul.register("web", port=web.port, tags=["proxygen.route=web.example.com"])
        sidecar.start()
        process.wait_until(lambda: _get(sidecar.http, "web.example.com")[0] == 200, what="the other service served")
        assert _get(sidecar.http, "evil.example.com")[0] == 503
        (quarantined,) = sidecar.status()["quarantined"]
        assert quarantined["service"] == "evil"
        assert f"127.0.0.1:{port} belongs to the proxy's own host" in quarantined["reason"]
        assert _get(port, "any.test") == (200, b"inside")


@pytest.mark.incident("T41")
@pytest.mark.parametrize("share_from", [0, 1], ids=["alone", "shared"])
def test_t41_no_service_answers_what_the_operator_has_nginx_ask_for_in_all_virtual_servers(
    nginx_binary: NginxBinary,
    make_nginx: MakeNginx,
    make_sidecar: MakeSidecar,
    consul: ConsulAgent,
    tmp_path: Path,
    share_from: int,
) -> None:
    """Neither by a route for everything nor by one for that path: access is denied until a location of his answers.
    An error page of his with another status opens nothing."""
    fragment = tmp_path / "snippets" / "server.conf"
    fragment.parent.mkdir()
    fragment.write_text("")
    around = "auth_request /allows; mirror /copy; error_page 403 =200 /denied;"
    nginx = make_nginx(nginx_binary, http=around)
    nginx.start()
    sidecar = make_sidecar(consul, nginx, proxy__snippets=str(fragment.parent), proxy__share_servers_from=share_from)
    hosts = ("a.example.com", "b.example.com", "c.example.com")
    with App("evil") as app:
        for host in hosts:
            more = [f"proxygen.route={host}{path}" for path in ("/allows", "/copy") if host == hosts[-1]]
            consul.register(host[0], port=app.port, tags=[f"proxygen.route={host}", *more])
        sidecar.start()
        assert {service["state"] for service in sidecar.status()["services"]} == {"served"}
        assert (len(list(sidecar.output.glob("current/http.d/30-shared-servers.conf"))) > 0) is bool(share_from)
        for host in hosts:
            assert b"evil" not in _get(sidecar.http, host)[1]
        assert app.requests == 0
        said = " ".join(sidecar.status()["warnings"])
        for directive, line in (("auth_request", "/allows"), ("mirror", "/copy")):
            assert f"{directive} {line} applies in the virtual servers of tags too" in said
            assert f"{nginx.conf}:" in said
        fragment.write_text("location = /allows { return 204; }")
        for host in hosts:
            process.wait_until(lambda host=host: b"evil" in _get(sidecar.http, host)[1], what="the service served")
        assert app.requests == len(hosts), "no request was copied to it"


@pytest.mark.incident("T47")
@pytest.mark.parametrize("is_before", [False, True])
@pytest.mark.parametrize("name", ["shop1.example.com", "*.com", "shop1.*", r"~^shop\d+\.example\.com$"])
def test_a_reserved_host_that_the_operator_serves_on_http_alone_is_his_there_and_kept_on_https(
    nginx_binary: NginxBinary,
    make_nginx: MakeNginx,
    make_sidecar: MakeSidecar,
    consul: ConsulAgent,
    tmp_path: Path,
    name: str,
    *,
    is_before: bool,
) -> None:
    """However he names it: to nginx our whole name would go before his wildcard, and his expression."""
    nginx = make_nginx(nginx_binary)
    (tmp_path / "certificates").mkdir()
    Authority().issue(tmp_path / "certificates", "wild", "*.example.com")
    sidecar = make_sidecar(
        consul,
        nginx,
        proxy__certificates=str(tmp_path / "certificates"),
        proxy__claims={"shop1.example.com": ["shop"], "kept.example.com": ["shop"]},
    )
    include = f"include {nginx.output}/current/http.d/*.conf;"
    server = f"server {{ listen 127.0.0.1:{sidecar.http}; server_name {name}; return 200 operator; }}"
    default = f"server {{ listen 127.0.0.1:{sidecar.http} default_server; return 200 default; }}"
    lines = (default, server, include) if is_before else (include, server, default)
    nginx.conf.write_text(nginx.conf.read_text().replace(include, "\n".join(lines)))
    nginx.start()
    with App("any") as app, App("wild") as wild:
        consul.register("any", port=app.port, tags=["proxygen.route=/", "proxygen.tls=wild"])
        consul.register("web", port=app.port, tags=["proxygen.route=web.example.org"])
        sidecar.start()
        process.wait_until(lambda: _get(sidecar.http, "web.example.org")[0] == 200, what="a service served")
        assert _get(sidecar.http, "shop1.example.com") == (200, b"operator")
        assert _get(sidecar.https, "shop1.example.com", tls=True)[0] == 404
        assert _get(sidecar.https, "free.example.com", tls=True)[0] == 200
        assert (_get(sidecar.http, "kept.example.com") == (200, b"operator")) is (name == "*.com")
        consul.register("wild", port=wild.port, tags=["proxygen.route=*.example.com"])
        process.wait_until(lambda: b'"wild"' in _get(sidecar.http, "free.example.com")[1], what="the wildcard served")
        if name != "shop1.example.com":
            # An old worker may take one more request.
            process.wait_until(lambda: _get(sidecar.http, "shop1.example.com")[0] == 404, what="the name kept")
            return
        assert _get(sidecar.http, "shop1.example.com") == (200, b"operator")
        consul.register("shop", port=app.port, tags=["proxygen.route=shop1.example.com", "proxygen.tls=auto"])
        process.wait_until(lambda: sidecar.status()["quarantined"], what="its owner told that nginx.conf has it")
        assert _get(sidecar.http, "shop1.example.com") == (200, b"operator")
        assert _get(sidecar.https, "shop1.example.com", tls=True)[0] == 404


@pytest.mark.incident("T47")
def test_the_operators_name_for_a_host_is_the_one_that_nginx_takes(
    nginx_binary: NginxBinary, make_nginx: MakeNginx
) -> None:
    (port,) = free_ports(1)
    hosts = ("a.test", "*.a.test", "*.x.a.test", "www.*", "www.a.*", "*.test")
    patterns = (r"^shop\d+\.", r"^(?<who>[A-Z]+)-shop\.(org|net)$", "^(?:shop1|any)", r"[.](?!org)[a-z]+$")
    names = [*hosts, *(f"~{text}" for text in patterns)]
    servers = (
        f"server {{ listen 127.0.0.1:{port}; server_name '{name}'; return 200 {number}; }}"
        for number, name in enumerate(names)
    )
    default = f"server {{ listen 127.0.0.1:{port} default_server; return 404; }}"
    nginx = make_nginx(nginx_binary, http="\n".join((default, *servers)))
    nginx.start()
    labels, tops = ("a", "x", "www", "shop1", "any", "b-shop"), ("test", "org", "net", "a.test", "x.a.test", "a.org")
    known = OperatorNames(hosts=frozenset(hosts), patterns=patterns)
    for host in (*tops, *(f"{label}.{top}" for label in labels for top in tops)):
        status, body = _get(port, host)
        assert answering(host, known) == (names[int(body)] if status == 200 else None), host


@pytest.mark.incident("T42")
def test_t42_what_nginx_holds_itself_is_said_and_a_restart_heals_it(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent, tmp_path: Path
) -> None:
    """A reload cannot widen an address: it would be rolled back for ever."""
    (port,) = free_ports(1)
    nginx = make_nginx(nginx_binary, http=f"server {{ listen 127.0.0.1:{port}; return 200 operator; }}")
    sidecar = make_sidecar(consul, nginx, proxy__http_listen=str(port), reload__retry_max="1s")
    checked = sidecar.command("check", "--catalog", str(_empty(tmp_path)))
    assert checked.returncode == 0, checked.stderr
    assert f"nginx holds 127.0.0.1:{port}" in checked.stderr
    nginx.start()
    with App("web") as app:
        consul.register("web", port=app.port, tags=["proxygen.route=web.example.com"])
        sidecar.start(ready=False)
        process.wait_until(lambda: _reason(sidecar), what="the reason said")
        assert f"nginx holds 127.0.0.1:{port} (for the server at {nginx.conf}:" in _reason(sidecar)
        assert "restart nginx" in _reason(sidecar)
        assert "(SIGHUP) received" not in nginx.errors()
        nginx.restart()
        sidecar.wait_ready()
        assert _get(port, "web.example.com")[1] == b"operator"
        assert _get(port, "web.example.com", address="127.0.0.2")[0] == 200


@pytest.mark.incident("T47")
def test_a_reserved_host_that_nginx_knows_by_its_machines_name_stays_the_operators(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent
) -> None:
    (port,) = free_ports(1)
    nginx = make_nginx(nginx_binary)
    default = f"server {{ listen 127.0.0.1:{port} default_server; return 404; }}"
    own = f"server {{ listen 127.0.0.1:{port}; server_name $hostname; return 200 operator; }}"
    nginx.conf.write_text(nginx.conf.read_text().replace("}\nstream", f"{default}\n{own}\n}}\nstream"))
    nginx.start()
    name = socket.gethostname().lower()
    assert _get(port, name) == (200, b"operator")
    make_sidecar(consul, nginx, proxy__http_listen=f"127.0.0.1:{port}", proxy__claims={name: ["nobody"]}).start()
    assert _get(port, name) == (200, b"operator")


def test_a_server_of_no_name_beside_ours_is_no_remark(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Debian's own site is called so. Two of the operator's are his to know of."""
    (port,) = free_ports(1)
    own = tmp_path / "own.conf"
    stock = f"server {{ listen 127.0.0.1:{port} default_server; server_name _; return 404; }}\n"
    own.write_text(stock)
    nginx = make_nginx(nginx_binary, http=f"include {own};")
    sidecar = make_sidecar("127.0.0.1:1", nginx, proxy__http_listen=f"127.0.0.1:{port}")
    alone = sidecar.command("check", "--catalog", str(_empty(tmp_path)))
    assert alone.returncode == 0, alone.stderr
    assert "conflicting" not in alone.stderr
    own.write_text(stock + stock.replace(" default_server", ""))
    assert 'conflicting server name "_"' in sidecar.command("check", "--catalog", str(_empty(tmp_path))).stderr


@pytest.mark.parametrize(
    "said",
    [
        "limit_rate 1;",
        "add_before_body /foot; add_after_body /foot; addition_types text/plain;",
        "sub_filter_types *; sub_filter_once off; sub_filter ' ' '-';",
    ],
)
def test_what_http_says_of_answers_leaves_the_stamp_alone(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, consul: ConsulAgent, said: str
) -> None:
    if "_types" in said and nginx_binary.name != "debian":
        pytest.skip("needs the modules that add to answers and substitute in them, as Debian's nginx has")
    nginx = make_nginx(nginx_binary, http=said)
    nginx.start()
    sidecar = make_sidecar(consul, nginx)
    sidecar.start()
    assert sidecar.generation()


def _reason(sidecar: Sidecar) -> str:
    with suppress(OSError):
        return next((text for text in sidecar.status()["reasons"] if "nginx holds" in text), "")
    return ""


def _empty(folder: Path) -> Path:
    path = folder / "empty.json"
    path.write_text('{"datacenter": "dc1", "services": {}, "kv": {}}')
    return path


def _get(port: int, host: str, *, tls: bool = False, address: str = "127.0.0.1") -> tuple[int, bytes]:
    plain = socket.create_connection((address, port), timeout=60)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPConnection(host, timeout=60)
    connection.sock = context.wrap_socket(plain, server_hostname=host) if tls else plain
    try:
        connection.request("GET", "/", headers={"Host": host})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()
