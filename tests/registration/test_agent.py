"""What an agent answers with, where somebody else may have written it."""

from __future__ import annotations

import pytest
from aiohttp import web

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import CatalogUnavailable
from proxygen.registration.agent import Agent
from proxygen.registration.live import set_tags
from proxygen.settings import ConsulSettings
from tests.harness.fake_consul import fake_consul


@pytest.mark.parametrize("body", ['{"a":' * 5_000 + "x" + "}" * 5_000, "<html>", ""])
async def test_an_answer_that_cannot_be_read_is_a_failure_of_the_agents(body: str) -> None:
    """One registration nested without end must not end those who read it beside their own."""
    async with fake_consul() as fake, ConsulClient(ConsulSettings(address=fake.address)) as client:
        fake.fault = lambda request: web.Response(text=body)
        with pytest.raises(CatalogUnavailable, match="cannot be read"):
            await Agent(client.http).services()
        with pytest.raises(CatalogUnavailable, match="cannot be read"):
            await Agent(client.http).look("web-1")
        with pytest.raises(CatalogUnavailable, match="cannot be read"):
            await set_tags(client, "web-1", set_to={}, removed=["canary"], prefix="proxygen")
