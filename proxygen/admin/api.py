"""The admin API: what it answers, to whom, and how it says no.

Anyone who reaches a listener may read; `proxygen.admin.access` says who may write.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxygen.admin import steering
from proxygen.admin.access import Writers
from proxygen.admin.audit import Write, audited
from proxygen.admin.contract import Sidecar
from proxygen.admin.exposition import Scrape
from proxygen.admin.handling import SIDECAR, STREAMS, json_answer, read_body, set_writer
from proxygen.admin.page.handlers import page_routes
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

_KEPT: Final = ("Allow", "WWW-Authenticate", "Retry-After", "ETag")
"""Headers of an error that its answer keeps."""

_log = get_logger(__name__)


class RollbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollback; without a generation the one before the live one is meant."""

    generation: int | None = None


def application(sidecar: Sidecar, streams: Streams, *, writers: Writers) -> web.Application:
    """Build the API. ``writers`` raises an HTTP error for a request that may not write."""

    @web.middleware
    async def guard_writes(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            set_writer(request, writers(request))
        return await handler(request)

    app = web.Application(middlewares=[_explain, guard_writes], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_harden)
    app[SIDECAR] = sidecar
    app[STREAMS] = streams
    app.on_shutdown.append(_end_streams)
    app.router.add_get("/healthz", _healthz)
    app.router.add_get("/readyz", _readyz)
    app.router.add_get("/metrics", _metrics)
    app.router.add_get("/api/v1/status", _status)
    app.router.add_get("/api/v1/services", _services)
    app.router.add_get("/api/v1/services/{name:[^/]+}", _service)
    app.router.add_get("/api/v1/services/{name:[^/]+}/shares", steering.show_shares)
    app.router.add_put("/api/v1/services/{name:[^/]+}/shares", steering.set_shares)
    app.router.add_delete("/api/v1/services/{name:[^/]+}/shares", steering.reset_shares)
    app.router.add_post("/api/v1/services/{name:[^/]+}/shares/promote", steering.promote)
    app.router.add_post("/api/v1/services/{name:[^/]+}/shares/abort", steering.abort)
    app.router.add_get("/api/v1/generations", _generations)
    app.router.add_get("/api/v1/events", streams.serve)
    app.router.add_post("/api/v1/rollback", _rollback)
    app.router.add_post("/api/v1/release-hold", _release_hold)
    app.add_routes(page_routes(sidecar))
    return app


async def _healthz(_request: web.Request) -> web.Response:
    return json_answer({"status": "ok"})


async def _readyz(request: web.Request) -> web.Response:
    readiness = request.app[SIDECAR].readiness()
    body = {"ready": readiness.ready, "reasons": readiness.reasons}
    return json_answer(body, status=200 if readiness.ready else 503)


async def _status(request: web.Request) -> web.Response:
    return json_answer(request.app[SIDECAR].status())


async def _services(request: web.Request) -> web.Response:
    # In a thread: at thousands of services it takes a while, and others share this loop.
    return await asyncio.to_thread(lambda: json_answer(request.app[SIDECAR].services()))


async def _service(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    detail = request.app[SIDECAR].service(name)
    if detail is None:
        raise web.HTTPNotFound(reason=f"no service {name!r} is routed")
    return json_answer(detail)


async def _metrics(request: web.Request) -> web.Response:
    scrape = Scrape(request.app[SIDECAR], streams=len(request.app[STREAMS]))
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    body, content_type = await asyncio.to_thread(scrape.text, accept)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def _generations(request: web.Request) -> web.Response:
    return json_answer(request.app[SIDECAR].generations())


async def _rollback(request: web.Request) -> web.Response:
    with audited(request, "rollback") as write:
        live = request.app[SIDECAR].overview().live
        write.before = {"generation": live.number if live is not None else None}
        wanted = RollbackRequest()
        if request.body_exists:
            wanted = await read_body(request, RollbackRequest, example='{"generation": 41}')
        report = await request.app[SIDECAR].rollback(wanted.generation)
        return _applied(write, report, f"went back to generation {report.generation}")


async def _release_hold(request: web.Request) -> web.Response:
    with audited(request, "release hold") as write:
        report = await request.app[SIDECAR].release_hold()
        return _applied(write, report, "released what was held")


def _applied(write: Write, report: ApplyReport, story: str) -> web.Response:
    write.outcome, write.after, write.generation = report.outcome, {"generation": report.generation}, report.generation
    write.story = story if report.outcome in ("applied", "unchanged") else f"{story}, which was {report.outcome}"
    return json_answer(report)


async def _end_streams(app: web.Application) -> None:
    """Let no client that follows the events put off the end of the sidecar."""
    app[STREAMS].close()


async def _harden(_request: web.Request, response: web.StreamResponse) -> None:
    """Give every answer these headers, but those of them that its handler chose for it."""
    for name, value in _HEADERS.items():
        response.headers.setdefault(name, value)


@web.middleware
async def _explain(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer every error as JSON: ``{"error": TEXT}``."""
    try:
        return await handler(request)
    except web.HTTPException as error:
        kept = {name: error.headers[name] for name in _KEPT if name in error.headers}
        return json_answer({"error": error.reason}, status=error.status, headers=kept)
    except ProxygenError as error:
        return json_answer({"error": str(error)}, status=_status_of(error))
    except Exception:
        _log.exception("admin request failed", path=request.path)
        return json_answer({"error": "unexpected error; the sidecar's log has it"}, status=500)


def _status_of(error: ProxygenError) -> int:
    if isinstance(error, BadInput):
        return 400
    return 409 if isinstance(error, Refused) else 503
