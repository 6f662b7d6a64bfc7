"""What `nginx -t` says is traced to the service whose lines they are, whatever form it writes its messages in."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary

MakeNginx = Callable[..., NginxServer]
MakeSidecar = Callable[..., Sidecar]


def test_a_host_of_the_operators_own_quarantines_only_its_claimant(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """nginx only warns about two virtual servers of one name, and would ignore the second."""
    own = tmp_path / "own.conf"
    own.write_text("")
    sidecar = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary, http=f"include {own};"))
    own.write_text(f"server {{ listen 127.0.0.1:{sidecar.http}; server_name own.example.com; }}")
    done = sidecar.command("check", "--catalog", str(_catalog(tmp_path)))
    assert done.returncode == 1, done.stderr
    assert "1 services pass, 1 quarantined" in done.stdout
    quarantined = [line for line in done.stderr.splitlines() if "quarantined service" in line]
    assert len(quarantined) == 1
    assert "quarantined service thief" in quarantined[0]
    assert 'conflicting server name "own.example.com"' in quarantined[0]


def test_a_line_that_nginx_refuses_quarantines_the_service_it_stands_for(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """An operator's fragment for one service that says nonsense costs that service alone."""
    snippets = tmp_path / "snippets"
    snippets.mkdir()
    (snippets / "location-thief.conf").write_text("proxy_read_timeout soon;\n")
    sidecar = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary), proxy__snippets=str(snippets))
    done = sidecar.command("check", "--catalog", str(_catalog(tmp_path)))
    assert done.returncode == 1, done.stderr
    assert "1 services pass, 1 quarantined" in done.stdout
    assert 'nginx -t: "proxy_read_timeout" directive invalid value' in done.stderr


def test_a_fault_of_the_operators_is_told_in_one_line(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """What no service can be blamed for is nginx's own sentence, without what else nginx printed."""
    nginx = make_nginx(nginx_binary, http="log_format a $nobody_knows; access_log /dev/null a;")
    done = make_sidecar("127.0.0.1:1", nginx).command("check", "--catalog", str(_catalog(tmp_path)))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == ('proxygen: nginx -t refused the candidate: unknown "nobody_knows" variable')


def _catalog(tmp_path: Path) -> Path:
    path = tmp_path / "catalog.json"
    hosts = {"web": "web.example.com", "thief": "own.example.com"}
    path.write_text(
        json.dumps({"datacenter": "dc1", "services": {name: [_entry(name, hosts[name])] for name in hosts}})
    )
    return path


def _entry(service: str, host: str) -> dict[str, object]:
    return {
        "Node": {"Node": "one", "Address": "127.0.0.1", "Datacenter": "dc1"},
        "Service": {"ID": service, "Service": service, "Port": 9001, "Tags": [f"proxygen.route={host}"]},
        "Checks": [],
    }
