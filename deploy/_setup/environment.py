"""Virtual environments that hold what requirements.lock names, and nothing else of any registry."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import Iterable, Iterator, NamedTuple

from .basics import ROOT, CannotSetUp, hold, run, say, variables
from .debian import require_apt, unpack_package

NEEDED_PYTHON = (3, 11)
LOCK = ROOT / "requirements.lock"
PROJECT = ROOT / "pyproject.toml"
UNFINISHED = "unfinished"
GROUPS = ("build", "demo", "deploy", "image", "install", "lint", "test", "units")
"""The dependency groups of pyproject.toml, which Python 3.8 cannot read."""
BUILD = "build"
"""The dependency group without which proxygen itself cannot be installed."""
EDITABLE = ("--no-deps", "--no-build-isolation", "--no-require-hashes", f"--editable={ROOT}")
"""uv's options for proxygen itself, after the build backend: isolation would fetch another one, which no lock names.
A checkout has no hash, whatever its user's uv.toml requires."""


class Stamp(NamedTuple):
    """What an environment says of itself; the file in it is written last, and says so while work goes on."""

    digest: str = ""
    """Of what the packages were installed from; empty where no set-up of ours was here."""
    folder: str = ""
    """Where it was made: its scripts name the folder, and proxygen in it is the checkout beside it."""
    groups: frozenset[str] = frozenset()

    @staticmethod
    def path(venv: Path) -> Path:
        return venv / ".proxygen-setup"

    @classmethod
    def read(cls, venv: Path) -> Stamp:
        try:
            digest, folder, *groups = cls.path(venv).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError):
            return cls()
        return cls(digest, folder, frozenset(groups))

    def write(self, venv: Path) -> None:
        lines = [self.digest, self.folder, *sorted(self.groups)]
        self.path(venv).write_text("\n".join(lines) + "\n", encoding="utf-8")

    def is_of(self, venv: Path) -> bool:
        """Whether ``venv`` was made where it is now; one without a stamp is its user's own, and left as it is."""
        return not self.digest or self.folder == str(venv)


def digest_of_sources() -> str:
    """Return what changes whenever the packages may: it covers the lock, the project and how they are installed."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in (LOCK, PROJECT, Path(__file__)))).hexdigest()


def provide(venv: Path, groups: Iterable[str], *, python: str | None = None, tools: Path | None = None) -> None:
    """Have the dependency ``groups``, as the lock names them, and proxygen itself in the environment ``venv``.

    ``python`` is the one to make it with; ``tools`` is an environment that has uv and pip, by default this one.

    What an interrupted set-up left is made anew, and so is one that came here with a moved or copied checkout. An
    environment that others use is only added to; a changed lock waits for their end.
    """
    stamp, digest = Stamp.read(venv), digest_of_sources()
    wanted = stamp.groups.intersection(GROUPS).union(groups)
    works = version_of(str(venv / "bin" / "python")) >= NEEDED_PYTHON and stamp.is_of(venv)
    if works and stamp.digest == digest and stamp.groups.issuperset(groups):
        return
    venv.mkdir(parents=True, exist_ok=True)
    if works and stamp.digest == digest:
        _install(venv, tools or venv, digest, wanted, exact=False)
        return
    descriptor = hold(venv, fcntl.LOCK_EX, f"the packages in {venv} change; waiting for the commands that use them")
    try:
        if not works or stamp.digest == UNFINISHED:
            _make(venv, python or find_python())
        _install(venv, tools or venv, digest, wanted, exact=bool(stamp.digest))
    finally:
        os.close(descriptor)


def provide_newest(venv: Path, groups: Iterable[str], *, tools: Path) -> None:
    """Have the groups in ``venv`` with the newest versions that pyproject.toml allows, whatever the lock says.

    Wait for the end of those who use what was the newest before.
    """
    venv.mkdir(parents=True, exist_ok=True)
    descriptor = hold(venv, fcntl.LOCK_EX, f"the packages in {venv} change; waiting for the commands that use them")
    try:
        if version_of(str(venv / "bin" / "python")) < NEEDED_PYTHON:
            _make(venv, str(tools / "bin" / "python"))
        say(f"installing today's newest versions ({', '.join(sorted(groups))}) into {venv}")
        uv, settings = _uv_for(venv, tools)
        run([*uv, "--upgrade", "--refresh", f"--requirement={PROJECT}", *choice_of(groups)], env=settings, cwd=ROOT)
        run([*uv, *EDITABLE], env=settings, cwd=ROOT)
    finally:
        os.close(descriptor)


def keep_while_this_runs(venv: Path) -> None:
    """Have later set-ups wait until this process, and the program that it becomes, have ended."""
    os.set_inheritable(hold(venv, fcntl.LOCK_SH, f"waiting for the set-up of {venv}"), True)


def _install(venv: Path, tools: Path, digest: str, groups: frozenset[str], *, exact: bool) -> None:
    """Install by hash what the lock names for these groups; ``exact`` takes out what it does not name."""
    say(f"installing proxygen and its dependencies ({', '.join(sorted(groups))}) by {LOCK.name} into {venv}")
    Stamp(UNFINISHED, str(venv), groups).write(venv)
    locked = ["--require-hashes", "--no-build", f"--constraints={LOCK}", f"--requirements={PROJECT}"]
    uv, settings = _uv_for(venv, tools)
    run([*uv, *locked, *choice_of(groups), *(["--exact"] if exact else [])], env=settings, cwd=ROOT)
    run([*uv, *EDITABLE], env=settings, cwd=ROOT)
    Stamp(digest, str(venv), groups).write(venv)


def _uv_for(venv: Path, tools: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command with which the uv of ``tools`` installs into ``venv``, and the variables to run it with."""
    with _pip(str(tools / "bin" / "python")) as pip:
        settings = {**variables(), **settings_of(pip)}
        return [_installer(tools, pip), "pip", "install", "--quiet", f"--python={venv}"], settings


def choice_of(groups: Iterable[str]) -> list[str]:
    """Return uv's options for the groups. The demo is what a user has; all else tries the extras too."""
    extras = ["--all-extras"] if set(groups) - {"demo", "install"} else []
    return extras + [f"--group={group}" for group in sorted({BUILD, *groups})]


# --- Python and the installer


def version_of(python: str) -> tuple[int, ...]:
    """Return (major, minor), or () for what is no working Python."""
    try:
        answer = subprocess.run(
            [python, "-c", "import sys; print(*sys.version_info[:2])"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            universal_newlines=True,
            env=variables(),
        )
    except OSError:
        return ()
    return () if answer.returncode else tuple(int(part) for part in answer.stdout.split())


def find_python() -> str:
    found = map(python_named, ("3.13", "3.12", "3.11", "3.14"))
    for python in (sys.executable, *found):
        if python and version_of(python) >= NEEDED_PYTHON:
            return python
    own = ".".join(str(part) for part in sys.version_info[:2])
    raise CannotSetUp(
        f"proxygen needs Python 3.11 or later, and this is {own}. Install one next to it (Debian 12 has it as python3; "
        "Ubuntu 22.04: `apt-get install python3.11 python3.11-venv`; elsewhere your package manager, pyenv or uv), "
        "then run this again: python3.11, 3.12, 3.13 and 3.14 are found on PATH."
    )


def python_named(version: str) -> str | None:
    """Return the Python of this version on PATH, else one of pyenv's, whose shims answer for chosen versions only."""
    folders = os.environ.get("PATH", "").split(os.pathsep)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    places = [*(Path(folder) / f"python{version}" for folder in folders), *pyenv.glob(f"{version}.*/bin/python")]
    working = (place for place in map(str, places) if version_of(place) == numbers(version))
    return next(working, None)


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split("."))


def _make(venv: Path, python: str) -> None:
    say(f"creating a virtual environment with {python} in {venv}")
    run([python, "-m", "venv", "--clear", "--without-pip", str(venv)])


def _installer(venv: Path, pip: list[str]) -> str:
    """Return the environment's own uv; ``pip`` fetches it, by the version and hash that the lock names."""
    uv, entry = venv / "bin" / "uv", entry_of("uv", LOCK.read_text(encoding="utf-8"))
    if os.access(uv, os.X_OK) and entry.startswith(f"uv=={run([str(uv), '--version']).split()[1]} "):
        return str(uv)
    with tempfile.TemporaryDirectory() as folder:
        requirement = Path(folder) / "uv.txt"
        requirement.write_text(entry, encoding="utf-8")
        options = ["--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", f"--requirement={requirement}"]
        # pip.conf may have a place of its user's.
        here = ["--no-user", "--target=", f"--prefix={venv}", "--root=/"]
        run([*pip, "install", *options, *here])
    return str(uv)


def entry_of(package: str, lock: str) -> str:
    """Return the lock's lines for one package, with a space after the version."""
    match = re.search(rf"^{package}==.*\n(?: +--hash=.*\n?)+", lock, re.MULTILINE)
    if match is None:
        raise CannotSetUp(f"{LOCK.name} does not name {package}; `git checkout {LOCK.name}` brings it back")
    return match[0]


@contextmanager
def _pip(python: str) -> Iterator[list[str]]:
    """Give the command of a pip that works for ``python``, which may have none."""
    own = [python, "-m", "pip", "--disable-pip-version-check"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    if subprocess.run([*own, "--version"], env=variables(), **quiet).returncode == 0:
        yield own
        return
    # A wheel runs from where it is, so neither ensurepip's seconds nor root are needed.
    bundled = run([python, "-c", _WHEELS]).split()
    if bundled:
        yield [python, f"{bundled[0]}/pip", "--disable-pip-version-check"]
        return
    # Debian keeps ensurepip's wheels in a package of their own.
    require_apt("pip for this Python (the module ensurepip)")
    with tempfile.TemporaryDirectory() as folder:
        say("fetching pip with apt-get download, since this Python came without ensurepip")
        unpacked = unpack_package("python3-pip-whl", Path(folder), sources=None)
        wheel = next(unpacked.glob("usr/share/python-wheels/pip-*.whl"))
        yield [python, f"{wheel}/pip", "--disable-pip-version-check"]


_WHEELS = """
import glob, importlib.util, os, sysconfig
spec = importlib.util.find_spec("ensurepip")
own = [os.path.join(os.path.dirname(spec.origin), "_bundled")] if spec and spec.origin else []
for folder in filter(None, [*own, sysconfig.get_config_var("WHEEL_PKG_DIR"), "/usr/share/python-wheels"]):
    print(*glob.glob(os.path.join(folder, "pip-*.whl")))
"""
"""Prints where this Python, or its distribution, keeps the wheel of pip."""


def settings_of(pip: list[str]) -> dict[str, str]:
    """Return as uv's variables where this machine's pip gets packages from; uv does not read pip's configuration."""
    wanted = {
        "index-url": ("UV_DEFAULT_INDEX", "UV_INDEX_URL"),
        "extra-index-url": ("UV_INDEX", "UV_EXTRA_INDEX_URL"),
        "cert": ("SSL_CERT_FILE",),
    }
    # --verbose, lest `quiet` in its configuration leave no line. A line is such as `global.index-url='…'`.
    said = run([*pip, "config", "list", "--verbose"])
    found = re.findall(r"^(global|install|:env:)\.(\S+?)='(.*)'$", said, re.MULTILINE)
    found.sort(key=lambda line: ("global", "install", ":env:").index(line[0]))
    values = {key: " ".join(value.replace("\\n", " ").split()) for _, key, value in found}
    # Either name of a setting may be set for uv already; the first would win over the second.
    free = {key: names[0] for key, names in wanted.items() if os.environ.keys().isdisjoint(names)}
    return {free[key]: value for key, value in values.items() if key in free}
