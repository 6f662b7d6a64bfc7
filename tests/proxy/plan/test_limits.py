"""What one service may not do to the others."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.plan.service import MAX_HASH_WEIGHT_SUM
from proxygen.proxy.plan.types import (
    Certificate,
    Endpoint,
    Plan,
    Policy,
    PortClaim,
    Quarantine,
    RouteClaim,
    ServiceState,
)

SHOP = ServiceName("shop")
BLOG = ServiceName("blog")


def instance(service: ServiceName, *tags: str, port: int = 8000, address: str = "192.0.2.1", **more: int) -> Instance:
    return Instance(
        service=service,
        id=f"{service}-{port}",
        node="n",
        datacenter="dc1",
        address=address,
        port=port,
        tags=tags,
        **more,
    )


def plan(
    *instances: Instance, policy: Policy | None = None, refused: dict[ServiceName, Quarantine] | None = None
) -> Plan:
    services: dict[ServiceName, tuple[Instance, ...]] = {}
    for item in instances:
        services[item.service] = (*services.get(item.service, ()), item)
    return plan_routes(Catalog(datacenter="dc1", services=services), policy or Policy(), refused=refused)


@pytest.mark.parametrize(
    ("tags", "most"),
    [
        ([f"proxygen.route=h{n}.example.com" for n in range(Bounds().routes + 1)], Bounds().routes),
        ([f"proxygen.route=/p{n}" for n in range(Bounds().wide_routes + 1)], Bounds().wide_routes),
        (
            [
                "proxygen.route=a.example.com",
                *(f"proxygen.force=header:X-{n}" for n in range(Bounds().force_rules + 1)),
            ],
            Bounds().force_rules,
        ),
    ],
)
def test_a_service_that_asks_for_too_much_is_quarantined_and_nobody_else(tags: list[str], most: int) -> None:
    greedy = plan(instance(SHOP, *tags), instance(BLOG, "proxygen.route=blog.example.com"))
    (quarantine,) = greedy.quarantined
    assert quarantine.service == SHOP
    assert str(most) in quarantine.reason


@pytest.mark.parametrize(
    "tags",
    [
        [f"proxygen.route=h{n}.example.com" for n in range(Bounds().routes)],
        [f"proxygen.route=/p{n}" for n in range(Bounds().wide_routes)],
        ["proxygen.route=a.example.com", *(f"proxygen.force=header:X-{n}" for n in range(Bounds().force_rules))],
    ],
)
def test_a_service_may_have_all_that_it_may_have(tags: list[str]) -> None:
    assert not plan(instance(SHOP, *tags)).quarantined


def test_named_hosts_are_not_counted_as_wide_and_wildcards_are() -> None:
    named = [f"proxygen.route=h{n}.example.com" for n in range(Bounds().wide_routes + 1)]
    assert not plan(instance(SHOP, *named)).quarantined
    (found,) = plan(instance(SHOP, *(tag.replace("=", "=*.") for tag in named))).quarantined
    assert found.reason.startswith(f"{Bounds().wide_routes + 1} routes of any host or a wildcard are more")


def test_hash_weights_keep_their_proportion_and_cost_little() -> None:
    """Each unit of weight is 160 points that nginx sorts at every reload."""
    tags = ("proxygen.route=a.example.com", "proxygen.balance=hash:$uri")
    big = plan(
        instance(SHOP, *tags, "proxygen.weight=1000", port=1), instance(SHOP, *tags, "proxygen.weight=499", port=2)
    )
    weights = sorted(server.weight for server in big.services[0].upstreams[0].servers)
    assert sum(weights) <= MAX_HASH_WEIGHT_SUM
    assert weights[1] / weights[0] == pytest.approx(2, rel=0.05)


def test_a_lone_host_under_a_wildcard_keeps_the_wildcards_https() -> None:
    """Claiming one path of one host takes neither HTTPS nor its redirect from what the wildcard serves there."""
    wild = Certificate(name="wild", hosts=("*.example.com",), certificate="c", key="k", fingerprint="f")
    both = plan(
        instance(SHOP, "proxygen.route=*.example.com", "proxygen.tls=auto", "proxygen.redirect-https=true"),
        instance(BLOG, "proxygen.route=app.example.com/foo"),
        policy=Policy(certificates=(wild,)),
    )
    (server,) = [server for server in both.servers if server.host == "app.example.com"]
    assert server.certificate == wild
    assert [(item.path, item.service.name) for item in server.locations] == [("/", SHOP), ("/foo", BLOG)]


def test_a_host_that_nginx_refuses_takes_no_other_host_of_its_service_away() -> None:
    """The others answer 503 themselves; they do not fall to a wildcard of somebody else's."""
    lost = RouteClaim("admin.example.com", "/")
    left = plan(
        instance(SHOP, "proxygen.route=shop.example.com", "proxygen.route=admin.example.com"),
        instance(BLOG, "proxygen.route=*.example.com"),
        refused={SHOP: Quarantine(service=SHOP, place="x", reason="y", lost=frozenset({lost}))},
    )
    hosts = {server.host: server for server in left.servers}
    assert "admin.example.com" not in hosts
    (location,) = hosts["shop.example.com"].locations
    assert (location.service.name, location.service.state) == (SHOP, ServiceState.QUARANTINED)


def test_a_quarantined_stream_holds_its_port() -> None:
    tags = ("proxygen.protocol=tcp", "proxygen.listen=5432", "proxygen.weight=abc")
    bad = plan(instance(SHOP, *tags))
    assert bad.memory.holders == {PortClaim("tcp", 5432): SHOP}
    assert bad.quarantined


@pytest.mark.parametrize(
    ("address", "port", "is_refused"),
    [
        ("127.0.0.1", 8500, True),
        ("127.0.0.2", 80, True),
        ("::1", 80, True),
        ("::ffff:127.0.0.1", 80, True),
        ("192.0.2.7", 80, True),
        ("192.0.2.8", 80, False),
        ("127.0.0.1", 8080, False),
    ],
)
def test_no_tag_reaches_what_only_the_proxy_may_speak_to(address: str, port: int, *, is_refused: bool) -> None:
    """Consul's agent, and nginx itself, which would send a request round in circles."""
    policy = Policy(
        denied_endpoints=frozenset({Endpoint("127.0.0.1", 8500)}),
        own_ports=frozenset({80}),
        own_addresses=frozenset({ip_address("192.0.2.7")}),
    )
    seen = plan(instance(SHOP, "proxygen.route=a.example.com", address=address, port=port), policy=policy)
    assert bool(seen.quarantined) is is_refused


def test_dead_canaries_are_fewer_than_the_tries() -> None:
    """So that a request reaches the stable backup however many canaries are dead."""
    canaries = [instance(SHOP, "proxygen.route=a.example.com", "proxygen.canary=50%", port=n) for n in range(1, 9)]
    (service,) = plan(instance(SHOP, "proxygen.route=a.example.com", port=100), *canaries).services
    assert service.before_backup == 8
