from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import structlog.testing
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConflictingWrite, ConsulUnreachable
from proxygen.kit.log import configure
from proxygen.proxy.admin.access import anyone
from proxygen.proxy.admin.service_report import ServiceDetail, VariantReport
from proxygen.proxy.record.events import Kind
from proxygen.proxy.rollout.steering import Lever, Shares
from proxygen.tags.shares import Share
from tests.proxy.admin.asking import AUTHORISED, TOKEN, Client, asking
from tests.proxy.admin.sidecar import CANARY, LEVER, RememberingSidecar

SHARES = "/api/v1/services/web/shares"


@pytest.fixture
def sidecar() -> RememberingSidecar:
    return RememberingSidecar()


@pytest.fixture
async def client(sidecar: RememberingSidecar) -> AsyncIterator[Client]:
    async with asking(sidecar) as client:
        yield client


async def change(
    client: Client, method: str = "PUT", path: str = "", seen: str | None = '"0"', **more: Any
) -> tuple[int, Any, str | None]:
    """Return status, body and ETag."""
    headers = {**AUTHORISED, "Content-Type": "application/json"} if more else dict(AUTHORISED)
    if seen is not None:
        headers["If-Match"] = seen
    answer = await client.request(method, SHARES + path, headers=headers, **more)
    return answer.status, await answer.json(), answer.headers.get("ETag")


async def put(client: Client, shares: object, *, seen: str | None = '"0"') -> tuple[int, Any, str | None]:
    return await change(client, seen=seen, json={"shares": shares})


def asked(body: Any) -> dict[str, int]:
    return {variant["name"]: variant["asked"] for variant in body["variants"]}


async def test_shares_are_told_with_their_origin_and_an_etag(client: Client, sidecar: RememberingSidecar) -> None:
    sidecar.levers["web"] = replace(LEVER, index=23, in_kv={"blue": Share(250)}, problem="why")
    answer = await client.get(SHARES)
    assert (answer.status, answer.headers["ETag"]) == (200, '"23"')
    assert await answer.json() == {
        "service": "web",
        "variants": [
            {"name": "stable", "asked": 8750, "in_kv": None, "in_tags": None, "effective": None, "waiting": None},
            {"name": "blue", "asked": 250, "in_kv": 250, "in_tags": None, "effective": None, "waiting": None},
            {"name": "canary", "asked": 1000, "in_kv": None, "in_tags": 1000, "effective": None, "waiting": None},
        ],
        "key": "proxygen/canary/web",
        "index": 23,
        "problem": "why",
        "warnings": ["no instance belongs to the variant blue yet"],
    }


async def test_what_is_written_is_answered_with_the_next_etag(client: Client) -> None:
    status, body, tag = await put(client, {"canary": "12.5%"})
    assert (status, tag, asked(body)) == (200, f'"{body["index"]}"', {"stable": 8750, "canary": 1250})
    status, body, _ = await change(client, "POST", "/promote", seen=tag, json={"variant": "canary"})
    assert (status, asked(body)) == (200, {"stable": 0, "canary": 10_000})
    status, body, tag = await change(client, "POST", "/abort", seen=f'"{body["index"]}"')
    assert (status, asked(body)) == (200, {"stable": 10_000, "canary": 0})
    status, body, tag = await change(client, "DELETE", seen=tag)
    assert (status, tag, asked(body)) == (200, '"0"', {"stable": 9000, "canary": 1000})


@pytest.mark.incident("T61")
@pytest.mark.parametrize("action", ["promote", "abort"])
async def test_what_would_have_no_effect_is_refused_unless_forced(
    client: Client, sidecar: RememberingSidecar, action: str
) -> None:
    status, body, _ = await change(client, "POST", f"/{action}", json={"variant": "blue"})
    assert (status, "nothing was written" in body["error"]) == (409, True)
    assert sidecar.levers["web"] == LEVER
    status, body, _ = await change(client, "POST", f"/{action}", json={"variant": "blue", "force": True})
    assert (status, "blue" in asked(body)) == (200, True)


@pytest.mark.incident("T61")
async def test_a_variant_that_nginx_serves_is_steered_though_the_newest_tags_name_none(
    client: Client, sidecar: RememberingSidecar
) -> None:
    sidecar.details["web"] = ServiceDetail(
        name="web",
        variants=(
            VariantReport(name="canary", asked=1000, effective=1000, instances=(CANARY,)),
            VariantReport(name="blue", asked=0, effective=500),
            VariantReport(name="gone", asked=0, effective=0),
            VariantReport(name="stable", asked=8500, effective=8500),
        ),
    )
    sidecar.levers["web"] = replace(LEVER, in_tags={}, healthy=frozenset({"stable"}))
    shown = await (await client.get(SHARES)).json()
    assert asked(shown) == {"stable": 9000, "canary": 1000, "blue": 0}
    status, body, tag = await change(client, "POST", "/promote")
    assert (status, asked(body), body["warnings"]) == (200, {"stable": 0, "canary": 10_000, "blue": 0}, [])
    assert (await change(client, "DELETE", seen=tag))[0] == 200
    status, body, tag = await change(client, "POST", "/abort")
    assert (status, asked(body)) == (200, {"stable": 10_000, "canary": 0, "blue": 0})
    for action, variant in (("abort", "gone"), ("promote", "blue")):
        status, _, _ = await change(client, "POST", f"/{action}", seen=tag, json={"variant": variant})
        assert status == 409, (action, variant)


async def test_variants_that_are_not_named_stay_as_they_are(client: Client) -> None:
    _, _, tag = await put(client, {"blue": 5})
    _, body, _ = await put(client, {"canary": "20"}, seen=tag)
    assert asked(body) == {"stable": 7500, "blue": 500, "canary": 2000}


@pytest.mark.parametrize("seen", [None, "*"])
@pytest.mark.parametrize(("method", "path"), [("PUT", ""), ("DELETE", ""), ("POST", "/promote"), ("POST", "/abort")])
async def test_who_does_not_say_what_he_saw_changes_nothing(
    client: Client, sidecar: RememberingSidecar, method: str, path: str, seen: str | None
) -> None:
    body = {"json": {"shares": {"canary": "1%"}}} if method == "PUT" else {}
    status, answer, _ = await change(client, method, path, seen=seen, **body)
    assert (status, "If-Match" in answer["error"]) == (428, True)
    assert sidecar.levers["web"] == LEVER


@pytest.mark.parametrize("seen", ['"1"', 'W/"0"', '"0', "0", '"00"', '"None"', '"1", "2"', '"*"', "*, "])
async def test_who_saw_other_shares_is_told_what_they_are(
    client: Client, sidecar: RememberingSidecar, seen: str
) -> None:
    status, body, tag = await put(client, {"canary": "1%"}, seen=seen)
    assert (status, tag) == (412, '"0"')
    assert "canary 10%" in body["error"]
    assert sidecar.levers["web"] == LEVER


async def test_one_of_several_etags_is_enough(client: Client) -> None:
    assert (await put(client, {"canary": "1%"}, seen='"5", "0"'))[0] == 200


async def test_of_two_who_saw_the_same_one_wins(client: Client) -> None:
    answers = await asyncio.gather(*(put(client, {"canary": f"{number}%"}) for number in range(1, 9)))
    assert sorted(status for status, _, _ in answers) == [200] + [412] * 7


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"{", "the body must be like"),
        (b"", "the body must be like"),
        (b"\xff", "the body must be like"),
        (b"[]", "the body must be like"),
        (b'{"shares": []}', "$.shares"),
        (b'{"shares": {"canary": null}}', "$.shares[...]"),
        (b'{"shares": {"canary": true}}', "$.shares[...]"),
        (b'{"shares": {"canary": NaN}}', "the body must be like"),
        (b'{"shares": {}, "x\\n": 1}', "unknown field"),
        (b'{"shares": {}}', "name at least one variant"),
        (b'{"shares": {"canary": "101%"}}', "shares.canary: '101%' is not a share"),
        (b'{"shares": {"canary": -1}}', "shares.canary: '-1' is not a share"),
        (b'{"shares": {"canary": 1e-9}}', "shares.canary: '1e-09' is not a share"),
        (b'{"shares": {"stable": "1%"}}', "shares: stable gets what the other variants leave"),
        (b'{"shares": {"a\\r\\nb": "1%"}}', "shares: 'a\\r\\nb' is not a variant's name"),
        (b'{"shares": {"canary": "60%", "blue": "40.01%"}}', "blue 40.01% + canary 60% is 100.01%"),
        (b'{"shares": {"blue": "90.01%"}}', "blue 90.01% + canary 10% is 100.01%"),
    ],
)
async def test_a_body_that_asks_for_nothing_sensible_is_refused_with_the_place(
    client: Client, sidecar: RememberingSidecar, body: bytes, said: str
) -> None:
    status, answer, _ = await change(client, data=body)
    assert (status, said in answer["error"]) == (400, True), answer
    assert sidecar.levers["web"] == LEVER


@pytest.mark.parametrize("path", ["/promote", "/abort"])
@pytest.mark.parametrize("body", [{"variant": "stable"}, {"variant": ""}, {"variant": 1}, {"variants": "canary"}, []])
async def test_a_variant_that_cannot_be_is_refused(client: Client, path: str, body: object) -> None:
    status, answer, _ = await change(client, "POST", path, json=body)
    assert status == 400
    assert "variant" in answer["error"]


async def test_an_abort_is_never_refused_for_its_sum(client: Client, sidecar: RememberingSidecar) -> None:
    """Shares that the command line wrote may sum to more; taking everything from one must work then too."""
    sidecar.levers["web"] = replace(LEVER, index=3, in_kv={"blue": Share(9000), "green": Share(9000)})
    assert (await change(client, "POST", "/abort", seen='"3"', json={"variant": "canary"}))[0] == 200


@pytest.mark.parametrize("name", ["nobody", "web/", "a%2Fb", "%0D%0A"])
async def test_a_service_that_is_neither_routed_nor_registered_is_not_found(client: Client, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/abort")):
        url = f"/api/v1/services/{name}/shares{path}"
        answer = await client.request(method, url, headers={**AUTHORISED, "If-Match": '"0"'})
        assert answer.status == 404
        assert "error" in await answer.json()


class Failing(RememberingSidecar):
    """A sidecar whose Consul gives one error, to reads or to writes."""

    def __init__(self, *, reading: Exception | None = None, writing: Exception | None = None) -> None:
        super().__init__()
        self.reading, self.writing = reading, writing

    async def read_lever(self, service: str) -> Lever:
        if self.reading is not None:
            raise self.reading
        return await super().read_lever(service)

    async def move_lever(self, lever: Lever, shares: Shares | None) -> Lever:
        if self.writing is not None:
            raise self.writing
        return await super().move_lever(lever, shares)


DENIED = AccessDenied('Consul refused; the token needs key_prefix "proxygen/canary/" { policy = "write" }')


@pytest.mark.parametrize(
    ("failing", "status", "said", "outcome"),
    [
        (Failing(reading=ConsulUnreachable("no leader")), 503, "no leader", "no answer"),
        (Failing(writing=ConsulUnreachable("nobody knows")), 503, "nobody knows", "no answer"),
        (
            Failing(reading=DENIED),
            503,
            "own Consul token may not do this: Consul refused; the token needs key_",
            "no answer",
        ),
        (
            Failing(writing=DENIED),
            503,
            "own Consul token may not do this: Consul refused; the token needs key_",
            "no answer",
        ),
        (Failing(writing=ConflictingWrite("somebody else")), 412, "others by now (canary 10%)", "conflict"),
        (Failing(reading=CatalogUnavailable("400 no such name")), 404, "no service can be called 'web'", "refused"),
        (Failing(writing=RuntimeError("a secret detail")), 500, "the sidecar's log has it", "failed"),
    ],
)
async def test_what_consul_does_not_do_is_said_and_leaves_a_line(
    failing: Failing, status: int, said: str, outcome: str
) -> None:
    with structlog.testing.capture_logs() as logged:
        async with asking(failing) as client:
            answered, body, _ = await put(client, {"canary": "1%"})
    assert (answered, said in body["error"]) == (status, True), body
    (line,) = lines(logged)
    assert line["outcome"] == outcome
    assert not failing.events.since(None)


async def test_each_write_leaves_one_line_and_each_change_one_event(
    client: Client, sidecar: RememberingSidecar
) -> None:
    with structlog.testing.capture_logs() as logged:
        _, _, tag = await put(client, {"canary": "20%"})
        await put(client, {"canary": "20%"}, seen=tag)
        await put(client, {"canary": "30%"}, seen='"0"')
        await put(client, {"canary": "130%"}, seen=tag)
        await put(client, {"canary": "30%"}, seen=None)
        await change(client, "POST", "/promote", seen=tag)
    told = [(line["what"], line["outcome"], line["before"], line.get("after")) for line in lines(logged)]
    assert told == [
        ("set shares", "changed", {"canary": "10%"}, {"canary": "20%"}),
        ("set shares", "unchanged", {"canary": "20%"}, {"canary": "20%"}),
        ("set shares", "conflict", {"canary": "20%"}, None),
        ("set shares", "refused", {}, None),
        ("set shares", "refused", {}, None),
        ("promote", "changed", {"canary": "20%"}, {"canary": "100%"}),
    ]
    assert {line["who"] for line in lines(logged)} == {"operator"}
    assert {line["service"] for line in lines(logged)} == {"web"}
    assert [line["etag"] for line in lines(logged)] == ['"0"', tag, '"0"', tag, "", tag]
    assert lines(logged)[0]["remote"] == "127.0.0.1"
    assert TOKEN not in str(logged)
    assert [(event.kind, event.text, event.services) for event in sidecar.events.since(None)] == [
        (Kind.STEERED, "operator moved the shares of web: canary 10% -> 20%", ("web",)),
        (Kind.STEERED, "operator moved the shares of web: canary 20% -> 100%", ("web",)),
    ]


async def test_who_changed_what_is_written_at_any_level(client: Client, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody who wants a quieter log wants to lose that."""
    configure(format="json", level="error")
    try:
        assert (await put(client, {"canary": "20%"}))[0] == 200
    finally:
        configure()
    (line,) = map(json.loads, capsys.readouterr().err.splitlines())
    assert (line["event"], line["who"], line["level"]) == ("write", "operator", "info")


async def test_a_rollback_and_a_release_leave_the_same(client: Client, sidecar: RememberingSidecar) -> None:
    with structlog.testing.capture_logs() as logged:
        await client.post("/api/v1/rollback", headers=AUTHORISED, json={"generation": 41})
        await client.post("/api/v1/rollback", headers=AUTHORISED, json={"generation": 13})
        await client.post("/api/v1/release-hold", headers=AUTHORISED)
        sidecar.held = True
        await client.post("/api/v1/release-hold", headers=AUTHORISED)
    told = [(line["what"], line["who"], line["outcome"], line.get("after")) for line in lines(logged)]
    assert told == [
        ("rollback", "operator", "applied", {"generation": 41}),
        ("rollback", "operator", "refused", None),
        ("release hold", "operator", "refused", None),
        ("release hold", "operator", "applied", {"generation": 43}),
    ]
    assert [(event.kind, event.text, event.generation) for event in sidecar.events.since(None)] == [
        (Kind.STEERED, "operator went back to generation 41", 41),
        (Kind.STEERED, "operator released what was held", 43),
    ]


def lines(logged: Sequence[MutableMapping[str, Any]]) -> list[MutableMapping[str, Any]]:
    return [line for line in logged if line["event"] == "write"]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 100), st.booleans()), max_size=12))
async def test_nobody_overwrites_what_he_did_not_see(steps: list[tuple[int, int, bool]]) -> None:
    """Four operators look and write in any order: a write takes exactly when nobody's came since that one looked."""
    sidecar = RememberingSidecar()
    looked: dict[int, tuple[str, int]] = {}
    share = 1000
    async with asking(sidecar, anyone) as client:
        for operator, wanted, looks in steps:
            if looks or operator not in looked:
                answer = await client.get(SHARES)
                looked[operator] = (answer.headers["ETag"], asked(await answer.json())["canary"])
                continue
            tag, saw = looked.pop(operator)
            status, _, _ = await put(client, {"canary": wanted}, seen=tag)
            if status == 200:
                assert saw == share
                share = wanted * 100
            else:
                assert (status, tag == f'"{sidecar.levers["web"].index}"') == (412, False)
            assert sidecar.levers["web"].asked["canary"] == share
