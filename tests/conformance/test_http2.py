"""Smuggling by HTTP/2: what cannot be said in HTTP/1.1 must not reach an instance that speaks it."""

from __future__ import annotations

import pytest

from tests.conformance import frames
from tests.conformance.sending import unique
from tests.conformance.site import Site

_HOST = "plain-request.req.example.com"


def _pseudo(name: str, *, method: str = "POST", path: str = "", authority: str = _HOST) -> list[tuple[str, str]]:
    target = path or f"/?id={name}"
    return [(":method", method), (":scheme", "https"), (":path", target), (":authority", authority)]


def test_a_request_that_is_well_formed_reaches_an_instance(untrusting: Site) -> None:
    name = unique("h2")
    with untrusting.connect(_HOST, way="h2") as connection:
        reply = frames.exchange(connection, [*_pseudo(name), ("content-length", "1"), ("x-a", "b")], b"x")
    assert reply.status == 200
    (received,) = untrusting.record.of(name)
    assert (received.body, received.values("X-A")) == (b"x", ["b"])


@pytest.mark.parametrize(
    "fields",
    [
        [("x-a", "b\r\nx-smuggled: 1")],
        [("x-a", "b\nx-smuggled: 1")],
        [("x-a", "b\0c")],
        [("x-a\r\nx-smuggled", "1")],
        [("x-a: b\r\nx-smuggled", "1")],
        [("X-Upper", "1")],
        [("content-length", "1"), ("content-length", "2")],
        [("content-length", "5")],
        [("content-length", "-1")],
        [(":path", "/second")],
        [(":unknown", "1")],
        [("host", "evil.example.org")],
    ],
    ids=lambda fields: repr(fields[0]),
)
def test_a_malformed_request_reaches_no_instance(untrusting: Site, fields: list[tuple[str, str]]) -> None:
    name = unique("h2")
    with untrusting.connect(_HOST, way="h2") as connection:
        reply = frames.exchange(connection, [*_pseudo(name), *fields], b"x")
    assert reply.status in {400, None}
    assert untrusting.record.of(name) == ()


@pytest.mark.parametrize("path", ["/ HTTP/1.1\r\nX-Smuggled: 1\r\n\r\n", "/a b?id={id}", "nonsense", ""])
def test_a_path_that_is_none_reaches_no_instance_in_pieces(untrusting: Site, path: str) -> None:
    """What reaches it is one request, with the path as one word."""
    name = unique("h2")
    with untrusting.connect(_HOST, way="h2") as connection:
        fields = _pseudo(name, method="GET", path=path.replace("{id}", name) or " ")
        reply = frames.exchange(connection, fields, b"")
    assert reply.status in {400, None} or all(
        received.head.count(b" HTTP/1.") == 1 and not received.values("X-Smuggled")
        for received in untrusting.record.of(name)
    )


@pytest.mark.parametrize(
    ("fields", "gone"),
    [
        ([("transfer-encoding", "chunked")], "Transfer-Encoding"),
        ([("connection", "close")], ""),
        ([("connection", "x-secret"), ("x-secret", "1")], "X-Secret"),
        ([("upgrade", "h2c")], "Upgrade"),
    ],
    ids=lambda given: repr(given),
)
def test_what_belongs_to_a_connection_is_refused_or_dropped(
    untrusting: Site, fields: list[tuple[str, str]], gone: str
) -> None:
    """RFC 9113, section 8.2.2."""
    name = unique("h2")
    with untrusting.connect(_HOST, way="h2") as connection:
        reply = frames.exchange(connection, [*_pseudo(name), *fields], b"x")
    received = untrusting.record.of(name)
    assert reply.status in {400, None} or (len(received) == 1 and received[0].body == b"x")
    assert not any(each.values(gone) for each in received if gone)
