"""From routes to virtual servers: which of several routes takes a request."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.plan.types import Certificate, Policy
from tests.proxy.plan.catalogs import instance, plan, routes


def _planned(*stated: str) -> dict[str, str]:
    """Each route by a service of its own name."""
    return routes(plan(*(instance(route, number, f"route={route}") for number, route in enumerate(stated, 1))))


def test_every_host_has_one_virtual_server_and_the_default_stands_first() -> None:
    planned = plan(
        instance("a", 1, "route=a.example.com", "route=b.example.com/x"), instance("b", 2, "route=a.example.com/y")
    )
    assert [server.host for server in planned.servers] == [None, "a.example.com", "b.example.com"]


def test_there_is_a_default_server_without_any_service() -> None:
    assert [server.host for server in plan().servers] == [None]


def test_a_wildcard_serves_a_named_host_where_that_has_no_route() -> None:
    found = _planned("app.example.com/own", "*.example.com")
    assert found["app.example.com/own"] == "app.example.com/own"
    assert found["app.example.com/"] == "*.example.com"


def test_a_wider_claim_never_takes_a_path_from_a_named_host() -> None:
    found = _planned("app.example.com", "*.example.com/login", "/login")
    assert [route for route in found if route.startswith("app.")] == ["app.example.com/"]


def test_the_closest_wildcard_comes_first() -> None:
    found = _planned("x.b.example.com/own", "*.b.example.com/p", "*.example.com/p", "*.example.com/q", "/p", "/r")
    assert found["x.b.example.com/p"] == "*.b.example.com/p"
    assert found["x.b.example.com/q"] == "*.example.com/q"
    assert found["x.b.example.com/r"] == "/r"
    assert found["*.b.example.com/q"] == "*.example.com/q"


def test_a_wildcard_does_not_serve_the_name_that_it_hangs_on() -> None:
    assert "example.com/q" not in _planned("example.com/own", "*.example.com/q")


def test_api_does_not_cover_apix() -> None:
    assert _planned("app.example.com/api", "/apix", "/api/x")["app.example.com/apix"] == "/apix"
    assert "app.example.com/api/x" not in _planned("app.example.com/api", "/apix", "/api/x")


_CERTIFICATES = tuple(
    Certificate(name=name, hosts=hosts, certificate=f"/c/{name}.crt", key=f"/c/{name}.key", fingerprint=name)
    for name, hosts in {
        "wild": ("*.example.com",),
        "exact": ("app.example.com",),
        "other": ("other.example.org",),
    }.items()
)


def test_auto_takes_the_certificate_that_names_the_host_before_a_wildcard() -> None:
    policy = Policy(certificates=_CERTIFICATES)
    members = [
        instance(host, number, f"route={host}", "tls=auto")
        for number, host in enumerate(["app.example.com", "web.example.com", "*.example.com", "a.b.example.com"], 1)
    ]
    planned = plan(*members, policy=policy)
    chosen = {server.host: server.certificate and server.certificate.name for server in planned.servers}
    assert chosen["app.example.com"] == "exact"
    assert chosen["web.example.com"] == "wild"
    assert chosen["*.example.com"] == "wild"
    assert chosen["a.b.example.com"] is None
    assert [item.service for item in planned.quarantined] == ["a.b.example.com"]


def test_a_certificate_by_name_is_taken_as_the_operator_named_it() -> None:
    policy = Policy(certificates=_CERTIFICATES)
    planned = plan(instance("web", 1, "route=web.example.net", "tls=other"), policy=policy)
    assert planned.servers[1].certificate == _CERTIFICATES[2]


_ROUTES = st.lists(
    st.builds(
        lambda host, path: f"{host}{path}",
        st.sampled_from(["a.example.com", "b.a.example.com", "*.example.com", "*.a.example.com", ""]),
        st.sampled_from(["/", "/p", "/p/q", "/px"]),
    ),
    unique=True,
    max_size=12,
)


@given(_ROUTES)
def test_every_route_is_served_at_its_own_place_whatever_else_is_claimed(stated: list[str]) -> None:
    found = _planned(*stated)
    assert {route: found[route] for route in stated} == {route: route for route in stated}


def test_a_wildcards_certificate_serves_the_hosts_that_it_holds_and_not_those_below_them() -> None:
    policy = Policy(certificates=_CERTIFICATES)
    planned = plan(
        instance("wild", 1, "route=*.example.com", "tls=auto"),
        instance("near", 2, "route=web.example.com/x"),
        instance("far", 3, "route=a.b.example.com/x"),
        instance("own", 4, "route=app.example.com/x", "tls=exact"),
        policy=policy,
    )
    chosen = {server.host: server.certificate and server.certificate.name for server in planned.servers}
    assert chosen == {
        None: None,
        "*.example.com": "wild",
        "web.example.com": "wild",
        "a.b.example.com": None,
        "app.example.com": "exact",
    }


def test_locations_stand_sorted_with_those_that_a_wider_host_lends() -> None:
    planned = plan(
        instance("a", 1, "route=app.example.com/m", "route=app.example.com/a"),
        instance("b", 2, "route=*.example.com/k"),
    )
    (server,) = [server for server in planned.servers if server.host == "app.example.com"]
    assert [(item.path, item.service.name) for item in server.locations] == [("/a", "a"), ("/k", "b"), ("/m", "a")]


def test_what_a_wider_host_lends_at_one_path_does_not_close_the_next_path_to_it() -> None:
    found = _planned("app.example.com/own", "*.example.com", "*.example.com/deep")
    assert found["app.example.com/deep"] == "*.example.com/deep"
    assert found["app.example.com/"] == "*.example.com"


def test_virtual_servers_stand_by_host_whoever_holds_them() -> None:
    planned = plan(instance("a", 1, "route=z.example.com"), instance("b", 2, "route=c.example.com", "route=/any"))
    assert [server.host for server in planned.servers] == [None, "c.example.com", "z.example.com"]


@pytest.mark.parametrize(
    ("host", "is_claimed"),
    [
        ("web.example.com", True),
        ("example.com", False),
        ("eb.example.com", False),
        ("", False),
        ("*.example.org", True),
    ],
)
def test_a_host_is_claimed_by_this_very_name(host: str, *, is_claimed: bool) -> None:
    (found,) = plan(instance("web", 1, "route=web.example.com/x", "route=*.example.org")).services
    assert found.claims_host(host) is is_claimed
