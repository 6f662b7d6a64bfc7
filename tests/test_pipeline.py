"""Whose fault a refusal is, and what is left of a service that is refused twice."""

from __future__ import annotations

import pytest

from proxygen.errors import CheckRefused
from proxygen.model import ServiceName
from proxygen.nginx.check import Refusal
from proxygen.pipeline import quarantines
from proxygen.plan.types import Claim, PortClaim

WEB = ServiceName("web")
PORT = PortClaim("tcp", 5432)


def refusal(*services: ServiceName, claims: frozenset[Claim] = frozenset()) -> Refusal:
    return Refusal(
        gate="nginx -t", file="http.d/20-servers.conf", line=7, services=services, reason="nonsense", claims=claims
    )


def test_a_refused_service_keeps_its_routes_and_says_where_it_was_refused() -> None:
    found = quarantines((refusal(WEB),), {})
    assert str(found[WEB]) == "service web: http.d/20-servers.conf:7: nginx -t: nonsense"
    assert not found[WEB].withdrawn


def test_a_service_that_is_refused_in_quarantine_too_is_withdrawn() -> None:
    first = quarantines((refusal(WEB),), {})
    again = quarantines((refusal(WEB),), first)
    assert again[WEB].withdrawn
    with pytest.raises(CheckRefused):
        quarantines((refusal(WEB),), again)


@pytest.mark.parametrize("first", [0, 1])
def test_a_refused_host_or_port_is_lost_at_once_and_nothing_else(first: int) -> None:
    """Whatever else is refused of the same service in the same run."""
    both = (refusal(WEB, claims=frozenset({PORT})), refusal(WEB))
    found = quarantines((both[first], both[1 - first]), {})
    assert found[WEB].lost == {PORT}
    assert not found[WEB].withdrawn


def test_a_second_refused_host_withdraws_nothing_yet() -> None:
    """nginx names one at a time."""
    known = quarantines((refusal(WEB, claims=frozenset({PORT})),), {})
    other = PortClaim("tcp", 5433)
    again = quarantines((refusal(WEB, claims=frozenset({other})),), known)
    assert again[WEB].lost == {PORT, other}
    assert not again[WEB].withdrawn


def test_a_refusal_that_is_nobodys_refuses_the_whole() -> None:
    with pytest.raises(CheckRefused, match="nonsense"):
        quarantines((refusal(),), {})
