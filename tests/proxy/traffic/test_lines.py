"""One line of nginx's: what it says, and what is no line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.traffic.lines import Line, parse

HEADER = b"<190>Nov 24 03:14:29 proxygen: "


def test_a_line_says_where_a_request_went_and_how_it_ended() -> None:
    assert parse(HEADER + b"10000 http://svc_stable 200 0.012") == Line(1.0, "svc_stable", 200, 1, 0.012)


def test_a_sample_is_in_the_line_itself() -> None:
    """An old worker of nginx's goes on with the sample that it was told."""
    line = parse(HEADER + b"250 svc_stable 502 1.000")
    assert line is not None
    assert (line.weight, line.target, line.status) == (40.0, "svc_stable", 502)


@pytest.mark.parametrize(
    ("times", "asked", "seconds"),
    [(b"", 0, 0.0), (b"0.100, 0.250", 2, 0.35), (b"0.1 : 0.2", 2, 0.3), (b"-, 0.2", 2, 0.2), (b"-", 1, 0.0)],
)
def test_the_time_is_that_of_all_who_were_asked(times: bytes, asked: int, seconds: float) -> None:
    line = parse(HEADER + b"10000 http://svc_stable 200 " + times)
    assert line is not None
    assert (line.asked, line.seconds) == (asked, pytest.approx(seconds))


@pytest.mark.parametrize(
    ("servers", "last"),
    [
        (b"", ""),
        (b" | ", ""),
        (b" | 10.0.0.1:80", "10.0.0.1:80"),
        (b" | 10.0.0.1:80, [fd00::1]:80", "[fd00::1]:80"),
        (b" | 10.0.0.1:80 : 10.0.0.2:80", "10.0.0.2:80"),
        (b" | svc_stable", "svc_stable"),
    ],
)
def test_the_server_is_the_last_that_was_asked(servers: bytes, last: str) -> None:
    line = parse(HEADER + b"10000 http://svc_stable 200 0.100" + servers)
    assert line is not None
    assert (line.asked, line.server) == (1, last)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"10000 svc 200",
        b"0 svc 200 0.1",
        b"10001 svc 200 0.1",
        b"-1 svc 200 0.1",
        b"10000  200 0.1",
        b"10000 svc 20 0.1",
        b"10000 svc 2x0 0.1",
        b"10000 svc 200 1e9",
        b"10000 svc 200 nan",
        b"10000 svc 200 0.1 and more",
        b"10000 " + b"x" * 300 + b" 200 0.1",
    ],
)
def test_anything_else_is_no_line(body: bytes) -> None:
    assert parse(HEADER + body) is None


@given(st.binary(max_size=200))
def test_no_bytes_break_the_reader(datagram: bytes) -> None:
    """Whoever can open the socket may send what he likes."""
    for line in (parse(datagram), parse(HEADER + datagram)):
        assert line is None or (1 <= line.weight <= 10_000 and line.seconds >= 0)


@pytest.mark.parametrize(
    ("body", "is_line"),
    [
        (b"1 svc 200 0.1", True),
        (b"010000 svc 200 0.1", True),
        (b"10000 " + b"x" * 256 + b" 200 0.1", True),
        (b"10000 " + b"x" * 257 + b" 200 0.1", False),
        (b"10000 svc 2000 0.1", False),
        (b"10000 svc 200 12345678", False),
        (b"10000 svc 200 1234567.123", True),
        (b"10000 svc 200 0.1234", False),
        (b"10000 svc 200 0.1, x", False),
        (b"10000 svc 200 x, 0.1", False),
    ],
)
def test_a_line_may_be_as_long_as_its_fields_and_no_longer(body: bytes, *, is_line: bool) -> None:
    assert (parse(HEADER + body) is not None) is is_line


def test_a_target_is_what_stands_behind_the_last_slash() -> None:
    for target in (b"svc", b"http://svc", b"grpcs://svc"):
        line = parse(HEADER + b"10000 " + target + b" 200 0.1")
        assert line is not None
        assert line.target == "svc"


def test_what_is_no_text_breaks_nothing() -> None:
    line = parse(HEADER + b"10000 http://\xff 200 0.1 | \xfe:80")
    assert line is not None
    assert (line.target, line.server) == ("\ufffd", "\ufffd:80")


def test_each_field_has_its_place() -> None:
    line = parse(HEADER + b"5000 grpc://svc_canary 502 0.25, -, 1.5 | 10.0.0.1:80, 10.0.0.2:80, 10.0.0.3:80")
    assert line == Line(weight=2.0, target="svc_canary", status=502, asked=3, seconds=1.75, server="10.0.0.3:80")
