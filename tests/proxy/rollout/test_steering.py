from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.catalog import Health, Instance
from proxygen.cli import canary
from proxygen.consul.kv import Override
from proxygen.kit.errors import BadInput, ConflictingWrite, ConsulUnreachable, WithoutEffect
from proxygen.proxy.plan.members import JudgedInstance, judge
from proxygen.proxy.plan.shares import stated_shares
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.policy.read import read_instance_policy
from proxygen.proxy.rollout.steering import (
    Lever,
    Steering,
    format_shares,
    promoted,
    refuse_excess,
    refuse_unhealthy,
    refuse_unknown,
    refuse_unregistered,
)
from proxygen.settings import load
from proxygen.tags.shares import NOTHING, WHOLE, Share
from tests.proxy.plan.catalogs import instance

SHARES = st.dictionaries(st.sampled_from(["canary", "blue", "green"]), st.integers(0, WHOLE).map(Share))


def lever(in_kv: dict[str, Share], in_tags: dict[str, Share]) -> Lever:
    return Lever(service="web", key="proxygen/canary/web", index=1, in_kv=in_kv, in_tags=in_tags)


def judged(instances: list[Instance], prefix: str = "proxygen") -> list[JudgedInstance]:
    members, _ = judge(instances, Policy(prefix=prefix))
    return members


@given(SHARES, SHARES)
def test_what_stands_in_kv_goes_before_tags(in_kv: dict[str, Share], in_tags: dict[str, Share]) -> None:
    asked = lever(in_kv, in_tags).asked
    assert asked.keys() == in_kv.keys() | in_tags.keys()
    assert all(asked[name] == in_kv.get(name, in_tags.get(name)) for name in asked)


@given(SHARES, SHARES, st.sampled_from(["canary", "blue"]))
def test_a_promoted_variant_has_everything_and_no_other_has_any(
    in_kv: dict[str, Share], in_tags: dict[str, Share], variant: str
) -> None:
    wanted = promoted(lever(in_kv, in_tags), variant)
    assert wanted[variant] == WHOLE
    assert sum(wanted.values()) == WHOLE
    assert wanted.keys() == in_kv.keys() | in_tags.keys() | {variant}


@given(SHARES)
def test_more_than_everything_is_refused_with_the_numbers(asked: dict[str, Share]) -> None:
    if sum(asked.values()) <= WHOLE:
        refuse_excess(asked)
        return
    with pytest.raises(BadInput) as refused:
        refuse_excess(asked)
    for name, share in asked.items():
        assert (f"{name} {share / 100:g}%" in str(refused.value)) == (share > NOTHING)


def test_the_sum_is_told_as_it_was_added_up() -> None:
    with pytest.raises(BadInput, match=r"^blue 60% \+ canary 50\.5% is 110\.5%; all variants together can have 100%$"):
        refuse_excess({"canary": Share(5050), "blue": Share(6000), "green": NOTHING})


def test_shares_are_told_by_name() -> None:
    assert format_shares({"canary": Share(1250), "blue": Share(0)}) == "blue 0%, canary 12.5%"


def test_a_variant_that_only_kv_names_has_no_instance() -> None:
    moved = lever({"blue": Share(100), "canary": Share(100)}, {"canary": Share(500)})
    assert moved.unknown == ("blue",)


def test_the_lowest_share_that_instances_state_is_theirs_and_broken_tags_state_none() -> None:
    tags = ("canary=10%", "canary=5%", "canary=101%", "variant=blue:1%", "weight=3")
    instances = [instance("web", number, "route=a.example.com", tag) for number, tag in enumerate(tags)]
    assert stated_shares(judged(instances)) == {"canary": 500, "blue": 100}


@pytest.mark.incident("T61")
def test_what_would_have_no_effect_is_refused_by_name() -> None:
    """A misspelt name must not leave a key behind that nobody reads, and no promotion empties a service."""
    web = replace(lever({"blue": Share(100)}, {"canary": Share(500)}), healthy=frozenset({"canary", "stable"}))
    for refuse, misses in (
        (refuse_unregistered, replace(web, is_registered=False)),
        (lambda one: refuse_unknown(one, "green"), web),
        (lambda one: refuse_unhealthy(one, "blue"), web),
        (lambda one: refuse_unhealthy(one, "canary"), replace(web, healthy=frozenset({"stable"}))),
    ):
        with pytest.raises(WithoutEffect, match=r"'web'.*nothing was written"):
            refuse(misses)
    refuse_unregistered(web)
    refuse_unhealthy(web, "canary")
    for known in ("blue", "canary"):
        refuse_unknown(web, known)


@pytest.mark.incident("T61")
def test_what_nginx_serves_can_be_steered_whatever_the_newest_tags_say() -> None:
    """The canary's newest tags cannot be read, say, and nginx serves it with those of before."""
    served = {"canary": Share(1000), "blue": Share(2000)}
    web = replace(lever({}, {}), served=served, healthy=frozenset({"canary", "stable"}), is_registered=False)
    refuse_unregistered(web)
    refuse_unknown(web, "canary")
    refuse_unhealthy(web, "canary")
    assert promoted(web, "canary") == {"canary": WHOLE, "blue": NOTHING}
    assert replace(web, in_kv={"canary": NOTHING, "green": NOTHING}).unknown == ("green",)
    with pytest.raises(WithoutEffect, match=r"its variants: blue, canary\)"):
        refuse_unknown(web, "green")


# --- over Consul ------------------------------------------------------------------------------------------------------


class Kv:
    """Consul's KV and its instances, as far as a lever reads and writes them."""

    def __init__(self) -> None:
        self.override: Override | None = None
        self.instances: list[Instance] = []
        self.index = 40
        self.writes: list[str | None] = []
        self.fails: set[str] = set()
        self.silent = False

    async def read_override(self, _client: object, service: str) -> Override | None:
        assert service == "web"
        if self.silent:
            await asyncio.sleep(3600)
        if "read" in self.fails:
            raise ConsulUnreachable("no route")
        return self.override

    async def read_service(self, _client: object, service: str, consistency: str) -> list[Instance]:
        assert (service, consistency) == ("web", "consistent")
        return self.instances

    async def write_override(self, _client: object, _service: str, value: str, *, index: int) -> None:
        self._check(index)
        self.index += 1
        self.override = Override(value=value, index=self.index)
        self.writes.append(value)

    async def delete_override(self, _client: object, _service: str, *, index: int) -> None:
        self._check(index)
        self.override = None
        self.writes.append(None)

    def _check(self, index: int) -> None:
        if "write" in self.fails:
            raise ConsulUnreachable("no answer")
        if index != (self.override.index if self.override is not None else 0):
            raise ConflictingWrite("written by somebody else")


@pytest.fixture
def kv(monkeypatch: pytest.MonkeyPatch) -> Kv:
    kv = Kv()
    for name in ("read_override", "read_service", "write_override", "delete_override"):
        monkeypatch.setattr(f"proxygen.proxy.rollout.steering.{name}", getattr(kv, name))
    monkeypatch.setattr("proxygen.proxy.rollout.steering.instances_of", lambda service, found: found)
    monkeypatch.setattr("proxygen.proxy.rollout.steering.failures_of", lambda found: {})
    monkeypatch.setattr(
        "proxygen.proxy.rollout.steering.override_key", lambda client, service: f"proxygen/canary/{service}"
    )
    kv.instances = [instance("web", 1, "canary=10%"), instance("web", 2, "variant=blue:30%")]
    return kv


def steering(patience: float | None = None) -> Steering:
    client: Any = None
    return Steering(client, patience=patience)


async def test_a_lever_is_both_sides_and_what_a_write_has_to_name(kv: Kv) -> None:
    found = await steering().read("web", Policy())
    assert (found.service, found.key, found.index) == ("web", "proxygen/canary/web", 0)
    assert (found.in_kv, found.in_tags) == ({}, {"canary": 1000, "blue": 3000})
    assert (found.is_registered, found.problem) == (True, "")
    kv.override, kv.instances = Override(value='{"canary": "25%"}', index=41), []
    found = await steering().read("web", Policy())
    assert (found.index, found.in_kv, found.in_tags, found.is_registered) == (41, {"canary": 2500}, {}, False)


async def test_a_variant_is_healthy_while_one_of_its_instances_can_take_requests(kv: Kv) -> None:
    kv.instances = [
        instance("web", 1, "canary=10%", health=Health.CRITICAL),
        instance("web", 2, "canary=10%", health=Health.MAINTENANCE),
        instance("web", 3, "canary=10%", "weight=0"),
        instance("web", 4, "canary=10%", port=0),
        instance("web", 5, "variant=blue:30%", health=Health.WARNING),
        instance("web", 6, "route=a.example.com"),
    ]
    assert (await steering().read("web", Policy())).healthy == {"blue", "stable"}


async def test_instances_are_judged_by_the_bounds_and_addresses_of_the_settings(kv: Kv) -> None:
    """What a plan leaves out has no share here and can take nothing; what the operator allows more of has."""
    settings = load({"bounds.tags": "1", "proxy.denied_addresses": "192.0.2.0/24"}, environment={})
    kv.instances = [
        instance("web", 1, "route=web.test"),
        instance("web", 2, "canary=10%", "weight=3"),
        instance("web", 3, "variant=blue:30%", address="192.0.2.1"),
    ]
    found = await steering().read("web", read_instance_policy(settings))
    assert (found.healthy, found.in_tags) == ({"stable"}, {})
    assert (await steering().read("web", Policy())).healthy == {"stable", "canary", "blue"}


async def test_the_command_judges_by_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    policies: list[Policy] = []

    async def read(_self: Steering, _service: str, policy: Policy) -> Lever:
        policies.append(policy)
        return Lever(service="web", key="proxygen/canary/web", index=0)

    monkeypatch.setattr(Steering, "read", read)
    settings = load({"bounds.instances": "7", "proxy.denied_addresses": "192.0.2.0/24"}, environment={})
    await canary._read(settings, "web")
    await canary._move(settings, "web", lambda _: {})
    assert [(each.bounds.instances, str(*each.denied)) for each in policies] == [(7, "192.0.2.0/24")] * 2


async def test_a_text_that_counts_for_nothing_is_told_and_can_be_written_over(kv: Kv) -> None:
    kv.override = Override(value="nonsense", index=41)
    found = await steering().read("web", Policy())
    assert (found.index, found.in_kv, found.problem != "") == (41, {}, True)
    moved = await steering().move(found, {})
    assert (kv.writes, moved.problem) == (["{}"], "")


async def test_a_write_leaves_other_variants_as_they_are_and_can_be_followed_by_another(kv: Kv) -> None:
    kv.override = Override(value='{"blue": "7%"}', index=41)
    found = await steering().read("web", Policy())
    moved = await steering().move(found, {"canary": Share(1250)})
    assert kv.writes == ['{"blue": "7%", "canary": "12.5%"}']
    assert (moved.index, moved.in_kv) == (41, {"blue": 700, "canary": 1250})
    assert moved.in_tags == found.in_tags
    again = await steering().move(moved, {"canary": Share(2000)})
    assert again.in_kv == {"blue": 700, "canary": 2000}
    assert (await steering().read("web", Policy())).in_kv == again.in_kv
    cleared = await steering().move(again, None)
    assert (kv.writes[-1], kv.override) == (None, None)
    assert (cleared.index, cleared.in_kv, cleared.asked) == (0, {}, cleared.in_tags)


async def test_what_is_so_already_is_not_written(kv: Kv) -> None:
    nothing = await steering().read("web", Policy())
    assert await steering().move(nothing, None) is nothing
    assert await steering().move(nothing, {}) is nothing
    kv.override = Override(value='{"canary": "25%"}', index=41)
    found = await steering().read("web", Policy())
    assert await steering().move(found, {"canary": Share(2500)}) is found
    assert kv.writes == []


async def test_who_read_something_older_writes_nothing(kv: Kv) -> None:
    found = await steering().read("web", Policy())
    kv.override = Override(value='{"canary": "1%"}', index=41)
    for shares in ({"canary": Share(2500)}, {"blue": Share(1)}):
        with pytest.raises(ConflictingWrite):
            await steering().move(found, shares)
    older = replace(await steering().read("web", Policy()), index=40)
    with pytest.raises(ConflictingWrite):
        await steering().move(older, None)
    assert kv.writes == []


async def test_where_the_index_cannot_be_told_any_more_the_next_write_needs_a_read(kv: Kv) -> None:
    """It was written, and then Consul went away, or somebody else wrote."""
    found = await steering().read("web", Policy())
    kv.fails = {"read"}
    moved = await steering().move(found, {"canary": Share(100)})
    assert (moved.index, moved.in_kv) == (None, {"canary": 100})
    with pytest.raises(ValueError, match="must be read"):
        await steering().move(moved, None)
    kv.fails = set()
    found = await steering().read("web", Policy())
    write = kv.write_override

    async def overtaken(client: object, service: str, value: str, *, index: int) -> None:
        await write(client, service, value, index=index)
        kv.override = Override(value='{"canary": "99%"}', index=99)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("proxygen.proxy.rollout.steering.write_override", overtaken)
        assert (await steering().move(found, {"canary": Share(200)})).index is None


async def test_an_answer_that_does_not_come_leaves_open_what_became_of_a_write(kv: Kv) -> None:
    found = await steering().read("web", Policy())
    kv.fails = {"write"}
    with pytest.raises(ConsulUnreachable, match=r"^read proxygen/canary/web again, .*: no answer$"):
        await steering().move(found, {"canary": Share(100)})
    kv.silent = True
    with pytest.raises(ConsulUnreachable, match=r"did not answer within 0\.01 s$"):
        await steering(0.01).read("web", Policy())


def test_the_whole_is_no_excess_and_one_more_is() -> None:
    refuse_excess({"canary": Share(4000), "blue": Share(6000)})
    with pytest.raises(BadInput, match=r"is 100\.01%"):
        refuse_excess({"canary": Share(4001), "blue": Share(6000)})


@pytest.mark.parametrize("order", [(10, 5, 7), (5, 7, 10), (7, 10, 5)])
def test_the_lowest_share_counts_wherever_it_is_stated(order: tuple[int, ...]) -> None:
    instances = [instance("web", number, f"canary={share}%") for number, share in enumerate(order)]
    assert stated_shares(judged([*instances, instance("web", 9)])) == {"canary": 500}
    assert stated_shares(judged([instance("web", 1, "canary=100%", prefix="edge")], "edge")) == {"canary": WHOLE}
    assert stated_shares(judged(instances, "edge")) == {}
