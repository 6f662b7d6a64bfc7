"""A real nginx together with the part of proxygen that publishes to it, reloads it and asks for proof."""

from __future__ import annotations

import asyncio
import hashlib
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from proxygen.proxy.apply.apply import Applied, Applier, Checked
from proxygen.proxy.apply.publish import Output, next_number
from proxygen.proxy.check.wrapper import check_command, write_wrapper
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.nginx.process import Completed, run
from proxygen.proxy.nginx.stamp import PATH, Stamp
from proxygen.settings import NginxSettings, ReloadSettings
from tests.harness.generations import staged
from tests.harness.nginx import NginxServer

_STAMP = """\
server {{
listen {listen};
access_log off; location = {path} {{ default_type text/plain; return 200 "{stamp}"; }} }}
"""
_SITE = """\
server {{
listen 127.0.0.1:{port};
location / {{ return 200 "{body}"; }}
{more}
}}
"""


class Proxy:
    """Generations of one small site: it answers with ``body``, and carries whatever else a test puts into it."""

    def __init__(
        self, server: NginxServer, output: Output, binary: Binary, *, port: int, stamp: str, **options: object
    ) -> None:
        self.server = server
        self.output = output
        self.binary = binary
        self.port = port
        self.nginx = NginxSettings.model_validate(
            {
                "binary": str(server.binary.path),
                "conf": server.conf,
                "prefix": server.directory,
                "stamp": stamp,
                **options,
            }
        )
        self.applier = self.make_applier()

    @classmethod
    async def make(cls, server: NginxServer, output: Output, *, port: int, stamp: str, **options: object) -> Proxy:
        settings = NginxSettings(binary=str(server.binary.path), prefix=server.directory)
        return cls(server, output, await inspect_binary(settings), port=port, stamp=stamp, **options)

    def make_applier(self, **reload: object) -> Applier:
        settings = ReloadSettings.model_validate({"deadline": "4s", **reload})
        return Applier(self.output, self.binary, nginx=self.nginx, reload=settings, keep=10)

    @property
    def conf(self) -> OperatorConf:
        return read_operator_conf(self.nginx, self.output.directory, self.binary)

    def candidate(self, body: str, *, http: str = "", server: str = "") -> Checked:
        """Stage a generation; ``http`` is text beside the site, ``server`` text inside it."""
        number = next_number(self.output)
        stamp = Stamp(generation=number, digest=hashlib.sha256(f"{body}{http}{server}".encode()).hexdigest()[:16])
        files: Mapping[str, str] = {
            "http.d/site.conf": http + _SITE.format(port=self.port, body=body, more=server),
            "http.d/stamp.conf": _STAMP.format(listen=self.nginx.stamp, path=PATH, stamp=stamp),
        }
        return staged(self.output, stamp, {name: text.encode() for name, text in files.items()}, test_seconds=0.05)

    async def apply(self, body: str, *, http: str = "", server: str = "") -> Applied:
        return await self.applier.apply(self.candidate(body, http=http, server=server), self.conf, {"body": body})

    async def check(self, candidate: Checked, scratch: Path) -> Completed:
        """Test a candidate with ``nginx -t``, as the second gate does."""
        return await run(self._check_command(candidate, scratch), timeout=20)

    def _check_command(self, candidate: Checked, scratch: Path) -> tuple[str, ...]:
        scratch.mkdir()
        main = write_wrapper(self.conf, scratch, candidate.path)
        return check_command(self.binary, self.conf.prefix, main)

    def get(self) -> str:
        """What the site answers, on a connection of its own."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/", timeout=2) as answer:
            text: str = answer.read().decode()
            return text

    async def answers(self, body: str, *, within: float = 5.0) -> bool:
        """Whether the site comes to answer so."""
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                if await asyncio.to_thread(self.get) == body:
                    return True
            except (urllib.error.URLError, OSError):
                pass
            await asyncio.sleep(0.05)
        return False
