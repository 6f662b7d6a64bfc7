"""The admin API: what it answers, to whom, and how it says no.

`ENDPOINTS` is the table of it. Anyone who reaches a listener may read; `proxygen.proxy.admin.access` says who may
write.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final, Literal

import msgspec
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from proxygen.kit.errors import BadInput, ConflictingWrite, ProxygenError, UnknownGeneration, quoted
from proxygen.kit.log import get_logger
from proxygen.proxy.admin import steering
from proxygen.proxy.admin.access import Writers
from proxygen.proxy.admin.audit import Write, audited
from proxygen.proxy.admin.contract import Sidecar
from proxygen.proxy.admin.endpoints import NAME, NUMBER, IfMatch, Operation, Parameter
from proxygen.proxy.admin.exposition import Scrape
from proxygen.proxy.admin.handling import (
    SIDECAR,
    STREAMS,
    etag,
    etags_of,
    json_answer,
    read_body,
    set_writer,
    state_tag,
)
from proxygen.proxy.admin.openapi import description
from proxygen.proxy.admin.page.handlers import page_routes
from proxygen.proxy.admin.report import ApplyReport, DiffReport, GenerationReport, StatusReport
from proxygen.proxy.admin.service_report import ServiceDetail, ServiceSummary
from proxygen.proxy.admin.shares_report import SharesReport
from proxygen.proxy.admin.statuses import status_of
from proxygen.proxy.admin.stream import Streams
from proxygen.proxy.apply.outcome import DONE

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


class Alive(msgspec.Struct, frozen=True):
    """The process lives."""

    status: Literal["ok"] = "ok"


class ReadinessReport(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether a load balancer may send requests here; where not, why."""

    ready: bool
    reasons: tuple[str, ...]
    notes: tuple[str, ...] = ()
    """What is wrong and no reason to send requests elsewhere; of many, the first."""


class RollbackRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a rollback; without a generation the one before the live one is meant."""

    generation: int | None = None


def application(sidecar: Sidecar, streams: Streams, *, writers: Writers) -> web.Application:
    """Build the API. ``writers`` raises an HTTP error for a request that may not write."""

    @web.middleware
    async def guard_writes(request: web.Request, handler: Handler) -> web.StreamResponse:
        # What is not there, or not for this method, is said to everybody.
        is_somewhere = request.match_info.http_exception is None
        if is_somewhere and request.method not in (hdrs.METH_GET, hdrs.METH_HEAD):
            set_writer(request, writers(request))
        return await handler(request)

    app = web.Application(middlewares=[_explain, guard_writes], client_max_size=MAX_BODY)
    app.on_response_prepare.append(_harden)
    app[SIDECAR] = sidecar
    app[STREAMS] = streams
    app.on_shutdown.append(_end_streams)
    app.add_routes([endpoint.route for endpoint in ENDPOINTS])
    app.add_routes(page_routes(sidecar))
    return app


# --- reading


async def _alive(_request: web.Request) -> web.Response:
    return json_answer(Alive())


async def _ready(request: web.Request) -> web.Response:
    readiness = request.app[SIDECAR].readiness()
    body = ReadinessReport(readiness.ready, readiness.reasons, readiness.notes)
    return json_answer(body, status=200 if readiness.ready else 503)


async def _metrics(request: web.Request) -> web.Response:
    scrape = Scrape(request.app[SIDECAR], streams=len(request.app[STREAMS]))
    accept = ",".join(request.headers.getall(hdrs.ACCEPT, ()))
    body, content_type = await asyncio.to_thread(scrape.text, accept)
    return web.Response(body=body, headers={hdrs.CONTENT_TYPE: content_type})


async def _status(request: web.Request) -> web.Response:
    def answer() -> web.Response:
        report = request.app[SIDECAR].status()
        return json_answer(report, headers=etag(state_tag(report)))

    return await asyncio.to_thread(answer)


async def _services(request: web.Request) -> web.Response:
    return await _in_thread(request, lambda sidecar: sidecar.services())


async def _service(request: web.Request) -> web.Response:
    name = request.match_info["name"]
    detail = request.app[SIDECAR].service(name)
    if detail is None:
        raise web.HTTPNotFound(reason=f"no service {name!r} is routed")
    return json_answer(detail)


async def _generations(request: web.Request) -> web.Response:
    def answer() -> web.Response:
        sidecar = request.app[SIDECAR]
        # Taken first: where it is older than what is told, a write is refused that could have been done.
        headers = etag(state_tag(sidecar.overview()))
        return json_answer(sidecar.generations(), headers=headers)

    return await asyncio.to_thread(answer)


async def _difference(request: web.Request) -> web.Response:
    number, against = int(request.match_info["number"]), request.query.get("against")
    if against is not None and re.fullmatch(NUMBER.pattern, against) is None:
        raise BadInput(f"against: {quoted(against)} is no number of a generation")
    other = None if against is None else int(against)
    try:
        return await _in_thread(request, lambda sidecar: sidecar.difference(number, other))
    except UnknownGeneration as error:
        raise web.HTTPNotFound(reason=str(error)) from error


async def _applies(request: web.Request) -> web.Response:
    return json_answer(request.app[SIDECAR].applies())


async def _events(request: web.Request) -> web.StreamResponse:
    return await request.app[STREAMS].serve(request)


async def _openapi(_request: web.Request) -> web.Response:
    return json_answer(description(ENDPOINTS))


async def _in_thread(request: web.Request, ask: Callable[[Sidecar], object]) -> web.Response:
    """Gather in a thread: at thousands of services it takes a while, and others share this loop."""
    return await asyncio.to_thread(lambda: json_answer(ask(request.app[SIDECAR])))


# --- writing


async def _rollback(request: web.Request) -> web.Response:
    sidecar = request.app[SIDECAR]
    with audited(request, "rollback") as write:
        live = sidecar.overview().live
        write.before = {"generation": live.number if live is not None else None}
        wanted = RollbackRequest()
        if request.body_exists:
            wanted = await read_body(request, RollbackRequest, example='{"generation": 41}')
        report = await _unless_changed(request, lambda confirm: sidecar.rollback(wanted.generation, confirm=confirm))
        return _applied(write, report, f"went back to generation {report.generation}")


async def _release_hold(request: web.Request) -> web.Response:
    sidecar = request.app[SIDECAR]
    with audited(request, "release hold") as write:
        report = await _unless_changed(request, lambda confirm: sidecar.release_hold(confirm=confirm))
        return _applied(write, report, "released what was held")


async def _unless_changed(
    request: web.Request, change: Callable[[Callable[[], None]], Awaitable[ApplyReport]]
) -> ApplyReport:
    """Do what is asked where what is live is what ``If-Match`` names; where that is missing, in any case."""
    seen = etags_of(request)

    def confirm() -> None:
        now = state_tag(request.app[SIDECAR].overview())
        if request.headers.get(hdrs.IF_MATCH, "*").strip() != "*" and now not in seen:
            raise ConflictingWrite("what is live or held is another by now; nothing was done, look again")

    try:
        return await change(confirm)
    except ConflictingWrite as error:
        now = state_tag(request.app[SIDECAR].overview())
        raise web.HTTPPreconditionFailed(reason=str(error), headers=etag(now)) from error


def _applied(write: Write, report: ApplyReport, story: str) -> web.Response:
    write.outcome, write.after, write.generation = report.outcome, {"generation": report.generation}, report.generation
    write.story = story if report.outcome in DONE else f"{story}, which was {report.outcome}"
    return json_answer(report)


# --- the table

_UNKNOWN_SERVICE: Final = {404: "no such service is routed", 503: "no catalog has been planned since the start"}
_STEERED: Final = {404: "no such service is routed or registered", 503: "Consul does not answer, or denies it"}
_WITHOUT_EFFECT: Final = {**_STEERED, 409: "it would have no effect now, and the body does not say force"}
_APPLIED: Final = {409: "it was refused; what was live stays live", 503: "nginx or Consul does not answer"}

ENDPOINTS: Final = (
    Operation(method="GET", path="/healthz", handler=_alive, summary="Whether the process lives", answer=Alive),
    Operation(
        method="GET",
        path="/readyz",
        handler=_ready,
        summary="Whether a generation is live, and Consul's data is fresh and planned",
        answer=ReadinessReport,
        other_answers={503: ReadinessReport},
    ),
    Operation(
        method="GET",
        path="/metrics",
        handler=_metrics,
        summary="Metrics for Prometheus",
        answer=str,
        content_type="text/plain",
    ),
    Operation(
        method="GET",
        path="/api/v1/status",
        handler=_status,
        summary="Everything an operator asks first",
        answer=StatusReport,
        etag=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/services",
        handler=_services,
        summary="Routed services in numbers, with their traffic",
        answer=tuple[ServiceSummary, ...],
    ),
    Operation(
        method="GET",
        path="/api/v1/services/{name}",
        handler=_service,
        summary="One service with its instances and the last minutes of its traffic",
        answer=ServiceDetail,
        parameters={"name": NAME},
        errors=_UNKNOWN_SERVICE,
    ),
    Operation(
        method="GET",
        path="/api/v1/services/{name}/shares",
        handler=steering.show_shares,
        summary="A service's shares as Consul has them now",
        answer=SharesReport,
        parameters={"name": NAME},
        errors=_STEERED,
        etag=True,
    ),
    Operation(
        method="PUT",
        path="/api/v1/services/{name}/shares",
        handler=steering.set_shares,
        summary="Set shares; variants that are not named keep theirs",
        answer=SharesReport,
        body=steering.SharesRequest,
        body_required=True,
        parameters={"name": NAME},
        errors=_STEERED,
        etag=True,
        if_match=IfMatch.REQUIRED,
    ),
    Operation(
        method="DELETE",
        path="/api/v1/services/{name}/shares",
        handler=steering.reset_shares,
        summary="Give the shares back to the tags",
        answer=SharesReport,
        parameters={"name": NAME},
        errors=_STEERED,
        etag=True,
        if_match=IfMatch.REQUIRED,
    ),
    Operation(
        method="POST",
        path="/api/v1/services/{name}/shares/promote",
        handler=steering.promote,
        summary="Give a variant everything",
        answer=SharesReport,
        body=steering.VariantRequest,
        parameters={"name": NAME},
        errors=_WITHOUT_EFFECT,
        etag=True,
        if_match=IfMatch.REQUIRED,
    ),
    Operation(
        method="POST",
        path="/api/v1/services/{name}/shares/abort",
        handler=steering.abort,
        summary="Take everything from a variant",
        answer=SharesReport,
        body=steering.VariantRequest,
        parameters={"name": NAME},
        errors=_WITHOUT_EFFECT,
        etag=True,
        if_match=IfMatch.REQUIRED,
    ),
    Operation(
        method="GET",
        path="/api/v1/generations",
        handler=_generations,
        summary="Generations on disk, newest first",
        answer=tuple[GenerationReport, ...],
        etag=True,
    ),
    Operation(
        method="GET",
        path="/api/v1/generations/{number}/diff",
        handler=_difference,
        summary="What a generation changed",
        answer=DiffReport,
        parameters={"number": NUMBER},
        query={"against": Parameter(schema=NUMBER.schema, meaning="The other generation; by default the one before.")},
        errors={404: "there is no such generation on disk"},
    ),
    Operation(
        method="GET",
        path="/api/v1/applies",
        handler=_applies,
        summary="The last attempts to make a plan live, newest first",
        answer=tuple[ApplyReport, ...],
    ),
    Operation(
        method="GET",
        path="/api/v1/events",
        handler=_events,
        summary="What happened and happens, as server-sent events; Last-Event-ID resumes",
        answer=str,
        content_type="text/event-stream",
        errors={503: "too many clients follow already"},
    ),
    Operation(
        method="GET",
        path="/api/v1/openapi.json",
        handler=_openapi,
        summary="This description",
        answer=dict[str, Any],
    ),
    Operation(
        method="POST",
        path="/api/v1/rollback",
        handler=_rollback,
        summary="Make an older generation live and hold new plans",
        answer=ApplyReport,
        body=RollbackRequest,
        errors=_APPLIED,
        if_match=IfMatch.OPTIONAL,
    ),
    Operation(
        method="POST",
        path="/api/v1/release-hold",
        handler=_release_hold,
        summary="Let plans through again",
        answer=ApplyReport,
        errors=_APPLIED,
        if_match=IfMatch.OPTIONAL,
    ),
)


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
        return json_answer({"error": str(error)}, status=status_of(error))
    except Exception:
        _log.exception("admin request failed", path=request.path)
        return json_answer({"error": "unexpected error; the sidecar's log has it"}, status=500)
