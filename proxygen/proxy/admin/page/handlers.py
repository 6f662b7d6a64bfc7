"""Requests for pages: gather the reports, make the view, render it in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from aiohttp import hdrs, web

from proxygen import __version__
from proxygen.kit.errors import ProxygenError, UnknownGeneration
from proxygen.kit.log import get_logger
from proxygen.kit.templating import HtmlTemplates
from proxygen.proxy.admin.contract import Sidecar
from proxygen.proxy.admin.handling import state_tag
from proxygen.proxy.admin.page.assets import Assets
from proxygen.proxy.admin.page.difference import difference_view
from proxygen.proxy.admin.page.generations import time_line
from proxygen.proxy.admin.page.overview import overview
from proxygen.proxy.admin.page.service import service_view
from proxygen.proxy.admin.page.steering import SteeringForms, steering
from proxygen.proxy.admin.page.views import event_views
from proxygen.proxy.admin.report import StatusReport
from proxygen.proxy.admin.standing import beside
from proxygen.proxy.admin.steering import shares_report

CONTENT_SECURITY_POLICY: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' data:",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)

_LONGEST_QUERY: Final = 200
_PATIENCE: Final = 0.5
"""Seconds that Consul may take to tell the shares that the forms change."""
_FOR_EVER: Final = "public, max-age=31536000, immutable"

_log = get_logger(__name__)

Handler = Callable[[web.Request], Awaitable[web.Response]]


def page_routes(sidecar: Sidecar) -> list[web.RouteDef]:
    """The pages of one sidecar and what they are made of."""
    pages = Pages(sidecar)
    return [
        web.get("/", pages.guarded(pages.overview)),
        web.get("/services/{name:[^/]+}", pages.guarded(pages.service)),
        web.get("/services/{name:[^/]+}/{rest:.*}", pages.guarded(pages.missing)),
        web.get("/generations", pages.guarded(pages.generations)),
        web.get("/generations/{number:[0-9]{1,9}}", pages.guarded(pages.generation)),
        web.get("/static/{version}/{name:.+}", pages.static),
        web.get("/favicon.ico", pages.icon),
    ]


class Pages:
    """Answers browsers."""

    def __init__(self, sidecar: Sidecar) -> None:
        self._sidecar: Final = sidecar
        self._templates: Final = HtmlTemplates()
        self._assets: Final = Assets()

    async def overview(self, request: web.Request) -> web.Response:
        status, events, now = self._sidecar.overview(), self._sidecar.events.since(None), datetime.now(UTC)
        query = request.query.get("q", "")[:_LONGEST_QUERY]

        def view() -> Mapping[str, object]:
            return {
                "page": overview(status, self._sidecar.services(), now, etag=_tag(status), query=query),
                "events": event_views(events, now, most=30),
            }

        return await self._answer(request, "overview.html.j2", view)

    async def service(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        may = await self._steering(name)
        # After the shares were read: what is so now is shown with them.
        detail = self._sidecar.service(name)
        if detail is None:
            return await self.missing(request)
        events, now, notice = self._sidecar.events.since(None), datetime.now(UTC), beside(self._sidecar.overview())

        def view() -> Mapping[str, object]:
            return {"page": service_view(detail, events, now, steering=may, notice=notice)}

        return await self._answer(request, "service.html.j2", view)

    async def _steering(self, service: str) -> SteeringForms:
        """A page is shown whether Consul answers or not."""
        try:
            async with asyncio.timeout(_PATIENCE):
                lever = await self._sidecar.read_lever(service)
                report = shares_report(lever, self._sidecar.service(service))
                return replace(steering(report), failures=lever.failures)
        except TimeoutError:
            return SteeringForms(problems=("Consul takes too long to tell the shares; they cannot be changed now.",))
        except ProxygenError as error:
            return SteeringForms(problems=(f"The shares cannot be changed now: {error}",))

    async def generations(self, request: web.Request) -> web.Response:
        status, now = self._sidecar.overview(), datetime.now(UTC)

        def view() -> Mapping[str, object]:
            return {"moments": time_line(self._sidecar.generations(), now, etag=_tag(status))}

        return await self._answer(request, "generations.html.j2", view)

    async def generation(self, request: web.Request) -> web.Response:
        number = int(request.match_info["number"])

        def view() -> Mapping[str, object]:
            return {"page": difference_view(self._sidecar.difference(number, None))}

        try:
            return await self._answer(request, "generation.html.j2", view)
        except UnknownGeneration as error:
            return await self._error(request, 404, "Not here", f"{error}.")

    async def missing(self, request: web.Request) -> web.Response:
        text = f"Nothing is served under {request.path}. A service that is gone from Consul has no page any more."
        return await self._error(request, 404, "Not here", text)

    async def static(self, request: web.Request) -> web.Response:
        # Asked for by a page of another version, the same name may be another file tomorrow.
        kept = _FOR_EVER if request.match_info["version"] == self._assets.version else "no-cache"
        return self._file(request.match_info["name"], kept)

    async def icon(self, _request: web.Request) -> web.Response:
        """Where browsers look for it that show no page of ours, but JSON."""
        return self._file("icon.svg", "no-cache")

    def _file(self, name: str, kept: str) -> web.Response:
        asset = self._assets.find(name)
        if asset is None:
            raise web.HTTPNotFound(reason="there is no such file")
        headers = {hdrs.CACHE_CONTROL: kept}
        return web.Response(body=asset.body, content_type=asset.content_type, charset="utf-8", headers=headers)

    def guarded(self, handler: Handler) -> Handler:
        """Answer failures as pages, too."""

        async def guarded(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except ProxygenError as error:
                return await self._error(request, 503, "It cannot be told now", str(error))
            except web.HTTPException:
                raise
            except Exception:
                _log.exception("page failed", path=request.path)
                return await self._error(request, 500, "Unexpected error", "The sidecar's log has it.")

        return guarded

    async def _error(self, request: web.Request, status: int, title: str, text: str) -> web.Response:
        return await self._answer(request, "error.html.j2", lambda: {"title": title, "text": text}, status=status)

    async def _answer(
        self, request: web.Request, template: str, view: Callable[[], Mapping[str, object]], *, status: int = 200
    ) -> web.Response:
        part = request.headers.get("X-Proxygen-Part") == "live"
        frame: dict[str, Any] = {
            "layout": "part.html.j2" if part else "frame.html.j2",
            "part": part,
            "assets": self._assets,
            "path": request.path,
            "version": __version__,
            "where": _where(self._sidecar.overview()),
            "event": self._newest(),
        }
        # In a thread: at thousands of services it takes a while, and others share this loop.
        text = await asyncio.to_thread(lambda: self._templates.render(template, {**frame, **view()}))
        response = web.Response(text=text, status=status, content_type="text/html", zlib_executor_size=1024)
        response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
        response.enable_compression()
        return response

    def _newest(self) -> int | str:
        """The id of the last event that this page may have taken in."""
        events = self._sidecar.events.since(None)
        return events[-1].id if events else ""


def _where(status: StatusReport) -> str:
    """Which proxy this is: people have several of these pages open."""
    nginx = f"nginx {status.nginx.version}".strip()
    return " · ".join(filter(None, (status.host, status.consul.datacenter, nginx)))


def _tag(status: StatusReport) -> str:
    return f'"{state_tag(status)}"'
