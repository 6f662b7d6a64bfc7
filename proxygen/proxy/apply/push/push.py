"""One push: write the document where nginx's workers read it, say that it is there, and see that it is served."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from proxygen.kit.disk import write_atomically
from proxygen.proxy.apply.push.document import LONGEST
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.master import find_master, workers
from proxygen.proxy.nginx.stamp import Stamp, ask, read_stamp

PATH: Final = "/proxygen/push"
"""Where nginx is asked to read the document."""

_PATIENCE: Final = 2.0
"""Seconds for nginx's answer: a worker decodes the whole of a document first."""


class Pusher:
    """Pushes to one nginx, one document at a time."""

    def __init__(self, document: Path, address: str, binary: Binary) -> None:
        """``document`` is the file that nginx's workers read, ``address`` where nginx tells its stamp."""
        self._document: Final = document
        # What a killed run left: anybody on this host may ask nginx to take what lies there.
        _remove(document)
        self._address: Final = address
        self._binary: Final = binary

    async def push(self, content: bytes, after: Stamp, conf: OperatorConf) -> str:
        """Have nginx serve what a document says. Return why it does not; "" where that is proven.

        Every worker compares the dictionary's stamp at each request, so it is proven by a worker that decoded the whole
        document and says so, another connection that tells the new stamp, and by there being no other workers meanwhile
        than before. Raise OSError where the file cannot be written.
        """
        if len(content) > LONGEST:
            return f"a document of {len(content)} bytes is longer than nginx's workers read"
        before = await asyncio.to_thread(self._workers, conf)
        try:
            await asyncio.to_thread(_write, self._document, content)
            status, said = await ask(self._address, PATH, patience=_PATIENCE)
        finally:
            _remove(self._document)
        if status != "200" or said != str(after):
            return f"nginx answered {status or 'nothing'} to a push: {said[:200]}"
        served = await read_stamp(self._address)
        if served != after:
            return f"after a push {served or 'no stamp'} answers"
        if await asyncio.to_thread(self._workers, conf) != before:
            return "nginx changed its workers during a push"
        return ""

    def _workers(self, conf: OperatorConf) -> frozenset[int] | None:
        master = find_master(conf, self._binary)
        seen = workers(master) if master is not None else None
        return None if seen is None else seen.accepting | seen.starting


def _write(path: Path, content: bytes) -> None:
    """Where nginx's workers can read it, whatever our umask is."""
    if not path.parent.is_dir():
        path.parent.mkdir()
        path.parent.chmod(0o755)
    write_atomically(path, content, access=lambda file: os.fchmod(file, 0o644), durable=False)


def _remove(path: Path) -> None:
    """A document is there for its own push only: nobody has nginx take it again, after a way back for instance."""
    with suppress(OSError):
        path.unlink()
