"""The tags canary, variant, sticky, force and the override in KV: who gets which requests."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable

import pytest

from proxygen.catalog import ServiceName
from proxygen.proxy.plan.service import ident_of, upstream_name
from proxygen.tags.shares import CANARY, STABLE
from tests.integration.site import LAYOUTS, Site

pytestmark = LAYOUTS

CLIENTS = 250


@pytest.fixture(scope="module")
def canaries(site: Site) -> Site:
    """Services of one stable instance and one canary, named by their host's first label."""
    services: dict[str, tuple[list[str], list[str]]] = {
        "plain": ([], ["canary=10%"]),
        "decimal": ([], ["canary=12.34"]),
        "none": ([], ["canary=0%"]),
        "all": ([], ["canary=100%"]),
        "alone": (["weight=0"], ["canary=5%"]),
        "by-ip": (["sticky=ip"], ["canary=0%"]),
        "by-header": (["sticky=header:X-User"], ["canary=0%"]),
        "by-cookie": (["sticky=cookie:uid"], ["canary=0%"]),
        "fresh": (["sticky=cookie"], ["canary=50%"]),
        "forced": (["sticky=header:X-User"], ["canary=0%", "force=header:X-Canary", "force=cookie:lane:blue"]),
        "valued": ([], ["canary=100%", "force=header:X-Lane:eu.west-1", "force=cookie:lane"]),
        "lever": ([], ["canary=0%"]),
    }
    for name, (stable, canary) in services.items():
        host = f"route={name}.canary.example.com"
        site.register(f"canary-{name}", site.app(f"{name}-stable"), host, *stable)
        site.register(f"canary-{name}", site.app(f"{name}-canary"), host, *canary)
    for variant, share in {"stable": None, "blue": 20, "green": 30}.items():
        tags = [] if share is None else [f"variant={variant}:{share}%"]
        site.register("canary-many", site.app(variant), "route=many.canary.example.com", *tags)
    site.register(
        "canary-meta",
        site.app("meta-canary"),
        meta={"proxygen-route": "meta.canary.example.com", "proxygen-canary": "100%", "proxygen-sticky": "ip"},
    )
    site.register("canary-meta", site.app("meta-stable"), "route=meta.canary.example.com")
    site.until(*(f"server_name {name}.canary.example.com;" for name in (*services, "many", "meta")))
    site.until(*(_upstream(name, CANARY) for name in (*services, "meta")), _upstream("many", "green"))
    return site


def _upstream(name: str, variant: str) -> str:
    return upstream_name(ident_of(ServiceName(f"canary-{name}")), variant)


def _host(name: str) -> str:
    return f"{name}.canary.example.com"


def _set_share(site: Site, names: list[str], percent: str) -> None:
    """Set the share by KV and wait until nginx serves it."""
    for name in names:
        site.override(f"canary-{name}", json.dumps({"canary": f"{percent}%"}))
    # The whole is the rest of a split, or, behind force rules, what they fall to.
    ends = {"0": (r"(\*|default)", STABLE), "100": (r"(\*|default)", CANARY)}
    share, variant = ends.get(percent, (rf"{float(percent):.2f}%", CANARY))
    patterns = [re.compile(rf"\n    {share} {_upstream(name, variant)};") for name in names]
    site.until_live(lambda live: all(pattern.search(live) for pattern in patterns), f"{percent} % of {names}")


def _is_about(count: int, total: int, share: float) -> bool:
    """Within four standard deviations, which chance misses once in 16,000 runs."""
    return abs(count - total * share) <= 4 * (total * share * (1 - share)) ** 0.5


# --- canary and variant


@pytest.mark.parametrize(("name", "share"), [("plain", 0.10), ("decimal", 0.1234)])
def test_a_canary_gets_its_share_to_the_hundredth_of_a_percent(canaries: Site, name: str, share: float) -> None:
    count = Counter(canaries.who(_host(name), 2_000))
    assert _is_about(count[f"{name}-canary"], 2_000, share), count
    assert count[f"{name}-canary"] + count[f"{name}-stable"] == 2_000
    assert f"\n    {share * 100:.2f}% {_upstream(name, CANARY)};" in canaries.live()


@pytest.mark.parametrize(("name", "who"), [("none", "none-stable"), ("all", "all-canary"), ("alone", "alone-canary")])
def test_the_ends_of_the_scale_are_exact_and_whoever_is_there_serves(canaries: Site, name: str, who: str) -> None:
    assert set(canaries.who(_host(name), 200)) == {who}


def test_variants_of_any_name_divide_the_requests_and_stable_gets_the_rest(canaries: Site) -> None:
    count = Counter(canaries.who(_host("many"), 1_500))
    for variant, share in {"stable": 0.5, "blue": 0.2, "green": 0.3}.items():
        assert _is_about(count[variant], 1_500, share), count


def test_a_canary_may_be_described_in_meta(canaries: Site) -> None:
    assert set(canaries.who(_host("meta"), 50)) == {"meta-canary"}


# --- sticky

_Side = Callable[[int], str]


def _sides(site: Site) -> dict[str, _Side]:
    """For each way to stick: which instance answers the client of that number."""

    def by_header(number: int) -> str:
        return site.ask(_host("by-header"), headers={"X-User": f"user-{number}"}).instance

    def by_cookie(number: int) -> str:
        return site.ask(_host("by-cookie"), headers={"Cookie": f"a=b; uid={number}"}).instance

    def by_ip(number: int) -> str:
        return site.ask(_host("by-ip"), source=f"127.{number % 5}.{number // 5}.7").instance

    return {"by-header": by_header, "by-cookie": by_cookie, "by-ip": by_ip}


def test_a_client_keeps_its_side_and_moves_only_toward_the_canary_as_it_grows(canaries: Site) -> None:
    sides = _sides(canaries)
    before: dict[str, set[int]] = {name: set() for name in sides}
    for percent in ("0", "5", "20", "50", "100"):
        _set_share(canaries, list(sides), percent)
        for name, side in sides.items():
            now = {number for number in range(CLIENTS) if side(number) == f"{name}-canary"}
            assert before[name] <= now, f"{name}: a client left the canary at {percent} %"
            assert _is_about(len(now), CLIENTS, int(percent) / 100), f"{name}: {len(now)} of {CLIENTS} at {percent} %"
            again = {number for number in range(0, CLIENTS, 5) if side(number) == f"{name}-canary"}
            assert again == {number for number in now if number % 5 == 0}
            before[name] = now


def test_a_client_without_a_cookie_is_given_one_and_stays_where_it_was(canaries: Site) -> None:
    seen = set()
    for _ in range(25):
        first = canaries.ask(_host("fresh"))
        (cookie,) = first.cookies
        name, _, value = cookie.partition(";")[0].partition("=")
        assert (name, len(value)) == ("proxygen_client", 32)
        assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
        for _ in range(3):
            again = canaries.ask(_host("fresh"), headers={"Cookie": f"{name}={value}"})
            assert again.instance == first.instance
            assert again.cookies == ()
        seen.add(first.instance)
    assert seen == {"fresh-stable", "fresh-canary"}


def test_clients_without_a_key_are_divided_too(canaries: Site) -> None:
    _set_share(canaries, ["by-header"], "50")
    assert set(canaries.who(_host("by-header"), 60)) == {"by-header-stable", "by-header-canary"}


# --- force


def test_force_beats_share_and_sticky_even_at_zero(canaries: Site) -> None:
    def answers(header: dict[str, str]) -> set[str]:
        return {canaries.ask(_host("forced"), headers={"X-User": f"u{n}", **header}).instance for n in range(8)}

    assert answers({}) == {"forced-stable"}
    assert answers({"X-Canary": "always"}) == {"forced-canary"}
    assert answers({"X-Canary": "never"}) == {"forced-stable"}
    assert answers({"X-Canary": "sometimes"}) == {"forced-stable"}
    assert answers({"Cookie": "lane=blue"}) == {"forced-canary"}
    assert answers({"Cookie": "lane=bluer"}) == {"forced-stable"}
    assert answers({"Cookie": "lane=always"}) == {"forced-stable"}


def test_a_forced_value_is_matched_whole_and_letter_by_letter(canaries: Site) -> None:
    _set_share(canaries, ["valued"], "0")
    expected = {
        "eu.west-1": "valued-canary",
        "eu.west-12": "valued-stable",
        "xeu.west-1": "valued-stable",
        "EU.west-1": "valued-stable",
        "euxwest-1": "valued-stable",
        "": "valued-stable",
    }
    assert {value: canaries.ask(_host("valued"), headers={"X-Lane": value}).instance for value in expected} == expected


def test_never_keeps_a_request_from_a_canary_that_has_everything(canaries: Site) -> None:
    _set_share(canaries, ["valued"], "100")
    assert canaries.ask(_host("valued")).instance == "valued-canary"
    assert canaries.ask(_host("valued"), headers={"Cookie": "lane=never"}).instance == "valued-stable"
    assert canaries.ask(_host("valued"), headers={"Cookie": "lane=always"}).instance == "valued-canary"


# --- the override in KV


def test_an_override_rules_until_it_is_deleted_and_one_that_does_not_parse_changes_nothing(canaries: Site) -> None:
    lever = "canary-lever"
    assert set(canaries.who(_host("lever"), 30)) == {"lever-stable"}
    _set_share(canaries, ["lever"], "100")
    assert set(canaries.who(_host("lever"), 30)) == {"lever-canary"}
    canaries.override(lever, '{"canary": "lots"}')
    canaries.until_status(
        lambda status: any(lever in warning and "lots" in warning for warning in status["warnings"]), "a warning"
    )
    assert set(canaries.who(_host("lever"), 30)) == {"lever-canary"}
    canaries.consul.kv_delete(f"proxygen/canary/{lever}")
    canaries.until(f"\n    * {_upstream('lever', STABLE)};")
    assert set(canaries.who(_host("lever"), 30)) == {"lever-stable"}
    canaries.until_status(lambda status: not any(lever in warning for warning in status["warnings"]), "no warning")
