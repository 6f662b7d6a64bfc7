"""docs/how-to/harden.md as it is written: Consul, sidecar, application, clients and the page, each hop over TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import ssl
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from tests.harness import process, warm
from tests.harness.entrypoint import Entrypoint
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.secure_consul import SecureConsul
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.acl import policy, taken_over, token
from tests.integration.certificates import Authority
from tests.integration.site import Answer, Client

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "harden.md").read_text(encoding="utf-8")
HOST = "app.example.com"
STEERER = "a-bearer-token-of-annas-0123456789"


def block(language: str, holding: str) -> str:
    """The block of the page in this language that holds a text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (found,) = [text for text in blocks if holding in text]
    return str(found)


class Etc:
    """The page's /etc of a test: one authority's certificates, and what the page writes into files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.own = directory / "proxygen"
        self.tls = self.own / "tls"
        for path in (self.tls, self.own / "certificates", self.own / "snippets"):
            path.mkdir(parents=True)
        self.authority = Authority()
        (self.tls / "ca.pem").write_bytes(self.authority.pem)
        self.authority.issue(self.tls, "server", "server.dc1.consul", "127.0.0.1", "proxygen.internal")
        self.authority.issue(self.tls, "client", "client.dc1.consul")
        self.authority.issue(self.own / "certificates", "app", HOST)
        shutil.copytree(self.tls, directory / "consul.d" / "tls")
        self.instance = self.authority.issue(directory, "instance", HOST)
        (self.own / "snippets" / "server.conf").write_text(self.of(block("nginx", "proxy_ssl_certificate_key")))
        (self.own / "admin.tokens").write_text(f"anna {STEERER}\n")
        (self.own / "admin.tokens").chmod(0o600)

    def of(self, text: str) -> str:
        return text.replace("/etc/", f"{self.directory}/")

    def settings(self) -> dict[str, object]:
        tables = tomllib.loads(self.of(block("toml", "upstream_ca")))
        return {f"{table}.{name}": value for table, knobs in tables.items() for name, value in knobs.items()}

    def variables(self, url: str) -> dict[str, str]:
        lines = re.findall(r"^export (\w+)=(\S+)$", self.of(block("sh", "export")), re.MULTILINE)
        return dict(lines) | {"CONSUL_HTTP_ADDR": url}

    def registering(self, port: int) -> list[str]:
        """The words after `proxygen register`, with an instance that shows its certificate and wants nginx's."""
        (words,) = re.findall(r"^proxygen register (.*) -- python3 app.py$", block("sh", "export"), re.MULTILINE)
        command = [sys.executable, "-m", "tests.harness.instance", "web-1", str(port), str(self.instance)]
        command += [str(self.instance.with_suffix(".key")), str(self.tls / "ca.pem")]
        return [*words.replace("9443", str(port)).split(), "--drain", "500ms", "--", *command]

    def client(self, name: str = "client") -> ssl.SSLContext:
        """The TLS of somebody who has a certificate; of nobody in particular without a name."""
        context = ssl.create_default_context(cafile=self.tls / "ca.pem")
        if name:
            context.load_cert_chain(self.tls / f"{name}.crt", self.tls / f"{name}.key")
        return context


@pytest.fixture(scope="module")
def etc(tmp_path_factory: pytest.TempPathFactory) -> Etc:
    return Etc(tmp_path_factory.mktemp("etc"))


@pytest.fixture(scope="module")
def consul(etc: Etc) -> Iterator[SecureConsul]:
    config = etc.of(block("hcl", "verify_incoming"))
    with taken_over(SecureConsul(etc.directory, config=config, tls=etc.client())) as agent:
        yield agent


@dataclass(frozen=True, slots=True, kw_only=True)
class Everything:
    etc: Etc
    consul: SecureConsul
    nginx: NginxServer
    sidecar: Sidecar
    application: Entrypoint
    page_port: int
    secrets: dict[str, str]

    def ask(self, *, tls: bool) -> Answer:
        port = self.sidecar.https if tls else self.sidecar.http
        client = Client(port, source="127.0.0.1", tls=self.etc.client("") if tls else None, name=HOST)
        try:
            return client.ask(HOST)
        finally:
            client.close()

    def page(self, path: str, *, certificate: str = "client") -> tuple[int, str]:
        """Ask for the page through nginx."""
        context = self.etc.client(certificate)
        connection = http.client.HTTPSConnection("127.0.0.1", self.page_port, context=context, timeout=10)
        connection.request("GET", path)
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
        connection.close()
        return answer.status, text

    def move(self, bearer: str) -> int:
        """Set the canary's share over the API behind nginx; return the status."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.page_port, context=self.etc.client(), timeout=10)
        path = "/api/v1/services/web/shares"
        connection.request("GET", path)
        answer = connection.getresponse()
        answer.read()
        headers = {"If-Match": answer.headers["ETag"], "Authorization": f"Bearer {bearer}"}
        body = json.dumps({"shares": {"canary": "0%"}})
        connection.request("PUT", path, body, headers | {"Content-Type": "application/json"})
        answer = connection.getresponse()
        connection.close()
        return answer.status

    def everyone(self) -> list[psutil.Process]:
        """The processes of nginx, the sidecar and the application."""
        roots = [psutil.Process(pid) for pid in (self.nginx.pid, self.sidecar.pid, self.application.process.pid)]
        return [one for root in roots for one in (root, *root.children(recursive=True))]


@pytest.fixture
def everything(
    etc: Etc,
    consul: SecureConsul,
    nginx_binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    tmp_path: Path,
) -> Iterator[Everything]:
    secrets = {name: token(consul, policy(name)) for name in ("sidecar-steering", "application")}
    (etc.own / "consul.token").write_text(secrets["sidecar-steering"])
    (etc.own / "application.token").write_text(secrets["application"])
    page_port, admin_port = free_port(), free_port()
    front = etc.of(block("nginx", "ssl_verify_client")).replace("8443", f"127.0.0.1:{page_port}")
    nginx = make_nginx(nginx_binary, http=front.replace("18081", str(admin_port)))
    nginx.start()
    more = {"consul.address": consul.url, "admin.listen": f"127.0.0.1:{admin_port}", "reload.gap": "0ms"}
    sidecar = make_sidecar(consul.url, nginx, **(etc.settings() | more))
    sidecar.admin = admin_port
    sidecar.start()
    words, variables = etc.registering(free_port()), etc.variables(consul.url)
    application = Entrypoint(None, tmp_path / "application.log", words, variables)
    try:
        yield Everything(
            etc=etc,
            consul=consul,
            nginx=nginx,
            sidecar=sidecar,
            application=application,
            page_port=page_port,
            secrets=secrets | {"anna": STEERER, "management": consul.token or ""},
        )
        assert application.stop() == 0, application.said
        process.wait_until(lambda: not consul.instances("web"), what="a catalog without the application")
    finally:
        application.kill()


def holding(secret: str, directory: Path) -> list[Path]:
    """The files below a directory that hold a text. One that is written anew may go between two looks at it."""
    found = []
    for path in (Path(root, name) for root, _, names in os.walk(directory) for name in names):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file() and secret.encode() in path.read_bytes():
                found.append(path)
    return found


def environment(running: psutil.Process) -> dict[str, str]:
    """A process's variables; none of one that has ended, as nginx's workers of before do when they like."""
    try:
        return running.environ()
    except psutil.NoSuchProcess:
        return {}


def test_a_request_goes_through_tls_and_no_secret_is_seen_on_its_way(everything: Everything, tmp_path: Path) -> None:
    one = everything
    process.wait_steady(lambda: one.ask(tls=True).status == 200, what="the application over TLS", timeout=30)
    answer = one.ask(tls=True)
    assert answer.instance == "web-1"
    assert answer.headers["strict-transport-security"].startswith("max-age=")
    # For a moment an old worker may still answer.
    process.wait_steady(lambda: one.ask(tls=False).status == 308, what="the redirect")

    # The page: for those who have a certificate, and to be changed by who has a bearer token as well.
    assert one.page("/", certificate="")[0] == 400
    said = {path: one.page(path) for path in ("/", "/services/web", "/metrics", "/api/v1/status", "/api/v1/services")}
    assert {status for status, _ in said.values()} == {200}
    assert (one.move("not-annas-token-not-annas-token"), one.move(STEERER)) == (401, 200)

    for name, secret in one.secrets.items():
        assert holding(secret, tmp_path) == [], name
        assert [path for path, (_, text) in said.items() if secret in text] == [], name
        for running in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                assert secret not in " ".join(running.cmdline()), name
        for running in one.everyone():
            assert secret not in " ".join(environment(running).values()), name
    # What was looked through: the generation, the log that tells of the write, the environment that names the file.
    assert "20-servers.conf" in {path.name for path in holding(HOST, tmp_path)}
    assert "sidecar.log" in {path.name for path in holding('"who": "anna"', tmp_path)}
    assert any("CONSUL_HTTP_TOKEN_FILE" in environment(running) for running in one.everyone())


@pytest.mark.parametrize("missing", ["CONSUL_CACERT", "CONSUL_CLIENT_CERT", "CONSUL_HTTP_TOKEN_FILE", "https", ""])
def test_consul_answers_nobody_who_lacks_a_part(etc: Etc, consul: SecureConsul, missing: str) -> None:
    """Without our authority we do not believe it; without a certificate or over plain HTTP it does not listen;
    without a token it says nothing. With all of it the same command reads."""
    (etc.own / "application.token").write_text(token(consul, policy("sidecar")))
    variables = etc.variables(consul.url)
    variables.pop(missing, None)
    if missing == "CONSUL_CLIENT_CERT":
        del variables["CONSUL_CLIENT_KEY"]
    if missing == "https":
        variables["CONSUL_HTTP_ADDR"] = f"http://{consul.address}"
    command = [*warm.COLD, "snapshot"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == (3 if missing else 0), done.stderr
    assert bool(done.stdout) == (not missing)


def test_a_token_that_consul_does_not_know_is_not_told(etc: Etc, consul: SecureConsul) -> None:
    unknown = str(uuid.uuid4())
    (etc.own / "application.token").write_text(unknown)
    command = [*warm.COLD, "snapshot", "--log-level", "debug"]
    variables = etc.variables(consul.url)
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3
    assert "unknown to Consul" in done.stderr
    assert unknown not in done.stdout + done.stderr
