"""What the renderer and a push say of servers and shares, as nginx reads it: any plan's words, and broken ones."""

from __future__ import annotations

import os
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from proxygen.catalog import Catalog, Health, Instance
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.push.document import Entry, encode_document, entries_between
from proxygen.proxy.nginx.stamp import Stamp, parse_stamp
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.harness import process
from tests.harness.examples import examples
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import LUA, find_lua_nginx, missing
from tests.model.catalogs import catalogs
from tests.model.lua_model import Dictionary, in_force
from tests.proxy.plan.catalogs import catalog, instance, plan

TEMPLATES: Final = Templates()
RENDERER: Final = Renderer(TEMPLATES, Surroundings(pushed=True), Snippets(files={}))
FIRST: Final = Stamp(generation=1, digest="0123456789abcdef")
SEARCH: Final = settings(
    max_examples=examples(60), deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))


_LOOK: Final = """
server {{
    listen {listen};
    location / {{
        content_by_lua_block {{
            ngx.print(ngx.shared.proxygen:get("read 1 " .. ngx.unescape_uri(ngx.var.arg_key)) or "")
        }}
    }}
}}
"""


class Lua:
    """An nginx that takes documents, and the model of what it does."""

    def __init__(self, server: NginxServer, address: str, document: Path, look: str) -> None:
        self._server = server
        self._address = address
        self._document = document
        self._look = look
        self.model = Dictionary(str(FIRST))

    def take(self, document: bytes) -> tuple[int, str]:
        """Push, and return the status and the stamp that is served then; the model must agree."""
        self._document.write_bytes(document)
        status, _ = self._ask("push")
        served = self._ask("stamp")[1]
        expected, _ = self.model.take(document.decode())
        assert (str(status), served) == (expected, self.model.stamp), document
        return status, served

    def read_again(self, how: Callable[[NginxServer], object]) -> None:
        """Have nginx read its files, which ends what was pushed."""
        workers = self._server.workers()
        how(self._server)
        process.wait_until(lambda: self._server.accepting() and not workers & self._server.accepting(), what="workers")
        self.model = Dictionary(str(FIRST))

    def push(self, *lines: str) -> int:
        """Push what the model has no room for either, and return the status."""
        before, after = self.next_stamp()
        text = "\n".join(("proxygen 1", f"from {before}", f"to {after}", *lines, f"end {len(lines)}", ""))
        self._document.write_text(text)
        status, _ = self._ask("push")
        if status == 200:
            self.model.take(text)
        return status

    def stored(self, entry: str) -> str:
        """What the dictionary holds of an entry, such as ``u web``."""
        with _OPENER.open(f"http://{self._look}/?key={quote(entry)}", timeout=20) as answer:
            return str(answer.read().decode())

    def next_stamp(self) -> tuple[Stamp, Stamp]:
        """The stamp that is served, and one to follow it."""
        served = parse_stamp(self.model.stamp)
        assert served is not None
        return served, Stamp(generation=served.generation + 1, digest=served.digest)

    def _ask(self, what: str) -> tuple[int, str]:
        try:
            with _OPENER.open(f"http://{self._address}/proxygen/{what}", timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read().decode()


@pytest.fixture
def lua(make_nginx: Callable[..., NginxServer]) -> Iterator[Lua]:
    binary = find_lua_nginx()
    if binary is None:
        missing("nginx with libnginx-mod-http-lua")
    look = f"127.0.0.1:{free_port()}"
    server = make_nginx(binary, modules=LUA, http=_LOOK.format(listen=look))
    document, address = server.output / "push/document", f"127.0.0.1:{free_port()}"
    document.parent.mkdir(parents=True)
    stamp = {"listen": address, "stamp": str(FIRST), "type_lists": [], "pushed": str(document)}
    generation = server.output / "generations/000001/http.d"
    generation.mkdir(parents=True)
    (generation / "00-http.conf").write_bytes(RENDERER.render(plan()).contents["http.d/00-http.conf"])
    (generation / "90-stamp.conf").write_text(TEMPLATES.render("stamp.conf.j2", stamp))
    os.symlink("generations/000001", server.output / "current")
    server.start()
    yield Lua(server, address, document, look)
    assert "[alert]" not in server.errors()


@st.composite
def balanced(draw: st.DrawFn) -> Catalog:
    """A service with whatever a server or a share can have."""
    methods = ("round_robin", "least_conn", "ip_hash", "random", "hash:$uri", "hash:header:X-Room", "hash:cookie:a_b")
    tags = ["route=web.test", f"balance={draw(st.sampled_from(methods))}"]
    tags += draw(st.sampled_from(([], ["max-fails=0"], ["max-fails=7", "fail-timeout=9s"], ["sticky=ip"])))
    found: list[Instance] = []
    for number in range(1, draw(st.integers(1, 6)) + 1):
        own = draw(st.sampled_from(([], ["weight=0"], ["weight=1000"], ["canary=13%"], ["canary=0%"], ["canary=100%"])))
        address = draw(st.sampled_from((f"10.0.0.{number}", f"2001:db8::{number}")))
        health = draw(st.sampled_from((Health.PASSING, Health.PASSING, Health.CRITICAL)))
        port = draw(st.integers(1, 65_535))
        found.append(instance("web", number, *tags, *own, address=address, health=health, port=port))
    return catalog(*found)


def render(found: Catalog) -> Rendered:
    return RENDERER.render(plan_routes(found, Policy(), None))


def every_entry(rendered: Rendered) -> tuple[Entry, ...]:
    """All that a push could say of it."""
    there = [unit.pushable for file in rendered.files for unit in file.units if unit.pushable is not None]
    upstreams = [Entry("u", name, text) for each in there for name, text in each.upstreams]
    return (*upstreams, *(Entry("s", name, text) for each in there for name, text in each.splits))


@SEARCH
@given(before=balanced() | catalogs(), after=balanced() | catalogs())
def test_what_is_pushed_makes_of_one_rendering_just_the_other(before: Catalog, after: Catalog) -> None:
    served, candidate = render(before), render(after)
    entries = entries_between(served, candidate)
    if entries is not None:
        pushed = {f"{each.kind} {each.name}": each.text for each in entries}
        assert in_force(served.contents, pushed) == in_force(candidate.contents, {})


def test_any_plans_words_are_decoded(lua: Lua) -> None:
    @SEARCH
    @given(found=balanced() | catalogs())
    def search(found: Catalog) -> None:
        before, after = lua.next_stamp()
        assert lua.take(encode_document(before, after, every_entry(render(found)))) == (200, str(after))

    search()


def test_broken_documents_are_refused_whole_and_by_the_model_too(lua: Lua) -> None:
    @SEARCH
    @given(
        found=balanced(),
        place=st.integers(0, 10_000),
        put=st.text("usp/: -.[]019ab\n", max_size=4),
        cut=st.integers(0, 4),
    )
    def search(found: Catalog, place: int, put: str, cut: int) -> None:
        before, after = lua.next_stamp()
        text = encode_document(before, after, every_entry(render(found))).decode()
        place %= len(text)
        lua.take(f"{text[:place]}{put}{text[place + cut :]}".encode())
        if parse_stamp(lua.model.stamp) is None:
            # nginx takes more for a stamp than we do.
            assert lua.take(f"proxygen 1\nfrom {lua.model.stamp}\nto {after}\nend 0\n".encode())[0] == 200

    search()


@pytest.mark.parametrize(
    "line",
    [
        "xu web round_robin - 10.0.0.1:80/1/1/5/0/p",
        "u u web round_robin - 10.0.0.1:80/1/1/5/0/p",
        " s web_share 10000:a",
        "u web round_robin - 10.0.0.1:80/1/1/5/0/p ",
        "u web round_robin - 10.0.0.1:80/1/1/5/0/b",
        "u web round_robin -",
        "u web hash - 10.0.0.1:80/1/1/5/0/p",
        "u web random uri 10.0.0.1:80/1/1/5/0/p",
        "u web round_robin - 10.0.0.1:0/1/1/5/0/p",
        "u web round_robin - 10.0.0.1:65536/1/1/5/0/p",
        "u web round_robin - 10.0.0.1:80/0/1/5/0/p",
        "u web round_robin - 10.0.0.1:80/1000001/1/5/0/p",
        "u web round_robin - 10.0.0.1:80/00000001/1/5/0/p",
        "u web round_robin - 10.0.0.1:80/1/1/5/0/p  10.0.0.2:80/1/1/5/0/p",
        "u web round_robin - 2001:db8::1:80/1/1/5/0/p",
        "u web round_robin - web.test:80/1/1/5/0/p",
        "s web_share 5000:a 5001:b",
        "s web_share 10000",
        "s web_share -1:a 10001:b",
        "",
    ],
)
def test_a_line_that_is_no_entry_is_refused_with_its_document(lua: Lua, line: str) -> None:
    before, after = lua.next_stamp()
    good = "u other round_robin - 10.0.0.9:80/1/1/5/0/p"
    text = f"proxygen 1\nfrom {before}\nto {after}\n{good}\n{line}\nend 2\n"
    assert lua.take(text.encode()) == (400, str(before))


@pytest.mark.parametrize("tail", ["end 0", "xend 0\n", "end 0\n\n", "\nend 0\n", "end 1\n", "end\n", "end -0\n", ""])
def test_a_document_without_its_end_is_refused(lua: Lua, tail: str) -> None:
    before, after = lua.next_stamp()
    assert lua.take(f"proxygen 1\nfrom {before}\nto {after}\n{tail}".encode()) == (400, str(before))


@pytest.mark.parametrize("how", [NginxServer.reload, NginxServer.restart])
def test_what_was_pushed_ends_with_the_workers_that_it_was_pushed_to(
    lua: Lua, how: Callable[[NginxServer], object]
) -> None:
    entry = "u web round_robin - 10.0.0.1:80/1/1/5/0/p"
    assert lua.push(entry) == 200
    pushed, after = lua.next_stamp()
    lua.read_again(how)
    assert lua.take(encode_document(pushed, after, ())) == (409, str(FIRST))
    assert lua.push(entry) == 200


def test_what_finds_no_room_leaves_all_as_it_was(lua: Lua) -> None:
    """A worker that starts later reads it from the dictionary."""
    small, other = "round_robin - 10.0.0.1:80/1/1/5/0/p", "round_robin - 10.0.0.2:80/1/1/5/0/p"
    large = "round_robin -" + 200_000 * " 10.0.0.1:80/1/1/5/0/p"
    assert lua.push(f"u first {small}", f"u second {small}") == 200
    filler = 0
    while lua.push(f"u filler_{filler} {large}") == 200:
        filler += 1
    served = lua.model.stamp
    assert lua.push(f"u first {other}", f"u second {large}", "s share 10000:a") == 507
    assert (lua.stored("u first"), lua.stored("u second"), lua.stored("s share")) == (small, small, "")
    assert lua.take(b"proxygen 1\n") == (400, served)
