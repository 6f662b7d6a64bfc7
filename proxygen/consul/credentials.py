"""What proves who we are: the ACL token, from a setting or a file that is rotated, and TLS."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

from proxygen.consul.access import ConsulAccess
from proxygen.consul.answers import Reply
from proxygen.kit.errors import SettingsError


class TokenSource:
    """The ACL token of the next request. A token file wins over a token, as in Consul's own tools."""

    def __init__(self, access: ConsulAccess) -> None:
        self._file = access.token_file
        self._stamp: tuple[int, int, int] | None = None
        self._token = access.token
        if self._token and not _is_token(self._token):
            raise SettingsError("consul.token is not one line of plain text")
        if self._file is not None:
            self._token = self._read(self._file)

    def current(self) -> str:
        """Return the token, empty where there is none; reads the file again when it was replaced or changed."""
        if self._file is not None:
            try:
                if _stamp(self._file) != self._stamp:
                    self._token = self._read(self._file)
            except (OSError, SettingsError):
                # A rotation may remove the file for a moment; Consul still judges the token that we have.
                pass
        return self._token

    @property
    def mark(self) -> str:
        """Tells the token of now from any other, and tells nobody the token; empty where there is none."""
        token = self.current()
        return hashlib.sha256(token.encode()).hexdigest() if token else ""

    async def spend(self, send: Callable[[str], Awaitable[Reply]]) -> Reply:
        """Send with the token of now, and once more where Consul refuses it and there is another by then."""
        token = self.current()
        reply = await send(token)
        if reply.status == 403 and self._changed_since(token):
            reply = await send(self.current())
        return reply

    def _changed_since(self, used: str) -> bool:
        """Look again after Consul refused ``used``: tell whether there is another token to try."""
        self._stamp = None
        return self.current() != used

    def hide(self, text: str) -> str:
        """Return the text without the token, for messages that quote Consul."""
        return text.replace(self._token, "(token)") if self._token else text

    def _read(self, path: Path) -> str:
        try:
            stamp = _stamp(path)
            token = path.read_text(encoding="utf-8").strip()
        except OSError as error:
            raise SettingsError(f"consul.token_file {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise SettingsError(f"consul.token_file {path} is not text") from error
        if not _is_token(token):
            raise SettingsError(f"consul.token_file {path} does not hold one line with a token")
        self._stamp = stamp
        return token


def _is_token(text: str) -> bool:
    # A line break in a header's value would be another header.
    return bool(text) and text.isascii() and text.isprintable()


def _stamp(path: Path) -> tuple[int, int, int]:
    status = os.stat(path)
    return (status.st_ino, status.st_mtime_ns, status.st_size)


def tls_context(access: ConsulAccess) -> ssl.SSLContext:
    """Build the context for HTTPS. Raise SettingsError naming the file that cannot be used."""
    context = ssl.create_default_context()
    if not access.ssl_verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if access.ca_cert is not None:
        _load_authority(context, "consul.ca_cert", access.ca_cert)
    if access.ca_path is not None:
        # Consul's tools read every file; OpenSSL alone would only look at names made by c_rehash.
        for path in sorted(access.ca_path.iterdir()) if access.ca_path.is_dir() else [access.ca_path]:
            _load_authority(context, "consul.ca_path", path)
    if access.client_cert is not None:
        _load_client(context, access.client_cert, access.client_key)
    return context


def _load_client(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ValueError) as error:
        raise SettingsError(f"consul.client_cert {certificate} with its key: {_reason(error)}") from error


def _load_authority(context: ssl.SSLContext, setting: str, path: Path) -> None:
    try:
        context.load_verify_locations(cafile=path)
    except OSError as error:
        raise SettingsError(f"{setting} {path}: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
