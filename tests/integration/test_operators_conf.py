"""An nginx.conf of the operator's own around ours: what he says himself counts against nobody, and what is his stays
his. ``proxygen check`` with a real ``nginx -t``, each nginx, on either side of the include.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

import pytest

from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority

MakeNginx = Callable[..., NginxServer]
MakeSidecar = Callable[..., Sidecar]
SIDES = pytest.mark.parametrize("side", ["before", "after"])


@dataclass(frozen=True, slots=True)
class Ground:
    """The ports on which proxygen is to listen, and a way to check around the operator's text."""

    nginx: NginxServer
    sidecar: Sidecar
    directory: Path
    stream: int

    def check(
        self, services: Mapping[str, Sequence[str]], *, http: str = "", stream: str = "", side: str = "before"
    ) -> subprocess.CompletedProcess[str]:
        """``http`` and ``stream`` stand on that side of the includes. In them HTTP, HTTPS and STREAM are ports."""
        text = self.nginx.conf.read_text()
        for folder, said in (("http.d", http), ("stream.d", stream)):
            include = f"    include {self.nginx.output}/current/{folder}/*.conf;"
            assert include in text
            for name, port in (("HTTPS", self.sidecar.https), ("HTTP", self.sidecar.http), ("STREAM", self.stream)):
                said = said.replace(f"127.0.0.1:{name}", f"127.0.0.1:{port}")
            text = text.replace(include, f"{said}\n{include}" if side == "before" else f"{include}\n{said}")
        self.nginx.conf.write_text(text)
        catalog = self.directory / "catalog.json"
        entries = {name: [_entry(name, tags)] for name, tags in services.items()}
        catalog.write_text(json.dumps({"datacenter": "dc1", "services": entries}))
        return self.sidecar.command("check", "--catalog", str(catalog))

    def quarantined(self, done: subprocess.CompletedProcess[str]) -> set[str]:
        lines = (line for line in done.stderr.splitlines() if "quarantined service " in line)
        return {line.partition("quarantined service ")[2].partition(":")[0] for line in lines}


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    directory = tmp_path / "certificates"
    directory.mkdir()
    Authority().issue(directory, "site", "web.example.com")
    return directory


@pytest.fixture
def ground(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path, certificates: Path
) -> Ground:
    nginx = make_nginx(nginx_binary)
    sidecar = make_sidecar(
        "127.0.0.1:1", nginx, proxy__certificates=str(certificates), proxy__stream_address="127.0.0.1"
    )
    return Ground(nginx, sidecar, tmp_path, free_port())


WEB = {"web": ["route=web.example.com"]}


@pytest.mark.incident("T36")
@SIDES
@pytest.mark.parametrize(
    ("name", "route"),
    [
        (".example.net", "example.net"),
        (".example.net", "*.example.net"),
        ('".EXAMPLE.net"', "example.net"),
        ("*.example.net", "*.example.net"),
        ("other.example.org EXAMPLE.net", "example.net"),
    ],
)
def test_a_host_of_the_operators_costs_who_claims_it(ground: Ground, side: str, name: str, route: str) -> None:
    http = f"server {{ listen 127.0.0.1:HTTP; server_name {name}; }}"
    done = ground.check({**WEB, "thief": [f"route={route}"]}, http=http, side=side)
    assert ground.quarantined(done) == {"thief"}, done.stderr
    assert "1 services pass, 1 quarantined" in done.stdout


@pytest.mark.incident("T36")
@SIDES
def test_a_host_that_the_operator_has_twice_is_his_all_the_same(ground: Ground, side: str) -> None:
    """nginx says of his files alone what it says of ours and his, only less often."""
    http = "server { listen 127.0.0.1:HTTP; server_name own.example.com; }\n" * 2
    done = ground.check({**WEB, "thief": ["route=own.example.com"]}, http=http, side=side)
    assert ground.quarantined(done) == {"thief"}, done.stderr
    alone = ground.check(WEB)
    assert alone.returncode == 0
    assert 'nginx remarks: conflicting server name "own.example.com"' in alone.stderr


@SIDES
@pytest.mark.parametrize("name", [r"~^.*\.example\.net$", "*.example.net", "_", '""', "a.example.net."])
def test_what_nginx_lets_a_whole_name_go_before_costs_nobody(ground: Ground, side: str, name: str) -> None:
    http = f"server {{ listen 127.0.0.1:HTTP; server_name {name}; }}"
    done = ground.check({**WEB, "app": ["route=a.example.net"], "any": ["route=/any"]}, http=http, side=side)
    assert ground.quarantined(done) == set(), done.stderr
    assert done.returncode == 0, done.stderr


@pytest.mark.incident("T37")
@SIDES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_of_the_operators_streams_costs_who_claims_it(ground: Ground, side: str, protocol: str) -> None:
    """Also where nginx blames the operator's line, or only warns and would ignore his server."""
    udp = " udp" if protocol == "udp" else ""
    stream = f"server {{ listen 127.0.0.1:STREAM{udp}; proxy_pass 127.0.0.1:9; }}"
    other = {"tcp": "udp", "udp": "tcp"}[protocol]
    services = {
        **WEB,
        "thief": [f"protocol={protocol}", f"listen={ground.stream}"],
        "neighbour": [f"protocol={other}", f"listen={ground.stream}"],
    }
    done = ground.check(services, stream=stream, side=side)
    assert ground.quarantined(done) == {"thief"}, done.stderr
    assert "2 services pass, 1 quarantined" in done.stdout


@pytest.mark.incident("T38")
@SIDES
@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("options", ["ssl http2", "ssl proxy_protocol", "ssl"])
def test_listen_options_of_the_operators_cost_nobody(
    ground: Ground, certificates: Path, side: str, hosts: int, options: str
) -> None:
    files = f"ssl_certificate {certificates}/site.crt; ssl_certificate_key {certificates}/site.key;"
    http = "".join(
        f"server {{ listen 127.0.0.1:HTTPS {options}; server_name {number}.example.org; {files} }}\n"
        for number in range(hosts)
    )
    done = ground.check({"web": ["route=web.example.com", "tls=auto"]}, http=http, side=side)
    assert (done.returncode, ground.quarantined(done)) == (0, set()), done.stderr


@pytest.mark.incident("T38")
def test_stapling_that_nginx_ignores_costs_nobody(ground: Ground) -> None:
    done = ground.check({"web": ["route=web.example.com", "tls=auto"]}, http="ssl_stapling on; resolver 127.0.0.1;")
    assert (done.returncode, ground.quarantined(done)) == (0, set()), done.stderr
    assert 'nginx remarks: "ssl_stapling" ignored' in done.stderr


@pytest.mark.incident("T38")
def test_what_nginx_refuses_without_us_is_told_as_the_operators(ground: Ground) -> None:
    """Quoted with his file and line, and no service is looked for."""
    done = ground.check(WEB, http="server { listen 127.0.0.1:HTTP; server_name a..b; nonsense on; }")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "nginx -t refuses the operator's own files, without anything of proxygen's" in line
    assert f'unknown directive "nonsense" in {ground.nginx.conf}:' in line


@pytest.mark.incident("T38")
@pytest.mark.parametrize(
    "log", ["", 'log_format own "$proxygen_service ${proxygen_request_id}"; access_log /dev/null own;\n']
)
def test_what_nginx_says_of_a_host_on_the_operators_own_port_costs_nobody(ground: Ground, log: str) -> None:
    """It is said without us too; our variables in his files are given a value for that."""
    http = log + "server { listen 127.0.0.1:STREAM; server_name web.example.com; }\n" * 2
    done = ground.check(WEB, http=http)
    assert (done.returncode, ground.quarantined(done)) == (0, set()), done.stderr
    assert done.stderr.count("nginx remarks") == 1


@pytest.mark.incident("T45")
def test_hosts_that_collide_in_nginxs_hash_cost_nobody_else_anything(ground: Ground) -> None:
    """Names of 252 letters and one hash: no more than 64 kB of them fit, whatever sizes are set, and nginx names
    nobody."""
    names = list(islice(_colliding(), 261))
    assert len({_hash(name) for name in names}) == 1
    services = {f"{number}": [f"route={name}" for name in names[number::3]] for number in range(3)}
    done = ground.check({**WEB, **services})
    assert done.returncode == 0, done.stderr
    assert "4 services pass" in done.stdout
    assert done.stderr.count("their hash is the same") > 200


@pytest.mark.incident("T45")
def test_a_refusal_that_names_nobody_costs_who_caused_it(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """nginx says nothing of the place of a zone that is not there."""
    (tmp_path / "fragments").mkdir()
    (tmp_path / "fragments/location-two.conf").write_text("proxy_cache nowhere;\n")
    sidecar = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary), proxy__snippets=str(tmp_path / "fragments"))
    ground = Ground(make_nginx(nginx_binary), sidecar, tmp_path, free_port())
    services = {name: [f"route={name}.example.com"] for name in ("one", "two", "three", "four", "five")}
    done = ground.check(services)
    assert ground.quarantined(done) == {"two"}, done.stderr
    assert '"proxy_cache" zone "nowhere" is unknown' in done.stderr
    assert "4 services pass, 1 quarantined" in done.stdout


@pytest.mark.incident("T40")
def test_check_before_the_include_loads_only_modules_that_this_nginx_takes(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Debian's modules may lie beside another nginx, and the prefix may have none."""
    nginx = make_nginx(nginx_binary)
    nginx.conf.write_text(f"pid {nginx.pid_file}; events {{ }} http {{ }}")
    services = {**WEB, "db": ["protocol=tcp", "listen=15432"]}
    catalog = tmp_path / "catalog.json"
    catalog.write_text(
        json.dumps({"datacenter": "dc1", "services": {name: [_entry(name, tags)] for name, tags in services.items()}})
    )
    done = make_sidecar("127.0.0.1:1", nginx).command("check", "--catalog", str(catalog))
    assert done.returncode == 0, done.stderr
    assert "2 services pass" in done.stdout


def _entry(service: str, tags: Sequence[str]) -> dict[str, object]:
    described = {
        "ID": service,
        "Service": service,
        "Port": 9001,
        "Tags": [f"proxygen.{tag}" for tag in tags],
        "CreateIndex": 10,
    }
    return {
        "Node": {"Node": "one", "Address": "127.0.0.1", "Datacenter": "dc1"},
        "Service": described,
        "Checks": [],
    }


def _colliding() -> list[str]:
    """Hosts of one length and one hash: to nginx "an" and "c0" weigh the same."""
    rest = f".{'.'.join(['p' * 62] * 3)}.test"
    heads = ("".join(pairs) for pairs in product(("an", "c0"), repeat=9))
    return [f"{'h' * (252 - len(rest) - len(head))}{head}{rest}" for head in heads]


def _hash(name: str) -> int:
    """``ngx_hash_key``."""
    key = 0
    for letter in name.encode():
        key = (key * 31 + letter) % (1 << 64)
    return key
