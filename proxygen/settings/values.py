"""The types of settings' values: what a text from a flag, a variable or TOML may hold."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final

from pydantic import AfterValidator, BeforeValidator

from proxygen.kit.syslog import parse_receiver
from proxygen.kit.units import format_duration, parse_duration, parse_size

LONGEST: Final = 10 * 365 * 86_400.0
"""Seconds of the longest duration: ten years mean for ever, and what is longer or infinite no timer of nginx's, of the
kernel's or of ours can bear."""


def _bearable(value: float) -> float:
    if not value <= LONGEST:
        raise ValueError(f"more than {format_duration(round(LONGEST * 1000))}, the longest duration")
    return value


def _seconds(value: object) -> object:
    return parse_duration(value) / 1000 if isinstance(value, str) else value


def _bytes(value: object) -> object:
    return parse_size(value) if isinstance(value, str) else value


def _split(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


_PORT: Final = r"([1-9][0-9]{0,4})"
_LISTEN: Final = re.compile(rf"(?:(?:\[([0-9a-fA-F:]+)\]|([0-9.]+)):)?{_PORT}")
_SOCKET: Final = re.compile(r"unix:/[A-Za-z0-9._/-]{1,95}")
_PORTS: Final = re.compile(rf"{_PORT}(?:-{_PORT})?")


def _listens(value: object) -> object:
    texts = _split(value)
    for text in texts if isinstance(texts, list | tuple) else ():
        _listen_address(text)
    return texts


def _listen_address(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of ``[ADDRESS:]PORT``, None where only a port stands."""
    match = _LISTEN.fullmatch(str(value))
    if match is None or not int(match[3]) < 65536:
        raise ValueError(f"{value!r} is not [ADDRESS:]PORT, such as 80, 127.0.0.1:8080 or [::]:80")
    return ipaddress.ip_address(match[1] or match[2]) if match[1] or match[2] else None


def _address_with_port(value: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Return the address of ``ADDRESS:PORT``, None for anything else."""
    try:
        return _listen_address(value)
    except ValueError:
        return None


def _networks(value: object) -> object:
    texts = _split(value)
    for text in texts if isinstance(texts, list | tuple) else ():
        ipaddress.ip_network(text)
    return texts


_INTERFACE: Final = re.compile(r"[^\s/~,]{1,15}")
_LONGEST_PATTERN: Final = 200


def _interfaces(value: object) -> object:
    """Leave the text as it is, once each part of it can be read."""
    for part in str(value).split(",") if isinstance(value, str) else ():
        text = part.strip()
        if text.startswith("~") and len(text) <= _LONGEST_PATTERN:
            try:
                re.compile(text[1:])
            except (re.error, RecursionError, OverflowError) as error:
                raise ValueError(f"{text[1:]} is no regular expression: {error}") from error
        elif not _INTERFACE.fullmatch(text):
            raise ValueError(f"{text!r} is no interface's name of up to 15 letters, no IPv4 address, and no ~PATTERN")
    return value


def _address(value: object) -> object:
    if isinstance(value, str):
        ipaddress.ip_address(value)
    return value


def _ipv4_address(value: object) -> object:
    if isinstance(value, str):
        ipaddress.IPv4Address(value)
    return value


def _ports(value: object) -> object:
    match = _PORTS.fullmatch(str(value))
    if match is None or not int(match[1]) <= int(match[2] or match[1]) < 65536:
        raise ValueError("write FIRST-LAST or one port, within 1 to 65535, such as 9000-9999")
    return value


def _stamp(value: object) -> object:
    if _SOCKET.fullmatch(str(value)) is None:
        address = _address_with_port(value)
        if address is None or not address.is_loopback:
            raise ValueError("write a loopback ADDRESS:PORT, such as 127.0.0.1:18082, or unix:/PATH")
    return value


def _admin_listen(value: object) -> object:
    if value != "off" and _address_with_port(value) is None:
        raise ValueError("write ADDRESS:PORT, such as 127.0.0.1:18081, or off")
    return value


def _syslog(value: object) -> object:
    parse_receiver(str(value))
    return value


Seconds = Annotated[float, BeforeValidator(_seconds), AfterValidator(_bearable)]
"""Seconds, at most `LONGEST`; a text carries its unit (``25ms``, ``2s``, ``1m``), a bare number is seconds."""

Bytes = Annotated[int, BeforeValidator(_bytes)]
"""Bytes; a text may carry k, m or g, each 1 024 of the one before."""

Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several values; one text is split at commas and white space."""

Listens = Annotated[tuple[str, ...], BeforeValidator(_listens)]
"""Where nginx listens: ``[ADDRESS:]PORT``, one or several."""

Networks = Annotated[tuple[str, ...], BeforeValidator(_networks)]
"""CIDR networks; host bits must be zero."""

IpAddress = Annotated[str, BeforeValidator(_address)]
Interfaces = Annotated[str, BeforeValidator(_interfaces)]
"""Names, IPv4 addresses and ``~PATTERN``, between commas."""
Ipv4Address = Annotated[str, BeforeValidator(_ipv4_address)]
Ports = Annotated[str, BeforeValidator(_ports)]
"""One port or ``FIRST-LAST``."""

StampAddress = Annotated[str, BeforeValidator(_stamp)]
"""Loopback ``ADDRESS:PORT`` or ``unix:/PATH``: nobody but this machine asks for the stamp."""

SyslogReceiver = Annotated[str, BeforeValidator(_syslog)]
"""``unix:/PATH`` or ``udp:ADDRESS:PORT``."""

AdminListen = Annotated[str, BeforeValidator(_admin_listen)]
"""``ADDRESS:PORT`` or ``off``."""
