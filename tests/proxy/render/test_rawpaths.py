"""What is left of a path once its prefix is off: what the client wrote, and never another place."""

from __future__ import annotations

import re
from urllib.parse import unquote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from proxygen.kit.templating import MAX_TOKEN, Expression, Regex, quote
from proxygen.proxy.render.rawpaths import rest_variable, rest_view
from proxygen.tags import parse_path

PREFIXES = ("/api", "/a", "/a.b/c+d")
_PIECES = st.sampled_from(
    ["/", "//", "api", "a", ".", "..", "%2e", "%2E", "%2F", "%2f", "%61", "pi", "%3F", "%23", "%25", "x", "a.b", "c+d"]
)
_REQUESTS = st.builds(
    lambda prefix, pieces, query: (prefix, f"{prefix}{''.join(pieces)}{query}"),
    st.sampled_from(PREFIXES),
    st.lists(_PIECES, max_size=8),
    st.sampled_from(["", "?", "?q=/../x", "?a=%2F#f", "#f"]),
)


def _rest(prefix: str, target: str) -> str:
    """What nginx's map gives, by the same expressions."""
    view = rest_view(prefix)
    for line in view.lines:
        assert isinstance(line.match, Regex)
        found = re.search(line.match.pattern.removeprefix("~").replace("(?<", "(?P<"), f"1{target}")
        if found:
            written = found["proxygen_written"]
            return f"/{written}" if isinstance(line.value, Expression) else written
    return ""


def _resolved(target: str) -> str:
    """The path by which nginx finds a location (ngx_http_parse_complex_uri): decoded, its slashes merged, its dot
    segments gone."""
    path = unquote(re.split("[?#]", target, maxsplit=1)[0], encoding="latin-1")
    segments: list[str] = []
    *directories, last = path.split("/")[1:]
    for segment in directories:
        if segment == "..":
            del segments[-1:]
        elif segment not in {"", "."}:
            segments.append(segment)
    if last == "..":
        del segments[-1:]
    tail = "" if last in {"", ".", ".."} else last
    return "/" + "".join(f"{segment}/" for segment in segments) + tail


@pytest.mark.incident("T43")
@given(_REQUESTS)
@example(("/api", "/api/x/../../api/y"))
@example(("/api", "/api/..%2f..%2Fapi"))
@example(("/a", "/api"))
def test_what_is_left_leads_where_the_request_was_found(request: tuple[str, str]) -> None:
    prefix, target = request
    rest = _rest(prefix, target)
    if rest:
        assert rest.startswith("/")
        assert target.endswith(rest) or rest == f"/{target[len(prefix) :]}"
        assert _resolved(target) in {prefix + _resolved(rest), (prefix + _resolved(rest)).rstrip("/")}


@given(st.sampled_from(PREFIXES), st.text("abz09%25%2F~;=&+/", max_size=20))
def test_what_leads_nowhere_else_goes_on_as_it_was_written(prefix: str, written: str) -> None:
    assert _rest(prefix, f"{prefix}/{written}") == f"/{written}"
    assert _rest(prefix, f"/%61{prefix[2:]}/{written}") == f"/{written}"


@pytest.mark.parametrize("target", ["/api", "/else/api/x", "/apix", "//api/x", "/api%2Fx", "/api/./x", "/api/x#f"])
def test_only_what_begins_with_the_whole_prefix_is_taken(target: str) -> None:
    assert _rest("/api", target) == ("/" if target == "/api" else "")


@pytest.mark.parametrize("character", "aZ0._~!&()*+,=:@-")
def test_the_longest_prefix_fits_into_a_token(character: str) -> None:
    parse_path("/" + character * 253)
    for line in rest_view("/" + character * 253).lines:
        assert len(quote(line.match)) < MAX_TOKEN


def test_a_prefix_has_a_variable_of_its_own() -> None:
    assert len({rest_variable(prefix) for prefix in PREFIXES}) == len(PREFIXES)
