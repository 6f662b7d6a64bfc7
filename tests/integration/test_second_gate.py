"""What `nginx -t` says is traced to the service whose lines they are, whatever form it writes its messages in."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from proxygen.kit.templating import Block, Templates
from proxygen.proxy.apply.publish import write_files
from proxygen.proxy.check.syntax import SecondGate, Verdict, try_candidate
from proxygen.proxy.nginx.binary import inspect_binary
from proxygen.proxy.nginx.conf import read_operator_conf
from proxygen.proxy.render.rendered import Rendered
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.settings import NginxSettings
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.proxy.plan.catalogs import instance, plan

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
    """What nginx refuses without us too is the operator's, in nginx's own sentence and without what else it printed."""
    nginx = make_nginx(nginx_binary, http="log_format a $nobody_knows; access_log /dev/null a;")
    done = make_sidecar("127.0.0.1:1", nginx).command("check", "--catalog", str(_catalog(tmp_path)))
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "proxygen: nginx -t refuses the operator's own files, without anything of proxygen's: "
        'unknown "nobody_knows" variable'
    )


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("include missing-file.conf;", "missing-file.conf, which does not exist"),
        ('log_format a "unclosed;', "is not nginx syntax"),
    ],
)
def test_a_check_beside_an_unreadable_nginx_conf_does_not_pass(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path, line: str, reason: str
) -> None:
    """It includes the generations, and what stands around them cannot be known."""
    sidecar = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary, http=line))
    done = sidecar.command("check", "--catalog", str(_catalog(tmp_path)))
    assert done.returncode == 2, done.stderr
    assert reason in done.stderr.splitlines()[-1]
    assert "does not include the generations" not in done.stderr
    assert sidecar.command("render", "--catalog", str(_catalog(tmp_path))).returncode == 0


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


@pytest.fixture
async def gate(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, monkeypatch: pytest.MonkeyPatch
) -> tuple[SecondGate, list[tuple[str, ...]]]:
    """A gate to which every whole candidate is a long one, and what it had nginx read: files of each candidate."""
    server = make_nginx(nginx_binary)
    settings = NginxSettings(binary=str(nginx_binary.path), conf=server.conf, prefix=server.directory)
    binary = await inspect_binary(settings)
    conf = read_operator_conf(settings, server.output, binary)
    seen: list[tuple[str, ...]] = []

    async def watched(rendered: Rendered, staged: Path, **more: Any) -> Verdict:
        seen.append(tuple(file.path.partition("-")[2] for file in rendered.files))
        return await try_candidate(rendered, staged, **more)

    monkeypatch.setattr("proxygen.proxy.check.syntax._QUICK", 0.0)
    monkeypatch.setattr("proxygen.proxy.check.syntax.try_candidate", watched)
    return SecondGate(settings=settings, binary=binary, conf=conf, own_upstreams=False), seen


_WHOLE = ("http.conf", "upstreams.conf", "servers.conf")
_PART = ("http.conf", "upstreams.conf")


async def test_nginx_reads_other_addresses_alone_and_all_else_as_a_whole(
    gate: tuple[SecondGate, list[tuple[str, ...]]], tmp_path: Path
) -> None:
    second, seen = gate
    renderer = Renderer(Templates(), Surroundings(), Snippets())
    one, two = instance("web", 1, "route=web.example.com"), instance("api", 2, "route=api.example.com")
    for members in (
        (one, two),
        (one, two, instance("api", 3, "route=api.example.com")),
        (replace(one, port=9999), two),
        (replace(one, port=9999), instance("api", 2, "route=api.example.com", "timeout=9s")),
        (one, instance("api", 2, "route=api.example.com", "timeout=9s")),
    ):
        rendered = renderer.render(plan(*members))
        verdict = await second.judge(rendered, _staged(tmp_path / str(len(seen)), rendered))
        assert verdict.refusals == ()
    assert seen == [_WHOLE, _PART, _PART, _WHOLE, _PART]


async def test_what_nginx_refuses_in_part_it_refuses_as_a_whole_and_by_its_service(
    gate: tuple[SecondGate, list[tuple[str, ...]]], tmp_path: Path
) -> None:
    """An address that no type would let through."""
    second, seen = gate
    renderer = Renderer(Templates(), Surroundings(), Snippets())
    good = renderer.render(
        plan(instance("web", 1, "route=web.example.com"), instance("api", 2, "route=api.example.com"))
    )
    assert (await second.judge(good, _staged(tmp_path / "good", good))).refusals == ()
    files = tuple(
        replace(
            file,
            units=tuple(
                replace(unit, text=Block(unit.text.replace("server 10.0.0.2:8080", "server 10.0.0.2:80800")))
                for unit in file.units
            ),
        )
        for file in good.files
    )
    bad = replace(good, files=files)
    for _ in range(2):
        (refusal,) = (await second.judge(bad, _staged(tmp_path / f"bad{len(seen)}", bad))).refusals
        assert refusal.services == ("api",)
        assert refusal.file == "http.d/10-upstreams.conf"
    # After a refusal nothing is taken as read.
    assert seen == [_WHOLE, _PART, _WHOLE, _WHOLE]


def _staged(directory: Path, rendered: Rendered) -> Path:
    write_files(directory, rendered.contents)
    return directory
