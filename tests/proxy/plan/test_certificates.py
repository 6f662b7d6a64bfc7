"""Which certificate a host is served with, where several would do."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import permutations
from typing import ClassVar

import pytest

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.certificates import certificate_for, choose_certificates
from proxygen.proxy.plan.types import (
    Certificate,
    CertificateIndex,
    Claim,
    Ident,
    Policy,
    PortClaim,
    RouteClaim,
    Service,
    ServiceState,
)
from proxygen.tags import ProxyTags
from tests.proxy.plan.catalogs import instance, plan
from tests.proxy.plan.catalogs import service as planned_service


def certificate(name: str, *hosts: str) -> Certificate:
    return Certificate(name=name, hosts=hosts, certificate=f"/{name}.crt", key=f"/{name}.key", fingerprint=name)


def service(name: str, tls: str | None, registered: int) -> Service:
    return Service(
        name=ServiceName(name),
        ident=Ident(f"svc_{name}"),
        state=ServiceState.SERVED,
        options=ProxyTags(tls=tls),
        registered=registered,
    )


def chosen(*services: Service, claims: Mapping[Claim, str]) -> dict[str, str]:
    holders = {claim: ServiceName(name) for claim, name in claims.items()}
    found = choose_certificates({each.name: each for each in services}, holders, CertificateIndex.of(KNOWN))
    return {host: each.name for host, each in found.items()}


KNOWN = (
    certificate("first", "a.example.com"),
    certificate("wild", "x.example.org", "*.example.com"),
    certificate("second", "b.example.com", "a.example.com"),
)
INDEX = CertificateIndex.of(KNOWN)
ROOT, API, WEB = (
    RouteClaim("a.example.com", "/"),
    RouteClaim("a.example.com", "/api"),
    RouteClaim("a.example.com", "/web"),
)


def test_a_certificate_is_found_by_its_own_name_only() -> None:
    for each in KNOWN:
        assert certificate_for("any.example.net", each.name, INDEX) is each
    assert certificate_for("a.example.com", "third", INDEX) is None


def test_of_two_of_one_name_it_is_the_first() -> None:
    """NAME.crt beside NAME.pem."""
    first, second = (replace(KNOWN[0], certificate=f"/first.{suffix}") for suffix in ("crt", "pem"))
    for wanted in ("first", "auto"):
        assert certificate_for("a.example.com", wanted, CertificateIndex.of([first, second])) is first


def test_auto_takes_the_first_that_names_the_host_and_then_the_wildcard_of_one_label() -> None:
    assert certificate_for("a.example.com", "auto", INDEX) is KNOWN[0]
    assert certificate_for("b.example.com", "auto", INDEX) is KNOWN[2]
    assert certificate_for("c.example.com", "auto", INDEX) is KNOWN[1]
    assert certificate_for("*.example.com", "auto", INDEX) is KNOWN[1]
    for host in ("x.c.example.com", "*.c.example.com", "example.com", "", "com"):
        assert certificate_for(host, "auto", INDEX) is None


def test_auto_takes_the_one_of_a_host_that_expires_last_whatever_it_is_called() -> None:
    """An expired one may lie beside the renewed one; the name of the host still goes before a wildcard."""
    wild = replace(certificate("wild", "*.example.com"), expires=3000.0)
    hosts = ("b.example.com", "a.example.com")
    for names in permutations(("2024", "2025", "2026")):
        known = [replace(certificate(name, *hosts), expires=int(name)) for name in names]
        latest = max(known, key=lambda each: each.name)
        index = CertificateIndex.of([wild, *known])
        assert certificate_for("a.example.com", "auto", index) is latest
        assert certificate_for("a.example.com", "2024", index) is not latest


def test_a_previous_pair_never_goes_before_a_present_one() -> None:
    """It is no longer what the operator's files hold, however long it is valid."""
    previous = replace(KNOWN[0], expires=3000.0, is_previous=True)
    present = replace(KNOWN[0], expires=2000.0)
    for known in permutations((previous, present)):
        for wanted in ("first", "auto"):
            assert certificate_for("a.example.com", wanted, CertificateIndex.of(known)) is present


def test_the_service_at_the_root_of_a_host_chooses_however_old_those_at_paths_are() -> None:
    old, young = service("a", "second", 3), service("b", "first", 9)
    for claims in ({ROOT: "b", API: "a"}, {API: "a", ROOT: "b"}):
        assert chosen(old, young, claims=claims) == {"a.example.com": "first"}


def test_of_services_at_paths_the_oldest_chooses_and_between_those_of_one_age_the_name_decides() -> None:
    young, old, older_by_name = service("c", "second", 9), service("b", "wild", 3), service("a", "first", 3)
    for names in permutations("abc"):
        claims = dict(zip((API, WEB, RouteClaim("a.example.com", "/x")), names, strict=True))
        assert chosen(young, old, older_by_name, claims=claims) == {"a.example.com": "first"}


def test_who_wants_no_tls_or_has_no_certificate_leaves_the_choice_to_the_next() -> None:
    services = (service("a", None, 1), service("b", "nowhere", 2), service("c", "wild", 3))
    claims = {ROOT: "a", API: "b", RouteClaim("a.example.com", "/c"): "c", PortClaim("tcp", 1): "c"}
    assert chosen(*services, claims=claims) == {"a.example.com": "wild"}


def test_each_host_has_its_own() -> None:
    claims = {ROOT: "a", RouteClaim("b.example.com", "/"): "a", RouteClaim("c.example.com", "/"): "a"}
    assert chosen(service("a", "auto", 1), claims=claims) == {
        "a.example.com": "first",
        "b.example.com": "second",
        "c.example.com": "wild",
    }


_OWN = Certificate(name="own", hosts=("a.example.com",), certificate="/o", key="/k", fingerprint="o")
_EVIL = Certificate(name="evil", hosts=("evil.example.net",), certificate="/e", key="/k", fingerprint="e")
_WILD = Certificate(name="wild", hosts=("*.example.com",), certificate="/w", key="/k", fingerprint="w")


@pytest.mark.parametrize(
    ("route", "tls", "served"),
    [
        ("a.example.com", "auto", "own"),
        ("a.example.com", "own", "own"),
        ("a.example.com", "wild", "wild"),
        ("a.example.com/app", "auto", "own"),
        ("*.example.com", "auto", "wild"),
        ("*.example.com", "wild", "wild"),
    ],
)
@pytest.mark.parametrize("age", [1, 9])
def test_a_path_with_a_certificate_for_another_host_takes_https_away_from_nobody(
    route: str, tls: str, served: str, age: int
) -> None:
    """Whichever of both is older, whether the host is held by its name or by a wildcard."""
    planned = plan(
        instance("app", 5, f"route={route}", f"tls={tls}"),
        instance("other", age, "route=a.example.com/x", "tls=evil"),
        policy=Policy(certificates=(_EVIL, _OWN, _WILD)),
    )
    certificates = {server.host: server.certificate and server.certificate.name for server in planned.servers}
    assert certificates["a.example.com"] == served
    assert planned_service(planned, "app").warnings[1:] == ()
    *_, told = planned_service(planned, "other").warnings
    assert told.startswith("tls=evil has no effect under a.example.com: ")


def test_a_certificate_for_another_host_is_served_to_whom_none_names_the_host() -> None:
    """A name in a tag is believed: a client may look at other names, or at none."""
    for routes in (["route=a.example.com"], ["route=a.example.com/x"]):
        planned = plan(instance("app", 5, *routes, "tls=evil"), policy=Policy(certificates=(_EVIL, _WILD)))
        assert [server.certificate for server in planned.servers if server.host] == [_EVIL]
        assert planned_service(planned, "app").warnings == ()


def test_the_root_of_a_host_keeps_the_certificate_that_it_names_beside_a_wildcard() -> None:
    planned = plan(
        instance("app", 5, "route=a.example.com", "tls=evil"),
        instance("wide", 1, "route=*.example.com", "tls=auto"),
        policy=Policy(certificates=(_EVIL, _WILD)),
    )
    assert {server.host: server.certificate for server in planned.servers} == {
        None: None,
        "*.example.com": _WILD,
        "a.example.com": _EVIL,
    }


class _Counted(tuple[str, ...]):
    """Names in a certificate that count how often they are looked at."""

    looked: ClassVar[int] = 0

    def __iter__(self) -> Iterator[str]:
        _Counted.looked += 1
        return super().__iter__()

    def __contains__(self, name: object) -> bool:
        _Counted.looked += 1
        return super().__contains__(name)


@pytest.mark.parametrize(("tls", "times"), [("auto", 1), ("{}", 2)])
def test_a_service_looks_at_its_own_certificate_however_many_there_are(tls: str, times: int) -> None:
    """Else thousands of services, each with a certificate, would cost seconds in each pass."""
    names = [f"h{number}.example.com" for number in range(100)]
    _Counted.looked = 0
    policy = Policy(certificates=tuple(replace(certificate(name), hosts=_Counted((name,))) for name in names))
    members = [instance(name, number, f"route={name}", f"tls={tls.format(name)}") for number, name in enumerate(names)]
    planned = plan(*members, policy=policy)
    assert {server.host: server.certificate and server.certificate.name for server in planned.servers} == {
        None: None,
        **{name: name for name in names},
    }
    assert _Counted.looked <= times * len(names)


def test_a_problem_names_a_few_of_thousands_of_certificates_and_passwords() -> None:
    policy = Policy(
        certificates=tuple(certificate(f"c{number:04}") for number in range(5000)),
        htpasswd={f"p{number:04}": "/p" for number in range(5000)},
    )
    for tag, first in (("tls=none", "c0000"), ("auth=none", "p0000")):
        [found] = plan(instance("web", 1, "route=a.example.com", tag), policy=policy).quarantined
        assert f"known: {first}, " in found.reason
        assert found.reason.endswith(" and 4990 more")
