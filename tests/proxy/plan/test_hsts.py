"""HSTS binds a whole host in the browser, so only the service that holds the host may ask for it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.origins import host_holders
from proxygen.proxy.plan.types import Certificate, Memory, Plan, Policy, RouteClaim
from proxygen.proxy.render.locations import location_view
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.virtual_servers import server_view
from tests.proxy.plan.catalogs import catalog, instance, plan, service

CERTIFICATE = Certificate(name="w", hosts=("*.example.com",), certificate="/w", key="/k", fingerprint="f")
POLICY = Policy(certificates=(CERTIFICATE,))
BOUND = ("tls=auto", "hsts=true")
ANY = ("tls=w", "hsts=true")


def bound(planned: Plan) -> dict[str, set[str]]:
    """Per host the paths whose answers have the header; ``errors`` for those of the virtual server itself."""
    found: dict[str, set[str]] = {}
    for server in planned.servers:
        views = (location_view(each, server, Surroundings(), Snippets()) for each in server.locations)
        paths = {str(view.prefix) for view in views if view.hsts}
        if server_view(server, Surroundings(), Snippets()).hsts:
            paths.add("errors")
        if paths:
            found[server.host or ""] = paths
    return found


def test_a_path_under_a_host_of_another_service_binds_nobody_and_is_warned() -> None:
    shop = instance("shop", 1, "route=a.example.com", "tls=auto")
    planned = plan(shop, instance("blog", 2, "route=a.example.com/blog", *BOUND), policy=POLICY)
    assert bound(planned) == {}
    assert any("hsts" in said and "a.example.com" in said for said in service(planned, "blog").warnings)
    assert not any("hsts" in said for said in service(planned, "shop").warnings)


def test_the_holder_binds_its_host_and_its_errors_and_no_other_services_answers() -> None:
    shop = instance("shop", 1, "route=a.example.com", *BOUND)
    planned = plan(shop, instance("blog", 2, "route=a.example.com/blog"), policy=POLICY)
    assert bound(planned) == {"a.example.com": {"/", "errors"}}
    assert not any("hsts" in said for each in planned.services for said in each.warnings)


@pytest.mark.parametrize("whole", [False, True])
def test_without_a_root_the_oldest_holds_the_host_but_who_held_it_keeps_it(*, whole: bool) -> None:
    policy = Policy(certificates=(CERTIFICATE,), hosts_whole=whole)
    blog = instance("blog", 2, "route=a.example.com/blog", *BOUND)
    before = plan(blog, policy=policy)
    assert bound(before) == {"a.example.com": {"/blog", "errors"}}
    older = instance("older", 1, "route=a.example.com/shop", *BOUND)
    assert bound(plan(blog, older, policy=policy)) == {"a.example.com": {"/shop", "errors"}}
    after = plan(blog, older, policy=policy, memory=before.memory)
    assert bound(after) == {"a.example.com": {"/blog", "errors"}}


def test_a_wildcards_holder_binds_what_it_serves_itself_and_no_host_that_another_holds() -> None:
    wild = instance("wild", 1, "route=*.example.com", "route=*.example.com/deep", *BOUND)
    path = instance("path", 2, "route=a.example.com/x", "tls=auto")
    named = instance("named", 3, "route=b.example.com/", "route=c.example.com", "tls=auto")
    planned = plan(wild, path, named, policy=POLICY)
    assert bound(planned) == {
        "*.example.com": {"/", "/deep", "errors"},
        "a.example.com": {"/", "/deep", "errors"},
    }


def test_a_route_of_any_host_binds_no_named_host_and_of_several_only_the_roots() -> None:
    everywhere = instance("any", 1, "route=/x", *ANY)
    assert bound(plan(everywhere, policy=POLICY)) == {"": {"/x", "errors"}}
    named = instance("named", 2, "route=a.example.com/y", "tls=auto")
    root = instance("root", 3, "route=/", "tls=w")
    planned = plan(everywhere, named, root, policy=POLICY)
    assert bound(planned) == {}
    assert any("hsts" in said and "any host" in said for said in service(planned, "any").warnings)


def test_a_reserved_host_that_nobody_names_is_bound_as_the_wildcard_that_serves_it() -> None:
    policy = replace(POLICY, claims={"login.example.com": ("edge", "late"), "away.example.com": ("gone",)})
    edge = instance("edge", 1, "route=*.example.com", *BOUND)
    planned = plan(edge, policy=policy)
    assert bound(planned) == {host: {"/", "errors"} for host in ("*.example.com", "login.example.com")}
    assert service(planned, "edge").warnings == ()
    late = instance("late", 2, "route=login.example.com", "tls=auto")
    taken = plan(edge, late, policy=policy, memory=planned.memory)
    assert bound(taken) == {"*.example.com": {"/", "errors"}}, "who claims it decides"


def test_a_reserved_host_is_bound_by_a_route_of_any_host_that_may_serve_it_and_by_no_other() -> None:
    policy = replace(POLICY, claims={"a.example.com": ("any",), "b.example.com": ("wild", "any")})
    everywhere = instance("any", 1, "route=/x", *ANY)
    wild = instance("wild", 2, "route=*.example.com", "tls=auto")
    planned = plan(everywhere, wild, policy=policy)
    assert bound(planned) == {"": {"/x", "errors"}, "a.example.com": {"/x", "errors"}}
    assert not any("hsts" in said for said in service(planned, "any").warnings), "at b it serves nothing"


def test_of_several_that_serve_a_reserved_host_the_holder_binds_it_and_the_other_is_warned() -> None:
    policy = replace(POLICY, claims={"a.example.com": ("wild", "path")})
    wild = instance("wild", 2, "route=*.example.com", *BOUND)
    path = instance("path", 1, "route=*.example.com/x", *BOUND)
    planned = plan(wild, path, policy=policy, memory=plan(wild, policy=policy).memory)
    assert bound(planned) == {host: {"/", "errors"} for host in ("*.example.com", "a.example.com")}
    (said,) = [said for said in service(planned, "path").warnings if "hsts" in said]
    assert "under *.example.com, a.example.com:" in said


def test_a_wider_route_that_serves_a_host_of_another_service_is_warned() -> None:
    edge = instance("edge", 1, "route=/", *ANY)
    planned = plan(edge, instance("api", 2, "route=a.example.com/api", "tls=auto"), policy=POLICY)
    assert bound(planned) == {"": {"/", "errors"}}
    (said,) = service(planned, "edge").warnings
    assert "hsts=true has no effect under a.example.com:" in said
    assert service(planned, "api").warnings == ()


def test_the_next_pass_says_the_same_and_makes_no_new_service() -> None:
    shop = instance("shop", 1, "route=a.example.com", "tls=auto")
    known, planner = catalog(shop, instance("blog", 2, "route=a.example.com/blog", *BOUND)), Planner(POLICY)
    first = planner.plan(known, Memory(), {})
    second = planner.plan(known, first.memory, {})
    assert second == first
    assert all(one is other for one, other in zip(first.services, second.services, strict=True))


_HOSTS = st.sampled_from(["", "*.example.com", "*.b.example.com", "a.example.com", "x.b.example.com"])
_ROUTES = st.lists(st.tuples(st.sampled_from("abc"), _HOSTS, st.sampled_from(["/", "/p", "/q"])), max_size=8)


@given(first=_ROUTES, second=_ROUTES, whole=st.booleans())
def test_whose_tag_binds_a_host_is_who_holds_it_whatever_else_is_claimed(
    first: list[tuple[str, str, str]], second: list[tuple[str, str, str]], *, whole: bool
) -> None:
    policy = Policy(certificates=(CERTIFICATE,), hosts_whole=whole)
    memory = Memory()
    for step in (first, second):
        ones = [instance(name, n, f"route={host}{path}", *ANY) for n, (name, host, path) in enumerate(step, 1)]
        planned = plan(*ones, policy=policy, memory=memory)
        by_name = {each.name: each for each in planned.services}
        won = [
            (by_name[name], claim) for claim, name in planned.memory.holders.items() if isinstance(claim, RouteClaim)
        ]
        holders = host_holders(won, memory.holders, policy)
        assert {each.host: each.hsts for each in planned.servers if each.host} == holders
        memory = planned.memory
