"""The admin API over a real socket, for those who ask it as a client would."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from pydantic import SecretStr

from proxygen.proxy.admin.access import Bearer, Writers
from proxygen.proxy.admin.api import application
from proxygen.proxy.admin.stream import Streams
from proxygen.proxy.admin.tokens import Tokens
from proxygen.settings import AdminSettings
from tests.proxy.admin.sidecar import RememberingSidecar

TOKEN = "0123456789abcdef"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}

Client = TestClient[web.Request, web.Application]


@asynccontextmanager
async def asking(sidecar: RememberingSidecar, writers: Writers | None = None) -> AsyncIterator[Client]:
    """Without ``writers``, whoever has `TOKEN` may write."""
    writers = writers or Bearer(Tokens(AdminSettings(token=SecretStr(TOKEN))))
    client: Client = TestClient(TestServer(application(sidecar, Streams(sidecar.events), writers=writers)))
    await client.start_server()
    try:
        yield client
    finally:
        await client.close()
