"""What every part of the set-up uses: saying what is done, running a program, finding one, and being alone."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

ROOT = Path(__file__).resolve().parent.parent.parent


class CannotSetUp(Exception):
    """Something that only the user can put right; the text says how."""


def say(text: str) -> None:
    print(f"set-up: {text}", file=sys.stderr, flush=True)


_OF_THE_SITE = re.compile(
    "CACHE|CERT|CONCURRENT|CONFIG|CREDENTIALS|DEPRECATED|FEATURE|FIND_LINKS|HOST|HTTP|INDEX|KEYRING|LINK_MODE|NETRC|OFFLINE"
    "|PROXY|RETRIES|TIMEOUT|TLS"
)
"""In the names of pip's and uv's variables that say where packages come from, and how they get here."""

_OF_ANOTHER_PYTHON = {"PYTHONHOME", "PYTHONINSPECT", "PYTHONOPTIMIZE", "PYTHONPATH", "PYTHONWARNINGS"}
"""Other packages before the locked ones, no assertions in the tests, warnings as errors, a prompt at the end."""


def variables() -> dict[str, str]:
    """Return our environment without what changes how pip and uv install, and what Python runs.

    How packages are reached is the site's, and stays.
    """
    return {
        name: value
        for name, value in os.environ.items()
        if name not in _OF_ANOTHER_PYTHON and (not name.startswith(("PIP_", "UV_")) or _OF_THE_SITE.search(name))
    }


def run(command: list[str], *, env: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run quietly, with `variables` or ``env``; on failure raise with the last lines that the command wrote."""
    done = subprocess.run(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
        env=variables() if env is None else env,
        cwd=cwd,
    )
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise CannotSetUp(f"`{' '.join(command)}` failed with status {done.returncode}:\n{tail}")
    return done.stdout


def search_path() -> str:
    """Return PATH with the system's sbin, where Debian keeps nginx, and no folder twice."""
    folders = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin"]
    return os.pathsep.join(dict.fromkeys(folders))


def search(tool: str) -> str | None:
    return shutil.which(tool, path=search_path())


def cache() -> Path:
    """Return the folder, shared by this user's checkouts, for what is unpacked or built once."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxygen"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Hold ``folder`` for this process; wait, and say so, while another process holds it.

    The lock is on the folder itself, so that it ends with the process, however that ends, and leaves no file behind.
    """
    descriptor = hold(folder, fcntl.LOCK_EX, f"another {what} is running; waiting for its end")
    try:
        yield
    finally:
        os.close(descriptor)


def hold(folder: Path, kind: int, waiting: str) -> int:
    """Return a descriptor that locks ``folder`` until it is closed; ``kind`` is one of fcntl's."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        say(waiting)
        fcntl.flock(descriptor, kind)
    return descriptor
