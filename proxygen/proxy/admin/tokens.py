"""The bearer tokens and whose they are: ``admin.token``, and those of ``admin.tokens_file``, one ``NAME TOKEN`` a line.

Of a token its hash is kept. A file that changed is read again at the next write; while it cannot be read, no token of
it counts, because it may have been changed to take one away.
"""

from __future__ import annotations

import hmac
import os
import re
import stat
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Final

from proxygen.kit.errors import SettingsError
from proxygen.kit.log import get_logger
from proxygen.settings import AdminSettings

OPERATOR: Final = "operator"
"""Whose ``admin.token`` is."""
SHORTEST: Final = 16
"""Characters of a token that nobody guesses."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")

_log = get_logger(__name__)

_Stamp = tuple[int, int, int, int]


class Tokens:
    """Who has which token. Raise SettingsError where the file cannot be used."""

    def __init__(self, settings: AdminSettings) -> None:
        secret = settings.token.get_secret_value() if settings.token is not None else ""
        self._own: Final = {OPERATOR: _hash(secret)} if secret else {}
        self._file: Final = settings.tokens_file
        self._stamp: _Stamp | None = None
        self._named: Mapping[str, bytes] = {}
        if secret and len(secret) < SHORTEST:
            _log.warning("admin.token is short", shortest=SHORTEST)
        if self._file is not None:
            self._named, self._stamp = self._read(self._file)

    def exist(self) -> bool:
        """Tell whether there is any token that counts."""
        return bool(self._known())

    def owner(self, given: str) -> str | None:
        """Return whose token it is; None where it is nobody's.

        All are compared, and hashes are of one length: the time tells neither which one it was nor how long they are.
        """
        # surrogateescape: aiohttp decodes header bytes that are no UTF-8 so, and any byte may be sent.
        hashed = sha256(given.encode(errors="surrogateescape")).digest()
        owner: str | None = None
        for name, known in self._known().items():
            if hmac.compare_digest(known, hashed):
                owner = name
        return owner

    def _known(self) -> Mapping[str, bytes]:
        if self._file is not None:
            try:
                stamp = _stamp(os.stat(self._file))
            except OSError:
                stamp = None
            if stamp != self._stamp:
                self._take(self._file, stamp)
        return {**self._own, **self._named}

    def _take(self, file: Path, stamp: _Stamp | None) -> None:
        try:
            self._named, self._stamp = self._read(file)
        except SettingsError as error:
            self._named, self._stamp = {}, stamp
            _log.error("no token of the file counts", reason=str(error))
        else:
            _log.info("tokens read", file=str(file), tokens=len(self._named))

    def _read(self, file: Path) -> tuple[Mapping[str, bytes], _Stamp]:
        text, status = _open(file)
        if status.st_mode & stat.S_IWOTH:
            raise SettingsError(f"admin.tokens_file {file} can be written by anybody on this host; chmod o-w it")
        if status.st_mode & stat.S_IROTH:
            _log.warning("admin.tokens_file can be read by anybody on this host; chmod o-r it", file=str(file))
        try:
            return parse_tokens(text, taken=self._own), _stamp(status)
        except ValueError as error:
            raise SettingsError(f"admin.tokens_file {file}: {error}") from error


def parse_tokens(text: str, *, taken: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the hash of each name's token. Raise ValueError with the number of a line, and with nothing that stands in
    it: whoever writes TOKEN NAME must not find the token in the log."""
    found: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            name, token = _pair(words)
            known = {**taken, **found}
            if name in known:
                raise ValueError("its name is taken")
            if _hash(token) in known.values():
                raise ValueError("its token is that of another name")
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None
        found[name] = _hash(token)
    return found


def _pair(words: list[str]) -> tuple[str, str]:
    if len(words) != 2:
        raise ValueError("a line is NAME TOKEN")
    name, token = words
    if not _NAME.fullmatch(name):
        raise ValueError("a name has letters, digits and . _ @ -, at most 64 of them")
    if len(token) < SHORTEST or not (token.isascii() and token.isprintable()):
        raise ValueError(f"a token has at least {SHORTEST} characters of plain text")
    return name, token


def _hash(token: str) -> bytes:
    return sha256(token.encode()).digest()


def _stamp(status: os.stat_result) -> _Stamp:
    return (status.st_ino, status.st_mtime_ns, status.st_size, status.st_mode)


def _open(file: Path) -> tuple[str, os.stat_result]:
    try:
        with file.open("rb") as stream:
            return stream.read().decode(), os.fstat(stream.fileno())
    except OSError as error:
        raise SettingsError(f"admin.tokens_file {file}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise SettingsError(f"admin.tokens_file {file} is not text") from error
