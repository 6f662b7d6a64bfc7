"""The longest names that the types allow, and weak certificates: nginx takes them, or they cost their owner only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary

MakeNginx = Callable[..., NginxServer]
MakeSidecar = Callable[..., Sidecar]

LABEL = "a" * 63
HOST = ".".join([LABEL, LABEL, LABEL, "b" * 61])
NAME = "a-service-with-a-very-long-name-" + "x" * 200


def entry(name: str, port: int, *tags: str) -> dict[str, object]:
    return {
        "Node": {"Node": "n", "Address": "192.0.2.1"},
        "Service": {"ID": f"{name}-{port}", "Service": name, "Address": "", "Port": port, "Tags": list(tags)},
        "Checks": [],
    }


def write_catalog(path: Path, services: dict[str, list[dict[str, object]]]) -> Path:
    path.write_text(
        json.dumps({"datacenter": "dc1", "taken_at": "2026-01-01T00:00:00Z", "services": services, "kv": {}})
    )
    return path


def test_the_longest_names_pass_every_gate(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """With a canary, a forced value, a sticky cookie and a stream each: every table of nginx's gets its longest key."""
    route = f"proxygen.route={HOST}/{'p' * 253}"
    force = f"proxygen.force=header:X-{'h' * 60}:{'v' * 128}"
    web = [
        entry(NAME, 1, route),
        entry(NAME, 2, route, f"proxygen.variant={'v' * 31}:10%", f"proxygen.sticky=cookie:{'c' * 64}", force),
    ]
    stream = [
        entry(f"{NAME}-db", 1, "proxygen.protocol=tcp", "proxygen.listen=20000"),
        entry(f"{NAME}-db", 2, "proxygen.protocol=tcp", "proxygen.listen=20000", f"proxygen.variant={'v' * 31}:10%"),
    ]
    catalog = write_catalog(tmp_path / "catalog.json", {NAME: web, f"{NAME}-db": stream})
    done = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary)).command("check", "--catalog", str(catalog))
    assert done.returncode == 0, done.stderr
    assert "2 services pass" in done.stdout


@pytest.mark.parametrize("directive", ["server_names_hash_bucket_size 64;", "variables_hash_bucket_size 64;"])
def test_a_hash_bucket_of_the_operators_in_which_names_do_not_fit_is_refused_at_start(
    any_nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, directive: str
) -> None:
    """Before any service could make it everybody's trouble; the line to change is named."""
    sidecar = make_sidecar("127.0.0.1:1", make_nginx(any_nginx_binary, http=directive))
    done = sidecar.command("run")
    assert done.returncode == 2
    assert f"{directive.split()[0]} 64 is too small" in done.stderr
    assert "nginx.conf:" in done.stderr
