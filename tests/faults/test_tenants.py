"""Tenants who mean harm by what they register, with the whole sidecar on a real Consul and a real nginx."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.harms import colliding, many_ports, many_routes, unknown_tags
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority
from tests.integration.site import Site
from tests.integration.test_longest_names import entry, write_catalog
from tests.integration.waiting import HOST, ROUTE, answers, said, status_of, until

MakeNginx = Callable[..., NginxServer]
MakeSidecar = Callable[..., Sidecar]


@pytest.fixture
def app() -> Iterator[App]:
    with App("web-1") as app:
        yield app


def _quarantined(sidecar: Sidecar) -> set[str]:
    return {item["service"] for item in sidecar.status()["quarantined"]}


@pytest.mark.incident("T45")
def test_t45_hosts_that_nginx_cannot_tell_apart_cost_those_who_register_them(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects three services with 87 hosts each, names and wildcards, that have one hash. nginx builds its tables
    without a word, some of the hosts are refused by name, and everybody else is served."""
    hosts = colliding(261)
    services = {
        f"evil{n}": [
            entry(f"evil{n}", 1, *(f"proxygen.route={host}" for host in hosts[87 * n : 87 * n + 67])),
            entry(f"evil{n}", 2, *(f"proxygen.route=*.{host}" for host in hosts[87 * n + 67 : 87 * n + 87])),
        ]
        for n in range(3)
    }
    catalog = write_catalog(tmp_path / "catalog.json", {**services, "web": [entry("web", 1, ROUTE)]})
    done = make_sidecar("127.0.0.1:1", make_nginx(nginx_binary)).command("check", "--catalog", str(catalog))
    assert done.returncode == 0, done.stderr
    assert "4 services pass, 0 quarantined" in done.stdout
    assert "bounds.hash_bytes" in done.stderr


@pytest.mark.incident("T46")
@pytest.mark.incident("T53")
async def test_t46_what_one_service_registers_costs_nginx_and_newcomers_little(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, app: App
) -> None:
    """Injects 1,000 routes in one registration, 300 ports of one service, and 20 instances with 5,000 unknown tags
    each. They hold no more than the bounds allow; a newcomer is served, and the log stays small."""
    sidecar = make_sidecar(consul, running)
    many_routes(consul, app.port)
    many_ports(consul, app.port, 300)
    unknown_tags(consul, app.port, 20, 5_000)
    sidecar.start()
    consul.register("web", port=app.port, tags=[ROUTE])
    await answers(sidecar)
    assert _quarantined(sidecar) == {"routes", "junk"}, "the oldest ports of the third are served"
    configuration = "".join(file.read_text() for file in sorted((sidecar.output / "current").glob("*.d/*.conf")))
    assert len(re.findall(r"server_name h\d+\.test;", configuration)) == 100
    assert len(re.findall(r"listen 1\d{3};", configuration)) == 20
    assert psutil.Process(running.pid).memory_info().rss < 100_000_000
    assert sidecar.log.stat().st_size < 1_000_000
    assert not said(sidecar, "candidate rejected")


@pytest.mark.incident("T47")
async def test_t47_a_reserved_host_answers_for_itself_while_its_owner_is_away(
    consul: ConsulAgent, server: NginxServer, make_sidecar: MakeSidecar, app: App
) -> None:
    """Injects a stranger's wildcard and a stranger's route for any host. A reserved host without its owner is not
    found, over HTTPS too; with its owner it is the owner's, who may have no healthy instance."""
    authority = Authority()
    certificates = server.directory / "certificates"
    certificates.mkdir()
    authority.issue(certificates, "wild", "*.example.com")
    server.start()
    reserved = {HOST: ["web"], "*.shop.example.com": ["shop-*"]}
    sidecar = make_sidecar(consul, server, proxy__claims=reserved, proxy__certificates=str(certificates))
    consul.register("wild", port=app.port, tags=["proxygen.route=*.example.com", "proxygen.tls=auto"])
    consul.register("any", port=app.port, tags=["proxygen.route=/"])
    sidecar.start()
    await answers(sidecar, "free.example.com")
    site = Site(consul, server, sidecar, authority)
    for host in (HOST, "a.shop.example.com"):
        assert await status_of(sidecar, host) == 404
    assert site.ask(HOST, tls=True).status == 404
    web = consul.register("web", port=app.port, tags=[ROUTE], status="passing")
    await answers(sidecar)
    consul.set_check(web, "critical")
    await answers(sidecar, status=503)
    consul.deregister(web)
    await answers(sidecar, status=404)


@pytest.mark.incident("T51")
async def test_t51_no_instance_leads_to_this_host_itself(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, app: App
) -> None:
    """Injects instances at nginx's own port, Consul's and the admin API's, by every address of loopback, and at
    metadata services. Each is refused; an application at another port is served."""
    sidecar = make_sidecar(consul, running)
    ours = {"nginx": sidecar.http, "consul": int(consul.address.rpartition(":")[2]), "admin": sidecar.admin}
    forms = ("127.0.0.1", "127.0.0.2", "::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::1")
    evil = {f"{name}-{n}": (address, port) for name, port in ours.items() for n, address in enumerate(forms)}
    evil |= {f"metadata-{n}": (address, 80) for n, address in enumerate(("169.254.169.254", "fd00:ec2::254"))}
    for name, (address, port) in evil.items():
        consul.register(name, port=port, address=address, tags=[f"proxygen.route={name}.test"])
    consul.register("web", port=app.port, tags=[ROUTE])
    sidecar.start()
    await answers(sidecar)
    await until(
        lambda: {item["service"] for item in sidecar.status()["quarantined"]} == evil.keys(),
        "every one of them refused",
    )
    configuration = (sidecar.output / "current/http.d/10-upstreams.conf").read_text()
    servers = set(re.findall(r"server (\S+?)(?:;| )", configuration))
    assert servers == {f"127.0.0.1:{app.port}"}


@pytest.mark.incident("T48")
@pytest.mark.parametrize("held", [ROUTE, "proxygen.route=*.example.com"])
@pytest.mark.parametrize("hosts", ["shared", "whole"])
async def test_t48_a_path_under_somebody_elses_host_is_told_or_refused(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, hosts: str, held: str
) -> None:
    """Injects a login page of another service under a host that one holds, by its name or by a wildcard."""
    sidecar = make_sidecar(consul, running, proxy__hosts=hosts)
    with ExitStack() as stack:
        web, evil = (stack.enter_context(App(name)) for name in ("web-1", "evil-1"))
        consul.register("web", port=web.port, tags=[held])
        sidecar.start()
        consul.register("evil", port=evil.port, tags=[f"{ROUTE}/login", "proxygen.route=evil.test"])
        await answers(sidecar, "evil.test")
        await answers(sidecar, path="/login", by="evil-1" if hosts == "shared" else "web-1")
        status = sidecar.status()
        checked = sidecar.command("check")
    told = {service for service in ("web", "evil") for line in status["warnings"] if f"service {service}: " in line}
    if hosts == "shared":
        assert told == {"web", "evil"}
        assert len([line for line in said(sidecar, "warning") if "web.example.com" in str(line)]) == 2
        assert "warning: service evil: it holds web.example.com/login" in checked.stderr
    else:
        assert told == set()
        assert [(item["holder"], item["loser"]) for item in status["conflicts"]] == [("web", "evil")]
        assert "service evil does not get web.example.com/login: held by service web" in checked.stderr
