"""An example application that registers itself: it says its version and its name, and passes a request's id on.

Where it listens, how it is routed and which variant it belongs to is the deployment's choice, in the environment. The
variables that begin with PROXYGEN_REGISTER_ are those of `proxygen register`, so the same environment suits either.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from collections.abc import Mapping

from aiohttp import web

from proxygen.registration import HttpCheck, ProxyTags, Registration
from proxygen.registration.frameworks import with_aiohttp

DRAIN = 5.0
"""Seconds between saying that it leaves and leaving; the container's stop_grace_period has to be longer."""


def main(environment: Mapping[str, str]) -> None:
    port = int(environment.get("PROXYGEN_REGISTER_PORT") or "8080")
    version = environment.get("APP_VERSION") or "unknown"
    app = application(version, environment.get("APP_NAME") or socket.gethostname())
    if environment.get("CONSUL_HTTP_ADDR"):
        app.cleanup_ctx.append(with_aiohttp(registration(environment, port=port, version=version)))
    web.run_app(app, port=port, print=None, access_log=None, handle_signals=True)


def application(version: str, name: str) -> web.Application:
    """Answer every path with who answers, in headers and as JSON."""

    async def answer(request: web.Request) -> web.Response:
        # The proxy gives every request an id; whoever logs it on the way can be found by it.
        request_id = request.headers.get("X-Request-ID", "")
        log(event="request", method=request.method, path=request.path, request_id=request_id, version=version)
        body = {"version": version, "name": name, "path": request.path, "request_id": request_id}
        headers = {"X-Instance": name, "X-Version": version, "X-Request-ID": request_id}
        return web.json_response(body, headers=headers)

    async def healthz(_request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def slow(request: web.Request) -> web.Response:
        # A request that is under way when the instance is told to leave.
        await asyncio.sleep(min(float(request.query.get("seconds", "1")), 30.0))
        return await answer(request)

    app = web.Application()
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/slow", slow)
    app.router.add_route("*", "/{path:.*}", answer)
    return app


def registration(environment: Mapping[str, str], *, port: int, version: str) -> Registration:
    routes = (environment.get("PROXYGEN_REGISTER_ROUTE") or "app.localhost").split()
    tags = ProxyTags(route=routes, canary=environment.get("PROXYGEN_REGISTER_CANARY") or None)
    return Registration(
        name=environment.get("PROXYGEN_REGISTER_NAME") or "web",
        id=environment.get("PROXYGEN_REGISTER_ID") or "",
        address=environment.get("PROXYGEN_REGISTER_ADDRESS") or None,
        port=port,
        tags=tags,
        meta={"version": version},
        check=HttpCheck("/healthz", interval=1.0),
        drain=DRAIN,
    )


def log(**fields: str) -> None:
    print(json.dumps(fields), file=sys.stdout, flush=True)


if __name__ == "__main__":
    main(os.environ)
