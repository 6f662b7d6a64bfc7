"""Certificates that expire soon are told of, once a day."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from proxygen.expiry import CertificateWatch, expiring
from proxygen.operator_files import Certificates
from proxygen.plan.types import Certificate
from tests.model.clock import simulated_time

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def certificate(name: str, expires: float) -> Certificate:
    return Certificate(
        name=name, hosts=(), certificate=f"/{name}", key=f"/{name}.key", fingerprint=name, expires=expires
    )


def test_those_are_told_that_expire_soon_the_first_to_expire_first() -> None:
    ones = [certificate("later", NOW + 15 * DAY), certificate("soon", NOW + 3 * DAY), certificate("past", NOW - 1)]
    past, soon = expiring(ones, NOW, 14 * DAY)
    assert past.startswith("certificate past expired at 2027-01-15T07:59:59+00:00;")
    assert soon == "certificate soon expires at 2027-01-18T08:00:00+00:00, in 3d"
    assert expiring(ones[:1], NOW, 0) == ()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The log's lines about expiry so far."""
    monkeypatch.setattr("time.time", lambda: NOW)
    with capture_logs() as lines:
        yield lines  # type: ignore[misc]


def test_the_log_tells_once_a_day_and_at_each_change(said: list[str]) -> None:
    with simulated_time() as loop:
        watch = CertificateWatch(14 * DAY, lambda: None)
        ones = Certificates(usable=(certificate("soon", NOW + DAY),))

        async def live(seconds: float, certificates: Certificates) -> None:
            watch.note(certificates)
            await asyncio.sleep(seconds)

        loop.run_until_complete(live(DAY / 2, ones))
        loop.run_until_complete(live(DAY / 4, ones))
        assert len(said) == 1
        loop.run_until_complete(live(DAY / 2, ones))
        assert len(said) == 2
        loop.run_until_complete(live(1, Certificates(usable=ones.usable, problems=("another is torn",))))
        assert len(said) == 3
        again = Certificates(usable=ones.usable)
        loop.run_until_complete(live(1.5 * DAY, again))
        assert len(said) == 5, "the timers of before are gone"
        loop.run_until_complete(live(3.5 * DAY, Certificates()))
        assert len(said) == 5


def test_files_are_read_again_when_a_pair_is_given_up() -> None:
    with simulated_time() as loop:
        reads: list[float] = []
        watch = CertificateWatch(14 * DAY, lambda: reads.append(loop.time()))

        async def live() -> None:
            watch.note(Certificates(look_again=60.0))
            await asyncio.sleep(59)
            assert reads == []
            await asyncio.sleep(2)

        loop.run_until_complete(live())
        assert len(reads) == 1
