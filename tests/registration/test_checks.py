from __future__ import annotations

from typing import Any

import pytest

from proxygen.kit.errors import BadInput
from proxygen.registration import Check, GrpcCheck, HttpCheck, TcpCheck, TtlCheck


@pytest.mark.parametrize(
    ("check", "told"),
    [
        (HttpCheck("/healthz"), {"HTTP": "http://10.0.0.7:80/healthz", "Interval": "5s", "Timeout": "2s"}),
        (HttpCheck("/", port=81, scheme="https"), {"HTTP": "https://10.0.0.7:81/"}),
        (HttpCheck("https://elsewhere.example.com/x"), {"HTTP": "https://elsewhere.example.com/x"}),
        (HttpCheck("/", headers={"Host": "a"}, method="HEAD"), {"Header": {"Host": ["a"]}, "Method": "HEAD"}),
        (HttpCheck("/", interval="1500ms", timeout=0.5), {"Interval": "1500ms", "Timeout": "500ms"}),
        (TcpCheck(), {"TCP": "10.0.0.7:80"}),
        (TcpCheck(port=5432), {"TCP": "10.0.0.7:5432"}),
        (GrpcCheck(), {"GRPC": "10.0.0.7:80", "GRPCUseTLS": False}),
        (GrpcCheck("shop.Cart", tls=True), {"GRPC": "10.0.0.7:80/shop.Cart", "GRPCUseTLS": True}),
        (TtlCheck("30s"), {"TTL": "30s"}),
    ],
)
def test_a_check_is_what_consul_is_told(check: Check, told: dict[str, Any]) -> None:
    definition = check.definition("10.0.0.7", 80)
    assert {key: definition[key] for key in told} == told


def test_an_ipv6_address_stands_in_brackets() -> None:
    assert HttpCheck("/").url("2001:db8::1", 80) == "http://[2001:db8::1]:80/"
    assert TcpCheck().definition("2001:db8::1", 80)["TCP"] == "[2001:db8::1]:80"


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda: HttpCheck("healthz"), "neither a path"),
        (lambda: HttpCheck("ftp://a/"), "neither a path"),
        (lambda: HttpCheck("/a\nb"), "neither a path"),
        (lambda: HttpCheck("/", interval="often"), "HttpCheck: interval: 'often' is not a duration"),
        (lambda: HttpCheck("/", interval=0.1), "interval = 0.1s is not from 1s"),
        (lambda: HttpCheck("/", timeout=0), "timeout"),
        (lambda: TcpCheck(port=0), "port = 0"),
        (lambda: TcpCheck(port=70_000), "port = 70000"),
        (lambda: GrpcCheck("a b"), "no gRPC service"),
        (lambda: TtlCheck(0), "ttl = 0s"),
        (lambda: TtlCheck("2d"), "ttl = 172800s"),
        (lambda: TtlCheck(float("nan")), "ttl = nan"),
    ],
)
def test_a_wrong_check_is_refused_with_the_place(build: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        build()
