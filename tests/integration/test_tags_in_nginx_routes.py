"""The tags route and strip-prefix, and what happens around a route: pages, headers, conflicts."""

from __future__ import annotations

import pytest

from tests.integration.site import LAYOUTS, Site

pytestmark = LAYOUTS


@pytest.fixture(scope="module")
def routes(site: Site) -> Site:
    apps = {name: site.app(name) for name in ("root", "api", "v2", "wild", "any", "twice", "deep", "exact", "meta")}
    for name, tags in {
        "root": ["route=routes.example.com"],
        "api": ["route=routes.example.com/api"],
        "v2": ["route=routes.example.com/api/v2"],
        "wild": ["route=*.wild.example.com/"],
        "exact": ["route=one.wild.example.com/own"],
        "any": ["route=/everywhere"],
        "twice": ["route=first.example.com", "route=second.example.com/only"],
        "deep": ["route=strip.example.com/app/v1", "strip-prefix=true"],
    }.items():
        site.register(f"route-{name}", apps[name], *tags)
    site.register(
        "route-meta",
        apps["meta"],
        meta={"proxygen-route": "meta.example.com meta.example.org/x", "proxygen-strip-prefix": "true"},
    )
    site.until_served(*apps.values())
    return site


def test_the_longest_prefix_wins(routes: Site) -> None:
    expected = {
        "/": "root",
        "/other": "root",
        "/api": "api",
        "/api/": "api",
        "/api/v1": "api",
        "/api/v2": "v2",
        "/api/v2/users?x=1": "v2",
    }
    assert {path: routes.ask("routes.example.com", path).instance for path in expected} == expected


def test_a_path_is_matched_by_whole_segments(routes: Site) -> None:
    assert routes.ask("routes.example.com", "/apix").instance == "root"
    assert routes.ask("routes.example.com", "/api/v20").instance == "api"


def test_a_host_is_matched_whatever_its_case_and_port(routes: Site) -> None:
    assert routes.ask("ROUTES.Example.Com").instance == "root"
    assert routes.ask("routes.example.com:8080").instance == "root"


def test_a_wildcard_takes_every_name_below_it_and_not_the_name_itself(routes: Site) -> None:
    assert routes.ask("a.wild.example.com").instance == "wild"
    assert routes.ask("a.b.wild.example.com").instance == "wild"
    assert routes.ask("wild.example.com").status == 404


def test_a_named_host_decides_before_a_wildcard_and_leaves_it_the_other_paths(routes: Site) -> None:
    assert routes.ask("one.wild.example.com", "/own/x").instance == "exact"
    assert routes.ask("one.wild.example.com", "/else").instance == "wild"


def test_a_route_without_a_host_serves_every_host_that_does_not_cover_its_path(routes: Site) -> None:
    assert routes.ask("nobody.example.net", "/everywhere/x").instance == "any"
    assert routes.ask("second.example.com", "/everywhere").instance == "any"
    assert routes.ask("routes.example.com", "/everywhere").instance == "root"


def test_a_route_may_repeat(routes: Site) -> None:
    assert routes.ask("first.example.com").instance == "twice"
    assert routes.ask("second.example.com", "/only").instance == "twice"
    assert routes.ask("second.example.com", "/").status == 404


def test_routes_in_meta_count_like_tags_and_stand_between_spaces(routes: Site) -> None:
    assert routes.ask("meta.example.com").instance == "meta"
    assert routes.ask("meta.example.org", "/x/y").seen["path"] == "/y"


def test_a_stripped_prefix_does_not_reach_the_instance(routes: Site) -> None:
    paths = {
        "/app/v1": "/",
        "/app/v1/": "/",
        "/app/v1?q=1": "/?q=1",
        "/app/v1/users/7?q=a%20b": "/users/7?q=a%20b",
        "/app/v1/a%20b": "/a%20b",
        "/app/v1/100%25%3Fno=query": "/100%25%3Fno=query",
        "/app/v1/x%0d%0aEvil:%20y": "/x%0d%0aEvil:%20y",
    }
    assert {path: routes.ask("strip.example.com", path).seen["path"] for path in paths} == paths


def test_without_strip_prefix_the_path_arrives_as_the_client_wrote_it(routes: Site) -> None:
    path = "/api/a%2Fb/%7Etilde?x=%26"
    assert routes.ask("routes.example.com", path).seen["path"] == path


def test_an_unknown_host_gets_a_small_page(routes: Site) -> None:
    answer = routes.ask("unknown.example.net")
    assert (answer.status, answer.headers["content-type"]) == (404, "text/html")
    assert b"<h1>404" in answer.body


def test_an_instance_learns_who_asked_and_how(routes: Site) -> None:
    answer = routes.ask("routes.example.com", headers={"X-Forwarded-For": "192.0.2.7"}, source="127.0.0.9")
    seen = answer.seen["headers"]
    assert seen["host"] == "routes.example.com"
    assert seen["x-forwarded-for"] == "127.0.0.9", "nobody vouches for what the client says"
    assert seen["x-real-ip"] == "127.0.0.9"
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("http", "routes.example.com")
    assert seen["x-forwarded-port"] == str(routes.sidecar.http)
    assert len(seen["x-request-id"]) == 32
    assert answer.seen["version"] == "1.1"


def test_a_client_cannot_choose_what_the_instance_believes_of_it(routes: Site) -> None:
    lies = {"X-Real-IP": "192.0.2.7", "X-Forwarded-Proto": "https", "X-Forwarded-Host": "evil.example"}
    seen = routes.ask("routes.example.com", headers=lies).seen["headers"]
    assert seen["x-real-ip"] == "127.0.0.1"
    assert (seen["x-forwarded-proto"], seen["x-forwarded-host"]) == ("http", "routes.example.com")


def test_what_nginx_conf_includes_takes_no_default_away(routes: Site) -> None:
    """It includes what proxygen writes."""
    app = routes.app("plain")
    # Hosts of other tests say something for themselves; its access list gives this one a virtual server of its own.
    routes.register("route-plain", app, "route=plain.example.com", "allow=127.0.0.1")
    routes.until_served(app)
    (server,) = (each for each in routes.live().split("\nserver {\n") if "server_name plain.example.com;" in each)
    assert server.count("    client_max_body_size 0;\n") == server.count("    server_tokens off;\n") == 1
    assert "        proxy_read_timeout 3600000ms;\n" in server


def test_a_route_with_nobody_behind_it_says_try_again(routes: Site) -> None:
    down = routes.app("down")
    routes.register("route-down", down, "route=down.example.com", "rate=100r/s", "sticky=cookie", status="critical")
    routes.until("server_name down.example.com;")
    answer = routes.ask("down.example.com", "/any/path")
    assert (answer.status, answer.headers["retry-after"]) == (503, "5")
    assert answer.headers["content-type"] == "text/html"
    assert b"<h1>503" in answer.body
    assert routes.ask("routes.example.com").instance == "root"
    routes.consul.set_check(f"route-down-{down.port}", "passing")
    routes.until_served(down)
    assert routes.ask("down.example.com").instance == "down"


def test_the_page_for_nobody_answers_every_method(routes: Site) -> None:
    down = routes.app("down-too")
    routes.register("route-down-too", down, "route=down-too.example.com", status="critical")
    routes.until("server_name down-too.example.com;")
    for method in ("HEAD", "POST", "PUT", "DELETE"):
        assert routes.ask("down-too.example.com", method=method, body=b"x").status == 503


def test_an_instances_own_503_is_passed_on_as_it_is(routes: Site) -> None:
    answer = routes.ask("routes.example.com", "/?status=503")
    assert (answer.status, answer.instance) == (503, "root")
    assert "retry-after" not in answer.headers


def test_the_holder_of_a_route_keeps_it_through_a_rolling_deploy(routes: Site) -> None:
    old, new, rival = (routes.app(name) for name in ("holder-old", "holder-new", "rival"))
    old_id = routes.register("route-holder", old, "route=contested.example.com")
    routes.until_served(old)
    routes.register("route-rival", rival, "route=contested.example.com", "route=rival.example.com")
    routes.until_served(rival)
    assert routes.ask("contested.example.com").instance == "holder-old"
    conflict = {"route": "contested.example.com/", "holder": "route-holder", "loser": "route-rival"}
    routes.until_status(lambda status: conflict in status["conflicts"], "the conflict is told")
    # The new instance is younger than the rival.
    new_id = routes.register("route-holder", new, "route=contested.example.com")
    routes.until_served(new)
    routes.consul.deregister(old_id)
    routes.until_live(lambda live: live and f":{old.port}" not in live, "the old instance gone")
    assert routes.ask("contested.example.com").instance == "holder-new"
    routes.consul.deregister(new_id)
    routes.until_live(lambda live: live and f":{new.port}" not in live, "the new instance gone")
    assert routes.ask("contested.example.com").instance == "rival"


def test_a_tag_that_does_not_parse_takes_out_its_own_service_only(routes: Site) -> None:
    broken = routes.app("broken")
    routes.register("route-broken", broken, "route=broken.example.com", "weight=heavy")
    routes.until("server_name broken.example.com;")
    assert routes.ask("broken.example.com").status == 503
    assert routes.ask("routes.example.com").instance == "root"
    quarantined = {item["service"]: item for item in routes.sidecar.status()["quarantined"]}
    assert "proxygen.weight" in quarantined["route-broken"]["place"]
    routes.register("route-broken", broken, "route=broken.example.com", "weight=7")
    routes.until_served(broken)
    assert routes.ask("broken.example.com").instance == "broken"


def test_hosts_that_share_a_virtual_server_are_told_apart_however_they_are_written(
    site: Site, request: pytest.FixtureRequest
) -> None:
    """In the layout of a large catalog; in the other one they have their own, and the same holds."""
    apps = {name: site.app(f"sharing-{name}") for name in ("one", "two", "three")}
    ids = {
        name: site.register(f"sharing-{name}", app, f"route={name}.sharing.example.com") for name, app in apps.items()
    }
    site.until(*(f"server_name {name}.sharing.example.com;" for name in apps))
    shares = "shared" in request.node.callspec.id
    assert all((f"\n    {name}.sharing.example.com http://" in site.live()) is shares for name in apps)
    for name in apps:
        for host in (f"{name}.sharing.example.com", f"{name}.Sharing.EXAMPLE.com:81", f"{name}.sharing.example.com."):
            assert site.ask(host).instance == f"sharing-{name}"
            assert site.ask(host, "/a%20b/../c?d=e").seen["path"] == "/a%20b/../c?d=e"
    assert site.ask("four.sharing.example.com").status == 404
    site.consul.deregister(ids["two"])
    site.until_live(lambda live: live and "two.sharing" not in live, "two is gone")
    assert site.ask("two.sharing.example.com").status == 404
    assert {site.ask(f"{name}.sharing.example.com").instance for name in ("one", "three")} == {
        "sharing-one",
        "sharing-three",
    }
