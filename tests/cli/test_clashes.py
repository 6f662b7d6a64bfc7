"""What a definition would meet in Consul, before it is registered."""

from __future__ import annotations

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.cli.clashes import find_clashes
from proxygen.proxy.plan.types import Memory, Policy, RouteClaim
from proxygen.registration.definition import Definition


def instance(service: str, *tags: str, index: int = 1) -> Instance:
    return Instance(
        service=ServiceName(service),
        id=f"{service}-{index}",
        node="n1",
        datacenter="dc1",
        address="10.0.0.7",
        port=80,
        tags=tags,
        create_index=index,
    )


def clashes(
    name: str, *tags: str, held_by: tuple[Instance, ...], policy: Policy | None = None, memory: Memory | None = None
) -> tuple[str, ...]:
    services: dict[ServiceName, tuple[Instance, ...]] = {}
    for one in held_by:
        services[one.service] = (*services.get(one.service, ()), one)
    catalog = Catalog(datacenter="dc1", services=services)
    return find_clashes(Definition(name=name, tags=tags), catalog, policy or Policy(), memory or Memory())


ROUTE = "proxygen.route=app.example.com/api"


def test_what_another_service_holds_is_not_to_be_had() -> None:
    (clash,) = clashes("cart", ROUTE, held_by=(instance("shop", ROUTE),))
    assert clash == "would not get app.example.com/api: service shop holds it"


def test_another_path_and_another_instance_of_the_same_service_clash_with_nothing() -> None:
    assert clashes("cart", "proxygen.route=app.example.com/", held_by=(instance("shop", ROUTE),)) == ()
    assert clashes("shop", ROUTE, held_by=(instance("shop", ROUTE),)) == ()
    assert clashes("shop", ROUTE, held_by=()) == ()


def test_what_the_sidecar_remembers_as_its_own_would_be_taken_back() -> None:
    memory = Memory(holders={RouteClaim("app.example.com", "/api"): ServiceName("cart")})
    (clash,) = clashes("cart", ROUTE, held_by=(instance("shop", ROUTE),), memory=memory)
    assert clash == "would take app.example.com/api from service shop"


def test_a_host_that_the_operator_keeps_for_others_is_not_to_be_had() -> None:
    policy = Policy(claims={"app.example.com": ("shop",)})
    (clash,) = clashes("cart", ROUTE, held_by=(), policy=policy)
    assert clash.startswith("would not get app.example.com/api: the operator's policy")


def test_a_share_that_differs_from_its_own_instances_is_told() -> None:
    held = (instance("shop", ROUTE), instance("shop", ROUTE, "proxygen.canary=10%", index=2))
    (clash,) = clashes("shop", ROUTE, "proxygen.canary=20%", held_by=held)
    assert clash.startswith("would disagree with its other instances: ")


def test_what_has_no_effect_whoever_else_is_there_is_no_clash() -> None:
    """`tags lint` names it by itself, and it costs nothing."""
    stream = ("proxygen.protocol=tcp", "proxygen.listen=9000")
    assert clashes("db", *stream, ROUTE, held_by=(instance("db", *stream),)) == ()


def test_an_option_that_does_not_fit_beside_the_others_is_told() -> None:
    held = (instance("shop", "proxygen.protocol=tcp", "proxygen.listen=9000"),)
    (clash,) = clashes("shop", ROUTE, "proxygen.protocol=http", held_by=held)
    assert clash.startswith("would be left out: listen: ")


def test_a_certificate_that_is_not_here_is_no_clash() -> None:
    assert clashes("shop", ROUTE, "proxygen.tls=auto", "proxygen.auth=staff", held_by=(instance("shop", ROUTE),)) == ()


def test_a_route_of_another_is_told_though_its_certificate_is_not_here() -> None:
    (clash,) = clashes("shop", ROUTE, "proxygen.tls=auto", held_by=(instance("other", ROUTE),))
    assert "would not get" in clash
