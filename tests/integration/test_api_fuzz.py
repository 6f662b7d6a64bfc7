"""The admin API as its own description says it: whatever is sent, what comes back is what the description allows.

A real sidecar beside a real Consul and nginx; with a token, so that writes are tried in earnest.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import schemathesis
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import (
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
        status_code_conformance,
        unsupported_method,
    )

from proxygen.proxy.admin.api import ENDPOINTS
from proxygen.proxy.admin.openapi import description
from tests.harness.app import App
from tests.harness.beside import beside_nginx
from tests.harness.sidecar import Sidecar

TOKEN = "a-token-for-fuzzing"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    unsupported_method,
]
STREAM = "/api/v1/events"
"""It does not end; tests of it are elsewhere."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def sidecar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sidecar]:
    """A service with a canary is served; what is fuzzed may do with it what it likes."""
    settings = {"admin.token": TOKEN, "log.level": "info"}
    with App("web-1") as app, beside_nginx(tmp_path_factory.mktemp("fuzz"), settings) as parts:
        tags = ["proxygen.route=web.example.com"]
        parts.consul.register("web", id="web-1", port=app.port, tags=tags)
        parts.consul.register("web", id="web-2", port=app.port, tags=[*tags, "proxygen.canary=9%"])
        parts.sidecar.start()
        yield parts.sidecar


SCHEMA = schemathesis.openapi.from_dict(msgspec.to_builtins(description(ENDPOINTS)))
OPERATIONS = {
    operation.label: operation
    for operation in (result.ok() for result in SCHEMA.get_all_operations())
    if operation.path != STREAM
}
fuzzed = settings(
    derandomize=True,
    max_examples=20,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)


def test_what_is_served_is_what_is_fuzzed(sidecar: Sidecar) -> None:
    served = sidecar.request("/api/v1/openapi.json")[1]
    assert served == json.loads(msgspec.json.encode(description(ENDPOINTS)))


@pytest.mark.parametrize("label", OPERATIONS)
@pytest.mark.parametrize("token", [AUTHORISED, {}], ids=["token", "none"])
def test_any_request_is_answered_as_described(sidecar: Sidecar, label: str, token: dict[str, str]) -> None:
    @fuzzed
    @given(case=OPERATIONS[label].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(base_url=f"http://127.0.0.1:{sidecar.admin}", headers=token, checks=CHECKS)
        assert token or case.method == "GET" or not answer.status_code < 300

    ask()


@pytest.mark.parametrize("label", [label for label in OPERATIONS if "{name}" in label])
def test_any_request_about_a_service_that_is_there_is_too(sidecar: Sidecar, label: str) -> None:
    @fuzzed
    @given(case=OPERATIONS[label].as_strategy())
    def ask(case: schemathesis.Case) -> None:
        case.path_parameters["name"] = "web"
        tag = sidecar_tag(sidecar)
        headers = {**AUTHORISED, "If-Match": tag} if "If-Match" in case.headers else AUTHORISED
        case.call_and_validate(base_url=f"http://127.0.0.1:{sidecar.admin}", headers=headers, checks=CHECKS)

    ask()


def sidecar_tag(sidecar: Sidecar) -> str:
    """The ETag of the shares as they are now."""
    return f'"{sidecar.request("/api/v1/services/web/shares")[1]["index"]}"'


def test_afterwards_it_serves_as_before(sidecar: Sidecar) -> None:
    """Runs last: what was sent may have moved shares and generations, and broken nothing."""
    assert sidecar.running
    assert {service["name"] for service in sidecar.request("/api/v1/services")[1]} == {"web"}
    assert not [event for event in sidecar.events() if event.get("event") == "admin request failed"]
