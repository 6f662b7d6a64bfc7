"""The set-up behind deploy/demo and tests/run uses what is there, says what is not, and disturbs nobody."""

from __future__ import annotations

import ast
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from deploy import _setup
from deploy._setup import basics, debian, environment, programs, streaming

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
SCRIPTS = [*sorted((DEPLOY / "_setup").glob("*.py")), DEPLOY / "demo", DEPLOY.parent / "tests" / "run"]

FAILS = "#!/bin/sh\necho E: no such package\nexit 100\n"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder that no other set-up fills."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return basics.cache()


@pytest.fixture
def own_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """Put a program of the test's own on PATH, which is one folder and has no other."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(basics, "search_path", lambda: os.environ["PATH"])

    def put(name: str, text: str = "#!/bin/sh\n") -> Path:
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
        return folder / name

    return put


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_an_old_python_can_read_it(script: Path) -> None:
    """Python 3.8 must get as far as saying that 3.11 is needed."""
    ast.parse(script.read_text(encoding="utf-8"), feature_version=(3, 8))


def test_an_old_python_alone_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(environment, "version_of", lambda _: (3, 8))
    with pytest.raises(_setup.CannotSetUp, match=r"needs Python 3\.11 or later.*apt-get install python3\.11"):
        environment.find_python()


def test_a_program_that_is_no_python_is_no_python() -> None:
    assert environment.version_of("/bin/false") == ()
    assert environment.version_of("/nowhere/python3") == ()


def test_a_python_that_pyenv_keeps_is_found(
    own_tools: Callable[[str, str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its shim on PATH ends with an error unless this version was chosen."""
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    own_tools("python3.12", FAILS)
    kept = tmp_path / "versions" / "3.12.1" / "bin" / "python"
    kept.parent.mkdir(parents=True)
    kept.write_text("#!/bin/sh\necho 3 12\n")
    kept.chmod(0o755)
    assert environment.python_named("3.12") == str(kept)
    assert environment.python_named("3.13") is None


def test_a_missing_python_is_skipped_with_a_word(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "version_of", lambda _: (3, 11))
    monkeypatch.setattr(environment, "python_named", lambda _: None)
    assert list(_setup.other_pythons()) == []
    said = capsys.readouterr().err
    assert [version in said for version in ("python3.11", "python3.12", "python3.13")] == [False, True, True]


# --- programs


def test_tools_on_path_are_used_as_they_are(own_tools: Callable[..., Path], tmp_path: Path) -> None:
    own_tools("nginx")
    own_tools("consul")
    programs.provide_consul()
    assert programs.folders(tmp_path / "venv") == []


def test_a_set_up_changes_no_tool_under_another_command(
    own_tools: Callable[..., Path], own_cache: Path, tmp_path: Path
) -> None:
    """What a running command found on PATH stays: a later one with a Consul of its own gets another PATH, and that is
    all."""
    unpacked = own_cache / "consul" / "usr" / "bin" / "consul"
    unpacked.parent.mkdir(parents=True)
    unpacked.write_text("#!/bin/sh\n")
    unpacked.chmod(0o755)
    before = unpacked.stat()
    running = os.pathsep.join([os.environ["PATH"], *map(str, programs.folders(tmp_path / "venv"))])
    assert shutil.which("consul", path=running) == str(unpacked)
    own_tools("consul")
    programs.provide_consul()
    assert (before.st_ino, before.st_mtime_ns) == (unpacked.stat().st_ino, unpacked.stat().st_mtime_ns)
    assert not (tmp_path / "venv").exists()


@pytest.mark.parametrize(
    ("uid", "failure"), [(1000, "they want, as root: apt-get install "), (0, "E: no such package")]
)
def test_an_engine_that_cannot_be_installed_costs_only_its_own_tests(
    own_tools: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uid: int,
    failure: str,
) -> None:
    """Without root, and where the distribution has no such package."""
    own_tools("apt-get", FAILS)
    monkeypatch.setattr(os, "getuid", lambda: uid)
    debian.install_engine()
    said = capsys.readouterr().err
    assert "tests with a container engine will be skipped" in said
    assert failure in said


def test_a_prometheus_that_cannot_be_had_costs_only_its_own_tests(
    own_tools: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    programs.provide_prometheus()
    for tool in ("apt-get", "dpkg"):
        own_tools(tool, FAILS)
    programs.provide_prometheus()
    first, second = capsys.readouterr().err.split("tests with Prometheus will be skipped: ")[1:]
    assert first.startswith("put `prometheus` and `promtool` on PATH")
    assert "E: no such package" in second


def test_another_system_is_told_what_to_install(
    own_tools: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "_os_ids", lambda: {"fedora"})
    with pytest.raises(_setup.CannotSetUp, match=r"Consul is missing.*Fedora"):
        programs.provide_consul()


@pytest.mark.parametrize(
    ("ids", "uris", "suite", "mirrors"),
    [
        (
            {"debian"},
            ["http://s.test/debian-security/", "http://m.test/debian/", "http://m.test/debian/", "http://o.test/apt/"],
            "bullseye main",
            ["http://m.test/debian/"],
        ),
        (
            {"ubuntu", "debian"},
            ["http://security.test/ubuntu/", "http://m.test/ubuntu/", "http://ppa.test/nginx/ubuntu-tools/"],
            "jammy main universe",
            ["http://m.test/ubuntu/", "http://security.test/ubuntu/"],
        ),
        ({"ubuntu"}, ["http://p.test/ubuntu-ports/"], "jammy main universe", ["http://p.test/ubuntu-ports/"]),
        ({"debian"}, [], "bullseye main", []),
    ],
)
def test_consul_is_asked_of_the_machines_own_mirrors_only(
    own_tools: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    ids: set[str],
    uris: list[str],
    suite: str,
    mirrors: list[str],
) -> None:
    """Each archive mirror once, one for security updates last, other repositories never."""
    own_tools("apt-get", "#!/bin/sh\n" + "".join(f"echo {uri}\n" for uri in uris))
    monkeypatch.setattr(debian, "_os_ids", lambda: ids)
    sources = debian.consul_sources()
    assert [source.split("] ")[-1].removeprefix("deb ") for source in sources] == [f"{uri} {suite}" for uri in mirrors]


# --- the Consul that streams


def test_without_go_the_streaming_consul_is_skipped_with_a_word_but_on_ci(
    own_tools: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CI", "false")
    streaming.provide_consul()
    assert "tests with a Consul that streams will be skipped: Consul 1.14.0 is built with Go" in capsys.readouterr().err
    monkeypatch.setenv("CI", "true")
    with pytest.raises(_setup.CannotSetUp, match="Go, which is not on PATH"):
        streaming.provide_consul()


def test_the_streaming_consul_is_built_once_and_appears_whole(
    own_tools: Callable[..., Path], own_cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A build that fails half-way leaves nothing that looks like a Consul; ours keep their go.mod and go.sum."""
    monkeypatch.setenv("CI", "true")
    half = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho half > "$2"\n/bin/chmod 755 "$2"\n'
    own_tools("go", half + "exit 1\n")
    with pytest.raises(_setup.CannotSetUp, match="failed with status 1"):
        streaming.provide_consul()
    place = own_cache / "consul-1.14.0" / "consul"
    assert not place.exists()
    own_tools("go", half + f"echo built >> {tmp_path}/builds\necho // >> go.mod\n")
    streaming.provide_consul()
    streaming.provide_consul()
    assert place.read_text() == "half\n"
    assert list(place.parent.iterdir()) == [place]
    assert (tmp_path / "builds").read_text() == "built\n"
    assert "//" not in (streaming.MODULE / "go.mod").read_text()


def test_the_streaming_consul_is_built_for_this_machine_outside_any_workspace(
    own_tools: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the user builds otherwise: Go refuses `-mod=mod` in a workspace, and would build for another system."""
    monkeypatch.setenv("CI", "true")
    theirs = {"GO111MODULE": "off", "GOARCH": "arm", "GOOS": "plan9", "GOWORK": "/their/go.work"}
    for name, value in {**theirs, "GOPROXY": "https://mirror.test/"}.items():
        monkeypatch.setenv(name, value)
    own_tools("go", '#!/bin/sh\necho "[$GO111MODULE|$GOARCH|$GOOS|$GOWORK|$GOPROXY]"\nexit 1\n')
    with pytest.raises(_setup.CannotSetUp, match=r"\[on\|\|\|off\|https://mirror\.test/\]"):
        streaming.provide_consul()


# --- the virtual environment


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The commands that a set-up runs, which do nothing here; what it installs from is the test's own."""
    ran: list[list[str]] = []

    def note(command: list[str], **_: object) -> str:
        ran.append(command)
        if command[1:3] == ["-m", "venv"]:
            python = Path(command[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True, exist_ok=True)
            python.unlink(missing_ok=True)
            python.symlink_to(sys.executable)
        return ""

    for name, text in (("LOCK", "uv==1 \\\n    --hash=sha256:00\n"), ("PROJECT", "")):
        path = tmp_path / name
        path.write_text(text)
        monkeypatch.setattr(environment, name, path)
    monkeypatch.setattr(environment, "run", note)
    return ran


def made(commands: list[list[str]]) -> tuple[bool, int]:
    """Whether the environment was made anew, and how often something was installed by the lock."""
    found = (
        any(command[1:3] == ["-m", "venv"] for command in commands),
        sum("--require-hashes" in command and "--no-build" in command for command in commands),
    )
    commands.clear()
    return found


def test_a_second_set_up_installs_nothing_and_a_new_group_is_added(tmp_path: Path, commands: list[list[str]]) -> None:
    venv = tmp_path / "venv"
    environment.provide(venv, ("demo",))
    assert made(commands) == (True, 1)
    environment.provide(venv, ("demo",))
    assert made(commands) == (False, 0)
    environment.provide(venv, ("test",))
    assert "--exact" not in commands[-2]
    assert made(commands) == (False, 1)
    environment.provide(venv, ("demo", "test"))
    assert made(commands) == (False, 0)


def test_a_changed_lock_is_installed_again_and_alone(tmp_path: Path, commands: list[list[str]]) -> None:
    """What the lock no longer names is taken out; what was asked for before stays asked for."""
    venv = tmp_path / "venv"
    environment.provide(venv, ("demo",))
    commands.clear()
    environment.LOCK.write_text("uv==2 \\\n    --hash=sha256:00\n")
    environment.provide(venv, ("test",))
    locked = next(command for command in commands if "--require-hashes" in command and "--no-build" in command)
    assert {"--exact", "--group=demo", "--group=test", f"--constraints={environment.LOCK}"} <= set(locked)
    assert made(commands) == (False, 1)


def test_a_set_up_that_was_interrupted_is_made_anew_by_the_next(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    venv, note = tmp_path / "venv", environment.run

    def cut(command: list[str], **options: object) -> str:
        if "--no-deps" in command and "--no-build-isolation" in command:
            raise KeyboardInterrupt
        return note(command, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(environment, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        environment.provide(venv, ("demo",))
    monkeypatch.setattr(environment, "run", note)
    commands.clear()
    environment.provide(venv, ("demo",))
    assert made(commands) == (True, 1)


def test_an_environment_that_is_gone_is_made_again(tmp_path: Path, commands: list[list[str]]) -> None:
    venv = tmp_path / "venv"
    environment.provide(venv, ("demo",))
    commands.clear()
    (venv / "bin" / "python").unlink()
    environment.provide(venv, ("demo",))
    assert made(commands) == (True, 1)


@pytest.mark.parametrize("how", [partial(shutil.copytree, symlinks=True), Path.rename], ids=["copied", "moved"])
def test_an_environment_of_another_folder_is_made_anew(
    tmp_path: Path, commands: list[list[str]], how: Callable[[Path, Path], object]
) -> None:
    """Its scripts, and proxygen itself, name the folder that the checkout was set up in."""
    first, second = tmp_path / "one checkout" / ".venv", tmp_path / "two" / ".venv"
    environment.provide(first, ("demo",))
    how(first.parent, second.parent)
    commands.clear()
    environment.provide(second, ("test",))
    assert {"--group=demo", "--group=test"} <= set(commands[-2])
    assert made(commands) == (True, 1)
    environment.provide(second, ("demo", "test"))
    assert made(commands) == (False, 0)


def test_an_environment_that_its_user_made_is_only_added_to(tmp_path: Path, commands: list[list[str]]) -> None:
    environment.run([sys.executable, "-m", "venv", str(tmp_path / "venv")])
    commands.clear()
    environment.provide(tmp_path / "venv", ("demo",))
    assert made(commands) == (False, 1)


@contextmanager
def another(code: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that has `basics`, and has said a line by now."""
    program = f"import sys; sys.path.insert(0, {str(DEPLOY)!r}); from _setup import basics, environment\n{code}"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process
        process.kill()


def test_two_set_ups_take_turns(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nwith basics.alone(Path({str(tmp_path)!r}), 'set-up'):\n print('in'); input()"
    with another(code.replace("print('in'); input()", "print('in', flush=True); input()")) as first:
        held = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        first.kill()
        first.wait()
        with basics.alone(tmp_path, "set-up"), pytest.raises(BlockingIOError):
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(held)


def test_a_changed_lock_waits_for_the_commands_that_use_the_packages(
    tmp_path: Path, commands: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for the program that took the place of the one that set up; more groups are added at once."""
    venv = tmp_path / "venv"
    environment.provide(venv, ("demo",))
    commands.clear()
    becomes = "import os; os.execv(sys.executable, [sys.executable, '-c', 'print(1, flush=True); input()'])"
    with another(f"from pathlib import Path\nenvironment.keep_while_this_runs(Path({str(venv)!r}))\n{becomes}") as user:
        environment.provide(venv, ("test",))
        assert made(commands) == (False, 1)
        waited: list[str] = []

        def end_the_other(text: str) -> None:
            assert commands == []
            waited.append(text)
            user.kill()

        environment.LOCK.write_text("uv==2 \\\n    --hash=sha256:00\n")
        monkeypatch.setattr(basics, "say", end_the_other)
        environment.provide(venv, ("test",))
        assert [f"the packages in {venv} change" in text for text in waited] == [True]
        assert made(commands) == (False, 1)


# --- the user's own settings


def test_uv_asks_where_pip_would(monkeypatch: pytest.MonkeyPatch) -> None:
    """uv reads none of pip's settings; its own go first. Of two, pip takes the variable's, in whatever order it lists
    them."""
    said = (
        ":env:.index-url='https://mirror.test/'\n:env:.cert='/ca.pem'\nglobal.index-url='https://old.test/'\n"
        "install.extra-index-url='\\nhttps://a.test/\\nhttps://b.test/'\nlist.index-url='https://other.test/'\n"
    )
    monkeypatch.setattr(environment, "run", lambda _: said)
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX", "UV_INDEX_URL", "UV_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "/own.pem")
    assert environment.settings_of(["pip"]) == {
        "UV_DEFAULT_INDEX": "https://mirror.test/",
        "UV_INDEX": "https://a.test/ https://b.test/",
    }
    monkeypatch.setenv("UV_INDEX_URL", "https://uvs.test/")
    assert environment.settings_of(["pip"]).keys() == {"UV_INDEX"}


SITE = {
    "HTTPS_PROXY": "http://proxy.test:3128",
    "PIP_CERT": "/ca.pem",
    "PIP_CONFIG_FILE": "/pip.conf",
    "PIP_FIND_LINKS": "/wheels",
    "PIP_INDEX_URL": "https://mirror.test/",
    "PIP_TRUSTED_HOST": "mirror.test",
    "PIP_USE_FEATURE": "truststore",
    "SSL_CERT_FILE": "/ca.pem",
    "UV_DEFAULT_INDEX": "https://mirror.test/",
    "UV_INDEX_MIRROR_PASSWORD": "secret",
    "UV_INDEX_URL": "https://mirror.test/",
    "UV_INSECURE_HOST": "mirror.test",
    "UV_NATIVE_TLS": "1",
}
OWN = (
    *("PIP_CONSTRAINT", "PIP_NO_BINARY", "PIP_PREFIX", "PIP_PYTHON", "PIP_QUIET", "PIP_REQUIRE_HASHES", "PIP_ROOT"),
    *("PIP_TARGET", "PIP_USER", "PYTHONHOME", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONWARNINGS"),
    *("UV_CONSTRAINT", "UV_EXCLUDE_NEWER", "UV_NO_BINARY", "UV_REQUIRE_HASHES", "UV_RESOLUTION"),
)


def test_what_a_set_up_runs_knows_the_site_and_not_its_users_habits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where packages come from is the site's; how and where its user has them installed otherwise is no matter here."""
    for name, value in SITE.items():
        monkeypatch.setenv(name, value)
    for name in OWN:
        monkeypatch.setenv(name, "1")
    said = dict(line.partition("=")[::2] for line in basics.run(["/usr/bin/env"]).splitlines())
    assert {name: said.get(name) for name in SITE} == SITE
    assert said.keys().isdisjoint(OWN)


def test_a_python_is_asked_without_another_ones_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONHOME", "/nowhere")
    assert environment.version_of(sys.executable) == sys.version_info[:2]


def test_what_a_set_up_starts_has_no_other_pythons_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A PYTHONPATH of the user's would put other versions before those that the lock names."""
    monkeypatch.setattr(environment, "provide", lambda *_: None)
    monkeypatch.setattr(environment, "keep_while_this_runs", lambda _: None)
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "PYTHONPATH" not in _setup.set_up(_setup.Needs(groups=()))


def test_pip_fetches_uv_into_the_environment_whatever_its_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pip, with a pip.conf of its user's that names the index and every other place to install into."""
    wheel(tmp_path / "index", "uv", "1")
    config, elsewhere = tmp_path / "pip.conf", tmp_path / "elsewhere"
    places = f"target = {elsewhere}\nprefix = {elsewhere}\nroot = {elsewhere}\nuser = yes\n"
    config.write_text(f"[global]\nno-index = yes\nfind-links = {tmp_path / 'index'}\n[install]\n{places}")
    digest = hashlib.sha256(next((tmp_path / "index").iterdir()).read_bytes()).hexdigest()
    lock = tmp_path / "lock"
    lock.write_text(f"uv==1 \\\n    --hash=sha256:{digest}\n")
    monkeypatch.setattr(environment, "LOCK", lock)
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    monkeypatch.setenv("PIP_TARGET", str(elsewhere))
    monkeypatch.setenv("PIP_USER", "1")
    venv = tmp_path / "venv"
    environment._make(venv, sys.executable)
    with environment._pip(str(venv / "bin" / "python")) as pip:
        environment._installer(venv, pip)
    assert not elsewhere.exists()
    assert [path.name for path in venv.glob("lib/python3*/site-packages/uv*")] == ["uv-1.dist-info"]


def wheel(folder: Path, name: str, version: str) -> None:
    """Write a package of nothing but its name and version."""
    folder.mkdir()
    files = {
        "METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "RECORD": "",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{name}-{version}.dist-info/{file}", text)


def test_a_users_hash_rule_leaves_the_editable_installation_alone(tmp_path: Path, commands: list[list[str]]) -> None:
    """uv.toml may say `require-hashes`, and a checkout has no hash."""
    environment.provide(tmp_path / "venv", ("demo",))
    assert "--no-require-hashes" in next(command for command in commands if f"--editable={environment.ROOT}" in command)
