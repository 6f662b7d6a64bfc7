"""What the handlers of the admin API share: whom they serve, who asks, and how a body is read and written."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping
from typing import Any, Final, TypeVar

import msgspec
from aiohttp import hdrs, web

from proxygen.kit.errors import BadInput
from proxygen.proxy.admin.contract import Sidecar
from proxygen.proxy.admin.report import StatusReport
from proxygen.proxy.admin.stream import Streams

T = TypeVar("T")

SIDECAR: Final = web.AppKey("sidecar", Sidecar)
STREAMS: Final = web.AppKey("streams", Streams)

_PATIENCE: Final = 10.0
"""Seconds that a body may take; none has more than a few bytes."""

_WHO: Final = web.RequestKey("who", str)


def set_writer(request: web.Request, who: str) -> None:
    request[_WHO] = who


def writer_of(request: web.Request) -> str:
    """Return who writes: the name of a token, or of a user of this host."""
    return request[_WHO]


async def read_body(request: web.Request, shape: type[T], *, example: str) -> T:
    """Read a body of JSON. Raise BadInput, which names the place, for any other than ``example`` shows."""
    try:
        async with asyncio.timeout(_PATIENCE):
            body = await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(reason=f"the body did not arrive within {_PATIENCE:g} s") from error
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadInput(f"the body must be like {example}: {error}") from error


def json_answer(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """With a line break at its end, for terminals."""
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, headers=headers, content_type="application/json"
    )


def etags_of(request: web.Request) -> frozenset[str]:
    """Return the states that ``If-Match`` says the caller saw; none where the header is not there or says ``*``.

    Weak ones are left out: RFC 9110, 13.1.1 compares strongly.
    """
    return frozenset(tag.value for tag in request.if_match or () if not tag.is_weak and tag.value != "*")


def etag(value: object) -> Mapping[str, str]:
    """The header for an answer of this version."""
    return {hdrs.ETAG: f'"{value}"'}


def state_tag(status: StatusReport) -> str:
    """Name what is live and what is held, for ``ETag``: another rollback or release makes it another."""
    number = status.live.number if status.live is not None else 0
    if status.hold is None:
        return str(number)
    held = f"{status.hold.pinned} {' '.join(sorted(status.hold.services))}"
    return f"{number}-held-{zlib.crc32(held.encode()):08x}"
