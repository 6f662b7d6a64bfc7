"""What `deploy/demo` and `tests/run` need on a fresh machine: Python packages, nginx, Consul and other real parts.

Only the standard library, and Python 3.8 may run it, so that an old machine is told politely what it lacks.
Whatever is installed is said in one line first; a second run finds everything in place and is quick.
"""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, NamedTuple

from . import debian, environment, locking, programs, streaming
from .basics import ROOT, CannotSetUp, alone, cache, say, search_path, variables

VENV = ROOT / ".venv"


class Needs(NamedTuple):
    """What a command needs of this machine."""

    groups: tuple[str, ...]
    """Dependency groups of pyproject.toml."""
    parts: tuple[Callable[[], None], ...] = ()
    """Parts of the system that it needs; each says what is skipped where it cannot be had."""


UNITS = Needs(groups=("units",))
DEMO = Needs(groups=("demo",), parts=(programs.provide_consul,))
TESTS = Needs(groups=("demo", "test"), parts=(*DEMO.parts, debian.install_nginx, debian.install_namespaces))
ALL = Needs(
    groups=("demo", "deploy", "lint", "test"),
    parts=(
        *TESTS.parts,
        debian.install_engine,
        debian.install_frr,
        debian.install_browser,
        programs.provide_prometheus,
        streaming.provide_consul,
    ),
)
LINT = Needs(groups=("lint", "test"))
"""mypy reads what the tests' harness imports."""

PYTHONS = ("3.11", "3.12", "3.13")
"""Those that the classifiers of pyproject.toml promise."""


@contextmanager
def or_exit() -> Iterator[None]:
    """End the script with status 2 and the reason on standard error where something cannot be set up."""
    try:
        yield
    except CannotSetUp as error:
        say(str(error))
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def set_up(needs: Needs, also: Callable[[], None] = lambda: None) -> dict[str, str]:
    """Install what is missing and return the environment in which the tools are found.

    ``also`` makes further virtual environments, with `other_pythons` or `newest`. Until the program that this process
    becomes has ended, no other set-up replaces any of them. For that reason all are made in one turn: who holds one and
    then waited for the next turn would wait for somebody who waits for the first.
    """
    with alone(ROOT, "set-up of this checkout"):
        environment.provide(VENV, (*needs.groups, "install"))
        environment.keep_while_this_runs(VENV)
        also()
    with alone(cache(), "set-up of this user"):
        for provide in needs.parts:
            provide()
        folders = programs.folders(VENV)
    return {**variables(), "PATH": os.pathsep.join([search_path(), *map(str, folders)])}


def other_pythons() -> Iterator[Path]:
    """Give the Python of an environment for unit tests, for each promised version that is not the main one's.

    Part of `set_up`.
    """
    main = environment.version_of(str(VENV / "bin" / "python"))
    for version in PYTHONS:
        if environment.numbers(version) == main:
            continue
        python = environment.python_named(version)
        if python is None:
            say(f"the unit tests on Python {version} are skipped: this machine has no python{version}")
        else:
            venv = VENV / f"python{version}"
            environment.provide(venv, UNITS.groups, python=python, tools=VENV)
            environment.keep_while_this_runs(venv)
            yield venv / "bin" / "python"


def newest() -> Path:
    """Return the Python of an environment with the newest versions of today, which no lock names. Part of `set_up`."""
    venv = VENV / "newest"
    environment.provide_newest(venv, TESTS.groups, tools=VENV)
    environment.keep_while_this_runs(venv)
    return venv / "bin" / "python"


def renew_lock() -> None:
    """Write requirements.lock with the newest versions of today."""
    with alone(ROOT, "set-up of this checkout"):
        environment.provide(VENV, (*DEMO.groups, "install"))
        locking.renew(VENV)
