"""`proxy.any_header_names`: names with underscores and dots pass, and smuggling is refused all the same."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest

from tests.conformance.case import Case, Outcome, Sent, Way
from tests.conformance.groups.smuggling import SMUGGLING
from tests.conformance.instance import Record
from tests.conformance.sending import differences, placeholders, send
from tests.conformance.site import Site, pair, proxied, service_of
from tests.harness.tools import NginxBinary

_NAMES = Case(
    name="names",
    title="",
    sent=Sent(headers=("X_Under_Score: 1", "X.Dot: 2")),
    expected=Outcome(reaches=("X_Under_Score: 1", "X.Dot: 2")),
    bare=None,
)
_CASES = (_NAMES, *SMUGGLING.cases)


@pytest.fixture(scope="module")
def site(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        directory = tmp_path_factory.mktemp(f"names-{binary.name}")
        services = [service_of(case, ports) for case in _CASES]
        settings = {"proxy.any_header_names": True}
        yield stack.enter_context(proxied(binary, directory, services, record, settings=settings))


@pytest.mark.parametrize(
    ("case", "way"), [pytest.param(case, way, id=f"{case.name}-{way}") for case in _CASES for way in case.ways]
)
def test_a_request(site: Site, case: Case, way: Way) -> None:
    wanted = case.wanted(site.version)
    seen = send(site, case, way, ask_others=False)
    assert differences(seen, wanted, placeholders(site, case.host, way)) == []


@pytest.mark.parametrize("name", ["X_Forwarded_For", "X_Real_IP", "X_Forwarded_Proto", "X_Original_URL"])
def test_a_stranger_does_not_say_who_it_is_by_another_spelling(site: Site, name: str) -> None:
    """CGI, WSGI and others make one variable of both spellings."""
    case = replace(_NAMES, sent=Sent(headers=(f"{name}: 203.0.113.9",)), expected=Outcome(without=(name,)))
    seen = send(site, case, "http", ask_others=False)
    assert differences(seen, case.expected, placeholders(site, case.host, "http")) == []
