"""Certificates that expire soon are told of, once a day."""

from __future__ import annotations

import asyncio

import pytest

from proxygen.proxy.plan.types import Certificate
from proxygen.proxy.policy.operator_files import Certificates
from proxygen.proxy.record.events import EventLog, Kind, Topic
from proxygen.proxy.record.expiry import CertificateWatch, expiring, labelled
from tests.model.clock import simulated_time

NOW = 1_800_000_000.0
DAY = 24 * 3600.0


def certificate(name: str, expires: float, file: str = "") -> Certificate:
    file = file or f"{name}.crt"
    return Certificate(
        name=name, file=file, hosts=(), certificate=f"/{file}", key=f"/{name}.key", fingerprint=file, expires=expires
    )


def test_those_are_told_that_expire_soon_the_first_to_expire_first() -> None:
    ones = [certificate("later", NOW + 15 * DAY), certificate("soon", NOW + 3 * DAY), certificate("past", NOW - 1)]
    (past, expired), (soon, expires) = expiring(ones, NOW, 14 * DAY).items()
    assert (past, soon) == ("past", "soon")
    assert expired.text.startswith("certificate past expired at 2027-01-15T07:59:59+00:00;")
    assert expires.text == "certificate soon expires at 2027-01-18T08:00:00+00:00, in 3d"
    assert expiring(ones[:1], NOW, 0) == {}


def test_those_of_one_name_are_told_each_by_its_file() -> None:
    """The one that is renewed must not hide that the other, which the tag names, expires."""
    ones = [
        certificate("web", NOW + DAY),
        certificate("web", NOW + 2 * DAY, "web.pem"),
        certificate("web.pem", NOW + 3 * DAY, "web.pem.crt"),
        certificate("api", NOW + 4 * DAY),
    ]
    assert dict(labelled(ones)) == dict(zip(("web.crt", "web.pem", "web.pem.crt", "api"), ones, strict=True))
    assert list(expiring(ones, NOW, 14 * DAY)) == ["web.crt", "web.pem", "web.pem.crt", "api"]


@pytest.mark.incident("T58")
def test_one_is_told_of_once_a_day_and_anew_when_it_is_another_one() -> None:
    events = EventLog()

    def told(days: float, *ones: Certificate) -> list[Kind]:
        before = len(events.since(None))
        events.note(Topic.CERTIFICATE, expiring(ones, NOW + days * DAY, 14 * DAY))
        return [event.kind for event in events.since(None)[before:]]

    ends, later = certificate("web", NOW + 3.5 * DAY), certificate("web", NOW + 9.5 * DAY)
    assert told(0, ends) == [Kind.CERTIFICATE_EXPIRES]
    assert told(0.4, ends) == []
    assert told(0.6, ends) == [Kind.CERTIFICATE_EXPIRES]
    assert told(0.6, certificate("web", NOW + 3.55 * DAY)) == [Kind.CERTIFICATE_EXPIRES]
    assert told(0.7, later) == [Kind.CERTIFICATE_EXPIRES]
    assert told(20.1, later) == [Kind.CERTIFICATE_EXPIRES]
    assert told(20.4, later) == []
    assert told(20.6, later) == [Kind.CERTIFICATE_EXPIRES], "after its end too"
    assert told(20.7) == [Kind.CERTIFICATE_RENEWED]


def test_files_are_read_again_when_a_pair_is_given_up() -> None:
    with simulated_time() as loop:
        reads: list[float] = []
        watch = CertificateWatch(lambda: reads.append(loop.time()))

        async def live() -> None:
            watch.note(Certificates(look_again=60.0))
            await asyncio.sleep(59)
            assert reads == []
            await asyncio.sleep(2)

        loop.run_until_complete(live())
        assert len(reads) == 1
