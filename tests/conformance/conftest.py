"""One nginx of each kind for the whole suite: rendered without trusted proxies, with one, and bare."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from tests.conformance.cases import CASES
from tests.conformance.instance import Record
from tests.conformance.site import Site, bare, pair, proxied, service_of
from tests.harness.tools import NginxBinary, each_nginx, find_nginx, missing


@pytest.fixture(scope="session", params=each_nginx("conformance"))
def binary(request: pytest.FixtureRequest) -> NginxBinary:
    """Each nginx that proxygen is tested on."""
    found = find_nginx(request.param)
    if found is None:
        missing(f"nginx ({request.param})")
    return found


@pytest.fixture(scope="session")
def untrusting(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All cases, with no trusted proxies: proxygen's default."""
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [service_of(case, ports) for case in CASES]
        directory = tmp_path_factory.mktemp(f"untrusting-{binary.name}")
        yield stack.enter_context(proxied(binary, directory, services, record))


@pytest.fixture(scope="session")
def trusting(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """All cases, with a trusted balancer in 127.0.9.0/24."""
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [service_of(case, ports) for case in CASES]
        directory = tmp_path_factory.mktemp(f"trusting-{binary.name}")
        settings = {"proxy.trusted_proxies": "127.0.9.0/24"}
        yield stack.enter_context(proxied(binary, directory, services, record, settings=settings))


@pytest.fixture(scope="session")
def sharing(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same as `trusting`, in the layout of a large catalog: hosts share virtual servers."""
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [service_of(case, ports) for case in CASES]
        directory = tmp_path_factory.mktemp(f"sharing-{binary.name}")
        settings = {"proxy.trusted_proxies": "127.0.9.0/24", "proxy.share_servers_from": 1}
        yield stack.enter_context(proxied(binary, directory, services, record, settings=settings))


@pytest.fixture(scope="session")
def bare_site(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The same cases on an nginx that only says proxy_pass."""
    directory = tmp_path_factory.mktemp(f"bare-{binary.name}")
    with bare(binary, directory, [case for case in CASES if case.bare is not None], Record()) as site:
        yield site
