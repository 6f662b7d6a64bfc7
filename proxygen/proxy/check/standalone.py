"""A smallest nginx.conf for ``nginx -t`` where the real one does not include the generations yet.

What this nginx can load is tried and not concluded: Debian's modules may lie beside another nginx, which cannot.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxygen.proxy.check.wrapper import check_command
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf, in_a_text, read_operator_conf
from proxygen.proxy.nginx.process import run
from proxygen.proxy.nginx.tokens import Unreadable, quote, read_directives
from proxygen.settings import Settings

_ENABLED: Final = Path("/etc/nginx/modules-enabled")


@asynccontextmanager
async def standalone(settings: Settings, binary: Binary) -> AsyncIterator[OperatorConf]:
    """Yield such a configuration, with the modules that Debian's packages enable and this nginx takes."""
    with TemporaryDirectory(prefix="proxygen-conf-") as folder:
        conf = _Conf(settings, binary, Path(folder))
        lines = await conf.loadable()
        current = settings.output.directory.absolute() / "current"
        http = f"http {{\n    access_log off;\n    include {_quoted(current / 'http.d/*.conf')};\n}}\n"
        stream = f"stream {{ include {_quoted(current / 'stream.d/*.conf')}; }}\n"
        conf.write(lines, http + (stream if await conf.accepts(lines, "stream {}\n") else ""))
        nginx = settings.nginx.model_copy(update={"conf": conf.path})
        # nginx -t makes its temporary directories below the prefix, which may be the working directory.
        yield replace(read_operator_conf(nginx, settings.output.directory, binary), prefix=Path(folder))


class _Conf:
    """The file, written anew for each question."""

    def __init__(self, settings: Settings, binary: Binary, folder: Path) -> None:
        self.path: Final = folder / "nginx.conf"
        self._settings: Final = settings
        self._binary: Final = binary
        self._folder: Final = folder

    def write(self, modules: Sequence[str], rest: str) -> None:
        main = f"pid {_quoted(self._folder / 'nginx.pid')};\nerror_log stderr;\nevents {{}}\n"
        self.path.write_bytes(("".join(modules) + main + rest).encode("latin-1"))

    async def accepts(self, modules: Sequence[str], rest: str = "") -> bool:
        self.write(modules, rest)
        command = check_command(self._binary, self._folder, self.path)
        return (await run(command, timeout=self._settings.nginx.check_timeout)).returncode == 0

    async def loadable(self) -> list[str]:
        """Lines that load the enabled modules: all, else those that can be loaded one after the other."""
        lines = [f"load_module {_quoted(path)};\n" for path in self._enabled()]
        if not lines or await self.accepts(lines):
            return lines
        loaded: list[str] = []
        for line in lines:
            if await self.accepts([*loaded, line]):
                loaded.append(line)
        return loaded

    def _enabled(self) -> Iterator[Path]:
        for file in sorted(_ENABLED.glob("*.conf")):
            try:
                directives = list(read_directives(file.read_bytes().decode("latin-1")))
            except (OSError, Unreadable):
                continue
            for directive in directives:
                if directive.name == "load_module" and directive.arguments:
                    # Debian names them from its prefix, where "modules" leads to the compiled-in directory.
                    path = Path(directive.arguments[0])
                    yield path if path.is_absolute() else self._binary.modules_path / path.name


def _quoted(path: Path) -> str:
    """A path as one token of nginx's, whatever is in it but ``$`` and what a pattern is made of."""
    return quote(in_a_text(os.fspath(path)))
