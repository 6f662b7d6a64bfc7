"""What can be wrong around proxygen: one clear line that says what to do, the right exit code, nginx untouched."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.harness import warm
from tests.harness.app import App
from tests.harness.beside import beside_nginx
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import ROUTE, answers, said, status_of, steady_load, until

MakeSidecar = Callable[..., Sidecar]


@dataclass(frozen=True, slots=True)
class Served:
    """nginx serves generation 1, and the sidecar that made it has ended."""

    sidecar: Sidecar
    nginx: NginxServer
    app: App

    def fail(self, *arguments: str, config: Path | None = None) -> tuple[int, str]:
        """Run a command that is to fail; return its exit code and the one line that it says beside its log."""
        before = _tree(self.sidecar.output)
        ended = self.sidecar.command(*arguments, config=config)
        assert _tree(self.sidecar.output) == before, "the live generation is untouched"
        (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
        assert line.startswith("proxygen: ")
        return ended.returncode, line


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """For tests that leave it as it was."""
    with beside_nginx(tmp_path_factory.mktemp("served")) as parts, App("web-1") as app:
        yield _serve(parts.consul, parts.nginx, parts.sidecar, app)


@pytest.fixture
def serving(consul: ConsulAgent, any_nginx: NginxServer, any_sidecar: Sidecar) -> Iterator[Served]:
    """For a test that starts sidecars."""
    with App("web-1") as app:
        yield _serve(consul, any_nginx, any_sidecar, app)


def _serve(consul: ConsulAgent, nginx: NginxServer, sidecar: Sidecar, app: App) -> Served:
    consul.register("web", port=app.port, tags=[ROUTE])
    sidecar.start()
    sidecar.stop()
    return Served(sidecar, nginx, app)


async def test_nginx_serves_on_after_each_way_to_fail(served: Served, tmp_path: Path) -> None:
    """The worst that a wrong start can do is not to start."""
    workers = served.nginx.workers()
    for flags in (
        ("--nginx-binary", "/nonexistent/nginx"),
        ("--output", str(served.nginx.conf)),
        ("--nginx-conf", str(tmp_path / "nowhere.conf")),
        ("--reload-settle", "soon"),
        ("--proxy-snippets", str(tmp_path / "nowhere")),
    ):
        code, _ = served.fail("run", *flags)
        assert code in (1, 2)
    assert served.nginx.workers() == workers
    await answers(served.sidecar)


@pytest.mark.parametrize("command", ["run", "render", "check", "diff"])
def test_a_wrong_setting_names_key_value_and_what_is_allowed(served: Served, command: str) -> None:
    code, line = served.fail(command, "--consul-max-connections", "1000")
    assert code == 2
    assert "consul.max_connections = '1000' from the command line" in line
    assert "180" in line


def test_an_unknown_key_names_those_that_there_are(served: Served, tmp_path: Path) -> None:
    whole = tmp_path / "proxygen.toml"
    whole.write_text(served.sidecar.config.read_text() + "\n[reloads]\nsettle = 1\n")
    code, line = served.fail("run", config=whole)
    assert code == 2
    assert str(whole) in line
    assert "unknown key reloads" in line
    assert "reload" in line.partition("the tables are")[2]


@pytest.mark.parametrize("command", ["render", "check", "diff", "snapshot"])
def test_a_consul_that_does_not_answer_is_exit_3(served: Served, command: str) -> None:
    address = f"127.0.0.1:{free_port()}"
    code, line = served.fail(command, "--consul-address", address)
    assert code == 3
    assert address in line


@pytest.mark.faults
async def test_the_sidecar_lives_through_a_start_without_consul(
    serving: Served, make_consul: Callable[..., ConsulAgent], make_sidecar: MakeSidecar
) -> None:
    """nginx serves what the run before left, /readyz and the log name the address, and Consul's coming is enough."""
    consul = make_consul()
    sidecar = make_sidecar(consul, serving.nginx, proxy__http_listen=f"127.0.0.1:{serving.sidecar.http}")
    sidecar.http = serving.sidecar.http
    sidecar.start(ready=False)
    async with steady_load(sidecar):
        await until(lambda: sidecar.request("/readyz")[0] == 503, "/readyz")
        await until(lambda: consul.address in str(sidecar.request("/readyz")[1]["reasons"]), "the reason")
        assert sidecar.request("/healthz")[0] == 200
        await until(lambda: consul.address in str(said(sidecar, "consul read failed")), "the log")
        assert sidecar.status()["consul"]["problem"]
        assert sidecar.generation() == 1
    consul.start()
    consul.register("web", port=serving.app.port, tags=[ROUTE])
    consul.register("new", port=serving.app.port, tags=["proxygen.route=new.example.com"])
    await answers(sidecar, "new.example.com")
    await until(lambda: sidecar.request("/readyz")[0] == 200, "ready")


@pytest.mark.faults
async def test_the_sidecar_lives_through_the_loss_of_consul(
    make_consul: Callable[..., ConsulAgent], serving: Served, make_sidecar: MakeSidecar
) -> None:
    """T4 in small: the last good generation serves, /readyz says how old the data is, and it catches up at once."""
    consul = make_consul(persistent=True)
    consul.start()
    consul.register("web", port=serving.app.port, tags=[ROUTE])
    sidecar = make_sidecar(consul, serving.nginx, consul__wait="1s", admin__fresh="3s")
    sidecar.start()
    async with steady_load(sidecar):
        consul.kill()
        await until(lambda: "old" in str(sidecar.request("/readyz")[1]["reasons"]), "/readyz that says so", timeout=30)
        assert sidecar.request("/readyz")[0] == 503
        consul.start()
        consul.register("new", port=serving.app.port, tags=["proxygen.route=new.example.com"])
        await answers(sidecar, "new.example.com")


def test_a_missing_nginx_says_how_to_get_one(served: Served) -> None:
    code, line = served.fail("run", "--nginx-binary", "/nonexistent/nginx")
    assert code == 2
    assert "no nginx binary '/nonexistent/nginx'" in line
    assert "install nginx" in line
    assert "--nginx-binary" in line
    assert served.sidecar.command("render", "--nginx-binary", "/nonexistent/nginx").returncode == 0


def test_a_check_without_nginx_cannot_pass(served: Served) -> None:
    """It says twice what is missing: that there is no nginx, and that the gate needs it."""
    ended = served.sidecar.command("check", "--nginx-binary", "/nonexistent/nginx")
    assert ended.returncode == 1
    assert "the second gate (nginx -t) cannot run without nginx's binary" in ended.stderr


def test_a_binary_that_is_no_nginx_is_no_nginx(served: Served) -> None:
    code, line = served.fail("run", "--nginx-binary", shutil.which("true") or "/bin/true")
    assert code == 2
    assert "is not nginx" in line


@pytest.mark.parametrize("command", ["render", "check", "diff"])
def test_a_template_with_a_syntax_error_names_file_and_line(served: Served, tmp_path: Path, command: str) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    (own / "location.conf.j2").write_text("{% if location.strip %}\nrewrite\n{% endfor %}\n")
    code, line = served.fail(command, "--proxy-templates", str(own))
    assert code == 2
    assert f"{own}/location.conf.j2:3" in line


def test_a_template_that_prints_what_is_not_there_is_refused(served: Served, tmp_path: Path) -> None:
    (tmp_path / "templates").mkdir()
    (tmp_path / "templates/location.conf.j2").write_text("# {{ location.flavour | q }}\n")
    code, line = served.fail("render", "--proxy-templates", str(tmp_path / "templates"))
    assert code == 2
    assert "location.conf.j2" in line
    assert "flavour" in line


async def test_a_sidecar_that_starts_with_a_broken_template_waits_for_the_mended_one(
    consul: ConsulAgent, serving: Served, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    own = tmp_path / "templates"
    own.mkdir()
    (own / "location.conf.j2").write_text("{% endfor %}\n")
    sidecar = make_sidecar(consul, serving.nginx, proxy__templates=str(own))
    sidecar.start(ready=False)
    await until(lambda: said(sidecar, "candidate rejected"), "the refusal")
    assert await status_of(serving.sidecar) == 200
    (own / "location.conf.j2").unlink()
    await answers(sidecar)


def test_a_file_in_place_of_the_output_directory_says_what_to_mount(served: Served, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for output in (tmp_path / "file", tmp_path / "file/below"):
        # The conf is read before the directory is taken only where it includes it; the directory comes first.
        code, line = served.fail("run", "--output", str(output))
        assert code == 1
        assert f"{output} cannot hold generations" in line
        assert "mount a directory, never a single file" in line


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, to give rights up")
def test_an_output_directory_of_somebody_else_names_the_right_that_is_missing(served: Served, tmp_path: Path) -> None:
    """Root without capabilities, as in a container with ``cap_drop: ALL``, may no more than anybody else."""
    output = tmp_path / "theirs"
    output.mkdir()
    os.chown(output, 65534, 65534)
    before = _tree(served.sidecar.output)
    ended = subprocess.run(
        [
            *("setpriv", "--bounding-set=-all", "--inh-caps=-all"),
            *(*warm.COLD, "run", "--config", served.sidecar.config, "--output", output),
        ],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stderr.count("\n") == 1
    assert f"uid 0 may not write {output}/generations" in ended.stderr
    assert _tree(served.sidecar.output) == before


def test_an_nginx_conf_without_the_include_says_which_line_to_add(served: Served, tmp_path: Path) -> None:
    conf = tmp_path / "nginx.conf"
    conf.write_text("events {}\nhttp {}\n")
    code, line = served.fail("run", "--nginx-conf", str(conf))
    assert code == 2
    wanted = f"inside http {{ … }}: include {served.sidecar.output}/current/http.d/*.conf;"
    assert f"{conf} does not include what proxygen writes; add this line {wanted}" in line
    conf.write_text(f"events {{}}\nhttp {{ include {served.sidecar.output}/current/http.d/*.conf }}\n")
    code, line = served.fail("run", "--nginx-conf", str(conf))
    assert code == 2
    assert f"{conf}:" in line


async def test_a_second_sidecar_on_one_output_directory_names_the_first(consul: ConsulAgent, serving: Served) -> None:
    serving.sidecar.start()
    async with steady_load(serving.sidecar):
        code, line = await asyncio.to_thread(serving.fail, "run", "--admin-listen", "off")
        assert code == 1
        assert f"held by another proxygen (process {serving.sidecar.pid})" in line
        assert "--output-directory" in line
    assert serving.sidecar.running


def test_an_admin_port_that_is_taken_says_so(served: Served) -> None:
    code, line = served.fail("run", "--admin-listen", f"127.0.0.1:{served.app.port}")
    assert code == 2
    assert "admin.listen" in line
    assert "Address already in use" in line


def test_no_sidecar_to_ask_is_exit_1(served: Served) -> None:
    for command in (("status",), ("rollback",), ("release-hold",)):
        code, line = served.fail(*command)
        assert code == 1
        assert "no sidecar answers" in line


def _tree(output: Path) -> dict[str, bytes | str]:
    """What nginx can read: the generations, and which one is live."""
    files = {str(path): path.read_bytes() for path in (output / "generations").rglob("*") if path.is_file()}
    return {**files, "current": str((output / "current").readlink())}
