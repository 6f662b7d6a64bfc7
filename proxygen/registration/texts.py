"""Small texts of flags and labels: pairs, ports, weights. Each raises BadInput that names where the text stands."""

from __future__ import annotations

from proxygen.kit.errors import BadInput, quoted
from proxygen.registration.service import Weights


def read_pair(text: str, where: str) -> tuple[str, str]:
    """Read ``KEY=VALUE``."""
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise BadInput(f"{where} {quoted(text)} is not KEY=VALUE")
    return key, value


def read_port(text: str, where: str) -> int:
    """Read a port from 1 to 65535. Raise BadInput, which names ``where``."""
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:6]) <= 65535:
        raise BadInput(f"{where} {quoted(text)} is not a port from 1 to 65535")
    return int(text)


def read_host_and_port(text: str, where: str) -> tuple[str, int]:
    """Read ``HOST:PORT`` or ``[IPV6]:PORT``."""
    host, colon, port = text.rpartition(":")
    if not colon or not host:
        raise BadInput(f"{where} {quoted(text)} is not HOST:PORT")
    return host.removeprefix("[").removesuffix("]"), read_port(port, where)


def read_weights(text: str, where: str) -> Weights:
    """Read ``PASSING,WARNING``, or one number for both."""
    passing, _, warning = text.partition(",")
    try:
        return Weights(passing=int(passing), warning=int(warning or passing))
    except ValueError:
        raise BadInput(f"{where} {quoted(text)} is not PASSING,WARNING, such as 10,1") from None
