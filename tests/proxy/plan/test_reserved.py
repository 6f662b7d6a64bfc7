"""Reserved hosts answer for themselves, whoever is there and whoever is not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from fnmatch import fnmatchcase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, ServiceName
from proxygen.proxy.plan import Planner, plan_routes, reserved
from proxygen.proxy.plan.reserved import reservations, reserved_hosts
from proxygen.proxy.plan.types import (
    Certificate,
    Listening,
    Memory,
    OperatorNames,
    Plan,
    Policy,
    Quarantine,
    RouteClaim,
    VirtualServer,
)
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.virtual_servers import server_view
from tests.proxy.plan.catalogs import catalog, instance, plan, routes, service

POLICY = Policy(claims={"app.example.com": ("web",), "*.shop.example.com": ("shop-*",)})
STRANGERS = (
    instance("wild", 1, "route=*.example.com", "route=*.example.com/deep"),
    instance("any", 2, "route=/"),
)


def server(planned: Plan, host: str) -> VirtualServer:
    return next(each for each in planned.servers if each.host == host)


@pytest.mark.incident("T47")
@pytest.mark.parametrize("host", ["app.example.com", "*.shop.example.com"])
def test_a_reserved_host_is_nobody_elses_while_its_owner_is_away(host: str) -> None:
    assert server(plan(*STRANGERS, policy=POLICY), host).locations == ()


@pytest.mark.incident("T47")
def test_its_owner_has_it_back_at_once_and_without_health_it_is_still_the_owners() -> None:
    owner = instance("web", 9, "route=app.example.com/own", health=Health.CRITICAL)
    planned = plan(*STRANGERS, owner, policy=POLICY)
    assert [(one.path, one.service.name) for one in server(planned, "app.example.com").locations] == [("/own", "web")]
    assert service(planned, "web").upstreams == ()


@pytest.mark.incident("T47")
def test_over_https_too_while_its_owner_is_away() -> None:
    """Without a certificate it would be the wildcard's there."""
    wild = Certificate(name="wild", hosts=("*.example.com",), certificate="c", key="k", fingerprint="f")
    policy = Policy(claims={"a.b.example.com": ("web",)}, certificates=(wild,))
    stranger = instance("wild", 1, "route=*.example.com", "tls=auto")
    assert server(plan(stranger, policy=policy), "a.b.example.com").certificate == wild
    owner = instance("web", 9, "route=a.b.example.com")
    assert server(plan(stranger, owner, policy=policy), "a.b.example.com").certificate is None


def listens(*, http: Collection[str] = (), https: Collection[str] = (), pattern: str = "") -> tuple[Listening, ...]:
    """Where ours listen, and what the operator serves there; the pattern on HTTP."""
    plain = OperatorNames(hosts=frozenset(http), patterns=(pattern,) if pattern else ())
    return (
        Listening(text="80", names=plain),
        Listening(text="443", is_tls=True, names=OperatorNames(hosts=frozenset(https))),
    )


WILD = Certificate(name="wild", hosts=("*.example.com",), certificate="c", key="k", fingerprint="f")


@pytest.mark.parametrize("served", ["app.example.com", "*.example.com", "*.com", "app.*", "app.example.*"])
def test_a_host_that_nginx_conf_serves_by_itself_is_not_served_twice(served: str) -> None:
    theirs = {served, "*.app.example.com", "example.com"}
    policy = Policy(claims={"app.example.com": ()}, listens=listens(http=theirs, https=theirs), certificates=(WILD,))
    assert [each.host for each in plan(policy=policy).servers] == [None]
    lost = frozenset({RouteClaim("app.example.com", "/")})
    refused = {ServiceName("web"): Quarantine(service=ServiceName("web"), place="x", reason="y", lost=lost)}
    found = plan_routes(catalog(instance("web", 1, "route=app.example.com")), POLICY, None, refused)
    assert [each.host for each in found.servers] == [None, "*.shop.example.com"]


@pytest.mark.incident("T47")
@pytest.mark.parametrize("pattern", ["", r"^app\."])
def test_a_reserved_host_that_nginx_conf_serves_at_one_listen_is_kept_at_the_others(pattern: str) -> None:
    theirs = () if pattern else ("app.example.com",)
    policy = Policy(
        claims={"app.example.com": ("web",)}, listens=listens(http=theirs, pattern=pattern), certificates=(WILD,)
    )
    assert [each.host for each in plan(policy=policy).servers] == [None], "without a certificate HTTP is all it has"
    stranger = instance("any", 1, "route=/", "tls=wild")
    found = server(plan(stranger, policy=policy), "app.example.com")
    assert (found.without, found.certificate, found.locations) == ({"80"}, WILD, ())
    assert [each.address for each in server_view(found, Surroundings(), Snippets()).listens] == ["443"]
    owned = server(plan(stranger, instance("web", 2, "route=app.example.com"), policy=policy), "app.example.com")
    assert owned.without == frozenset(), "nginx says what it thinks of a claim"
    elsewhere = Policy(claims=policy.claims, listens=listens(https=("app.example.com",)), certificates=(WILD,))
    assert server(plan(stranger, policy=elsewhere), "app.example.com").without == {"443"}


@pytest.mark.incident("T47")
@pytest.mark.parametrize(("theirs", "is_kept"), [("app.example.com", True), ("*.example.com", False), ("other", False)])
def test_a_reserved_host_that_its_owner_claims_beside_the_operators_own_is_kept_where_he_does_not_serve_it(
    theirs: str, *, is_kept: bool
) -> None:
    """nginx refuses the claim for the operator's name at one port; at the others a wider route must not have it. Where
    that is not why, nginx may refuse the host itself."""
    policy = Policy(claims={"app.example.com": ("web",)}, listens=listens(http=(theirs,)), certificates=(WILD,))
    lost = frozenset({RouteClaim("app.example.com", "/")})
    refused = {ServiceName("web"): Quarantine(service=ServiceName("web"), place="x", reason="y", lost=lost)}
    known = catalog(instance("web", 1, "route=app.example.com"), instance("any", 2, "route=/", "tls=wild"))
    servers = {each.host: each for each in plan_routes(known, policy, None, refused).servers}
    assert ("app.example.com" in servers) is is_kept
    if is_kept:
        assert (servers["app.example.com"].without, servers["app.example.com"].locations) == ({"80"}, ())


@pytest.mark.incident("T47")
@pytest.mark.parametrize(
    ("served", "is_his"),
    [("app.example.com", True), ("*.example.com", True), ("*.com", False), ("app.*", False), ("~^app", False)],
)
def test_where_a_strangers_wildcard_would_go_before_the_operator_a_reserved_host_stands(
    served: str, *, is_his: bool
) -> None:
    pattern = served.removeprefix("~") if served.startswith("~") else ""
    theirs = listens(http=() if pattern else (served,), pattern=pattern)
    policy = Policy(claims={"app.example.com": ("web",)}, listens=theirs)
    hosts = {each.host for each in plan(instance("wild", 1, "route=*.example.com"), policy=policy).servers}
    assert ("app.example.com" not in hosts) is is_his


@pytest.mark.parametrize(
    ("route", "taken"),
    [
        ("a.example.com", {"*.example.com"}),
        ("a.b.example.com/x", {"*.example.com"}),
        ("*.b.example.com", {"*.example.com", "www.*"}),
        ("*.b.org", {"www.*", "~^shop.*[.]org$"}),
        ("*.b.example.net", {"www.*"}),
        ("www.other.net", {"www.*"}),
        ("shop1.org", {"~^shop.*[.]org$"}),
        ("exact.net", set()),
        ("own.net", set()),
        ("/x", set()),
    ],
)
def test_a_service_is_told_from_which_names_of_the_operators_its_hosts_take_requests(
    route: str, taken: set[str]
) -> None:
    theirs = listens(http=("*.example.com", "www.*", "exact.net"), pattern="^shop.*[.]org$")
    warnings = service(plan(instance("web", 1, f"route={route}"), policy=Policy(listens=theirs)), "web").warnings
    host = route.partition("/")[0]
    said = {text.removeprefix(f"{host} takes requests from server_name ").partition(" of ")[0] for text in warnings}
    assert said == taken


@pytest.mark.parametrize(
    ("pattern", "wide", "may"),
    [
        ("shop-*.example.com", "*.example.com", False),
        ("shop-*.example.com", "*.a.example.com", False),
        ("shop-*.example.com", "*.example.org", True),
        ("app.*", "*.example.com", False),
        ("app.*", "", False),
        ("[ab].example.com", "", False),
        ("app.example.com", "", True),
        ("*.example.com", "", True),
        ("app.example.com", "*.example.com", True),
    ],
)
def test_a_wide_claim_is_refused_where_no_virtual_server_can_keep_a_reserved_host_apart(
    pattern: str, wide: str, *, may: bool
) -> None:
    assert reservations({pattern: ("web",)}).may_claim(ServiceName("evil"), RouteClaim(wide, "/")) is may
    assert reservations({pattern: ("web",)}).may_claim(ServiceName("web"), RouteClaim(wide, "/"))


_PATTERNS = st.sampled_from(
    [
        "app.example.com",
        "*.example.com",
        "*.b.example.com",
        "a*.example.com",
        "app.*",
        "?.b.example.com",
        "*",
        "*.internal",
    ]
)
_ROUTES = st.sampled_from(
    ["app.example.com", "a.b.example.com", "x.internal", "*.example.com", "*.b.example.com", "*.x.internal", "/", "/p"]
)
_ASKED = (
    "app.example.com",
    "a.b.example.com",
    "ax.example.com",
    "c.example.com",
    "y.internal",
    "z.x.internal",
    "other",
)


def nginx_picks(planned: Plan, host: str) -> VirtualServer:
    """The exact name, then the longest wildcard, then the default."""
    names = {each.host or "": each for each in planned.servers}
    labels = host.split(".")
    wider = [f"*.{'.'.join(labels[n:])}" for n in range(1, len(labels))]
    return next(names[name] for name in (host, *wider, "") if name in names)


@pytest.mark.incident("T47")
@given(
    st.dictionaries(_PATTERNS, st.just(("owner-*",)), max_size=3),
    st.lists(st.tuples(st.sampled_from(["owner-1", "evil"]), _ROUTES), max_size=6),
)
def test_no_request_for_a_reserved_host_reaches_a_stranger(
    rules: dict[str, tuple[str, ...]], registered: list[tuple[str, str]]
) -> None:
    ones = [instance(name, n, f"route={route}") for n, (name, route) in enumerate(registered, 1)]
    planned = plan(*ones, policy=Policy(claims=rules))
    for host in _ASKED:
        if any(fnmatchcase(host, pattern) for pattern in rules):
            assert "evil" not in {location.service.name for location in nginx_picks(planned, host).locations}, host


def test_only_what_nginx_can_name_has_a_virtual_server() -> None:
    rules = {"a.test": (), "*.b.test": (), "*.internal": (), "x*.test": (), "*": (), "": (), "a;b": (), "A.test": ()}
    assert reserved_hosts(Policy(claims=rules)).keys() == {"a.test", "*.b.test", "*.internal"}


def test_rules_leave_what_they_do_not_name_as_it_is() -> None:
    ones = (*STRANGERS, instance("free", 3, "route=free.example.org"))
    assert routes(plan(*ones, policy=POLICY)) == routes(plan(*ones))


def test_a_host_is_matched_once_however_many_wider_routes_reach_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And in later passes not at all: rules times hosts, not times routes. A service is matched once for each rule."""
    matched: Counter[str] = Counter()

    def counting(pattern: str) -> Callable[[str], bool]:
        return lambda text: (matched.update([text]), fnmatchcase(text, pattern))[1]

    monkeypatch.setattr(reserved, "_matcher", counting)
    rules = {f"*.r{n}.example.org": ("owner-*",) for n in range(20)}
    hosts = [instance(f"owner-{n}", 50 + n, *(f"route=h{n}.r1.example.org/{k}" for k in range(5))) for n in range(20)]
    wide = [instance(f"w{n}", n, *(f"route=/w{n}{k}" for k in range(20))) for n in range(1, 11)]
    planner, known = Planner(Policy(claims=rules)), catalog(*hosts, *wide)
    planned = planner.plan(known, Memory(), {})
    assert planned.memory.copies == frozenset()
    assert matched["h1.r1.example.org"] == matched["w1"] == max(matched.values()) == len(rules)
    before = matched.total()
    planner.plan(known, planned.memory, {})
    Planner(Policy(claims=rules)).plan(known, planned.memory, {})
    assert matched.total() == before
