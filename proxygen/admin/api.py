"""The admin API: what it answers, to whom, and how it says no.

Anyone who reaches a listener may read. Over TCP a write needs the bearer token, and without one in the
settings there are no writes at all; the unix socket's file mode is its own guard.
"""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import SecretStr

from proxygen.admin.contract import Sidecar
from proxygen.admin.exposition import Scrape
from proxygen.admin.report import ApplyReport
from proxygen.admin.stream import Streams
from proxygen.errors import BadInput, ProxygenError, Refused
from proxygen.log import get_logger

MAX_BODY: Final = 16 * 1024

_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

_SIDECAR: Final = web.AppKey("sidecar", Sidecar)
_STREAMS: Final = web.AppKey("streams", Streams)

_log = get_logger(__name__)


class RollbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollback; without a generation the one before the live one is meant."""

    generation: int | None = None


def application(sidecar: Sidecar, streams: Streams, *, writers: Callable[[web.Request], None]) -> web.Application:
    """Build the API. ``writers`` raises an HTTP error for a request that may not write."""

    @web.middleware
    async def guard_writes(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            writers(request)
        return await handler(request)

    app = web.Application(middlewares=[_explain, guard_writes], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_harden)
    app[_SIDECAR] = sidecar
    app[_STREAMS] = streams
    app.on_shutdown.append(_end_streams)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/api/v1/status", _status)
    app.router.add_get("/api/v1/services", _services)
    app.router.add_get("/api/v1/services/{name}", _service)
    app.router.add_get("/api/v1/generations", _generations)
    app.router.add_get("/api/v1/events", streams.serve)
    app.router.add_post("/api/v1/rollback", _rollback)
    app.router.add_post("/api/v1/release-hold", _release_hold)
    return app


def anyone(_request: web.Request) -> None:
    """Let every request write: for the unix socket, which only its owner can open."""


def bearer(token: SecretStr | None) -> Callable[[web.Request], None]:
    """Let requests write that carry ``token``; none at all where there is no token."""

    def check(request: web.Request) -> None:
        if token is None or not token.get_secret_value():
            raise web.HTTPForbidden(reason="writes over TCP are off: admin.token is not set; use the unix socket")
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        wanted = token.get_secret_value().encode()
        # surrogateescape: aiohttp decodes header bytes that are no UTF-8 so, and any byte may be sent.
        same = hmac.compare_digest(given.strip().encode(errors="surrogateescape"), wanted)
        if scheme.lower() != "bearer" or not same:
            raise web.HTTPUnauthorized(
                reason="the bearer token is missing or wrong", headers={hdrs.WWW_AUTHENTICATE: "Bearer"}
            )

    return check


async def _healthz(_request: web.Request) -> web.Response:
    return _json({"status": "ok"})


async def _readyz(request: web.Request) -> web.Response:
    readiness = request.app[_SIDECAR].readiness()
    body = {"ready": readiness.ready, "reasons": readiness.reasons}
    return _json(body, status=200 if readiness.ready else 503)


async def _status(request: web.Request) -> web.Response:
    return _json(request.app[_SIDECAR].status())


async def _services(request: web.Request) -> web.Response:
    # In a thread: at thousands of services it takes a while, and others share this loop.
    return await asyncio.to_thread(lambda: _json(request.app[_SIDECAR].services()))


async def _service(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    detail = request.app[_SIDECAR].service(name)
    if detail is None:
        raise web.HTTPNotFound(reason=f"no service {name!r} is routed")
    return _json(detail)


async def _metrics(request: web.Request) -> web.Response:
    scrape = Scrape(request.app[_SIDECAR], streams=len(request.app[_STREAMS]))
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    body, content_type = await asyncio.to_thread(scrape.text, accept)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def _generations(request: web.Request) -> web.Response:
    return _json(request.app[_SIDECAR].generations())


async def _rollback(request: web.Request) -> web.Response:
    body = await request.read()
    try:
        wanted = msgspec.json.decode(body, type=RollbackRequest) if body else RollbackRequest()
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise web.HTTPBadRequest(reason=f'the body must be {{"generation": NUMBER}} or empty: {error}') from error
    return await _write(request, "rollback", request.app[_SIDECAR].rollback(wanted.generation))


async def _release_hold(request: web.Request) -> web.Response:
    return await _write(request, "release hold", request.app[_SIDECAR].release_hold())


async def _write(request: web.Request, what: str, change: Awaitable[ApplyReport]) -> web.Response:
    report = await change
    _log.info("admin write", what=what, caller=request.remote or "unix socket", outcome=report.outcome)
    return _json(report)


async def _end_streams(app: web.Application) -> None:
    """Let no client that follows the events put off the end of the sidecar."""
    app[_STREAMS].close()


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as JSON: ``{"error": TEXT}``."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {str(name): error.headers[name] for name in (hdrs.ALLOW, hdrs.WWW_AUTHENTICATE) if name in error.headers}
        return _json({"error": error.reason}, status=error.status, headers=kept)
    except ProxygenError as error:
        return _json({"error": str(error)}, status=_status_of(error))
    except Exception:
        _log.exception("admin request failed", path=request.path)
        return _json({"error": "unexpected error; the sidecar's log has it"}, status=500)


def _status_of(error: ProxygenError) -> int:
    if isinstance(error, BadInput):
        return 400
    return 409 if isinstance(error, Refused) else 503


def _json(body: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body) + b"\n", status=status, headers=headers, content_type="application/json"
    )
