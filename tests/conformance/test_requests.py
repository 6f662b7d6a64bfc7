"""Every row of "What a request gets", on each nginx: through proxygen's rendering, and through a bare nginx."""

from __future__ import annotations

from typing import Any, Final

import pytest

from tests.conformance.case import BALANCER, Case, Way
from tests.conformance.cases import CASES
from tests.conformance.sending import differences, placeholders, send
from tests.conformance.site import Site

_OF_TRUST: Final = ("T77", "T78", "T81", "T82", "T86")
"""The incidents whose cases differ with what is trusted."""


def _rows() -> list[Any]:
    return [pytest.param(case, way, id=f"{case.name}-{way}") for case in CASES for way in case.ways]


def _check(site: Site, case: Case, way: Way) -> None:
    wanted = case.wanted(site.version)
    seen = send(site, case, way, ask_others=wanted.others is not None)
    _fail_for(differences(seen, wanted, placeholders(site, case.host, way)))


@pytest.mark.parametrize(("case", "way"), [row for row in _rows() if row.values[0].sent.source != BALANCER])
def test_a_request(untrusting: Site, case: Case, way: Way) -> None:
    _check(untrusting, case, way)


@pytest.mark.parametrize(("case", "way"), [row for row in _rows() if row.values[0].incident in _OF_TRUST])
def test_a_request_where_a_balancer_is_trusted(trusting: Site, case: Case, way: Way) -> None:
    _check(trusting, case, way)


@pytest.mark.whole("hosts that share virtual servers")
@pytest.mark.parametrize(("case", "way"), [row for row in _rows() if row.values[1] == row.values[0].ways[0]])
def test_a_request_where_hosts_share_virtual_servers(sharing: Site, case: Case, way: Way) -> None:
    """As in a large catalog; nobody can tell."""
    _check(sharing, case, way)


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CASES if case.bare is not None])
def test_a_request_through_a_bare_nginx(bare_site: Site, case: Case) -> None:
    """The page's last column is seen, not claimed. By the first way, which is HTTP/1.1 where there is a choice."""
    wanted = case.wanted_bare(bare_site.version)
    assert wanted is not None
    way = case.ways[0]
    seen = send(bare_site, case, way, ask_others=wanted.others is not None)
    _fail_for(differences(seen, wanted, placeholders(bare_site, case.host, way, upstream=case.name)))


def _fail_for(otherwise: list[str]) -> None:
    if otherwise:
        pytest.fail("\n".join(otherwise), pytrace=False)
