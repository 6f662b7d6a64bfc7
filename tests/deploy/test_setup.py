"""The set-up behind deploy/demo and tests/run uses what is there and says what is not."""

from __future__ import annotations

import ast
import importlib.util
import shutil
from pathlib import Path
from types import ModuleType

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "deploy" / "_setup.py"


@pytest.fixture
def setup(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The set-up with a virtual environment of the test's own, in which everything counts as installed."""
    spec = importlib.util.spec_from_file_location("_setup", SOURCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "venv").mkdir()
    for name, path in (("VENV", "venv"), ("TOOLS", "venv/tools"), ("STAMP", "venv/stamp")):
        monkeypatch.setattr(module, name, tmp_path / path)
    return module


@pytest.fixture
def own_tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH of one folder with an nginx and a Consul of the user's own."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("nginx", "consul"):
        (folder / tool).write_text("#!/bin/sh\n")
        (folder / tool).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize("script", ["_setup.py", "demo", "../tests/run"])
def test_an_old_python_can_read_it(script: str) -> None:
    """Python 3.8 must get as far as saying that 3.11 is needed."""
    ast.parse((SOURCE.parent / script).read_text(encoding="utf-8"), feature_version=(3, 8))


def test_an_old_python_alone_is_told_what_to_install(setup: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup, "_version_of", lambda _: (3, 8))
    with pytest.raises(setup.CannotSetUp, match=r"needs Python 3\.11 or later.*apt-get install python3\.11"):
        setup._find_python()


def test_a_program_that_is_no_python_is_no_python(setup: ModuleType) -> None:
    assert setup._version_of("/bin/false") == ()
    assert setup._version_of("/nowhere/python3") == ()


def test_tools_on_path_are_used_as_they_are(setup: ModuleType, own_tools: Path) -> None:
    environment = setup.set_up((), debian_nginx=False)
    for tool in ("nginx", "consul"):
        assert shutil.which(tool, path=environment["PATH"]) == str(own_tools / tool)


def test_a_run_inside_a_run_links_to_the_tools_themselves(
    setup: ModuleType, own_tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The inner run has the outer one's links on PATH; a link to itself would lead nowhere."""
    environment = setup.set_up((), debian_nginx=False)
    monkeypatch.setenv("PATH", f"{setup.TOOLS}:{environment['PATH']}")
    setup.set_up((), debian_nginx=False)
    assert (setup.TOOLS / "consul").resolve() == own_tools / "consul"


@pytest.mark.parametrize(
    ("uid", "failure"), [(1000, "they want, as root: apt-get install "), (0, "E: no such package")]
)
def test_an_engine_that_cannot_be_installed_costs_only_its_own_tests(
    setup: ModuleType,
    own_tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    uid: int,
    failure: str,
) -> None:
    """Without root, and where the distribution has no such package."""
    (own_tools / "apt-get").write_text("#!/bin/sh\necho E: no such package\nexit 100\n")
    (own_tools / "apt-get").chmod(0o755)
    monkeypatch.setattr(setup, "_search", lambda _: None)
    monkeypatch.setattr(setup.os, "getuid", lambda: uid)
    setup._install_engine()
    said = capsys.readouterr().err
    assert "tests with a container engine will be skipped" in said
    assert failure in said


def test_a_prometheus_that_cannot_be_had_costs_only_its_own_tests(
    setup: ModuleType,
    own_tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(setup, "_search", lambda _: None)
    setup._provide_prometheus()
    for tool in ("apt-get", "dpkg"):
        (own_tools / tool).write_text("#!/bin/sh\necho E: no such package\nexit 100\n")
        (own_tools / tool).chmod(0o755)
    setup._provide_prometheus()
    first, second = capsys.readouterr().err.split("tests with Prometheus will be skipped: ")[1:]
    assert first.startswith("put `prometheus` and `promtool` on PATH")
    assert "E: no such package" in second


def test_another_system_is_told_what_to_install(
    setup: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(setup, "_os_ids", lambda: {"fedora"})
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(setup.CannotSetUp, match=r"Consul is missing.*Fedora"):
        setup._unpacked_consul()


def test_a_stamp_holds_for_its_version_only(setup: ModuleType) -> None:
    """Changed dependencies, or an environment that is gone, are installed again; more groups are added."""
    python = setup.VENV / "bin" / "python"
    setup.STAMP.write_text("digest\ndemo\ntest\n")
    assert setup._stamped_groups("digest") == set()
    python.parent.mkdir()
    python.symlink_to("/bin/true")
    assert setup._stamped_groups("digest") == {"demo", "test"}
    assert setup._stamped_groups("another") == set()


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
    setup: ModuleType,
    own_tools: Path,
    monkeypatch: pytest.MonkeyPatch,
    ids: set[str],
    uris: list[str],
    suite: str,
    mirrors: list[str],
) -> None:
    """Each archive mirror once, one for security updates last, other repositories never."""
    lines = "".join(f"echo {uri}\n" for uri in uris)
    (own_tools / "apt-get").write_text(f"#!/bin/sh\n{lines}")
    (own_tools / "apt-get").chmod(0o755)
    monkeypatch.setattr(setup, "_os_ids", lambda: ids)
    sources = setup._consul_sources()
    assert [source.split("] ")[-1].removeprefix("deb ") for source in sources] == [f"{uri} {suite}" for uri in mirrors]
