"""The numbers that no test waits for: read from what is rendered for a service without any tag but a route."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.instance import Record
from tests.conformance.site import Service, proxied
from tests.harness.tools import NginxBinary


def _values(configuration: str, directive: str) -> set[str]:
    return set(re.findall(rf"^\s*{directive} ([^;]*);", configuration, re.MULTILINE))


def _milliseconds(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()  # type: ignore[union-attr]
    return int(number) * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}[unit]


def _times(configuration: str, directive: str) -> set[int]:
    return set(map(_milliseconds, _values(configuration, directive)))


@pytest.fixture
def rendered(binary: NginxBinary, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """What is rendered for a service of each protocol, by the settings of the test's parameter."""
    settings: dict[str, Any] = getattr(request, "param", {})
    services = [
        Service(name=protocol, tags=(f"route={protocol}.req.example.com", f"protocol={protocol}"), ports=(1, 2))
        for protocol in ("http", "grpc", "fastcgi", "uwsgi")
    ]
    with proxied(binary, tmp_path, services, Record(), settings=settings) as site:
        return site.configuration()


def test_an_ordinary_request_may_be_silent_for_five_minutes_and_what_waits_for_an_hour(rendered: str) -> None:
    for direction in ("read", "send"):
        assert _times(rendered, f"proxy_{direction}_timeout") == {300_000, 3_600_000}
        assert _times(rendered, f"fastcgi_{direction}_timeout") >= {300_000}
        assert _times(rendered, f"uwsgi_{direction}_timeout") >= {300_000}
        assert _times(rendered, f"grpc_{direction}_timeout") == {3_600_000}


def test_an_idle_connection_is_kept_for_a_second(rendered: str) -> None:
    assert _times(rendered.partition("server {")[0], "keepalive_timeout") == {1000}


def test_there_is_no_limit_on_bodies_and_no_version_anywhere(rendered: str) -> None:
    assert _values(rendered, "client_max_body_size") == {"0"}
    assert _values(rendered, "server_tokens") == {"off"}


@pytest.mark.parametrize(
    "rendered",
    [{"proxy.timeout": "7s", "proxy.idle_timeout": "70s", "proxy.keepalive_timeout": "700ms", "proxy.body_size": "7m"}],
    indirect=True,
)
def test_each_default_is_a_setting(rendered: str) -> None:
    assert _times(rendered, "proxy_read_timeout") == {7000, 70_000}
    assert _times(rendered, "grpc_read_timeout") == {70_000}
    assert _times(rendered.partition("server {")[0], "keepalive_timeout") == {700}
    sizes = _values(rendered, "client_max_body_size")
    # gRPC never has a limit.
    assert sizes in ({"7340032", "0"}, {"7m", "0"})


@pytest.mark.parametrize(
    "rendered", [{"proxy.request_buffering": False, "proxy.response_buffering": False}], indirect=True
)
def test_buffering_is_a_setting(rendered: str) -> None:
    assert _values(rendered, "proxy_request_buffering") == {"off"}
    assert _values(rendered, "proxy_buffering") == {"off"}
