"""From numbers and options in the plan to numbers and directives in nginx: each in its place, unit and default."""

from __future__ import annotations

import re
from collections.abc import Iterable
from ipaddress import ip_network
from typing import Any, Final

import pytest

from proxygen.catalog import Health
from proxygen.kit.templating import Block, Expression, Regex, Variable
from proxygen.proxy.plan.types import Authorities, Certificate, Plan, Policy, Service
from proxygen.proxy.render.access import denied_variable
from proxygen.proxy.render.efforts import tries
from proxygen.proxy.render.locations import location_view
from proxygen.proxy.render.spots import ungated
from proxygen.proxy.render.streams import stream_view
from proxygen.proxy.render.surroundings import RequestDefaults, Snippets, Surroundings, TrafficLog
from proxygen.proxy.render.traffic import traffic_view
from proxygen.proxy.render.upstreams import service_view
from proxygen.proxy.render.views import (
    AccessLine,
    LimitView,
    ListenView,
    LocationView,
    MapLine,
    MapView,
    Piece,
    RequestKind,
    ServerLine,
    ServiceView,
    SplitView,
    StreamView,
    Template,
    TrustView,
    UpstreamView,
    VirtualServerView,
    Zone,
)
from proxygen.proxy.render.virtual_servers import server_view
from proxygen.tags.shares import WHOLE, Share
from tests.proxy.plan.catalogs import instance, plan, service

WEB = "route=web.example.com"
AROUND = Surroundings()
CERTIFICATE = Certificate(name="c", hosts=("web.example.com",), certificate="/c.crt", key="/c.key", fingerprint="ff")
POLICY = Policy(certificates=(CERTIFICATE,), htpasswd={"staff": "/h/staff"})


def planned(*tags: str, **fields: Any) -> Service:
    return service(plan(instance("web", 1, WEB, *tags, **fields), policy=POLICY), "web")


def with_canary(*tags: str, share: str = "10%") -> Service:
    return service(plan(instance("web", 1, WEB, *tags), instance("web", 2, WEB, *tags, f"canary={share}")), "web")


def http(*tags: str, around: Surroundings = AROUND) -> ServiceView:
    return service_view(planned(*tags), around)


def upstream(*tags: str, around: Surroundings = AROUND) -> UpstreamView:
    (found,) = http(*tags, around=around).upstreams
    return found


def server(seen: Plan, host: str | None = "web.example.com", around: Surroundings = AROUND) -> VirtualServerView:
    (found,) = [each for each in seen.servers if each.host == host]
    return server_view(found, around, Snippets())


def location(
    *tags: str, around: Surroundings = AROUND, snippets: Snippets | None = None, **fields: Any
) -> LocationView:
    seen = plan(instance("web", 1, WEB, *tags, **fields), policy=POLICY)
    (found,) = [each for each in seen.servers if each.host == "web.example.com"]
    return location_view(found.locations[-1], found, around, snippets or Snippets())


def stream(*tags: str, around: Surroundings = AROUND, **fields: Any) -> StreamView:
    (found,) = plan(instance("db", 1, "listen=5432", *tags, **fields)).streams
    return stream_view(found, around, Snippets())


# --- numbers and units


@pytest.mark.parametrize(
    ("written", "seconds"), [("1ms", 1), ("500ms", 1), ("1s", 1), ("1001ms", 2), ("1500ms", 2), ("2m", 120)]
)
def test_a_rest_is_told_in_whole_seconds_and_never_in_none(written: str, seconds: int) -> None:
    """``fail_timeout=0`` would be no rest at all, and 500 of its unit eight minutes."""
    members = [instance("web", number, WEB, f"fail-timeout={written}") for number in (1, 2)]
    (found,) = service_view(service(plan(*members), "web"), AROUND).upstreams
    assert [line.fail_timeout for line in found.servers] == [seconds, seconds, None, None]


def test_a_servers_line_has_each_value_in_its_place() -> None:
    tags = ("fail-timeout=7s", "max-fails=3", "timeout=8s", "connect-timeout=9s", "retries=4", "keepalive-timeout=6s")
    [line] = upstream(*tags).servers
    assert (line.address, line.weight, line.max_fails, line.fail_timeout) == ("10.0.0.1:8080", 1, 0, None)
    assert (upstream(*tags).keepalive_timeout, upstream().keepalive_timeout) == (6_000, 1_000)
    first, second, *_ = servers(*tags)
    assert (first.address, first.weight, first.max_fails, first.fail_timeout) == ("10.0.0.1:8080", 1, 3, 7)
    assert (second.address, second.max_fails, second.fail_timeout) == ("10.0.0.2:8080", 3, 7)


def servers(*tags: str, count: int = 2) -> tuple[ServerLine, ...]:
    """The lines of the upstream of so many instances."""
    seen = plan(*(instance("web", number, WEB, *tags) for number in range(1, count + 1)))
    (found,) = service_view(service(seen, "web"), AROUND).upstreams
    return found.servers


def resting(lines: Iterable[ServerLine]) -> list[tuple[int, int | None, bool]]:
    return [(line.max_fails, line.fail_timeout, line.backup) for line in lines]


@pytest.mark.parametrize("tags", [(), ("balance=least_conn",), ("balance=round_robin",)])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_whoever_failed_rests_while_there_is_somebody_who_never_does(tags: tuple[str, ...], count: int) -> None:
    lines = servers(*tags, count=count)
    assert resting(lines) == [(1, 5, False)] * count + [(0, None, True)] * count
    assert [line.address for line in lines[:count]] == [line.address for line in lines[count:]]
    assert [line.weight for line in lines[:count]] == [line.weight for line in lines[count:]]


@pytest.mark.parametrize(
    "tags", [("balance=ip_hash",), ("balance=random",), ("balance=hash:$uri",), ("max-fails=0",)], ids=str
)
def test_where_nginx_knows_no_backup_nobody_rests(tags: tuple[str, ...]) -> None:
    assert resting(servers(*tags)) == [(0, None, False)] * 2
    assert resting(servers(*tags, "fail-timeout=9s")) == [(0, None, False)] * 2


def test_an_instance_alone_never_rests() -> None:
    assert resting(servers("max-fails=5", count=1)) == [(0, None, False)]


def test_behind_a_canary_stands_stable_alone_and_never_rests() -> None:
    members = [instance("web", number, WEB) for number in (1, 2)]
    seen = service(plan(*members, instance("web", 3, WEB, "canary=1%"), instance("web", 4, WEB, "canary=1%")), "web")
    stable, canary = service_view(seen, AROUND).upstreams
    assert resting(stable.servers) == [(1, 5, False)] * 2 + [(0, None, True)] * 2
    assert resting(canary.servers) == [(1, 5, False)] * 2 + [(0, None, True)] * 2
    assert {line.address for line in canary.servers[2:]} == {line.address for line in stable.servers}


def test_weights_and_backups_are_those_of_the_plan() -> None:
    members = [instance("web", 1, WEB, "weight=6"), instance("web", 2, WEB, "weight=9")]
    seen = service(plan(*members, instance("web", 3, WEB, "canary=1%")), "web")
    stable, canary = service_view(seen, AROUND).upstreams
    assert {(line.address, line.weight, line.backup) for line in stable.servers} == {
        (address, weight, backup)
        for address, weight in (("10.0.0.1:8080", 2), ("10.0.0.2:8080", 3))
        for backup in (False, True)
    }
    assert next((line.weight, line.backup) for line in canary.servers) == (1, False)
    assert {(line.address, line.weight) for line in canary.servers if line.backup} == {
        ("10.0.0.1:8080", 2),
        ("10.0.0.2:8080", 3),
    }


def test_timeouts_are_in_milliseconds_each_its_own() -> None:
    view = location("timeout=500ms", "connect-timeout=1500ms", "fail-timeout=3s")
    assert (view.timeout, view.connect_timeout) == (500, 1500)
    view = location()
    assert (view.timeout, view.connect_timeout) == (None, 3000)


@pytest.mark.parametrize(
    ("tags", "asked", "no_retries"),
    [((), 3, False), (("retries=0",), 1, True), (("retries=1",), 2, False), (("retries=7",), 8, False)],
)
def test_retries_are_more_servers_than_the_first(tags: tuple[str, ...], asked: int, *, no_retries: bool) -> None:
    for view in (location(*tags), stream("protocol=tcp", *tags)):
        assert (view.tries, view.no_retries) == (asked, no_retries)


@pytest.mark.parametrize(("canaries", "asked"), [(1, 3), (2, 3), (3, 4), (6, 7)])
def test_without_a_number_a_request_gets_past_all_dead_canaries(canaries: int, asked: int) -> None:
    members = [instance("web", 10 + number, WEB, "canary=10%") for number in range(canaries)]
    assert tries(service(plan(instance("web", 1, WEB), *members), "web")) == asked
    stated = [instance("web", 10 + number, WEB, "canary=10%", "retries=1") for number in range(canaries)]
    assert tries(service(plan(instance("web", 1, WEB), *stated), "web")) == 2


@pytest.mark.parametrize(
    ("tags", "by_default", "kept"),
    [
        ((), False, 16),
        (("keepalive=7",), False, 7),
        (("keepalive=7",), True, 7),
        (("keepalive=0",), False, None),
        (("keepalive=0",), True, 0),
    ],
)
def test_idle_connections_are_kept_and_none_must_be_said_where_nginx_keeps_some_by_itself(
    tags: tuple[str, ...], kept: int | None, *, by_default: bool
) -> None:
    assert upstream(*tags, around=Surroundings(keepalive_by_default=by_default)).keepalive == kept


def test_a_rate_has_its_number_unit_and_burst() -> None:
    ident = planned().ident
    assert http("rate=7r/m:9").zones == (Zone(zone=f"zone={ident}_rate:1m", rate="rate=7r/m"),)
    assert http("rate=5r/s").zones == (Zone(zone=f"zone={ident}_rate:1m", rate="rate=5r/s"),)
    assert location("rate=7r/m:9").limit == LimitView(zone=f"zone={ident}_rate", burst=9)
    assert location("rate=5r/s").limit == LimitView(zone=f"zone={ident}_rate", burst=0)
    assert (http().zones, location().limit) == ((), None)


def test_a_body_may_have_the_bytes_that_the_tag_says() -> None:
    assert [location(*tags).body_size for tags in ((), ("body-size=0",), ("body-size=7k",))] == [None, 0, 7168]


# --- methods


@pytest.mark.parametrize(
    ("tags", "least_conn", "random", "ip_hash", "key"),
    [
        ((), False, False, False, None),
        (("balance=round_robin",), False, False, False, None),
        (("balance=least_conn",), True, False, False, None),
        (("balance=random",), False, True, False, None),
        (("balance=ip_hash",), False, False, True, None),
        (("balance=hash:$uri",), False, False, False, Variable("request_uri")),
        (("balance=hash:header:X-User-Id",), False, False, False, Variable("http_x_user_id")),
        (("balance=hash:cookie:sid",), False, False, False, Variable("cookie_sid")),
    ],
)
def test_each_method_is_the_one_that_the_tag_names(
    tags: tuple[str, ...], key: Variable | None, *, least_conn: bool, random: bool, ip_hash: bool
) -> None:
    view = upstream(*tags)
    assert (view.least_conn, view.random, view.ip_hash, view.hash) == (least_conn, random, ip_hash, key)


@pytest.mark.parametrize("method", ["ip_hash", "random", "hash:$uri", "hash:cookie:sid"])
def test_a_lone_canary_has_no_method_beside_which_nginx_refuses_its_backup(method: str) -> None:
    stable, canary = service_view(with_canary(f"balance={method}"), AROUND).upstreams
    assert (canary.random, canary.ip_hash, canary.hash) == (False, False, None)
    assert any(line.backup for line in canary.servers)
    assert stable.random or stable.ip_hash or stable.hash


# --- shares, keys and rules


@pytest.mark.parametrize(
    ("share", "percent"), [("0.01%", "0.01%"), ("12.05%", "12.05%"), ("12.5%", "12.50%"), ("100%", None)]
)
def test_a_share_is_a_percentage_with_two_decimals(share: str, percent: str | None) -> None:
    seen = with_canary(share=share)
    (split,) = service_view(seen, AROUND).splits
    stable, canary = (each.name for each in seen.upstreams)
    assert split.pieces == (() if percent is None else (Piece(percent=percent, value=canary),))
    assert split.rest == (canary if percent is None else stable)


@pytest.mark.parametrize(
    ("tags", "key"),
    [((), "request_id"), (("sticky=none",), "request_id"), (("sticky=ip",), "remote_addr")],
)
def test_a_key_that_nginx_has_itself_needs_no_map(tags: tuple[str, ...], key: str) -> None:
    seen = with_canary(*tags)
    view = service_view(seen, AROUND)
    assert view.splits[0].key == Expression((Variable(key), seen.ident))
    assert [found.variable.name for found in view.maps] == [f"{seen.ident}_variant"]


def test_a_client_without_the_header_gets_a_key_of_its_own() -> None:
    seen = with_canary("sticky=header:X-User-Id")
    view = service_view(seen, AROUND)
    key, header = Variable(f"{seen.ident}_key"), Variable("http_x_user_id")
    assert view.splits[0].key == Expression((key, seen.ident))
    assert view.maps[0] == MapView(
        source=header, variable=key, default=header, lines=(MapLine(match="", value=Variable("request_id")),)
    )
    assert len(view.maps) == 2


def test_a_client_without_the_cookie_is_sent_the_key_that_it_got() -> None:
    seen = with_canary("sticky=cookie:sid")
    key, cookie, variant = service_view(seen, AROUND).maps
    request = Variable("request_id")
    assert key == MapView(
        source=Variable("cookie_sid"),
        variable=Variable(f"{seen.ident}_key"),
        default=Variable("cookie_sid"),
        lines=(MapLine(match="", value=request),),
    )
    assert cookie == MapView(
        source=Expression((Variable("cookie_sid"), Variable("upstream_cookie_sid"), Variable("proxygen_moved"))),
        variable=Variable(f"{seen.ident}_cookie"),
        default="",
        lines=(
            MapLine(
                match="",
                value=Expression(("sid=", request, "; Path=/; HttpOnly; SameSite=Lax", Variable("proxygen_secure"))),
            ),
        ),
    )
    assert variant.lines == tuple(MapLine(match=each.name, value=each.variant) for each in seen.upstreams)
    assert (variant.source, variant.variable) == (Variable(seen.ident), Variable(f"{seen.ident}_variant"))


@pytest.mark.parametrize(("sticky", "is_sent"), [("cookie", True), ("header:X-A", False), ("ip", False)])
def test_a_cookie_is_sent_only_where_requests_are_divided_by_it(sticky: str, *, is_sent: bool) -> None:
    seen = plan(instance("web", 1, WEB, f"sticky={sticky}"), instance("web", 2, WEB, "canary=5%"))
    found = seen.servers[1]
    sent = location_view(found.locations[0], found, AROUND, Snippets()).cookie
    assert sent == (Variable(f"{seen.services[0].ident}_cookie") if is_sent else None)
    assert location(f"sticky={sticky}").cookie is None, "there is one variant"


def test_rules_that_force_stand_in_a_chain_that_ends_in_the_share() -> None:
    rules = ("force=header:X-Force", "force=header:X-To:b.c", "force=cookie:to")
    seen = service(plan(instance("web", 1, WEB), instance("web", 2, WEB, "canary=10%", *rules)), "web")
    stable, canary = (each.name for each in seen.upstreams)
    view = service_view(seen, AROUND)
    names = [Variable(seen.ident), Variable(f"{seen.ident}_force1"), Variable(f"{seen.ident}_force2")]
    share = Variable(f"{seen.ident}_share")
    always = (
        MapLine(match=Regex("~^always$"), value=canary),
        MapLine(match=Regex("~^never$"), value=stable),
    )
    assert view.maps[:-1] == (
        MapView(source=Variable("http_x_force"), variable=names[0], default=names[1], lines=always),
        MapView(
            source=Variable("http_x_to"),
            variable=names[1],
            default=names[2],
            lines=(MapLine(match=Regex("~^b[.]c$"), value=canary),),
        ),
        MapView(source=Variable("cookie_to"), variable=names[2], default=share, lines=always),
    )
    assert view.splits == (
        SplitView(
            key=Expression((Variable("request_id"), seen.ident)),
            variable=share,
            pieces=(Piece(percent="10.00%", value=canary),),
            rest=stable,
        ),
    )


def test_rules_with_one_variant_to_go_to_need_no_share() -> None:
    seen = planned("force=header:X-Force")
    (stable,) = seen.upstreams
    view = service_view(seen, AROUND)
    assert view.splits == ()
    assert view.maps[0].default == stable.name
    assert view.maps[0].variable == Variable(seen.ident)


# --- locations


@pytest.mark.parametrize(
    ("protocol", "template", "scheme", "is_tls"),
    [
        ("http", Template.PROXY, "http://", False),
        ("https", Template.PROXY, "https://", True),
        ("grpc", Template.GRPC, "grpc://", False),
        ("grpcs", Template.GRPC, "grpcs://", True),
        ("fastcgi", Template.FASTCGI, "", False),
        ("uwsgi", Template.UWSGI, "", False),
    ],
)
def test_each_protocol_has_its_template_and_scheme(
    protocol: str, template: Template, scheme: str, *, is_tls: bool
) -> None:
    view = location(f"protocol={protocol}")
    (name,) = (each.name for each in planned().upstreams)
    assert (view.protocol, view.tls_upstream, view.target) == (template, is_tls, Expression((scheme, name)))


def test_a_target_is_the_only_upstream_or_what_the_share_says() -> None:
    seen = plan(instance("web", 1, WEB), instance("web", 2, WEB, "canary=5%"))
    found = seen.servers[1]
    view = location_view(found.locations[0], found, AROUND, Snippets())
    ident = seen.services[0].ident
    assert (view.target, view.variant) == (Expression(("http://", Variable(ident))), Variable(f"{ident}_variant"))
    alone = location()
    assert (alone.variant, alone.unavailable, alone.service) == ("stable", False, "web")


def test_where_nobody_serves_the_target_is_the_service_and_no_variant() -> None:
    snippets = Snippets(files={"location-web.conf": "# mine"})
    down = location(health=Health.CRITICAL, snippets=snippets)
    assert (down.unavailable, down.variant, down.target) == (True, "", Expression((planned().ident,)))
    assert down.snippets == (Block("# mine\n"),)
    broken = location("weight=x", snippets=snippets)
    assert (broken.unavailable, broken.snippets) == (True, ()), "it may be what nginx refuses"


@pytest.mark.parametrize(
    ("name", "label"), [("Web-1.x_y", "Web-1.x_y"), ("a" * 128, "a" * 128), ("a" * 129, ""), ("my web", ""), ("-w", "")]
)
def test_a_service_is_called_by_its_name_where_a_log_can_hold_it(name: str, label: str) -> None:
    seen = plan(instance(name, 1, WEB))
    found = seen.servers[1]
    view = location_view(found.locations[0], found, AROUND, Snippets())
    assert view.service == (label or seen.services[0].ident)


def test_what_needs_tls_is_left_out_where_the_host_has_none() -> None:
    secure = location("tls=auto", "hsts=true", "redirect-https=true")
    assert secure.hsts
    assert secure.redirect == Expression(
        ("https://", Variable("proxygen_asked_name"), Variable("proxygen_https_port"), Variable("request_uri"))
    )
    assert (location("tls=auto").hsts, location("tls=auto").redirect) == (False, None)
    assert (location("tls=auto", "hsts=false").hsts, location("tls=auto", "redirect-https=false").redirect) == (
        False,
        None,
    )


def test_what_a_wildcard_lends_to_a_host_without_its_certificate_needs_no_tls_there() -> None:
    wild = Certificate(name="w", hosts=("*.example.com",), certificate="/w", key="/k", fingerprint="f")
    seen = plan(
        instance("wild", 1, "route=*.example.com", "tls=auto", "hsts=true", "redirect-https=true"),
        instance("far", 2, "route=a.b.example.com/x"),
        policy=Policy(certificates=(wild,)),
    )
    views = {
        each.host: location_view(each.locations[0], each, AROUND, Snippets()) for each in seen.servers if each.locations
    }
    assert {host: (view.hsts, view.redirect is not None) for host, view in views.items()} == {
        "*.example.com": (True, True),
        "a.b.example.com": (False, False),
    }


@pytest.mark.parametrize(
    ("https", "port"),
    [(("443",), ""), (("8443", "443"), ":8443"), (("[::]:9443",), ":9443"), (("10.0.0.1:443",), ""), ((), "")],
)
def test_a_redirect_names_the_port_of_the_first_listen_address(https: tuple[str, ...], port: str) -> None:
    assert Surroundings(https=https).https_port == port


def test_who_is_let_in_and_who_is_not() -> None:
    view = location("allow=10.0.0.0/8", "deny=10.1.0.0/16,10.2.0.0/16", "auth=staff")
    networks = (ip_network("10.0.0.0/8"),), (ip_network("10.1.0.0/16"), ip_network("10.2.0.0/16"))
    assert (view.denied, view.htpasswd) == (denied_variable(*networks), "/h/staff")
    assert (location().denied, location().htpasswd) == (None, None)


@pytest.mark.parametrize(
    ("stated", "is_plain"), [((), False), (("websocket=true",), False), (("websocket=false",), True)]
)
def test_upgrades_are_passed_on_unless_the_tag_says_no(stated: tuple[str, ...], *, is_plain: bool) -> None:
    assert location(*stated).plain_connection is is_plain


def test_a_prefix_takes_whole_segments_and_is_stripped_with_its_slash() -> None:
    view = location("route=web.example.com/a.b", "strip-prefix=true")
    assert view.strip
    assert [(match.path, match.exact, match.strip) for match in view.matches if match.takes_all] == [
        ("/a.b", True, Regex("^/a[.]b()$")),
        ("/a.b/", False, Regex("(?s)^/a[.]b/(.*)$")),
    ]
    root = location("strip-prefix=true")
    assert not root.strip
    assert [(match.path, match.strip) for match in root.matches if match.takes_all] == [("/", Regex("^/(.*)$"))]


@pytest.mark.parametrize(
    ("tags", "apart"),
    [
        ((), [RequestKind.ONCE, RequestKind.WAIT]),
        (("retries=0",), [RequestKind.WAIT]),
        (("retries-unsafe=true",), [RequestKind.WAIT]),
        (("retries-unsafe=false",), [RequestKind.ONCE, RequestKind.WAIT]),
        (("protocol=fastcgi",), [RequestKind.ONCE, RequestKind.WAIT]),
        (("protocol=grpc",), []),
    ],
)
def test_who_must_not_be_sent_twice_or_is_meant_to_wait_has_a_location_of_its_own(
    tags: tuple[str, ...], apart: list[RequestKind]
) -> None:
    view = location("route=web.example.com/p", *tags)
    assert [match.kind for match in view.matches] == [RequestKind.ALL, RequestKind.ALL, *apart]
    assert [match.path for match in view.matches[2:]] == [f"@{kind.value}_/p" for kind in apart]
    by = Variable("proxygen_apart" if RequestKind.ONCE in apart else "proxygen_waits")
    assert view.apart_by == by
    assert {match.apart for match in view.matches if match.takes_all} == {
        Expression(("@", by, "_/p")) if apart else None
    }


@pytest.mark.parametrize("fragment", ["location ~ x { }", "  alias /srv/;"])
def test_what_no_named_location_may_hold_leaves_the_service_without_them(fragment: str) -> None:
    view = location(snippets=Snippets(files={"location-web.conf": fragment}))
    assert [match.kind for match in view.matches] == [RequestKind.ALL]
    assert view.matches[0].apart is None


def test_a_stripped_prefix_is_given_back_once() -> None:
    view = location("route=web.example.com/a.b", "strip-prefix=true")
    assert view.prefix == "/a.b"
    assert [rewrite.value for rewrite in view.redirects[1:-1]] == [
        Expression((scheme, Variable("proxygen_authority"), "/a.b/")) for scheme in ("http://", "https://")
    ]
    relative = view.redirects[-1].match
    assert isinstance(relative, Regex)
    pattern = relative.pattern.removeprefix("~").replace("?<", "?P<")
    assert {to: bool(re.search(pattern, to)) for to in _TARGETS} == _TARGETS
    assert (location("route=web.example.com/p").redirects, location("strip-prefix=true").redirects) == ((), ())
    own = Snippets(files={"location-web.conf": "proxy_redirect off;\nproxy_cookie_path off;"})
    view = location("route=web.example.com/p", "strip-prefix=true", snippets=own)
    assert (view.redirects, view.cookie_paths) == ((), ())


_TARGETS: Final = {
    "/login": True,
    "/": True,
    "/a.bc": True,
    "/a.b": False,
    "/a.b/x": False,
    "/a.b?x": False,
    "//elsewhere.example/": False,
    "https://elsewhere.example/": False,
    "relative": False,
}
"""Where an answer leads, and whether the prefix belongs before it."""


def test_a_tag_wins_over_a_setting_and_a_fragment_over_both() -> None:
    around = Surroundings(requests=RequestDefaults(idle_timeout=7_000, retries_unsafe=True))
    view, own_view = location(around=around), location("idle-timeout=9s", "retries-unsafe=false", around=around)
    assert (view.idle_timeout, own_view.idle_timeout) == (7_000, 9_000)
    assert (view.retries_unsafe, own_view.retries_unsafe) == (True, False)
    grpc = location("protocol=grpc", "timeout=5s", around=around)
    assert (grpc.idle_timeout, location("protocol=grpc", around=around).idle_timeout) == (5_000, 7_000)
    own = Snippets(files={"location-web.conf": "proxy_read_timeout 1s;\n  proxy_buffering on;"})
    said = location("timeout=5s", snippets=own).said
    assert [name in said for name in ("proxy_read_timeout", "proxy_buffering", "proxy_send_timeout")] == [
        True,
        True,
        False,
    ]


def test_surroundings_are_handed_on() -> None:
    view = location(around=Surroundings(traffic=TrafficLog(socket="/s", mark="/m", sample=WHOLE)))
    assert (view.told, location().told) == (True, False)


# --- virtual servers


def test_a_default_server_listens_by_default_where_the_operator_has_none() -> None:
    around = Surroundings(
        http=("80", "8080"), https=("443", "[::]:443"), operator_defaults=frozenset({"80", "[::]:443"})
    )
    assert around.http_listens(default=True) == (
        ListenView(address="80", default=False),
        ListenView(address="8080", default=True),
    )
    assert around.https_listens(default=True) == (
        ListenView(address="443", tls=True, http2=True, default=True),
        ListenView(address="[::]:443", tls=True, http2=True, default=False),
    )
    named = (*around.http_listens(default=False), *around.https_listens(default=False))
    assert not any(listen.default for listen in named)
    modern = Surroundings(http2_directive=True)
    assert [(listen.tls, listen.http2) for listen in modern.https_listens(default=False)] == [(True, False)]


def test_a_host_with_a_certificate_listens_for_both() -> None:
    seen = plan(instance("web", 1, WEB, "tls=auto"), instance("b", 2, "route=b.example.com"), policy=POLICY)
    secure, plain, default = (server(seen, host) for host in ("web.example.com", "b.example.com", None))
    assert [(listen.address, listen.tls) for listen in secure.listens] == [("80", False), ("443", True)]
    assert secure.certificate is not None
    assert (secure.certificate.certificate, secure.certificate.key) == ("/c.crt", "/c.key")
    assert secure.certificate.fingerprint == "ff"
    for view in (plain, default):
        assert view.certificate is None
        assert [listen.address for listen in view.listens] == ["80"]
    assert (secure.names, default.names) == (("web.example.com",), ("_",))
    assert [listen.default for listen in default.listens] == [True]
    assert [listen.default for listen in secure.listens] == [False, False]


def test_a_page_for_the_rest_stands_where_no_route_takes_the_root() -> None:
    seen = plan(instance("web", 1, WEB), instance("b", 2, "route=b.example.com/x"))
    assert [server(seen, host).has_root for host in ("web.example.com", "b.example.com", None)] == [True, False, False]


@pytest.mark.parametrize(
    ("protocols", "https", "grpcs"),
    [
        (("http", "grpc"), None, None),
        (("http", "https"), True, False),
        (("grpcs", "http"), False, True),
        (("grpcs", "https"), True, True),
    ],
)
def test_authorities_stand_where_instances_speak_tls(
    protocols: tuple[str, ...], https: bool | None, grpcs: bool | None
) -> None:
    members = [instance(name, number, f"{WEB}/{name}", f"protocol={name}") for number, name in enumerate(protocols, 1)]
    around = Surroundings(upstream_ca=Authorities(file="/ca.pem", fingerprint="aa"))
    trust = server(plan(*members), around=around).trust
    assert trust == (
        None
        if https is None or grpcs is None
        else TrustView(file="/ca.pem", fingerprint="aa", https=https, grpcs=grpcs)
    )
    assert server(plan(*members)).trust is None


def test_fragments_stand_in_the_servers_that_their_names_say() -> None:
    files = {"server.conf": "# all\n", "server-web.example.com.conf": "# web", "server-None.conf": "# none"}
    seen = plan(instance("web", 1, WEB), instance("b", 2, "route=b.example.com"))
    views = {each.host: server_view(each, AROUND, Snippets(files=files)) for each in seen.servers}
    assert {host: "".join(view.snippets) for host, view in views.items()} == {
        None: "# all\n",
        "web.example.com": "# all\n# web\n",
        "b.example.com": "# all\n",
    }


def test_a_trusted_network_is_written_once_however_it_is_spelled() -> None:
    around = Surroundings(trusted_proxies=("10.0.0.0/8", "2001:DB8::/32", "10.0.0.0/8", "2001:db8:0::/32", "192.0.2.1"))
    assert around.networks_trusted == ("10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32")


# --- what the sidecar is told


def test_a_sample_is_drawn_by_a_key_that_divides_no_service() -> None:
    view = traffic_view(TrafficLog(socket="/t.sock", mark="/t.live", sample=Share(1205), default_log="logs/access.log"))
    heard, sampled = Variable("proxygen_heard"), Variable("proxygen_sampled")
    assert view.splits == (
        SplitView(
            key=Expression((Variable("request_id"), "proxygen_traffic")),
            variable=sampled,
            pieces=(Piece(percent="12.05%", value="1"),),
            rest="",
        ),
    )
    assert view.told.source == Expression((heard, sampled))
    assert [line.match for line in view.told.lines] == ["11"]
    assert view.line.parts[0] == "1205 "
    assert view.default_logs == ("logs/access.log",)
    assert view.log == "syslog:server=unix:/t.sock,nohostname,tag=proxygen"


def test_all_requests_are_no_sample() -> None:
    view = traffic_view(TrafficLog(socket="/t.sock", mark="/t.live", sample=WHOLE))
    upstream_name = Variable("proxygen_upstream")
    assert view.splits == view.default_logs == ()
    assert view.told == MapView(
        source=Expression((Variable("proxygen_heard"),)),
        variable=Variable("proxygen_told"),
        default="",
        lines=(MapLine(match="1", value=upstream_name),),
    )
    status, times, servers = map(Variable, ("status", "upstream_response_time", "upstream_addr"))
    assert view.line == Expression(("10000 ", upstream_name, " ", status, " ", times, " | ", servers))


def test_nginx_looks_at_the_mark_and_sends_to_the_socket() -> None:
    around = Surroundings(traffic=TrafficLog(socket="/t.sock", mark="/t.live", sample=WHOLE))
    assert server(plan(instance("web", 1, WEB)), around=around).heard == "/t.live"
    assert server(plan(instance("web", 1, WEB))).heard is None


# --- streams


@pytest.mark.parametrize(
    ("tags", "timeout", "connect", "is_udp"),
    [
        (("protocol=tcp",), 600_000, 3000, False),
        (("protocol=udp",), 30_000, 3000, True),
        (("protocol=udp", "timeout=500ms", "connect-timeout=7s"), 500, 7000, True),
    ],
)
def test_a_session_ends_after_a_silence_of_its_protocols_own(
    tags: tuple[str, ...], timeout: int, connect: int, *, is_udp: bool
) -> None:
    view = stream(*tags)
    assert (view.timeout, view.connect_timeout) == (timeout, connect)
    assert view.listens == (ListenView(address="5432", udp=is_udp),)


def test_a_stream_listens_on_the_operators_address_and_on_each_of_its_ports() -> None:
    members = [instance("db", number, "protocol=tcp", f"listen={5430 + number}") for number in (1, 2)]
    (found,) = plan(*members).streams
    view = stream_view(found, Surroundings(stream_address="10.0.0.9"), Snippets())
    assert [listen.address for listen in view.listens] == ["10.0.0.9:5431", "10.0.0.9:5432"]


@pytest.mark.parametrize(
    ("tags", "key"),
    [
        ((), ("remote_addr", "remote_port", "connection", "msec")),
        (("sticky=none",), ("remote_addr", "remote_port", "connection", "msec")),
        (("sticky=ip",), ("remote_addr",)),
    ],
)
def test_a_session_is_divided_by_its_client_or_anew(tags: tuple[str, ...], key: tuple[str, ...]) -> None:
    stream_tags = ("protocol=tcp", "listen=5432", *tags)
    (found,) = plan(instance("db", 1, *stream_tags), instance("db", 2, *stream_tags, "canary=7%")).streams
    view = stream_view(found, AROUND, Snippets())
    (split,) = view.splits
    stable, canary = (each.name for each in found.service.upstreams)
    assert split.key == Expression((*map(Variable, key), found.service.ident))
    assert (split.pieces, split.rest) == ((Piece(percent="7.00%", value=canary),), stable)
    assert view.target == Expression(("", Variable(found.service.ident)))


def test_a_stream_keeps_no_idle_connections_and_lets_in_whom_its_tags_say() -> None:
    view = stream("protocol=tcp", "allow=10.0.0.0/8", "deny=10.1.0.0/16")
    assert [each.keepalive for each in view.upstreams] == [None]
    turned_away = AccessLine(allows=False, network="10.1.0.0/16"), AccessLine(allows=False, network="all")
    assert view.access == (turned_away[0], AccessLine(allows=True, network="10.0.0.0/8"), turned_away[1])
    assert not view.unavailable
    assert stream("protocol=tcp", health=Health.CRITICAL).unavailable


@pytest.mark.incident("T41")
@pytest.mark.parametrize(
    ("files", "said", "names"),
    [
        ({"location-web.conf": "alias /x;"}, "", set()),
        ({"location-web.conf": "alias /x;"}, "satisfy", {"web"}),
        ({"location-web.conf": "alias /x;", "http.conf": "auth_basic own;"}, "", {"web"}),
        ({"location-web.conf": "alias /x;", "server.conf": "auth_basic own;"}, "", {"web"}),
        ({"location-web.conf": "alias /x;", "server-a.test.conf": "satisfy any;"}, "", {"web"}),
        ({"location-web.conf": "alias /x; auth_basic own;"}, "", {"web"}),
        ({"location-web.conf": "include /x;"}, "", {"web"}),
        ({"location-web.conf": "expires 1h;", "http.conf": "auth_basic own;"}, "", set()),
        ({"location-web.conf": "limit_except GET { deny all; }", "http.conf": "gzip on;"}, "", set()),
    ],
)
def test_a_service_is_without_a_gate_where_the_operator_asks_and_its_fragment_cannot_be_named(
    files: dict[str, str], said: str, names: set[str]
) -> None:
    around = Surroundings(operator_says=frozenset({said} - {""}))
    assert ungated(Snippets(files=files), around) == names
