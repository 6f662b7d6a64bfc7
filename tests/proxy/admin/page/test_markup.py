"""Whatever stands in a tag, a name or nginx's log is text on the page, and never markup."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import jinja2
import pytest

from proxygen.kit.templating import HtmlTemplates
from proxygen.proxy.admin.page.assets import Assets
from proxygen.proxy.admin.page.difference import difference_view
from proxygen.proxy.admin.page.generations import time_line
from proxygen.proxy.admin.page.overview import overview
from proxygen.proxy.admin.page.service import service_view
from proxygen.proxy.admin.page.steering import steering
from proxygen.proxy.admin.page.views import event_views
from tests.proxy.admin.page.reports import (
    DIFFERENCE,
    EVENTS,
    GENERATIONS,
    HEALTHY,
    NOW,
    SHARES,
    TROUBLED,
    WEB,
    summary,
    with_texts,
)

TEMPLATES = Path(__file__).parents[3] / "templates" / "admin"

HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></svg></section></details><script>alert(1)</script>",
    "javascript:alert(1)",
    "{{ 7 * 7 }}{% raw %}",
    "<!--",
    "]]><b>",
    "\x00\u2028\u202e<b>",
    "&lt;b&gt;",
    "a b\tc\nd",
    "//evil.example.com/../..",
]


class Skeleton(HTMLParser):
    """What a browser would build: tags with their attributes' names, and where links lead."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.addresses: list[str] = []
        self.ids: list[str] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attrs)))
        self.addresses += [value or "" for name, value in attrs if name in ("href", "src", "data-action", "data-src")]

        self.ids += [value or "" for name, value in attrs if name == "id"]

    def handle_endtag(self, tag: str) -> None:
        self.tags.append((f"/{tag}",))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def handle_comment(self, data: str) -> None:
        self.tags.append(("comment", data))


def render_overview(text: str) -> str:
    services = [with_texts(summary(name, variants=2), text) for name in "ab"]
    page = overview(with_texts(TROUBLED, text), services, NOW, etag=text)
    return render("overview.html.j2", page=page, events=event_views(with_texts(EVENTS, text), NOW, most=50))


def render_search(text: str) -> str:
    page = overview(with_texts(HEALTHY, text), [], NOW, etag=text, query=text)
    return render("overview.html.j2", page=page, events=())


def render_service(text: str) -> str:
    view = service_view(
        with_texts(WEB, text), with_texts(EVENTS, text), NOW, steering=steering(with_texts(SHARES, text)), notice=text
    )
    return render("service.html.j2", page=view)


def render_generations(text: str) -> str:
    moments = time_line(with_texts(GENERATIONS, text), NOW, etag=text)
    return render("generations.html.j2", moments=moments)


def render_generation(text: str) -> str:
    # A line break in a diff is one more line, and may be one.
    return render("generation.html.j2", page=difference_view(with_texts(DIFFERENCE, text.replace("\n", " "))))


def render_error(text: str) -> str:
    return render("error.html.j2", title=text, text=text)


def render(template: str, **context: object) -> str:
    frame = {
        "layout": "frame.html.j2",
        "part": False,
        "assets": Assets(),
        "path": "/",
        "where": "edge-1 · dc1 · nginx 1.22.1",
        "version": "1",
        "event": 1,
    }
    return HtmlTemplates().render(template, {**frame, **context})


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize(
    "page",
    [render_overview, render_search, render_service, render_generations, render_generation, render_error],
    ids=lambda page: page.__name__,
)
def test_no_text_adds_a_tag_or_an_attribute(page: Callable[[str], str], text: str) -> None:
    """The page's tags and attributes are those of the same page with harmless text."""
    hostile, harmless = Skeleton(page(text)), Skeleton(page("harmless"))
    assert hostile.tags == harmless.tags


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("page", [render_overview, render_service, render_generations], ids=lambda page: page.__name__)
def test_every_link_leads_to_this_sidecar(page: Callable[[str], str], text: str) -> None:
    for address in Skeleton(page(text)).addresses:
        assert address.startswith(("/", "#"))
        assert not address.startswith("//")


def test_the_test_would_see_markup() -> None:
    page = render_error("harmless").replace("harmless", HOSTILE[0], 1)
    assert ("script",) in Skeleton(page).tags


@pytest.mark.parametrize("page", [render_overview, render_service, render_generations], ids=lambda page: page.__name__)
def test_nothing_needs_an_inline_style_or_script(page: Callable[[str], str]) -> None:
    """The content security policy would refuse them."""
    for tag, *attributes in Skeleton(page("text")).tags:
        assert tag != "style"
        assert "style" not in attributes
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "script" or "src" in attributes


@pytest.mark.parametrize("page", [render_overview, render_service, render_generations], ids=lambda page: page.__name__)
def test_every_tag_is_closed(page: Callable[[str], str]) -> None:
    void = {"meta", "link", "input", "br"}
    open_tags: list[str] = []
    for tag, *_ in Skeleton(page("text")).tags:
        if tag.startswith("/"):
            assert open_tags.pop() == tag[1:]
        elif tag not in void:
            open_tags.append(tag)
    assert open_tags == []


def test_no_id_stands_twice() -> None:
    """The sections are merged by their ids."""
    overview_page = overview(TROUBLED, [summary(name, variants=2) for name in "ab"], NOW, etag="")
    service_page = service_view(WEB, EVENTS, NOW, steering=steering(SHARES), notice="")
    for page in (
        render("overview.html.j2", page=overview_page, events=event_views(EVENTS, NOW, most=50)),
        render("service.html.j2", page=service_page),
        render("generations.html.j2", moments=time_line(GENERATIONS, NOW, etag="")),
    ):
        ids = Skeleton(page).ids
        assert len(ids) > 5
        assert sorted(set(ids)) == sorted(ids)


def test_a_generation_that_was_pushed_says_so() -> None:
    newest, live, _ = GENERATIONS
    page = render("generations.html.j2", moments=time_line((newest, replace(live, by="push")), NOW, etag=""))
    assert [part.count("by push") for part in page.split("generation-42", 1)] == [0, 1]


def test_templates_cannot_say_that_a_text_is_safe() -> None:
    templates = HtmlTemplates()
    for path in TEMPLATES.glob("*.j2"):
        source = path.read_text(encoding="utf-8")
        assert "autoescape" not in source
        assert "safe" not in source
    with pytest.raises(jinja2.UndefinedError):
        templates.render("error.html.j2", {"layout": "part.html.j2", "title": "no text"})
