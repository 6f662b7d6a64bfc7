"""With which status the API answers each kind of error."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Final

from proxygen.kit.errors import (
    BadInput,
    CatalogUnavailable,
    CommandNotReady,
    EngineUnavailable,
    NetworkError,
    NginxUnavailable,
    ProgramUnavailable,
    ProxygenError,
    Refused,
    SidecarUnavailable,
)

STATUSES: Final[Mapping[type[ProxygenError], HTTPStatus]] = MappingProxyType(
    {
        BadInput: HTTPStatus.BAD_REQUEST,
        Refused: HTTPStatus.CONFLICT,
        CatalogUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        NginxUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        ProgramUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        NetworkError: HTTPStatus.SERVICE_UNAVAILABLE,
        EngineUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        CommandNotReady: HTTPStatus.SERVICE_UNAVAILABLE,
        SidecarUnavailable: HTTPStatus.SERVICE_UNAVAILABLE,
        ProxygenError: HTTPStatus.SERVICE_UNAVAILABLE,
    }
)
"""Each kind of the tree, for all that are derived from it. A handler may say it more exactly, with 404 or 412."""


def status_of(error: ProxygenError) -> HTTPStatus:
    """Return the status of an error's kind, or of the nearest kind above it."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)
