"""The files of deploy/logging/ on a host with a real rsyslog, journald and logrotate.

nginx, the sidecar and an application run beside it; they share the directory of rsyslog's socket, as containers would.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxygen.kit.log import configure, get_logger
from tests.deploy.conftest import DEPLOY
from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.engine import Engine
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.systemd_host import SystemdHost
from tests.harness.tools import find_nginx, missing
from tests.integration.certificates import Authority
from tests.integration.site import Site

LOGGING = DEPLOY / "logging"
ACCESS, OWN, UNPARSED = (Path("/var/log/proxygen") / name for name in ("access.json", "proxygen.json", "unparsed.log"))
FORWARDED = Path("/root/forwarded")

RECEIVER = f"""
import socket
with socket.create_server(("127.0.0.1", 5140)) as server, open("{FORWARDED}", "ab", 0) as file:
    while True:
        connection, _ = server.accept()
        with connection:
            while data := connection.recv(65536):
                file.write(data)
"""

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Collected:
    """The host that collects, and the directory of its socket as this machine sees it."""

    host: SystemdHost
    directory: Path

    @property
    def socket(self) -> Path:
        return self.directory / "socket"

    def lines(self, file: Path) -> list[str]:
        """The whole ones; the last may be half written."""
        script = f"test ! -e {file} || head --lines=$(wc --lines < {file}) {file}"
        return self.host.shell(script).splitlines()

    def documents(self, file: Path) -> list[Any]:
        """Every line of a file that may hold nothing else."""
        return [json.loads(line) for line in self.lines(file)]

    def find(self, file: Path, condition: Callable[[Any], object], what: str) -> Any:
        found: list[Any] = []

        def is_there() -> bool:
            found[:] = [document for document in self.documents(file) if condition(document)]
            return bool(found)

        process.wait_until(is_there, what=f"{what} in {file}", timeout=20)
        return found[0]

    def send(self, *lines: bytes) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.connect(str(self.socket))
            for line in lines:
                sender.send(b"<190>Nov 28 08:00:00 " + line)


@pytest.fixture(scope="module")
def collected(make_host: Callable[..., SystemdHost]) -> Iterator[Collected]:
    directory = Path(tempfile.mkdtemp(prefix="pg-log-"))
    host = make_host(options=(f"--volume={directory}:/run/proxygen-log",))
    for name, target in (("rsyslog.conf", "10-proxygen.conf"), ("proxygen-forward.inc", "proxygen-forward.inc")):
        host.write(f"/etc/rsyslog.d/{target}", (LOGGING / name).read_text())
    _start_receiver(host)
    host.run("systemctl", "restart", "rsyslog")
    process.wait_until((directory / "socket").is_socket, what="rsyslog's socket")
    yield Collected(host, directory)
    shutil.rmtree(directory)


def _start_receiver(host: SystemdHost) -> None:
    host.run("systemd-run", "--unit=receiver", "--collect", "python3", "-c", RECEIVER)
    process.wait_until(lambda: "5140" in host.run("ss", "-lnt"), what="the receiver of what is forwarded")


@pytest.fixture(scope="module")
def site(collected: Collected, consul_session: ConsulAgent, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    binary = find_nginx("debian")
    if binary is None:
        missing("nginx (debian)")
    directory = tmp_path_factory.mktemp("logging")
    log = f"access_log syslog:server=unix:{collected.socket},nohostname,tag=nginx ecs;"
    http = f"include {LOGGING}/access-log.conf; {log}"
    nginx = NginxServer(binary, directory / "nginx", output=directory / "output", workers=1, http=http)
    settings = {"log.format": "ecs", "log.level": "info", "log.syslog": f"unix:{collected.socket}"}
    sidecar = Sidecar(consul_session, nginx, directory / "sidecar", settings)
    site = Site(consul_session, nginx, sidecar, Authority())
    nginx.start()
    try:
        sidecar.start()
        site.register("logged", site.app("logged"), "route=logged.example.com")
        process.wait_steady(lambda: site.ask("logged.example.com").instance == "logged", what="the service")
        yield site
    finally:
        sidecar.kill()
        nginx.stop()
        site.close()
        consul_session.clean()


def test_rsyslog_accepts_the_files(collected: Collected) -> None:
    said = collected.host.run("rsyslogd", "-N1")
    assert "End of config validation run" in said
    assert "error" not in said.lower()


def test_a_request_can_be_followed_by_its_id(site: Site, collected: Collected) -> None:
    """From what the application saw to the line in the file, and on to the next receiver."""
    seen = site.ask("logged.example.com", "/followed?secret=1").seen["headers"]["x-request-id"]
    for file in (ACCESS, FORWARDED):
        document = collected.find(file, lambda item: item.get("http", {}).get("request", {}).get("id") == seen, seen)
        assert document["url"]["path"] == "/followed"
        assert document["proxygen"] == {"service": "logged", "variant": "stable"}
        assert document["host"] == {"hostname": collected.host.name}
        assert document["event"]["duration"] == int(document["event"]["duration"])


def test_our_own_log_is_at_the_receiver_what_it_is_on_standard_error(site: Site, collected: Collected) -> None:
    own = [json.loads(line) for line in site.sidecar.log.read_text().splitlines()]
    assert {"starting", "generation applied"} <= {line["message"] for line in own}
    last = own[-1]["@timestamp"]
    collected.find(OWN, lambda item: item.get("@timestamp") == last, "the last line")
    collected.find(FORWARDED, lambda item: item.get("@timestamp") == last, "the last line")
    for file in (OWN, FORWARDED):
        received = [
            item for item in collected.documents(file) if item.get("process", {}).get("pid") == site.sidecar.pid
        ]
        for item in received:
            assert item.pop("host") == {"hostname": collected.host.name}
        assert received[: len(own)] == own


def test_every_line_in_a_file_is_a_document_whatever_is_sent(site: Site, collected: Collected) -> None:
    """By a client, or by anybody who can write to the socket."""
    every_byte = bytes(byte for byte in range(1, 256) if byte not in b"\r\n")
    for agent in (every_byte, b'","evil":"1', b'"' * 4096, "ä".encode() * 2000):
        with socket.create_connection(("127.0.0.1", site.sidecar.http), timeout=5) as connection:
            head = b"GET /hostile HTTP/1.1\r\nHost: logged.example.com\r\nConnection: close\r\nUser-Agent: "
            connection.sendall(head + agent + b"\r\n\r\n")
            while connection.recv(65536):
                pass
    before = len(collected.lines(UNPARSED))
    collected.send(
        b'nginx: {"raw":"\xff\xc0\xaf \xed\xa0\x80"}',
        b'nginx: {"raw":"' + b"x" * 40_000 + b'"}',
        b'nginx: {"cut":',
        b'nginx: {"a":1} and more',
        b"nginx: text \x1b[2J\n<190>forged",
        b'../../etc/evil: {"raw":"elsewhere"}',
        b'nginx: {"raw":"the last"}',
    )
    collected.find(ACCESS, lambda item: item.get("raw") == "the last", "the last line")
    hostile = [item for item in collected.documents(ACCESS) if item.get("url", {}).get("path") == "/hostile"]
    assert len(hostile) == 4
    assert any(len(item.get("raw", "")) == 40_000 for item in collected.documents(ACCESS))
    assert [item["raw"] for item in collected.documents(OWN) if "raw" in item] == ["elsewhere"]
    unparsed = collected.lines(UNPARSED)[before:]
    assert len(unparsed) == 3
    assert not any(re.search(r"[\x00-\x1f\x7f]", line) for line in unparsed)
    for file in (ACCESS, OWN):
        size = int(collected.host.run("stat", "--format=%s", file))
        # No byte was replaced when we read it: what is in the file is UTF-8.
        assert len("".join(f"{line}\n" for line in collected.lines(file)).encode()) == size


def test_dev_log_and_the_journal_lead_to_the_same_file(collected: Collected, yard: Engine) -> None:
    """For a sidecar below systemd: by its standard error, or by log.syslog = unix:/dev/log, both of which journald
    reads; it hands on to rsyslog."""
    pid = yard.call("inspect", "--format={{.State.Pid}}", collected.host.name)
    try:
        configure(format="ecs", syslog=f"unix:/proc/{pid}/root/run/systemd/journal/dev-log")
        get_logger("test").error("by dev log", service="a")
    finally:
        configure()
    line = json.dumps({"message": "by standard error", "log.level": "info"})
    run = ("systemd-run", "--wait", "--description=one line", "--property=SyslogIdentifier=proxygen")
    collected.host.run(*run, "echo", line)
    for message in ("by dev log", "by standard error"):
        found = collected.find(OWN, lambda item, text=message: item.get("message") == text, message)
        assert found["host"] == {"hostname": collected.host.name}
        assert message not in collected.host.run("cat", "/var/log/syslog", check=False)
    entry = json.loads(collected.host.run("journalctl", "--output=json", "--grep=by dev log", "--identifier=proxygen"))
    assert entry["PRIORITY"] == "3"


def test_a_receiver_that_is_away_gets_what_it_missed(collected: Collected) -> None:
    collected.host.run("systemctl", "stop", "receiver")
    for number in range(50):
        collected.send(f'nginx: {{"missed":{number}}}'.encode())
    collected.find(ACCESS, lambda item: item.get("missed") == 49, "the last line")
    _start_receiver(collected.host)
    collected.find(FORWARDED, lambda item: item.get("missed") == 49, "the last line")
    missed = {item["missed"] for item in collected.documents(FORWARDED) if "missed" in item}
    # What was on its way when the connection broke is TCP's loss; rsyslog cannot know of it.
    assert missed >= set(range(2, 50))


def test_nobody_waits_for_an_rsyslog_that_is_away(site: Site, collected: Collected) -> None:
    collected.host.run("systemctl", "stop", "rsyslog.service", "syslog.socket")
    began = time.monotonic()
    assert {site.ask("logged.example.com", f"/alone-{number}").status for number in range(50)} == {200}
    broken = site.register("broken", site.apps[0], "route=broken.example.com", "canary=nonsense")
    process.wait_until(lambda: "syslog takes no lines" in site.sidecar.log.read_text(), what="the sidecar's own word")
    assert time.monotonic() - began < 10
    collected.host.run("systemctl", "start", "rsyslog")
    process.wait_until(collected.socket.is_socket, what="rsyslog's socket")
    site.consul.deregister(broken)
    found = collected.find(OWN, lambda item: item.get("message") == "syslog takes lines again", "an account")
    assert found["proxygen"]["lost"] >= 1
    # Each worker of nginx learns with a line that its socket is gone, and connects anew.
    for number in range(3):
        site.ask("logged.example.com", f"/again-{number}")
    collected.find(ACCESS, lambda item: item.get("url", {}).get("path") == "/again-2", "the line after it")


def test_logrotate_keeps_two_weeks_and_rsyslog_goes_on_in_a_new_file(collected: Collected) -> None:
    host = collected.host
    host.write("/etc/logrotate.d/proxygen", (LOGGING / "logrotate.conf").read_text())
    older = f"for n in $(seq 2 14); do gzip < /dev/null > {ACCESS.name}.$n.gz; done"
    host.shell(f"echo old > {ACCESS.name}.1; {older}", directory=str(ACCESS.parent))
    collected.send(b'nginx: {"raw":"before"}')
    collected.find(ACCESS, lambda item: item.get("raw") == "before", "a line")
    host.run("logrotate", "--force", "/etc/logrotate.d/proxygen")
    collected.send(b'nginx: {"raw":"after"}')
    collected.find(ACCESS, lambda item: item.get("raw") == "after", "a line")
    assert not any(item.get("raw") == "before" for item in collected.documents(ACCESS))
    kept = [name for name in host.run("ls", ACCESS.parent).split() if name.startswith(f"{ACCESS.name}.")]
    assert set(kept) == {f"{ACCESS.name}.1", *(f"{ACCESS.name}.{number}.gz" for number in range(2, 15))}
    assert host.run("stat", "--format=%a", f"{ACCESS}.1") == "640"
    assert '"before"' in host.read(f"{ACCESS}.1")


# --- files that nothing here can run


def test_every_collector_listens_where_rsyslog_sends() -> None:
    """None of the three is to be had here. What can be seen without them: their files fit the one that was run."""
    sent = re.search(r'target="([^"]+)" port="(\d+)" protocol="tcp"', (LOGGING / "proxygen-forward.inc").read_text())
    assert sent is not None
    place = (sent[1], int(sent[2]))
    fluent_bit = yaml.safe_load((LOGGING / "fluent-bit.yaml").read_text())
    tcp = next(item for item in fluent_bit["pipeline"]["inputs"] if item["name"] == "tcp")
    assert (tcp["listen"], tcp["port"]) == place
    assert {item["parser"] for item in fluent_bit["pipeline"]["filters"]} == {
        item["name"] for item in fluent_bit["parsers"]
    }
    fluentd = (LOGGING / "fluentd.conf").read_text()
    source = re.search(r"<source>\n  @type tcp\n.*?bind (\S+)\n  port (\d+)", fluentd, re.DOTALL)
    assert source is not None
    assert (source[1], int(source[2])) == place
    logstash = (LOGGING / "logstash.conf").read_text()
    source = re.search(r'tcp \{\n    host => "([^"]+)"\n    port => (\d+)', logstash)
    assert source is not None
    assert (source[1], int(source[2])) == place


def test_blocks_of_fluentd_and_logstash_close() -> None:
    opened: list[str] = []
    for line in (LOGGING / "fluentd.conf").read_text().splitlines():
        if match := re.fullmatch(r"\s*<(/?)(\w+)[^>]*>", line):
            assert not match[1] or opened.pop() == match[2], line
            opened += [] if match[1] else [match[2]]
    assert opened == []
    logstash = re.sub(r'"[^"]*"|#.*', "", (LOGGING / "logstash.conf").read_text())
    for pair in ("{}", "[]", "()"):
        assert logstash.count(pair[0]) == logstash.count(pair[1])
