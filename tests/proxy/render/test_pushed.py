"""What of a service can be pushed, in the words of a document, and what takes a reload."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from proxygen.catalog import Health, Instance
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.push.document import Entry, encode_document, entries_between
from proxygen.proxy.nginx.stamp import Stamp
from proxygen.proxy.render.pushed import Pushable
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.proxy.plan.catalogs import instance, plan

ROUTE = "route=web.example.com"
RENDERER = Renderer(Templates(), Surroundings(pushed=True), Snippets(files={}))


def render(*instances: Instance, **overrides: str) -> Rendered:
    return RENDERER.render(plan(*instances, **overrides))


def web(number: int, *tags: str, **fields: object) -> Instance:
    return instance("web", number, ROUTE, *tags, **fields)


def pushable(*instances: Instance, **overrides: str) -> Pushable:
    (found,) = [unit.pushable for file in render(*instances, **overrides).files for unit in file.units if unit.pushable]
    return found


def words(*instances: Instance) -> list[str]:
    ((_, text),) = pushable(*instances).upstreams
    return text.split(" ")


def by_variant(entries: Mapping[str, str]) -> dict[str, str]:
    return {name.rpartition("_")[2]: text for name, text in entries.items()}


# --- words


def test_a_server_says_all_that_nginx_knows_of_it() -> None:
    assert words(web(1, "weight=3", "max-fails=2", "fail-timeout=7s"), web(2, "max-fails=2", "fail-timeout=7s"))[
        :4
    ] == [
        "round_robin",
        "-",
        "10.0.0.1:8080/3/2/7/0/p",
        "10.0.0.2:8080/1/2/7/0/p",
    ]


@pytest.mark.parametrize(
    ("balance", "method"),
    [
        ("round_robin", "round_robin -"),
        ("least_conn", "least_conn -"),
        ("random", "random -"),
        ("ip_hash", "ip_hash -"),
        ("hash:$uri", "hash request_uri"),
        ("hash:header:X-Room", "hash http_x_room"),
        ("hash:cookie:room", "hash cookie_room"),
    ],
)
def test_each_method_has_its_words(balance: str, method: str) -> None:
    found = words(web(1, f"balance={balance}"), web(2, f"balance={balance}"))
    assert " ".join(found[:2]) == method


def test_an_address_of_version_6_stands_in_brackets() -> None:
    assert words(web(1, address="2001:db8::1"))[2].startswith("[2001:db8::1]:8080/1/")


def test_where_no_rest_is_said_it_is_nginxs_own() -> None:
    """A lone server never rests, and nginx counts ten seconds for it all the same."""
    assert words(web(1)) == ["round_robin", "-", "10.0.0.1:8080/1/0/10/0/p"]


def test_a_variant_that_stands_in_for_another_is_its_backup_and_a_split_says_all_shares() -> None:
    found = pushable(web(1), web(2, "canary=10%"))
    canary = by_variant(dict(found.upstreams))["canary"]
    assert canary.split(" ")[2:] == ["10.0.0.2:8080/1/1/5/0/p", "10.0.0.1:8080/1/0/10/0/b"]
    ((_, split),) = found.splits
    assert [(share, name.rpartition("_")[2]) for share, name in (word.split(":") for word in split.split(" "))] == [
        ("1000", "canary"),
        ("9000", "stable"),
    ]


def test_a_stream_and_a_service_without_lua_have_nothing_to_push() -> None:
    files = render(instance("db", 1, "protocol=tcp", "listen=15432")).files
    assert not [unit for file in files for unit in file.units if unit.pushable and unit.pushable.upstreams]
    plain = Renderer(Templates(), Surroundings(), Snippets(files={})).render(plan(web(1)))
    assert not [unit for file in plain.files for unit in file.units if unit.pushable]


# --- from one rendering to the next


OTHER = instance("other", 7, "route=other.example.com")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([web(1)], [web(1), web(2)], id="a server comes"),
        pytest.param([web(1), web(2)], [web(2)], id="a server goes"),
        pytest.param([web(1), web(2)], [web(1, "weight=5"), web(2)], id="a weight"),
        pytest.param([web(1), web(2)], [web(1, "weight=0"), web(2)], id="drained"),
        pytest.param([web(1), web(2)], [web(1), web(2, health=Health.CRITICAL)], id="a health"),
        pytest.param([web(1)], [web(1, address="10.9.9.9")], id="an address"),
        pytest.param(
            [web(1, "balance=ip_hash"), web(2, "balance=ip_hash")],
            [web(1, "balance=random"), web(2, "balance=random")],
            id="a method",
        ),
        pytest.param([web(1), web(2, "canary=10%")], [web(1), web(2, "canary=20%")], id="a share"),
    ],
)
def test_what_changes_only_servers_methods_and_shares_is_pushed(before: list[Instance], after: list[Instance]) -> None:
    served, candidate = render(*before, OTHER), render(*after, OTHER)
    there, back = entries_between(served, candidate), entries_between(candidate, served)
    assert there
    assert back
    assert {each.name for each in there} == {each.name for each in back}
    assert not [each for each in there if "other" in each.name]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param([web(1)], [web(1), OTHER], id="another service"),
        pytest.param([web(1)], [instance("web", 1, ROUTE, "route=more.example.com")], id="another host"),
        pytest.param([web(1)], [web(1, health=Health.CRITICAL)], id="nobody is left"),
        pytest.param([web(1)], [web(1, "keepalive=7")], id="keepalive"),
        pytest.param([web(1)], [web(1, "retries=1")], id="tries"),
        pytest.param([web(1)], [web(1), web(2, "canary=10%")], id="a split begins or ends"),
        pytest.param(
            [web(1), web(2, "canary=10%")],
            [web(1), web(2, "canary=10%", "force=canary:header:X-Canary=1")],
            id="a force rule",
        ),
        pytest.param([web(1)], [web(1, "rate=5r/s")], id="a zone"),
        pytest.param([web(1)], [web(1, "timeout=5s")], id="an option of the location"),
        pytest.param(
            [web(1), instance("db", 2, "protocol=tcp", "listen=15432")],
            [web(1), instance("db", 3, "protocol=tcp", "listen=15432")],
            id="a stream",
        ),
    ],
)
def test_what_changes_anything_else_takes_a_reload(before: list[Instance], after: list[Instance]) -> None:
    served, candidate = render(*before), render(*after)
    assert served.contents != candidate.contents
    assert entries_between(served, candidate) is None
    assert entries_between(candidate, served) is None


def test_the_same_rendering_needs_nothing() -> None:
    assert entries_between(render(web(1), OTHER), render(web(1), OTHER)) == ()


def test_a_change_of_two_services_is_one_document() -> None:
    entries = entries_between(render(web(1), OTHER), render(web(2), instance("other", 8, "route=other.example.com")))
    assert entries is not None
    assert sorted("web" in each.name for each in entries) == [False, True]


def test_a_document_is_written_as_nginxs_lua_reads_it() -> None:
    before, after = Stamp(generation=41, digest="0123456789abcdef"), Stamp(generation=42, digest="fedcba9876543210")
    entries = (Entry("u", "web", "round_robin - 10.0.0.1:80/1/1/5/0/p"), Entry("s", "web_share", "500:a 9500:b"))
    assert encode_document(before, after, entries).decode() == (
        "proxygen 1\nfrom 41 0123456789abcdef\nto 42 fedcba9876543210\n"
        "u web round_robin - 10.0.0.1:80/1/1/5/0/p\ns web_share 500:a 9500:b\nend 2\n"
    )
    assert encode_document(before, after, ()).decode().endswith("\nend 0\n")
