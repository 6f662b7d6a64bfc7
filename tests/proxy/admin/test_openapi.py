"""The description is of what is there, and what is there follows the description."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import pytest
from aiohttp import web

from proxygen.kit.errors import ProxygenError
from proxygen.proxy.admin import api
from proxygen.proxy.admin.api import ENDPOINTS
from proxygen.proxy.admin.openapi import description, normal_form
from proxygen.proxy.admin.statuses import STATUSES
from tests.proxy.admin.asking import AUTHORISED, asking
from tests.proxy.admin.sidecar import RememberingSidecar

DOCUMENT = description(ENDPOINTS)


def references(part: Any) -> set[str]:
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        return own.union(*(references(value) for value in part.values()))
    if isinstance(part, list | tuple):
        return set().union(*(references(value) for value in part))
    return set()


def test_every_reference_leads_to_a_schema() -> None:
    known = {f"#/components/schemas/{name}" for name in DOCUMENT["components"]["schemas"]}
    assert references(DOCUMENT) == known


OLDER = {
    "title": "Map",
    "type": "object",
    "properties": {"shares": {"type": "object", "additionalProperties": {"anyOf": [{"type": "integer"}]}}},
    "required": [],
}
NEWER = {
    "properties": {
        "shares": {
            "additionalProperties": {"anyOf": [{"type": "integer", "examples": [1]}]},
            "propertyNames": {"$ref": "#/components/schemas/Name"},
            "default": {},
            "type": "object",
        }
    },
    "required": [],
    "type": "object",
    "title": "Map",
}


def test_the_description_is_the_same_by_every_msgspec() -> None:
    """Newer versions write more keywords, and may write them in another order, which the page would show."""
    assert json.dumps(normal_form(NEWER)) == json.dumps(normal_form(OLDER))


def test_the_normal_form_keeps_what_a_schema_says() -> None:
    said = {"type": "object", "properties": {"default": {"type": "integer", "default": 0}}, "required": ["default"]}
    assert normal_form(said) == said
    assert normal_form(normal_form(NEWER)) == normal_form(NEWER)


def test_every_part_of_a_path_is_described() -> None:
    for endpoint in ENDPOINTS:
        assert set(re.findall(r"{(\w+)}", endpoint.path)) == set(endpoint.parameters)


def test_operations_have_names_of_their_own() -> None:
    names = [operation["operationId"] for path in DOCUMENT["paths"].values() for operation in path.values()]
    assert len(names) == len(set(names)) == len(ENDPOINTS)


def statuses_raised(sources: Iterable[str]) -> set[int]:
    """Those of aiohttp's exceptions that name one, such as ``web.HTTPNotFound``."""
    words = {word for source in sources for word in re.findall(r"\bweb\.(HTTP\w+)\(", source)}
    return {vars(web)[word].status_code for word in words}


def test_every_status_that_a_handler_answers_with_is_described() -> None:
    """Those of the page are nobody's interface."""
    raised = statuses_raised(path.read_text() for path in Path(api.__file__).parent.glob("*.py"))
    described = {int(s) for path in DOCUMENT["paths"].values() for each in path.values() for s in each["responses"]}
    assert raised >= {400, 401, 404, 412}
    assert raised - described == set()


@pytest.mark.parametrize("kind", STATUSES)
async def test_every_error_is_answered_with_the_status_of_its_kind(kind: type[ProxygenError]) -> None:
    class Failing(RememberingSidecar):
        def applies(self) -> NoReturn:
            raise kind("why it cannot be")

    async with asking(Failing()) as client:
        answer = await client.get("/api/v1/applies")
        assert (answer.status, await answer.json()) == (STATUSES[kind], {"error": "why it cannot be"})


async def test_it_is_served() -> None:
    async with asking(RememberingSidecar()) as client:
        served = await (await client.get("/api/v1/openapi.json")).json()
        assert served["paths"].keys() == DOCUMENT["paths"].keys()


@pytest.mark.parametrize("path", ["/api/v1/status", "/api/v1/generations"])
async def test_what_is_live_has_a_tag_that_a_write_can_name(path: str) -> None:
    sidecar = RememberingSidecar()
    async with asking(sidecar) as client:
        tag = (await client.get(path)).headers["ETag"]
        assert tag == '"42"'
        stale = await client.post("/api/v1/rollback", headers={**AUTHORISED, "If-Match": '"41"'})
        assert (stale.status, stale.headers["ETag"], sidecar.rollbacks) == (412, tag, [])
        held = await client.post("/api/v1/release-hold", headers={**AUTHORISED, "If-Match": '"41"'})
        assert held.status == 412
        done = await client.post("/api/v1/rollback", headers={**AUTHORISED, "If-Match": tag})
        assert (done.status, sidecar.rollbacks) == (200, [None])


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/api/v1/generations/42/diff", 200, ""),
        ("/api/v1/generations/42/diff?against=41", 200, ""),
        ("/api/v1/generations/7/diff", 404, "42 to 42"),
        ("/api/v1/generations/seven/diff", 404, ""),
        ("/api/v1/generations/-1/diff", 404, ""),
        ("/api/v1/generations/42/diff?against=x", 400, "against"),
        ("/api/v1/generations/42/diff?against=", 400, "against"),
        ("/api/v1/generations/42/diff?than=41", 400, "allowed: against"),
        ("/api/v1/status?verbose=1", 400, "allowed: none"),
        ("/api/v1/applies", 200, ""),
    ],
)
async def test_a_question_that_would_not_be_heeded_is_refused(path: str, status: int, words: str) -> None:
    async with asking(RememberingSidecar()) as client:
        answer = await client.get(path)
        assert answer.status == status
        assert words in await answer.text()


async def test_what_is_not_for_a_method_is_said_without_a_token() -> None:
    async with asking(RememberingSidecar()) as client:
        answer = await client.post("/api/v1/status")
        assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
        assert (await client.post("/nowhere")).status == 404
        assert (await client.head("/api/v1/status")).status == 200
