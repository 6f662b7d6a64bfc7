"""From a container and its labels to services: every rule that the page on registration states."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, ip_network
from typing import Any

import pytest

from proxygen.kit.errors import BadInput
from proxygen.registration.containers import decode_container
from proxygen.registration.described import describe
from proxygen.registration.owners import other_owner
from proxygen.registration.service import CompleteRegistration, HeldByAgent
from tests.registration.containers import POLICY, container, inspected

WEB = {"proxygen.name": "web", "proxygen.route": "web.example.com"}
HTTP = {"8080/tcp": ("0.0.0.0", "32768")}
INSIDE = {"announce": "container"}


def services(
    labels: dict[str, str] | None, policy: dict[str, Any] | None = None, **facts: Any
) -> tuple[CompleteRegistration, ...]:
    return describe(container(labels, **facts), replace(POLICY, **(policy or {})), lambda: True)


def service(labels: dict[str, str], policy: dict[str, Any] | None = None, **facts: Any) -> CompleteRegistration:
    (only,) = services(labels, policy, **{"published": HTTP, **facts})
    return only


def refusal(labels: dict[str, str], policy: dict[str, Any] | None = None, **facts: Any) -> str:
    with pytest.raises(BadInput) as caught:
        services(labels, policy, **{"published": HTTP, **facts})
    return str(caught.value)


def definitions(service: CompleteRegistration) -> dict[str, Any]:
    return {check.id.rpartition(":")[2]: check.definition for check in service.checks}


# --- what is registered -----------------------------------------------------------------------------------------------


def test_what_asks_for_nothing_is_not_registered() -> None:
    assert services({"com.example.team": "shop"}, published=HTTP) == ()
    assert services(None, published=HTTP) == ()


def test_all_containers_are_registered_where_that_is_asked_for() -> None:
    (one,) = services(None, {"unlabelled": True}, published=HTTP)
    assert (one.name, one.tags) == ("shop", ())


def test_ignored_ones_are_not() -> None:
    assert services({**WEB, "proxygen.ignore": "true"}, published=HTTP) == ()
    assert services({"SERVICE_NAME": "web", "SERVICE_IGNORE": "1"}, published=HTTP) == ()


def test_our_labels_are_tags_and_flags() -> None:
    one = service(
        {
            **WEB,
            "proxygen.route": "a.example.com  b.example.com/api",
            "proxygen.canary": "12.5%",
            "proxygen.tag": "v1 eu",
            "proxygen.meta.team": "shop and more",
            "proxygen.weights": "10,2",
            "proxygen.tagged-address.wan": "203.0.113.7:80",
            "proxygen.deregister-after": "2m",
        }
    )
    assert one.id == "here:w1:8080"
    assert (one.address, one.port) == ("10.0.0.1", 32768)
    assert one.tags == (
        *("proxygen.route=a.example.com", "proxygen.route=b.example.com/api", "proxygen.canary=12.5%"),
        *("v1", "eu"),
    )
    assert one.meta == {"team": "shop and more", "registrator-host": "here"}
    assert (one.weights.passing, one.weights.warning) == (10, 2)
    assert one.tagged_addresses == {"wan": ("203.0.113.7", 80)}
    assert definitions(one)["tcp"]["DeregisterCriticalServiceAfter"] == "2m"


def test_the_owners_mark_cannot_be_taken_over_by_a_label() -> None:
    assert service({**WEB, "proxygen.meta.registrator-host": "there"}).meta["registrator-host"] == "here"


def test_a_name_is_stated_or_composes_or_the_images() -> None:
    assert service({"proxygen.route": "/"}).name == "shop"
    assert service({"proxygen.route": "/", "com.docker.compose.service": "cart"}).name == "cart"
    assert service({"SERVICE_TAGS": "x", "com.docker.compose.service": "cart"}).name == "shop"


def test_several_ports_each_have_labels_of_their_own() -> None:
    labels = {"proxygen.8080.name": "web", "proxygen.8080.route": "/", "proxygen.9000/udp.name": "log"}
    labels |= {"proxygen.tag": "v1", "proxygen.9000/udp.tag": "v2"}
    web, log = services(labels, INSIDE, exposed=("8080/tcp", "9000/tcp", "9000/udp"), networks={"n": "10.88.0.3"})
    assert (web.name, web.id, web.address, web.port) == ("web", "here:w1:8080", "10.88.0.3", 8080)
    assert web.tags == ("proxygen.route=/", "v1")
    assert (log.name, log.id, log.tags) == ("log", "here:w1:9000:udp", ("v2",))


def test_a_common_name_of_several_ports_is_followed_by_the_port() -> None:
    labels = {"proxygen.name": "web", "proxygen.80.tag": "a", "proxygen.81.tag": "b"}
    names = {one.name for one in services(labels, INSIDE, networks={"n": "10.88.0.3"})}
    assert names == {"web-80", "web-81"}


# --- those who come from registrator ----------------------------------------------------------------------------------


def test_registrators_variables_and_labels_mean_what_they_meant() -> None:
    one, two = services(
        {"SERVICE_TAGS": "a,,b\\,c", "SERVICE_NAME": "from-label"},
        environment=["SERVICE_NAME=from-variable", "SERVICE_81_NAME=two", "SERVICE_REGION=eu", "SERVICE_81_ID=id-2"],
        published={"80/tcp": ("0.0.0.0", "1080"), "81/tcp": ("10.0.0.9", "1081")},
    )
    assert (one.name, one.id, one.address, one.port) == ("from-label-80", "here:w1:80", "10.0.0.1", 1080)
    assert (two.name, two.id, two.address, two.port) == ("two", "id-2", "10.0.0.9", 1081)
    assert one.tags == two.tags == ("a", "b,c")
    assert one.meta["region"] == "eu"


def test_an_id_that_several_ports_would_have_is_followed_by_the_port() -> None:
    """The last one took the entry over, and nothing said so (registrator#599)."""
    published = {"80/tcp": ("0.0.0.0", "1080"), "81/tcp": ("0.0.0.0", "1081"), "81/udp": ("0.0.0.0", "1082")}
    assert [one.id for one in services({"SERVICE_ID": "w"}, published=published)] == ["w:80", "w:81", "w:81:udp"]
    labels = {"SERVICE_80_ID": "a", "SERVICE_81_ID": "b"}
    assert [one.id for one in services(labels, published=published)] == ["a", "b:81", "b:81:udp"]
    labels = {"proxygen.id": "w", "proxygen.80.name": "a", "proxygen.81/udp.name": "b"}
    assert [one.id for one in services(labels, published=published)] == ["w:80", "w:81:udp"]
    assert service({"SERVICE_ID": "w"}, published={"81/udp": ("0.0.0.0", "1082")}).id == "w"


def test_registrators_tags_are_trimmed_and_say_udp() -> None:
    """A proxy tag after a comma and a space was none (registrator#597); by `udp` it told a port's protocols apart."""
    published = {"81/tcp": ("0.0.0.0", "1081"), "81/udp": ("0.0.0.0", "1082")}
    tcp, udp = services({"SERVICE_TAGS": "a, proxygen.route=/ ,, b"}, published=published)
    assert tcp.tags == ("a", "proxygen.route=/", "b")
    assert udp.tags == ("a", "proxygen.route=/", "b", "udp")


def test_registrators_checks_are_consuls_own() -> None:
    one = service(
        {
            "SERVICE_CHECK_HTTPS": "/health",
            "SERVICE_CHECK_INTERVAL": "15s",
            "SERVICE_CHECK_TIMEOUT": "1s",
            "SERVICE_8080_CHECK_TCP": "yes",
            "SERVICE_CHECK_INITIAL_STATUS": "passing",
        }
    )
    checks = definitions(one)
    assert checks["http"]["HTTP"] == "https://10.0.0.1:32768/health"
    assert (checks["http"]["Interval"], checks["http"]["Timeout"]) == ("15s", "1s")
    assert checks["tcp"]["TCP"] == "10.0.0.1:32768"
    assert {check.initially for check in one.checks} == {"passing"}


@pytest.mark.parametrize("key", ["SERVICE_CHECK_SCRIPT", "SERVICE_CHECK_CMD", "SERVICE_80_CHECK_TTL"])
def test_checks_that_nobody_can_make_here_are_refused(key: str) -> None:
    assert key in refusal({"SERVICE_NAME": "web", key: "x"})


PRIVATE = ["SERVICE_PASSWORD=hunter2", "SERVICE_NAME=theirs", 'SERVICE_ACCOUNT_JSON={"private_key": "x"}']


@pytest.mark.incident("T69")
def test_variables_of_a_container_that_asks_for_nothing_count_for_nothing() -> None:
    assert services(None, published=HTTP, environment=PRIVATE) == ()
    assert services({"SERVICE_OWNER": "team"}, published=HTTP, environment=PRIVATE) == ()


@pytest.mark.incident("T69")
def test_beside_our_labels_no_variable_counts() -> None:
    for labels in (WEB, {**WEB, "SERVICE_TAGS": "x"}):
        one = service(labels, environment=[*PRIVATE, "SERVICE_REGION=eu", "SERVICE_8080_IGNORE=1"])
        assert (one.name, one.meta) == ("web", {"registrator-host": "here"})


@pytest.mark.parametrize(
    ("labels", "policy"),
    [({"SERVICE_TAGS": "x"}, {}), (None, {"variables": True}), (None, {"unlabelled": True, "variables": True})],
)
def test_variables_count_where_a_label_of_registrators_or_the_operator_says_so(
    labels: dict[str, str] | None, policy: dict[str, Any]
) -> None:
    (one,) = services(labels, policy, published=HTTP, environment=["SERVICE_NAME=theirs", "SERVICE_REGION=eu"])
    assert (one.name, one.meta["region"]) == ("theirs", "eu")


SECRET_NAMES = (
    *("PASSWORD", "DB_PASS", "API_KEY", "APIKEY", "AUTH", "GITHUB_TOKEN", "CLIENT_SECRET", "PRIVATE_KEY", "KEY"),
    *("AWS_ACCESS_KEY_ID", "CREDENTIALS", "SENTRY_DSN", "TLS_CERT"),
)


@pytest.mark.incident("T69")
@pytest.mark.parametrize(
    "entry",
    [
        *(f"SERVICE_{name}=x" for name in SECRET_NAMES),
        "SERVICE_DATABASE=postgres://shop:hunter2@db/shop",
        "SERVICE_CACHE=redis://:hunter2@cache:6379/0",
        "SERVICE_BLOB=-----BEGIN RSA PRIVATE KEY-----",
        "SERVICE_LOGIN=eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
        "SERVICE_CLOUD=AKIAIOSFODNN7EXAMPLE",
        'SERVICE_ACCOUNT={"type": "service_account", "private_key": "x"}',
        "SERVICE_SETUP=host=db;Password=hunter2",
        "SERVICE_RANDOM=bXk4dGhpc0lzUmFuZG9tQnl0ZXNJbkJhc2U2NA==",
    ],
)
def test_what_looks_like_a_secret_is_never_published(entry: str) -> None:
    """Only it is left out, and the log names it without its value."""
    said: list[str] = []
    asking = container({"SERVICE_TAGS": "x"}, environment=[entry, "SERVICE_REGION=eu"], published=HTTP)
    (one,) = describe(asking, POLICY, lambda: True, said.append)
    assert one.meta == {"region": "eu", "registrator-host": "here"}
    assert said == [f"{entry.partition('=')[0]} is left out: it looks like a secret"]


@pytest.mark.parametrize(
    "entry",
    [
        "SERVICE_KEYBOARD=de",
        "SERVICE_AUTHOR=ada",
        "SERVICE_VERSION=0123456789abcdef0123456789abcdef01234567",
        "SERVICE_SITE=https://a.example:8443/x?a=b",
    ],
)
def test_what_only_resembles_one_is_published(entry: str) -> None:
    name, _, value = entry.partition("=")
    asking = container({"SERVICE_TAGS": "x"}, environment=[entry], published=HTTP)
    (one,) = describe(asking, POLICY, lambda: True)
    assert one.meta[name.removeprefix("SERVICE_").lower()] == value


@pytest.mark.incident("T69")
def test_what_consul_does_not_take_costs_itself() -> None:
    """Not the container: its routes have nothing to do with one entry of Meta."""
    said: list[str] = []
    labels = {**WEB, "proxygen.meta.long": "x" * 513, "proxygen.meta.a b": "x", "proxygen.meta.team": "shop"}
    (one,) = describe(container(labels, published=HTTP), POLICY, lambda: True, said.append)
    assert one.meta == {"team": "shop", "registrator-host": "here"}
    assert [text.partition(":")[0] for text in said] == [f"proxygen.meta.{key} is left out" for key in ("a b", "long")]
    said.clear()
    many = {f"proxygen.meta.k{number:02}": "x" for number in range(70)}
    (one,) = describe(container({**WEB, **many}, published=HTTP), POLICY, lambda: True, said.append)
    assert len(one.meta) == 64
    assert said == ["7 entries of Meta are left out, from k63 on: Consul takes 64"]


NEVER = {"never": (ip_network("169.254.0.0/16"), ip_network("0.0.0.0/8"))}
ELSEWHERE = (
    *("http://169.254.169.254/latest/", "https://10.0.0.2:32768/", "http://localhost:8500/v1/kv/"),
    *("http://10.0.0.1@evil.example/", "http://me:x@10.0.0.1/", "http://10.0.0.1.evil.example/"),
)


@pytest.mark.incident("T54")
@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("check-http", url) for url in ELSEWHERE),
        *(("check-method", method) for method in ("DELETE", "put", "OPTIONS")),
        *(("address", address) for address in ("169.254.169.254", "127.0.0.1", "::1", "::ffff:169.254.169.254")),
    ],
)
def test_a_label_has_consul_ask_the_own_address_alone_and_change_nothing(key: str, text: str) -> None:
    labels = {**WEB, "proxygen.check-http": "/", f"proxygen.{key}": text}
    assert refusal(labels, NEVER).startswith(f"proxygen.{key}: ")
    assert service(labels, {**NEVER, "any_checks": True})


def test_a_method_that_there_is_not_is_never_asked() -> None:
    labels = {**WEB, "proxygen.check-http": "/", "proxygen.check-method": "G T"}
    assert "none of GET, HEAD, OPTIONS" in refusal(labels, {"any_checks": True})


def test_a_url_at_the_own_address_is_asked_by_get_or_head() -> None:
    one = service({**WEB, "proxygen.check-http": "http://10.0.0.1:9000/up", "proxygen.check-method": "head"})
    http = definitions(one)["http"]
    assert (http["HTTP"], http["Method"]) == ("http://10.0.0.1:9000/up", "HEAD")


def test_our_labels_win_over_registrators() -> None:
    one = service({"SERVICE_NAME": "old", "SERVICE_TAGS": "x", **WEB})
    assert (one.name, one.tags) == ("web", ("proxygen.route=web.example.com", "x"))


# --- where it is reached ----------------------------------------------------------------------------------------------


def test_a_host_network_has_the_ports_as_they_are() -> None:
    one = service({**WEB, "proxygen.port": "9000"}, mode="host", published={})
    assert (one.address, one.port) == ("10.0.0.1", 9000)


def test_loopback_is_announced_only_where_everything_is() -> None:
    bound = {"8080/tcp": ("127.0.0.1", "32768")}
    assert "published only on loopback" in refusal(WEB, published=bound)
    assert service(WEB, {"address": "127.0.0.1"}, published=bound).address == "127.0.0.1"


@pytest.mark.parametrize(
    ("bindings", "place"),
    [
        # Docker gives each family a port of its own where it may choose (moby#42375).
        ([("::", "1006"), ("0.0.0.0", "1004")], ("10.0.0.1", 1004)),
        ([("0.0.0.0", "1004"), ("::", "1006")], ("10.0.0.1", 1004)),
        ([("192.0.2.9", "1001"), ("10.0.0.1", "1002")], ("10.0.0.1", 1002)),
        ([("127.0.0.1", "1001"), ("192.0.2.9", "1002")], ("192.0.2.9", 1002)),
        ([("::", "1006")], ("10.0.0.1", 1006)),
    ],
)
def test_of_several_places_the_one_at_the_announced_address_counts(
    bindings: list[tuple[str, str]], place: tuple[str, int]
) -> None:
    answer = inspected(WEB)
    answer["NetworkSettings"]["Ports"] = {"8080/tcp": [{"HostIp": ip, "HostPort": port} for ip, port in bindings]}
    (one,) = describe(decode_container(answer), POLICY, lambda: True)
    assert (one.address, one.port) == place


def test_an_address_of_ipv6_is_reached_by_its_own_port() -> None:
    answer = inspected(WEB)
    bindings = [{"HostIp": "0.0.0.0", "HostPort": "1004"}, {"HostIp": "::", "HostPort": "1006"}]
    answer["NetworkSettings"]["Ports"] = {"8080/tcp": bindings}
    (one,) = describe(decode_container(answer), replace(POLICY, address="2001:db8::1"), lambda: True)
    assert (one.address, one.port) == ("2001:db8::1", 1006)


def test_a_label_may_choose_the_containers_own_address_and_the_network() -> None:
    labels = {**WEB, "proxygen.announce": "container"}
    networks = {"front": "10.88.0.3", "back": "10.89.0.3"}
    assert "10.89.0.3 in back, 10.88.0.3 in front" in refusal(labels, networks=networks)
    one = service({**labels, "proxygen.network": "back"}, networks=networks)
    assert (one.address, one.port) == ("10.89.0.3", 8080)
    assert service(labels, {"network": "front"}, networks=networks).address == "10.88.0.3"
    assert "'side'" in refusal({**labels, "proxygen.network": "side"}, networks=networks)


LEASED = {"leased": IPv4Network("10.99.3.0/24")}
BRIDGE = {"bridge": "10.99.3.2"}


def test_an_address_that_all_hosts_reach_is_announced_as_it_is() -> None:
    """On a host with a leased subnet, published or not; the host's own address is a detour."""
    for published in (HTTP, {}):
        one = service(WEB, LEASED, networks=BRIDGE, published=published, exposed=("8080/tcp",))
        assert (one.address, one.port) == ("10.99.3.2", 8080)
    one = service(WEB, LEASED, networks={"compose": "10.99.3.130", "front": "172.18.0.2", "shop": "10.99.3.194"})
    assert one.address == "10.99.3.130"


def test_other_addresses_are_reached_by_published_ports() -> None:
    """Those of networks outside of the lease, and all on a host without one."""
    for policy, networks in ((LEASED, {"front": "172.18.0.2"}), ({}, BRIDGE)):
        one = service(WEB, policy, networks=networks)
        assert (one.address, one.port) == ("10.0.0.1", 32768)


def test_a_leased_address_gives_way_to_what_is_stated() -> None:
    for labels, policy in (({"proxygen.announce": "published"}, {}), ({}, {"announce": "published"})):
        one = service({**WEB, **labels}, {**LEASED, **policy}, networks=BRIDGE)
        assert (one.address, one.port) == ("10.0.0.1", 32768)
    stated = service({**WEB, "proxygen.address": "192.0.2.7"}, LEASED, networks=BRIDGE)
    assert (stated.address, stated.port) == ("192.0.2.7", 8080)
    networks = {**BRIDGE, "front": "172.18.0.2"}
    assert service({**WEB, "proxygen.network": "front"}, LEASED, networks=networks).address == "10.0.0.1"
    asked = service({**WEB, "proxygen.announce": "auto"}, {**LEASED, "announce": "published"}, networks=networks)
    assert asked.address == "10.99.3.2"


def test_published_ports_say_what_is_meant_for_others_where_addresses_are_leased_too() -> None:
    one = service(WEB, LEASED, networks=BRIDGE, exposed=("9090/tcp",))
    assert one.port == 8080


def test_a_label_may_state_the_address() -> None:
    assert service({**WEB, "proxygen.address": "192.0.2.7"}).address == "192.0.2.7"
    assert "proxygen.address: 'web.local'" in refusal({**WEB, "proxygen.address": "web.local"})


# --- health -----------------------------------------------------------------------------------------------------------


def test_consul_asks_by_itself_where_nothing_else_is_said() -> None:
    """So that a container which dies while nobody looks gets no requests."""
    assert definitions(service(WEB)).keys() == {"tcp"}


def test_a_containers_own_health_is_told_beside_it() -> None:
    for status, health in (("healthy", "passing"), ("starting", "critical"), ("unhealthy", "critical")):
        one = container(WEB, published=HTTP, state={"Health": {"Status": status}})
        assert one.health == health
        (described,) = describe(one, POLICY, lambda: True)
        assert definitions(described).keys() == {"tcp", "ttl"}
        assert definitions(described)["ttl"]["TTL"] == "5m"


def test_no_check_of_consuls_leaves_our_word() -> None:
    """Where there is none at all, Consul would call a dead container passing for ever."""
    assert definitions(service({**WEB, "proxygen.check-tcp": "false"})).keys() == {"ttl"}
    assert definitions(service(WEB, published={"53/udp": ("0.0.0.0", "53")})).keys() == {"ttl"}


def test_checks_that_labels_ask_for_stand_alone() -> None:
    labels = {**WEB, "proxygen.check-http": "/a /b", "proxygen.check-grpc": "", "proxygen.check-interval": "2s"}
    checks = definitions(service(labels))
    assert checks.keys() == {"http", "http-2", "grpc"}
    assert checks["http-2"]["HTTP"] == "http://10.0.0.1:32768/b"
    assert checks["http"]["Interval"] == "2s"


# --- bad labels -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("labels", "place"),
    [
        ({"proxygen.rout": "/"}, "proxygen.rout: no such key"),
        ({"proxygen.meta.": "x"}, "proxygen.meta.: no such key"),
        ({"proxygen.port": "http"}, "proxygen.port 'http'"),
        ({"proxygen.port": "0"}, "proxygen.port '0'"),
        ({"proxygen.canary": "lots"}, "proxygen.canary: 'lots'"),
        ({"proxygen.route": ""}, "proxygen.route"),
        ({"proxygen.name": "evil;}"}, "name = 'evil;}'"),
        ({"proxygen.id": "a b"}, "id = 'a b'"),
        ({"proxygen.ignore": "perhaps"}, "proxygen.ignore: 'perhaps'"),
        ({"proxygen.announce": "both"}, "proxygen.announce: 'both'"),
        ({"proxygen.weights": "many"}, "proxygen.weights 'many'"),
        ({"proxygen.tagged-address.wan": "nowhere"}, "proxygen.tagged-address.wan 'nowhere'"),
        ({"proxygen.check-http": "healthz"}, "HttpCheck: 'healthz'"),
        ({"proxygen.check-interval": "often"}, "HttpCheck: interval"),
        ({"proxygen.check-initially": "well"}, "proxygen.check-initially: 'well'"),
        ({"proxygen.deregister-after": "1s"}, "deregister_after"),
        ({"proxygen.99999.name": "x"}, "99999"),
    ],
)
def test_a_bad_label_is_refused_with_its_place(labels: dict[str, str], place: str) -> None:
    assert place in refusal({**WEB, "proxygen.check-http": "/", **labels})


def test_a_choice_that_has_to_be_made_is_named() -> None:
    published = {"80/tcp": ("0.0.0.0", "1080"), "81/tcp": ("0.0.0.0", "1081")}
    assert "80/tcp, 81/tcp; write proxygen.port=PORT" in refusal(WEB, published=published)
    assert "publishes no port" in refusal(WEB, published={}, exposed=("80/tcp",))
    assert "exposes no port" in refusal(WEB, INSIDE, published={})
    assert "port 99 is published nowhere" in refusal({**WEB, "proxygen.port": "99"})


def test_of_two_protocols_of_a_port_the_label_names_one() -> None:
    """As the refusal lists them: it said `8080/tcp, 8080/udp`, and took neither."""
    both = {"8080/tcp": ("0.0.0.0", "1001"), "8080/udp": ("0.0.0.0", "1002")}
    assert "8080/tcp, 8080/udp; write proxygen.port=PORT" in refusal(WEB, published=both)
    for text, port in (("8080/udp", 1002), ("8080/tcp", 1001), ("8080", 1001)):
        assert service({**WEB, "proxygen.port": text}, published=both).port == port
    assert "proxygen.port: '8080/sctp' is neither PORT, PORT/tcp nor PORT/udp" in refusal(
        {**WEB, "proxygen.port": "8080/sctp"}
    )


def test_a_container_without_a_place_is_told_what_would_give_it_one() -> None:
    nothing: dict[str, Any] = {"published": {}}
    assert refusal(WEB, **nothing) == "it publishes no port; publish one, or write proxygen.announce=container"
    host = "it is in the host's network, and its image exposes no port; write proxygen.port=PORT"
    assert refusal(WEB, mode="host", **nothing) == host
    own = {**WEB, "proxygen.announce": "container"}
    assert refusal(own, **nothing) == "its image exposes no port; write proxygen.port=PORT"
    assert (
        refusal({**own, "proxygen.port": "80"}, mode="none", **nothing) == "it is in no network, so it has no address"
    )


def test_an_entry_from_before_the_host_was_renamed_is_the_containers_own() -> None:
    """An id that a label states would be refused for as long as the container runs."""
    before, now = (service({**WEB, "proxygen.id": "w"}, {"owner": owner}) for owner in ("before", "now"))
    body = before.body(before.checks, {})
    held = HeldByAgent(service={**body, "Service": body["Name"]}, checks={})
    assert other_owner(now, held) is None
    elsewhere = HeldByAgent(service={**held.service, "Port": 9}, checks={})
    assert other_owner(now, elsewhere) == "a container of the registrator on before (service web at 10.0.0.1:9)"
