"""What `deploy/demo` and `tests/run` need on a fresh machine: a virtual environment, nginx, Consul and other real parts.

Only the standard library, and Python 3.8 may run it, so that an old machine is told politely what it lacks.
Whatever is installed is said in one line first; a second run finds everything in place and is quick.
"""

from __future__ import annotations

import os
import sys
from typing import Callable, NamedTuple

from . import debian, environment, programs, streaming
from .basics import ROOT, CannotSetUp, alone, cache, complain, say, search_path

__all__ = ["ALL", "DEMO", "LINT", "ROOT", "TESTS", "UNITS", "VENV", "CannotSetUp", "Needs", "say", "set_up_or_exit"]

VENV = ROOT / ".venv"


class Needs(NamedTuple):
    """What a command needs of this machine, beside Python, nginx and Consul."""

    groups: tuple[str, ...]
    """Dependency groups of pyproject.toml."""
    parts: tuple[Callable[[], None], ...] = ()
    """Parts of the system that it needs; each says what is skipped where it cannot be had."""


DEMO = Needs(groups=("demo",))
UNITS = Needs(groups=("units",))
TESTS = Needs(groups=("demo", "test"), parts=(debian.install_nginx, debian.install_namespaces))
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


def set_up_or_exit(needs: Needs) -> dict[str, str]:
    """`set_up` for a script: what cannot be set up ends it with status 2 and the reason on standard error."""
    try:
        return set_up(needs)
    except CannotSetUp as error:
        sys.exit(complain(str(error)))
    except KeyboardInterrupt:
        sys.exit(130)


def set_up(needs: Needs) -> dict[str, str]:
    """Install what is missing and return the environment in which the tools are found.

    Until the program that this process becomes has ended, no other set-up replaces the virtual environment.
    """
    with alone(ROOT, "set-up of this checkout"):
        environment.provide(VENV, (*needs.groups, "install"))
        environment.keep_while_this_runs(VENV)
    with alone(cache(), "set-up of this user"):
        for provide in needs.parts:
            provide()
        folders = programs.folders(VENV)
    return {**os.environ, "PATH": os.pathsep.join([search_path(), *map(str, folders)])}
