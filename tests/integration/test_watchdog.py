"""Files that change beside a running sidecar: each goes through the same gates, and nobody has to tell it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority
from tests.integration.site import Site
from tests.integration.waiting import HOST, answers, outcome, said, steady_load, until

SHIPPED = Path(__file__).parents[2] / "templates"

REFUSED = "files refused, the ones before stay"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The operator's directories."""
    for name in ("templates", "snippets", "certificates", "htpasswd"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def site(
    consul: ConsulAgent,
    any_nginx: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    folder: Path,
) -> Iterator[Site]:
    """A sidecar, not started, that was given every directory; one service stands in Consul."""
    sidecar = make_sidecar(
        consul,
        any_nginx,
        proxy__templates=str(folder / "templates"),
        proxy__snippets=str(folder / "snippets"),
        proxy__certificates=str(folder / "certificates"),
        proxy__htpasswd=str(folder / "htpasswd"),
        proxy__retry_after="5s",
    )
    site = Site(consul, any_nginx, sidecar, Authority())
    site.register("web", site.app("web-1"), f"route={HOST}")
    yield site
    site.close()


def header(site: Site, name: str) -> str:
    return site.ask(HOST).headers.get(name, "")


async def test_a_changed_template_is_rendered_anew(site: Site, folder: Path) -> None:
    """An operator's template that appears, changes and goes takes effect each time, and no request fails."""
    shipped = (SHIPPED / "location.conf.j2").read_text()
    own = folder / "templates/location.conf.j2"
    site.sidecar.start()
    async with steady_load(site.sidecar):
        for value in ("one", "two"):
            place = "{{ match.path | q }} {\n"
            own.write_text(shipped.replace(place, f"{place}        add_header X-Own {value} always;\n"))
            await until(lambda value=value: header(site, "x-own") == value, f"the template that says {value}")
        own.unlink()
        await until(lambda: header(site, "x-own") == "", "the shipped template again")


async def test_a_template_with_a_syntax_error_leaves_the_one_before_in_force(site: Site, folder: Path) -> None:
    """One clear line with file and line, told until the file is mended; changes of the catalog go on meanwhile."""
    own = folder / "templates/location.conf.j2"
    site.sidecar.start()
    async with steady_load(site.sidecar):
        own.write_text("{% if location.strip %}\nrewrite\n{% endfor %}\n")
        event = await outcome(site.sidecar, REFUSED)
        assert f"{own}:3" in event["reason"]
        assert site.sidecar.generation() == 1
        code, body = site.sidecar.request("/readyz")
        assert code == 503
        assert any(str(own) in reason for reason in body["reasons"])
        status = site.sidecar.status()
        assert status["state"] == "degraded"
        assert any(str(own) in warning for warning in status["warnings"])
        site.register("new", site.apps[0], "route=new.example.com")
        await until(lambda: site.ask("new.example.com").status == 200, "the change")
        assert site.sidecar.request("/readyz")[0] == 503
        own.unlink()
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, "ready again")
    assert len(said(site.sidecar, REFUSED)) == 1


async def test_a_changed_snippet_goes_live(site: Site, folder: Path) -> None:
    site.sidecar.start()
    async with steady_load(site.sidecar):
        for value in ("one", "two"):
            (folder / "snippets/server.conf").write_text(f"add_header X-Snippet {value} always;\n")
            await until(lambda value=value: header(site, "x-snippet") == value, f"the snippet that says {value}")


async def test_a_snippet_that_nginx_refuses_never_reaches_it(site: Site, folder: Path) -> None:
    site.sidecar.start()
    async with steady_load(site.sidecar):
        (folder / "snippets/server.conf").write_text("add_haeder X-Snippet one;\n")
        event = await outcome(site.sidecar, REFUSED)
        assert "add_haeder" in event["reason"]
        assert site.sidecar.generation() == 1
        (folder / "snippets/server.conf").write_text("add_header X-Snippet one always;\n")
        await until(lambda: header(site, "x-snippet") == "one", "the mended snippet")


async def test_a_password_file_that_appears_opens_the_service_that_asked_for_it(site: Site, folder: Path) -> None:
    """Until then that service alone is quarantined; later passwords count without a reload."""
    site.register("staff", site.apps[0], "route=staff.example.com", "auth=staff")
    site.sidecar.start()
    (quarantine,) = site.sidecar.status()["quarantined"]
    assert quarantine["service"] == "staff"
    (folder / "htpasswd/staff").write_text(_password("ann", "first"))
    await until(lambda: _login(site, "ann", "first") == 200, "the first password")
    await answers(site.sidecar, "staff.example.com", 401)
    (folder / "htpasswd/staff").write_text(_password("ann", "second"))
    await until(lambda: _login(site, "ann", "second") == 200, "the second password")
    assert _login(site, "ann", "first") == 401


async def test_noise_beside_the_files_causes_no_work(site: Site, folder: Path) -> None:
    """Logs, back-up files and a touched directory change nothing that counts."""
    site.sidecar.start()
    before = len(site.sidecar.events())
    for number in range(10):
        (site.nginx.directory / "other.log").write_text(str(number))
        await asyncio.sleep(0.25)
    assert site.sidecar.events()[before:] == []


# --- the settings file ------------------------------------------------------------------------------------------------


def edit(site: Site, old: str, new: str) -> None:
    """Replace the settings file whole, as an editor does."""
    text = site.sidecar.config.read_text()
    assert old in text
    aside = site.sidecar.config.with_name("proxygen.toml.new")
    aside.write_text(text.replace(old, new))
    aside.rename(site.sidecar.config)


async def test_changed_settings_are_taken_while_nginx_goes_on_serving(site: Site) -> None:
    """The log names the keys and no value; the process stays, its output directory too, and no request fails."""
    site.register("nobody", site.apps[0], "route=nobody.example.com", status="critical")
    site.sidecar.start()
    pid, port = site.sidecar.pid, free_port()
    assert site.ask("nobody.example.com").headers["retry-after"] == "5"
    async with steady_load(site.sidecar):
        edit(site, 'retry_after = "5s"', 'retry_after = "7s"')
        await until(lambda: site.ask("nobody.example.com").headers["retry-after"] == "7", "the new Retry-After")
        (event,) = said(site.sidecar, "settings changed")
        assert event["keys"] == ["proxy.retry_after"]
        edit(site, f"127.0.0.1:{site.sidecar.admin}", f"127.0.0.1:{port}")
        site.sidecar.admin = port
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, "ready on the new admin port")
        site.register("new", site.apps[0], "route=new.example.com")
        await until(lambda: site.ask("new.example.com").status == 200, "a change after two restarts of the inner part")
    assert site.sidecar.pid == pid
    assert site.sidecar.stop() == 0


async def test_a_setting_without_effect_is_told_and_restarts_nothing(site: Site) -> None:
    """Written into the file, and taken out again as the log asks: it changes no setting."""
    site.sidecar.start()
    edit(site, "[log]", '[reload]\nsettle-max = "9s"\n[log]')
    event = await outcome(site.sidecar, "setting without effect")
    assert event["reason"].startswith("reload.settle_max from settings file ")
    edit(site, 'settle-max = "9s"\n', "")
    edit(site, 'retry_after = "5s"', 'retry_after = "7s"')
    await outcome(site.sidecar, "starting", after=1)
    (event,) = said(site.sidecar, "settings changed")
    assert event["keys"] == ["proxy.retry_after"]
    assert len(said(site.sidecar, "setting without effect")) == 1


async def test_a_stamp_that_moves_is_proven_at_its_new_address(site: Site) -> None:
    """The live generation tells its stamp at the old address: nobody waits for it at the new one."""
    site.sidecar.start()
    address = next(line.split('"')[1] for line in site.sidecar.config.read_text().splitlines() if "stamp = " in line)
    async with steady_load(site.sidecar):
        edit(site, address, f"127.0.0.1:{free_port()}")
        await until(lambda: site.sidecar.generation() == 2, "a generation with the new address")
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, "ready")
    assert not said(site.sidecar, "candidate rejected")
    assert not said(site.sidecar, "reload rolled back")


async def test_invalid_settings_are_one_line_and_the_old_ones_stay(site: Site) -> None:
    """However often something beside the file is written; SIGHUP says it again, and the mended file counts."""
    site.sidecar.start()
    async with steady_load(site.sidecar):
        edit(site, 'retry_after = "5s"', 'retry_after = "soon"')
        event = await outcome(site.sidecar, "settings refused, the old ones stay")
        assert "proxy.retry_after = 'soon'" in event["reason"]
        for number in range(3):
            (site.sidecar.config.parent / "noise").write_text(str(number))
            await asyncio.sleep(0.3)
        assert len(said(site.sidecar, "settings refused, the old ones stay")) == 1
        site.register("new", site.apps[0], "route=new.example.com")
        await until(lambda: site.ask("new.example.com").status == 200, "a change under the old settings")
        os.kill(site.sidecar.pid, signal.SIGHUP)
        await outcome(site.sidecar, "settings refused, the old ones stay", after=1)
        edit(site, 'retry_after = "soon"', 'retry_after = "9s"')
        await outcome(site.sidecar, "settings changed")
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, "ready with the mended settings")


async def test_settings_that_cannot_work_here_give_way_to_the_old_ones(site: Site) -> None:
    """They are valid, and nginx's binary is not there: the old ones are in force again at once, and are not left for
    the same bad ones a second time."""
    site.sidecar.start()
    binary = str(site.nginx.binary.path)
    async with steady_load(site.sidecar):
        edit(site, f'binary = "{binary}"', 'binary = "/nonexistent/nginx"')
        event = await outcome(site.sidecar, "settings not taken, the old ones stay")
        assert "/nonexistent/nginx" in event["reason"]
        site.register("new", site.apps[0], "route=new.example.com")
        await until(lambda: site.ask("new.example.com").status == 200, "a change under the old settings")
        await until(lambda: site.sidecar.request("/readyz")[0] == 200, "ready")
        assert len(said(site.sidecar, "settings not taken, the old ones stay")) == 1
        edit(site, 'binary = "/nonexistent/nginx"', f'binary = "{binary}"')
        await asyncio.sleep(0.6)
    assert len(said(site.sidecar, "starting")) == 2, "the first start, and the way back from the bad settings"


async def test_sighup_reads_the_operators_files_again(site: Site, folder: Path) -> None:
    """For file systems that tell nobody of a change."""
    site.sidecar.start()
    before = len(said(site.sidecar, "nothing to change"))
    os.kill(site.sidecar.pid, signal.SIGHUP)
    await outcome(site.sidecar, "nothing to change", after=before)
    assert not said(site.sidecar, "settings changed")


def _password(user: str, password: str) -> str:
    return (
        f"{user}:{{SHA}}{base64.b64encode(hashlib.sha1(password.encode(), usedforsecurity=False).digest()).decode()}\n"
    )


def _login(site: Site, user: str, password: str) -> int:
    token = base64.b64encode(f"{user}:{password}".encode()).decode()
    return site.ask("staff.example.com", headers={"Authorization": f"Basic {token}"}).status
