"""Which certificate a host is served with, where several would do."""

from __future__ import annotations

from collections.abc import Mapping

from proxygen.model import ServiceName
from proxygen.plan.certificates import certificate_for, choose_certificates
from proxygen.plan.types import Certificate, Claim, Ident, PortClaim, RouteClaim, Service, ServiceState
from proxygen.tags import ProxyTags


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
    found = choose_certificates({each.name: each for each in services}, holders, iter(KNOWN))
    return {host: each.name for host, each in found.items()}


KNOWN = (
    certificate("first", "a.example.com"),
    certificate("wild", "x.example.org", "*.example.com"),
    certificate("second", "b.example.com", "a.example.com"),
)
ROOT, API = RouteClaim("a.example.com", "/"), RouteClaim("a.example.com", "/api")


def test_a_certificate_is_found_by_its_own_name_only() -> None:
    for each in KNOWN:
        assert certificate_for("any.example.net", each.name, KNOWN) is each
    assert certificate_for("a.example.com", "third", KNOWN) is None


def test_auto_takes_the_first_that_names_the_host_and_then_the_wildcard_of_one_label() -> None:
    assert certificate_for("a.example.com", "auto", KNOWN) is KNOWN[0]
    assert certificate_for("b.example.com", "auto", KNOWN) is KNOWN[2]
    assert certificate_for("c.example.com", "auto", KNOWN) is KNOWN[1]
    assert certificate_for("*.example.com", "auto", KNOWN) is KNOWN[1]
    for host in ("x.c.example.com", "*.c.example.com", "example.com", "", "com"):
        assert certificate_for(host, "auto", KNOWN) is None


def test_the_oldest_service_of_a_host_chooses_whatever_order_the_claims_have() -> None:
    young, old = service("a", "second", 9), service("b", "first", 3)
    for claims in ({ROOT: "a", API: "b"}, {API: "b", ROOT: "a"}):
        assert chosen(young, old, claims=claims) == {"a.example.com": "first"}


def test_between_services_of_one_age_the_name_decides() -> None:
    for claims in ({ROOT: "a", API: "b"}, {API: "b", ROOT: "a"}):
        found = chosen(service("a", "second", 3), service("b", "first", 3), claims=claims)
        assert found == {"a.example.com": "second"}


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
