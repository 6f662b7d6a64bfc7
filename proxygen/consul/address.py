"""Where Consul's HTTP API is: ``HOST:PORT``, ``http(s)://HOST:PORT`` or ``unix:///PATH``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from proxygen.kit.errors import SettingsError

_DEFAULT_PORT: Final = 8500
_SCHEME_PORTS: Final = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulAddress:
    """A parsed address. ``socket`` is set for a unix socket; host and port then only fill the Host header."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """What stands before ``/v1`` where a gateway publishes Consul under a path."""
    socket: Path | None = None

    @property
    def base(self) -> str:
        """The URL without a path of Consul's own; IPv6 in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}{self.path}"

    def __str__(self) -> str:
        return f"unix://{self.socket}" if self.socket is not None else self.base


def parse_address(text: str, *, ssl: bool) -> ConsulAddress:
    """Parse an address as Consul's own tools do; ``ssl`` decides where the text has no scheme.

    Raise SettingsError, which never repeats a user name or password found in the text.
    """
    if text.startswith("unix://"):
        path = Path(text.removeprefix("unix://"))
        if not path.is_absolute():
            raise SettingsError(f"consul.address {text!r}: a unix socket is unix:// and an absolute path")
        return ConsulAddress(scheme="http", host="localhost", port=_DEFAULT_PORT, socket=path)
    has_scheme = "://" in text
    try:
        parts = urlsplit(text if has_scheme else f"{'https' if ssl else 'http'}://{text}")
    except ValueError as error:
        raise SettingsError("consul.address is no address; write HOST:PORT, with brackets around IPv6") from error
    if "@" in parts.netloc:
        raise SettingsError("consul.address holds a user name; give USER:PASSWORD in consul.auth instead")
    try:
        port = parts.port
    except ValueError:
        port = 0
    if parts.scheme not in _SCHEME_PORTS or not parts.hostname or port == 0 or parts.query or parts.fragment:
        raise SettingsError(f"consul.address {text!r} is not HOST:PORT, http(s)://HOST:PORT or unix:///PATH")
    default = _SCHEME_PORTS[parts.scheme] if has_scheme else _DEFAULT_PORT
    return ConsulAddress(scheme=parts.scheme, host=parts.hostname, port=port or default, path=parts.path.rstrip("/"))
