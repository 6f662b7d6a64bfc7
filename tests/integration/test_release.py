"""The wheel and the sdist work for whoever installs them, in a clean environment and without a network."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

from proxygen import __version__

ROOT = Path(__file__).resolve().parents[2]

CATALOG = {
    "datacenter": "dc1",
    "taken_at": "2026-01-01T00:00:00Z",
    "services": {
        "web": [
            {
                "Node": {"Node": "n", "Address": "10.0.0.7", "Datacenter": "dc1"},
                "Service": {
                    "ID": "web-1",
                    "Service": "web",
                    "Address": "10.0.0.7",
                    "Port": 8080,
                    "Meta": {},
                    "Tags": ["proxygen.route=app.example.com"],
                    "Weights": {"Passing": 1, "Warning": 1},
                    "CreateIndex": 5,
                    "ModifyIndex": 5,
                },
                "Checks": [],
            }
        ],
    },
    "kv": {},
}


def build(source: Path, target: Path, kind: str) -> Path:
    """Build a wheel or an sdist with the locked backend, and nothing that would have to be fetched."""
    program = f"import sys; from hatchling.build import build_{kind}; print(build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-c", program, target]
    built = subprocess.run(command, cwd=source, capture_output=True, text=True, check=True).stdout.split()[-1]
    return target / built


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("sdist"), "sdist")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(ROOT, tmp_path_factory.mktemp("wheel"), "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs' folder of an environment with the wheel, away from the checkout.

    What it needs comes from this environment, which has it from the lock; but proxygen, whose finder is left out.
    """
    venv = tmp_path_factory.mktemp("clean") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    python = venv / "bin" / "python"
    pip = ["-m", "pip", f"--python={python}", "install", "--quiet", "--no-deps", "--no-index", "--no-cache-dir"]
    subprocess.run([sys.executable, *pip, wheel], check=True, env={**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"})
    site = next(venv.glob("lib/python3*/site-packages"))
    (site / "locked.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return python.parent


def run(installed: Path, *command: str | Path) -> str:
    """Run something of the clean environment, where nothing leads to the checkout."""
    variables = {"PATH": f"{installed}:{os.environ['PATH']}:/usr/sbin", "HOME": "/nonexistent"}
    done = subprocess.run(command, cwd=installed, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_is_what_runs(installed: Path) -> None:
    """Otherwise the tests below would try the checkout."""
    where = run(installed, installed / "python", "-c", "import proxygen; print(proxygen.__file__)")
    assert Path(where.strip()).is_relative_to(installed.parent)


def test_the_installed_command_says_what_it_is(installed: Path) -> None:
    assert "register" in run(installed, installed / "proxygen", "--help")
    assert __version__ in run(installed, installed / "proxygen", "--version")


def test_the_library_can_be_imported(installed: Path) -> None:
    program = "import proxygen.registration, proxygen.network; print('imported')"
    assert run(installed, installed / "python", "-c", program) == "imported\n"


def test_the_installed_command_renders_a_catalog(installed: Path, tmp_path: Path) -> None:
    """It needs the templates, which travel inside the wheel."""
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps(CATALOG), encoding="utf-8")
    rendered = run(installed, installed / "proxygen", "render", "--catalog", catalog, "--output", "-")
    assert "server_name app.example.com;" in rendered
    assert "server 10.0.0.7:8080" in rendered


def test_the_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    (source,) = tmp_path.iterdir()
    (tmp_path / "again").mkdir()
    again = build(source, tmp_path / "again", "wheel")
    assert contents(again) == contents(wheel)


def test_the_sdist_has_what_a_contributor_needs(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"CONTRIBUTING.md", "requirements.lock", "tests/run", "deploy/demo", "tests/harness/units.py"} <= names


def contents(wheel: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}
