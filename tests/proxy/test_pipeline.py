"""Whose fault a refusal is, and what is left of a service that is refused twice."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.catalog import Instance, ServiceName
from proxygen.kit.errors import BadInput, CheckRefused
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.nginx.addresses import Occupied
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.pipeline import Pipeline, _require_buckets
from proxygen.proxy.plan.types import Claim, Memory, Plan, PortClaim
from proxygen.proxy.policy.ground import lines_of, surroundings
from proxygen.proxy.quarantine.quarantines import quarantines
from proxygen.proxy.render.renderer import SMALLEST_BUCKETS
from proxygen.settings import load
from tests.proxy.conftest import ReadConf, binary, etc, output, read_conf
from tests.proxy.plan.catalogs import catalog, instance

__all__ = ["binary", "etc", "output", "read_conf"]

WEB = ServiceName("web")
PORT = PortClaim("tcp", 5432)


def refusal(*services: ServiceName, claims: frozenset[Claim] = frozenset()) -> Refusal:
    return Refusal(
        gate="nginx -t", file="http.d/20-servers.conf", line=7, services=services, reason="nonsense", claims=claims
    )


def test_a_refused_service_keeps_its_routes_and_says_where_it_was_refused() -> None:
    found = quarantines((refusal(WEB),), {})
    assert str(found[WEB]) == "service web: http.d/20-servers.conf:7: nginx -t: nonsense"
    assert not found[WEB].withdrawn


def test_a_service_that_is_refused_in_quarantine_too_is_withdrawn() -> None:
    first = quarantines((refusal(WEB),), {})
    again = quarantines((refusal(WEB),), first)
    assert again[WEB].withdrawn
    with pytest.raises(CheckRefused):
        quarantines((refusal(WEB),), again)


@pytest.mark.parametrize("first", [0, 1])
def test_a_refused_host_or_port_is_lost_at_once_and_nothing_else(first: int) -> None:
    """Whatever else is refused of the same service in the same run."""
    both = (refusal(WEB, claims=frozenset({PORT})), refusal(WEB))
    found = quarantines((both[first], both[1 - first]), {})
    assert found[WEB].lost == {PORT}
    assert not found[WEB].withdrawn


def test_a_second_refused_host_withdraws_nothing_yet() -> None:
    """nginx names one at a time."""
    known = quarantines((refusal(WEB, claims=frozenset({PORT})),), {})
    other = PortClaim("tcp", 5433)
    again = quarantines((refusal(WEB, claims=frozenset({other})),), known)
    assert again[WEB].lost == {PORT, other}
    assert not again[WEB].withdrawn


def test_a_refusal_that_is_nobodys_refuses_the_whole() -> None:
    with pytest.raises(CheckRefused, match="nonsense"):
        quarantines((refusal(),), {})


def test_of_two_refusals_of_one_service_the_first_is_told() -> None:
    second = Refusal(gate="second", file="b.conf", line=0, services=(WEB,), reason="later")
    found = quarantines((refusal(WEB), second), {})
    assert (found[WEB].place, found[WEB].reason) == ("http.d/20-servers.conf:7", "nginx -t: nonsense")
    assert quarantines((second,), {})[WEB].place == "b.conf", "where there is no line, none is told"


def test_a_refusal_of_several_is_each_ones_and_what_is_withdrawn_is_blamed_no_more() -> None:
    shop = ServiceName("shop")
    found = quarantines((refusal(WEB, shop),), {})
    assert set(found) == {WEB, shop}
    withdrawn = quarantines((refusal(WEB),), found)
    assert set(quarantines((refusal(WEB, shop),), {**found, **withdrawn})) == {shop}


# --- what the operator allows -----------------------------------------------------------------------------------------


def pipeline(conf: OperatorConf | None = None, **knobs: str) -> Pipeline:
    """Without an nginx to ask."""
    values = {name.replace("__", "."): value for name, value in knobs.items()}
    return Pipeline(load({"proxy.seed": "test", **values}, environment={}), binary=None, conf=conf)


def planned(instances: tuple[Instance, ...], **knobs: str) -> Plan:
    return pipeline(**knobs).drafter.plan(catalog(*instances), Memory())


def refused(*instances: Instance, **knobs: str) -> str:
    """Why a service is left out or warns; "" where it serves."""
    plan = planned(instances, **knobs)
    return "; ".join((*(one.reason for one in plan.quarantined), *plan.services[0].warnings))


def web(address: str, port: int) -> Instance:
    return instance("web", 1, "route=web.test", address=address, port=port)


KNOBS = {
    "consul__address": "http://10.0.0.5:18501",
    "admin__listen": "10.0.0.6:18081",
    "nginx__stamp": "127.0.0.7:18082",
    "proxy__http_listen": "10.0.0.8:80,8081",
    "proxy__https_listen": "[2001:db8::8]:443",
}


@pytest.mark.parametrize(
    ("address", "port"),
    [
        ("10.0.0.5", 18501),
        ("10.0.0.6", 18081),
        ("127.0.0.7", 18082),
        ("10.0.0.8", 80),
        ("2001:db8::8", 443),
        ("127.0.0.1", 8081),
        ("::1", 8081),
    ],
    ids=["consul", "admin", "stamp", "http", "https", "wildcard", "wildcard-6"],
)
def test_what_is_ours_alone_is_reached_through_no_tag(address: str, port: int) -> None:
    """Each is refused by its address and its port together: the same port elsewhere is somebody's application."""
    assert refused(web(address, port), **KNOBS) != ""
    assert refused(web(address, port + 1), **KNOBS) == ""
    assert refused(web("10.0.0.99", port), **KNOBS) == ""


@pytest.mark.parametrize(
    ("consul", "address", "port"),
    [
        ("localhost:8500", "127.0.0.1", 8500),
        ("localhost:8500", "::1", 8500),
        ("10.0.0.5", "10.0.0.5", 8500),
        ("https://10.0.0.5", "10.0.0.5", 8500),
    ],
)
def test_consul_is_found_however_its_address_is_written(consul: str, address: str, port: int) -> None:
    assert refused(web(address, port), consul__address=consul) != ""
    assert refused(web("10.0.0.99", port), consul__address="unix:///run/consul.sock") == ""


def test_instances_live_where_the_operator_lets_them() -> None:
    within = {"proxy__allowed_addresses": "10.0.0.0/24", "proxy__denied_addresses": "10.0.0.128/25"}
    assert refused(web("10.0.0.9", 8080), **within) == ""
    assert refused(web("10.0.1.9", 8080), **within) != ""
    assert refused(web("10.0.0.200", 8080), **within) != ""


def test_a_port_that_something_of_ours_listens_on_is_no_streams() -> None:
    def stream(port: int) -> Instance:
        return instance("db", 1, "protocol=tcp", f"listen={port}", address="10.0.0.99")

    knobs = {**KNOBS, "proxy__stream_ports": "8081-18082"}
    for port in (8081, 18081, 18082):
        assert "port" in refused(stream(port), **knobs)
    assert refused(stream(8082), **knobs) == ""
    assert refused(stream(8080), **knobs) != ""
    assert refused(stream(18083), **knobs) != ""
    assert refused(stream(9000), proxy__stream_ports="9000") == ""
    assert refused(stream(9001), proxy__stream_ports="9000") != ""


def test_who_may_claim_a_host_and_by_which_prefix_is_the_operators(tmp_path: Path) -> None:
    settings = load({"proxy.tag_prefix": "edge"}, environment={})
    proxy = settings.proxy.model_copy(update={"claims": {"web.test": ("shop",)}})
    made = Pipeline(settings.model_copy(update={"proxy": proxy}), binary=None, conf=None)
    known = catalog(
        instance("web", 1, "route=web.test", prefix="edge"),
        instance("shop", 2, "route=shop.test", prefix="edge"),
        instance("other", 3, "route=other.test"),
    )
    plan = made.drafter.plan(known, Memory())
    assert [server.host for server in plan.servers if server.locations] == ["shop.test"]
    assert [conflict.loser for conflict in plan.conflicts] == ["web"]


def test_each_of_the_operators_files_is_watched(tmp_path: Path) -> None:
    """And read: a pipeline of other files is another one."""
    names = ("templates", "snippets", "certificates", "htpasswd")
    for name in names:
        (tmp_path / name).mkdir()
    (tmp_path / "htpasswd/users").write_text("")
    (tmp_path / "certificates/torn.crt").write_text("")
    made = pipeline(**{f"proxy__{name}": str(tmp_path / name) for name in names})
    assert set(made.files) == {tmp_path / name for name in names}
    assert [problem.split(":")[0] for problem in made.ground.problems] == [
        f"certificate {tmp_path}/certificates/torn.crt"
    ]
    guarded = instance("web", 1, "route=web.test", "auth=users")
    assert not made.drafter.plan(catalog(guarded), Memory()).quarantined
    assert pipeline().files == ()
    assert pipeline().drafter.plan(catalog(guarded), Memory()).quarantined


def test_the_stamp_is_told_at_the_address_that_the_settings_name() -> None:
    block = pipeline(nginx__stamp="127.0.0.1:18099").stamp_block("7 0123456789abcdef").decode()
    assert "listen 127.0.0.1:18099" in block
    assert '"7 0123456789abcdef"' in block


def test_the_stamp_ends_what_http_would_do_to_its_answer(read_conf: ReadConf) -> None:
    """Directives of modules that nginx may lack are said only where the operator says them."""
    plain = pipeline(read_conf("http { }")).stamp_block("7 0123456789abcdef").decode()
    assert "limit_rate 0;" in plain
    assert "_types" not in plain
    conf = read_conf("http { addition_types text/plain; sub_filter_types *; }")
    altered = pipeline(conf).stamp_block("7 0123456789abcdef").decode()
    assert "addition_types application/x-none;" in altered
    assert "sub_filter_types application/x-none;" in altered


@pytest.mark.parametrize(
    ("theirs", "trusted", "said"),
    [
        ("listen 80 proxy_protocol;", "10.0.0.0/8", True),
        ("listen *:80 default_server proxy_protocol;", "10.0.0.0/8", True),
        ("listen 80;", "10.0.0.0/8", False),
        ("listen 81 proxy_protocol; listen 80;", "10.0.0.0/8", False),
        ("listen 80 proxy_protocol;", "", False),
    ],
)
def test_trusted_proxies_at_a_listen_with_the_proxy_protocol_are_a_problem(
    read_conf: ReadConf, theirs: str, trusted: str, *, said: bool
) -> None:
    conf = read_conf(f"http {{ include OUTPUT/current/http.d/*.conf;\nserver {{ {theirs} }} }}")
    made = pipeline(conf, proxy__http_listen="80", proxy__trusted_proxies=trusted)
    found = [text for text in made.ground.problems if "proxy_protocol" in text]
    assert bool(found) == said
    if said:
        assert f"{conf.path}:2" in found[0]
        assert "proxy.http_listen" in found[0]


# --- nginx.conf -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(SMALLEST_BUCKETS))
@pytest.mark.parametrize("context", ["http", "stream"])
def test_a_bucket_too_small_for_the_longest_names_is_refused_with_its_place(
    read_conf: ReadConf, name: str, context: str
) -> None:
    least = SMALLEST_BUCKETS[name]
    _require_buckets(read_conf(f"{context} {{\n {name} {least};\n}}\n"))
    _require_buckets(read_conf(f"other {{\n {name} 32;\n}}\n"))
    for size in (str(least - 1), "many"):
        with pytest.raises(BadInput, match=rf"nginx\.conf:2: {name} {size} is too small .* at least {least}"):
            _require_buckets(read_conf(f"{context} {{\n {name} {size};\n}}\n"))


def test_what_is_carried_over_from_nginx_conf_keeps_its_letters(read_conf: ReadConf) -> None:
    conf = read_conf("http { add_header X-Site 'Z\u00fcrich'; }")
    assert list(lines_of(conf, "http", {"add_header"})) == ['add_header "X-Site" "Z\u00fcrich";']


def test_directives_that_may_stand_once_are_left_to_the_operator_in_their_own_context(read_conf: ReadConf) -> None:
    conf = read_conf(
        "http { map_hash_max_size 4096; gzip on; map_hash_bucket_size 512; include nothing/*.conf; }\n"
        "stream { map_hash_bucket_size 512; }\n"
    )
    found = surroundings(load({}, environment={}).proxy, None, conf, Occupied(), None)
    assert found.operator_directives == {"map_hash_max_size", "map_hash_bucket_size"}
    assert found.operator_says == {"map_hash_max_size", "map_hash_bucket_size", "gzip"}
    assert found.operator_stream_directives == {"map_hash_bucket_size"}


def test_rendering_knows_the_settings_and_what_this_nginx_can(binary: Binary, tmp_path: Path) -> None:
    settings = load(
        {
            "proxy.http_listen": "8080",
            "proxy.https_listen": "8443",
            "proxy.stream_address": "10.0.0.3",
            "proxy.trusted_proxies": "10.1.0.0/16",
            "proxy.hsts_max_age": "2h",
            "proxy.retry_after": "7s",
            "proxy.share_servers_from": "12",
        },
        environment={},
    ).proxy
    found = surroundings(settings, None, None, Occupied(), None)
    assert (found.http, found.https, found.stream_address) == (("8080",), ("8443",), "10.0.0.3")
    assert (found.trusted_proxies, found.hsts_max_age, found.retry_after) == (("10.1.0.0/16",), 7200, 7)
    assert (found.share_from, found.traffic, found.upstream_ca) == (12, None, None)

    def able(known: Binary | None) -> tuple[bool, ...]:
        made = surroundings(settings, known, None, Occupied(), None)
        return (
            made.reject_handshake,
            made.http2_directive,
            made.keepalive_min_timeout,
            made.keepalive_by_default,
        )

    assert able(None) == (True, False, False, False), "what nobody can ask is not assumed"
    steps = ((1, 18, 0), (1, 22, 1), (1, 25, 1), (1, 27, 4), (1, 29, 7))
    assert [able(replace(binary, version=version)).count(True) for version in steps] == [0, 1, 2, 3, 4]
    assert able(replace(binary, version=(1, 25, 1))) == (True, True, False, False)
    assert able(replace(binary, version=(1, 27, 4))) == (True, True, True, False)


def test_a_pipeline_is_outdated_by_another_conf_or_another_binary(
    read_conf: ReadConf, binary: Binary, tmp_path: Path
) -> None:
    (tmp_path / "nginx").write_text("")
    binary = replace(binary, path=tmp_path / "nginx")
    conf = read_conf("http { include OUTPUT/current/http.d/*.conf; }\n")
    made = Pipeline(load({}, environment={}), binary=binary, conf=conf)
    assert not made.is_outdated(conf)
    assert made.is_outdated(read_conf("http { include OUTPUT/current/http.d/*.conf; gzip on; }\n"))
    assert conf.path in made.files
    (tmp_path / "upgraded").write_text("")
    (tmp_path / "upgraded").rename(tmp_path / "nginx")
    assert made.is_outdated(conf)
    (tmp_path / "nginx").unlink()
    assert made.is_outdated(conf)
    assert not pipeline().is_outdated(conf)


@pytest.mark.incident("T41")
def test_what_fragments_say_decides_who_may_have_a_password(tmp_path: Path) -> None:
    (tmp_path / "location-web.conf").write_text("alias /x;")
    (tmp_path / "http.conf").write_text("auth_basic own;")
    settings = load({"proxy.snippets": str(tmp_path)}, environment={})
    assert Pipeline(settings, binary=None, conf=None).ground.policy.ungated == {"web"}
