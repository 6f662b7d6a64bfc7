"""The application of the demo: ``python -m proxygen.demo.app NAME PORT`` answers with its own name."""

from __future__ import annotations

import sys

from aiohttp import web


def application(name: str) -> web.Application:
    """Answer every request with the instance's name, in a header and in the body."""

    async def answer(request: web.Request) -> web.Response:
        text = f"{name} answers {request.method} {request.path}\n"
        return web.Response(text=text, headers={"X-Instance": name})

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    return app


if __name__ == "__main__":
    web.run_app(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), print=None, access_log=None)
