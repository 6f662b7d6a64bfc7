"""What the standing question for all services leaves out, and that this never looks like absence."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp import web

from proxygen.catalog import ServiceName
from proxygen.consul.oversized import Oversized, choose_oversized, filter_without
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConsulUnreachable
from proxygen.settings import ConsulSettings
from tests.consul.watching import ROUTE, Watching, ids, watching
from tests.harness.fake_consul import FakeConsul, entry, fake_consul
from tests.integration.waiting import until

JUNK = ServiceName("junk")
LONG = tuple(f"proxygen.junk{n:05}=x" for n in range(6_000))
LISTING = {"consul": (), "web": (ROUTE,), "junk": LONG}
WITHOUT_JUNK = 'ServiceName != "junk"'
SUMMARIES = "/v1/internal/ui/services"
LISTED = "/v1/catalog/services"


def leaves_out(every: float = 3600.0) -> Oversized:
    return Oversized(tag_prefix="proxygen", every=every)


def test_the_largest_are_chosen_and_never_consul_itself() -> None:
    listing = {**LISTING, "larger": (*LONG, "more"), "consul": LONG}
    assert choose_oversized(listing) == ("larger", "junk")


def test_a_filter_has_room_for_so_many_names_and_passes_over_a_long_one() -> None:
    """Names cannot make the URL longer than what stands before Consul takes, whoever chose them."""
    listing = {f"junk-{n}": LONG for n in range(200)} | {"long" * 1000: (*LONG, "more")}
    chosen = choose_oversized(listing)
    assert 20 < len(chosen) < 200
    assert len(quote(filter_without(chosen))) <= 2_000


def test_everything_is_asked_for_before_anything_is_known_and_where_nothing_is_oversized() -> None:
    one = leaves_out()
    assert one.question(0) == (0, ())
    assert one.take({"web": (ROUTE,)}) == {"web": (ROUTE,)}
    assert one.question(7) == (7, ())


def test_what_is_left_out_counts_as_listed_with_a_proxy_tag_where_it_had_one() -> None:
    one = leaves_out()
    one.question(0)
    assert one.take(LISTING | {"dull": ("x" * 200_000,)}) == LISTING | {"junk": LONG[:1], "dull": ()}
    index, [(name, text)] = one.question(7)
    assert (index, name, text) == (6, "filter", 'ServiceName != "dull" and ServiceName != "junk"')
    assert one.take({"consul": (), "new": ()}) == {"consul": (), "new": (), "junk": LONG[:1], "dull": ()}


def test_a_consul_that_ignores_the_filter_has_answered_with_everything() -> None:
    one = leaves_out()
    one.take(LISTING)
    one.question(7)
    assert one.take(LISTING | {"junk": (ROUTE,)})["junk"] == (ROUTE,)
    assert one.question(8) == (8, ()), "within bounds again"


def test_the_whole_is_asked_for_again_and_answered_at_once() -> None:
    """The index is one below the last, so that no newcomer waits for the long answer."""
    one = leaves_out(every=0.0)
    one.take(LISTING)
    assert one.question(7) == (6, ())
    assert one.take({"consul": ()}) == {"consul": ()}, "gone, and not left out"
    assert one.question(8) == (8, ())


REFUSED = CatalogUnavailable("400")
OUTAGE = ConsulUnreachable("500")


def failing(*errors: CatalogUnavailable | None) -> Oversized:
    """Each question with a filter ends so, and the one for everything that follows is answered. None: it ends without
    a failure, as where Consul is back or its index is lower."""
    one = leaves_out()
    one.question(0)
    one.take(LISTING)
    for error in errors:
        assert one.question(7)[1]
        if error is not None:
            one.failed(error)
        assert one.question(0) == (0, ())
        one.take(LISTING)
    return one


@pytest.mark.parametrize(
    "errors", [(REFUSED,), (OUTAGE, OUTAGE), (AccessDenied("403"), OUTAGE), (OUTAGE, None, REFUSED)]
)
def test_a_filter_that_is_refused_or_fails_twice_in_a_row_rests(errors: tuple[CatalogUnavailable | None, ...]) -> None:
    assert failing(*errors).question(7) == (7, ())


@pytest.mark.parametrize("errors", [(OUTAGE,), (None,), (None, None, None), (AccessDenied("403"),)])
def test_one_failure_of_consul_is_not_the_filters(errors: tuple[CatalogUnavailable | None, ...]) -> None:
    """An election, a restart, a lost rule."""
    assert failing(*errors).question(7)[1]


def test_a_filter_does_not_rest_where_consul_fails_without_it_as_well() -> None:
    one = failing(OUTAGE)
    one.question(0)
    one.failed(OUTAGE)
    one.question(0)
    one.take(LISTING)
    assert one.question(7)[1]
    one.failed(OUTAGE)
    one.question(0)
    one.take(LISTING)
    assert one.question(7)[1]


def test_after_a_failure_the_filter_is_tried_at_once_and_an_answer_clears_it() -> None:
    """Else two outages within one wait would count as two failures in a row. What fails after the answer, such as to
    confirm what it lost, is not the filter's."""
    one = leaves_out()
    one.question(0)
    one.take(LISTING)
    one.question(7)
    one.take({"consul": ()})
    assert one.question(7)[0] == 7, "it is known to be heeded"
    for _ in range(3):
        one.failed(OUTAGE)
        one.question(0)
        one.take(LISTING)
        assert (one.question(7)[0], bool(one.question(7)[1])) == (6, True)
        one.take({"consul": ()})
        assert one.question(7)[0] == 7
    one.take({"consul": ()})
    one.failed(REFUSED)
    one.question(0)
    one.take(LISTING)
    assert one.question(7)[1]


@pytest.mark.incident("T53")
async def test_a_newcomer_is_listed_without_the_oversized_one_which_stays() -> None:
    async with fake_consul() as fake:
        fake.filters = True
        async with _beside_junk(fake) as one:
            await until(lambda: _asked(fake)[-1] == WITHOUT_JUNK, "the question without it")
            fake.put("new", entry("new", "new-1", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "new") == ["new-1"] and ids(catalog, "junk") == ["junk-1"])
            assert _asked(fake).count("") == 1, "the first alone was for everything"


@pytest.mark.incident("T53")
async def test_the_oversized_one_is_served_again_and_goes_as_any_other() -> None:
    async with fake_consul() as fake:
        fake.filters = True
        async with _beside_junk(fake, wait=0.5) as one:
            await until(lambda: _asked(fake)[-1] == WITHOUT_JUNK, "the question without it")
            fake.put("junk", entry("junk", "junk-2", 8003, ROUTE))
            await one.until(lambda catalog: ids(catalog, "junk") == ["junk-2"])
            await until(lambda: _asked(fake)[-2:] == ["", ""], "questions for everything")
            fake.put("junk")
            await one.until(lambda catalog: catalog.services[JUNK] == ())


@pytest.mark.incident("T53")
async def test_a_newcomer_waits_for_no_listing_where_nothing_can_be_left_out() -> None:
    """A listing that was made before it came does not take it away either; that it goes is seen as ever."""
    async with fake_consul() as fake, _beside_junk(fake) as one:
        await until(lambda: SUMMARIES in [request.path for request in fake.requests], "the question without it")
        fake.fault = _listing_as_it_was(fake)
        fake.put("new", entry("new", "new-1", 8002, ROUTE))
        await one.until(lambda catalog: ids(catalog, "new") == ["new-1"])
        asked = len(_asked(fake))
        await until(lambda: len(_asked(fake)) > asked + 1, "two more listings without it")
        await one.until(lambda catalog: ids(catalog, "new") == ["new-1"])
        fake.put("new")
        await one.until(lambda catalog: catalog.services[ServiceName("new")] == ())
        assert one.watch.problem is None


async def test_where_nothing_tells_of_newcomers_early_the_listing_does() -> None:
    def refuses(request: web.Request) -> web.Response | None:
        return web.Response(status=404, headers={"X-Consul-Index": "1"}) if request.path == SUMMARIES else None

    async with fake_consul() as fake:
        fake.fault = refuses
        async with _beside_junk(fake) as one:
            await until(lambda: SUMMARIES in [request.path for request in fake.requests], "the question without it")
            fake.put("new", entry("new", "new-1", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "new") == ["new-1"] and ids(catalog, "junk") == ["junk-1"])
            assert one.watch.problem is None


async def test_a_filter_that_is_refused_costs_no_service() -> None:
    """A gateway may refuse what it does not know; then everything is asked for as before."""

    def refuses(request: web.Request) -> web.Response | None:
        refused = "filter" in request.query and request.path == LISTED
        return web.Response(status=400, headers={"X-Consul-Index": "1"}) if refused else None

    async with fake_consul() as fake:
        fake.fault = refuses
        async with _beside_junk(fake) as one:
            await until(lambda: WITHOUT_JUNK in _asked(fake) and _asked(fake)[-1] == "", "everything asked for")
            fake.put("new", entry("new", "new-1", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "new") == ["new-1"] and ids(catalog, "junk") == ["junk-1"])
            assert _asked(fake).count(WITHOUT_JUNK) == 1


@pytest.mark.parametrize("fails", [1, 9])
async def test_a_filter_rests_only_where_it_fails_twice(fails: int) -> None:
    """A failure that is past by the next question costs no newcomer ten waits."""
    left = fails

    def fails_at_first(request: web.Request) -> web.Response | None:
        nonlocal left
        if left == 0 or "filter" not in request.query or request.path != LISTED:
            return None
        left -= 1
        return web.Response(status=500, text="No cluster leader")

    async with fake_consul() as fake:
        fake.filters, fake.fault = True, fails_at_first
        async with _beside_junk(fake) as one:
            await until(lambda: _asked(fake).count(WITHOUT_JUNK) >= 2, "the filter once more")
            fake.put("new", entry("new", "new-1", 8002, ROUTE))
            await one.until(lambda catalog: ids(catalog, "new") == ["new-1"] and ids(catalog, "junk") == ["junk-1"])
            assert _asked(fake)[-1] == (WITHOUT_JUNK if fails == 1 else "")


def _listing_as_it_was(fake: FakeConsul) -> Callable[[web.Request], web.Response | None]:
    """Answer each standing question for all services with what there is now, and the index asked from."""
    body = {name: [tag for one in entries for tag in one["Service"]["Tags"]] for name, entries in fake.services.items()}

    def answer(request: web.Request) -> web.Response | None:
        is_standing = request.path == LISTED and "index" in request.query
        return fake.reply(body, index=int(request.query["index"])) if is_standing else None

    return answer


def _asked(fake: FakeConsul) -> list[str]:
    """The filters of the questions for all services."""
    return [request.query.get("filter", "") for request in fake.requests if request.path == LISTED]


@asynccontextmanager
async def _beside_junk(fake: FakeConsul, **knobs: Any) -> AsyncIterator[Watching]:
    fake.put("web", entry("web", "web-1", 8001, ROUTE))
    fake.put("junk", entry("junk", "junk-1", 8002, *LONG))
    async with watching(ConsulSettings(address=fake.address, **knobs)) as one:
        await one.until(lambda catalog: ids(catalog, "junk") == ["junk-1"])
        yield one
