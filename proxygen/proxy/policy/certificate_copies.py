"""Copies of certificates and keys as they were judged: what nginx reads, whatever becomes of the operator's files.

::

    OUTPUT/state/certificates/FINGERPRINT.{crt,key}   one pair, never changed
    OUTPUT/state/certificates/names.json              the pair that each file of the operator's held last

So a generation stays what it was: nginx may start or reload at any moment while a pair is replaced, one file after the
other. A copy can be read by those who could read the operator's file, and by nobody else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

import msgspec

from proxygen.kit.disk import let_read, readers_of, sync_directory, write_atomically

_DIRECTORY: Final = "state/certificates"
_NAMES: Final = "names.json"

GRACE: Final = 60.0
"""Seconds for which a pair is served on whose files are both gone: some tools delete before they write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A certificate with its chain, and its key, as read in one go."""

    chain: bytes
    key: bytes

    @property
    def fingerprint(self) -> str:
        return sha256(self.chain + b"\0" + self.key).hexdigest()


class KnownPair(msgspec.Struct, frozen=True):
    """The pair that one file held last."""

    fingerprint: str
    gone_at: float | None = None
    """When its files were first missed, in Unix time."""


_DECODER: Final = msgspec.json.Decoder(dict[str, KnownPair])


class CertificateCopies:
    """The pairs that are kept for nginx; only one process may write them."""

    def __init__(self, output: Path, *, may_write: bool) -> None:
        self.directory: Final = output.absolute() / _DIRECTORY
        self._may_write: Final = may_write

    def known(self) -> Mapping[str, KnownPair]:
        """The last good pair of each file of the operator's, by its name; nothing where nothing can be read."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            return self._names()
        return {}

    def _names(self) -> Mapping[str, KnownPair]:
        try:
            return _DECODER.decode((self.directory / _NAMES).read_bytes())
        except FileNotFoundError:
            return {}

    def note(self, known: Mapping[str, KnownPair]) -> None:
        """Replace what `known` returns. Raise OSError where that fails."""
        if self._may_write and known != self.known():
            self._prepare()
            write_atomically(self.directory / _NAMES, msgspec.json.encode(dict(sorted(known.items()))))

    def paths(self, fingerprint: str) -> tuple[Path, Path]:
        return self.directory / f"{fingerprint}.crt", self.directory / f"{fingerprint}.key"

    def load(self, fingerprint: str) -> Pair | None:
        """Return a pair that was kept, where it is still whole."""
        chain, key = self.paths(fingerprint)
        try:
            pair = Pair(chain=chain.read_bytes(), key=key.read_bytes())
        except OSError:
            return None
        return pair if pair.fingerprint == fingerprint else None

    def keep(self, pair: Pair, chain: Path, key: Path) -> bool:
        """Keep a pair that was read from two files, and return whether it is kept. Raise OSError where that fails."""
        if self.load(pair.fingerprint) is not None:
            return True
        if not self._may_write:
            return False
        self._prepare()
        chain_copy, key_copy = self.paths(pair.fingerprint)
        _copy(chain_copy, pair.chain, chain.stat())
        _copy(key_copy, pair.key, key.stat())
        return True

    def collect(self, used: Iterable[str]) -> None:
        """Delete the pairs that are neither used nor known; none where what is known cannot be read."""
        with suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
            spared = {*used, *(known.fingerprint for known in self._names().values())}
            for path in self.directory.iterdir():
                if path.suffix in (".crt", ".key", ".new") and path.stem not in spared:
                    path.unlink(missing_ok=True)

    def _prepare(self) -> None:
        if not self.directory.is_dir():
            # nginx's master may be another user: who may read a file in it, its own mode says.
            self.directory.mkdir(mode=0o711, exist_ok=True)
            sync_directory(self.directory.parent)


def _copy(path: Path, content: bytes, source: os.stat_result) -> None:
    write_atomically(path, content, mode=0o600, access=lambda file: let_read(file, readers_of(source)))
