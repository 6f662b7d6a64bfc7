"""Whose fault a refusal is, and what is left of a service that is refused twice."""

from __future__ import annotations

import pytest

from proxygen.errors import CheckRefused
from proxygen.model import ServiceName
from proxygen.nginx.check import Refusal
from proxygen.pipeline import quarantines

WEB = ServiceName("web")


def refusal(*services: ServiceName, claim: bool = False) -> Refusal:
    return Refusal(
        gate="nginx -t", file="http.d/20-servers.conf", line=7, services=services, reason="nonsense", claim=claim
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


@pytest.mark.parametrize("refusals", [(True, False), (False, True)])
def test_a_refused_host_or_port_is_withdrawn_at_once(refusals: tuple[bool, ...]) -> None:
    """Whatever else is refused of the same service in the same run."""
    assert quarantines(tuple(refusal(WEB, claim=claim) for claim in refusals), {})[WEB].withdrawn


def test_a_refusal_that_is_nobodys_refuses_the_whole() -> None:
    with pytest.raises(CheckRefused, match="nonsense"):
        quarantines((refusal(),), {})
