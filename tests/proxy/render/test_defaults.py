"""What the operator says is left to him, and the sizes that must fit each other do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.templating import Block
from proxygen.proxy.render.defaults import lines_of, server_lines, stated
from proxygen.proxy.render.surroundings import RequestDefaults, Surroundings
from proxygen.proxy.render.views import Template

NOTHING: frozenset[str] = frozenset()


def _lines(
    *spoken: Template, said: frozenset[str] = NOTHING, of_services: frozenset[str] = NOTHING, **wishes: int | bool
) -> dict[str, tuple[str | int, ...]]:
    around = Surroundings(requests=RequestDefaults(**wishes))  # type: ignore[arg-type]
    lines = server_lines(around, spoken, said, of_services)
    assert len({line.directive for line in lines}) == len(lines), "nginx refuses a second one"
    return {line.directive: line.words for line in lines}


@given(st.integers(4_096, 262_144), st.sampled_from(["proxy", "fastcgi", "uwsgi"]))
def test_buffers_fit_each_other_as_nginx_wants_it(size: int, module: str) -> None:
    """ngx_http_proxy_merge_loc_conf: busy at least the first one and each other, and less than all but one."""
    lines = _lines(*Template, header_size=size)
    names = ("buffer_size", "buffers", "busy_buffers_size")
    (first,), (count, each), (busy,) = (lines[f"{module}_{name}"] for name in names)
    assert isinstance(first, int)
    assert isinstance(count, int)
    assert isinstance(each, int)
    assert isinstance(busy, int)
    assert first == size
    assert max(first, each) <= busy <= (count - 1) * each


@pytest.mark.parametrize("name", ["proxy_buffer_size", "proxy_buffers", "proxy_busy_buffers_size"])
def test_one_size_of_the_operators_makes_the_others_his_too(name: str) -> None:
    own = frozenset({name})
    for lines in (_lines(Template.UWSGI, said=own), _lines(Template.UWSGI, of_services=own)):
        assert not {"proxy_buffer_size", "proxy_buffers", "proxy_busy_buffers_size"} & lines.keys()
        assert lines["uwsgi_buffer_size"] == (32_768,)
        assert lines["large_client_header_buffers"] == (4, 32_768)


@pytest.mark.parametrize("name", ["gzip_buffers", "client_body_buffer_size", "output_buffers", "ssl_buffer_size"])
def test_a_size_of_something_else_changes_nothing(name: str) -> None:
    assert _lines(Template.PROXY, said=frozenset({name})) == _lines(Template.PROXY)


def test_a_directive_of_the_operators_is_not_said_beside_it() -> None:
    every = _lines(*Template, any_header_names=True, request_buffering=False, response_buffering=False)
    for name in every:
        assert name not in _lines(
            *Template, said=frozenset({name}), any_header_names=True, request_buffering=False, response_buffering=False
        )


def test_wishes_become_lines() -> None:
    lines = _lines(Template.GRPC, body_size=7, header_size=8_192, timeout=9, idle_timeout=11)
    assert lines["client_max_body_size"] == (7,)
    assert (lines["proxy_buffer_size"], lines["grpc_buffer_size"]) == ((8_192,), (8_192,))
    assert (lines["proxy_read_timeout"], lines["proxy_send_timeout"]) == (("9ms",), ("9ms",))
    assert (lines["grpc_read_timeout"], lines["grpc_send_timeout"]) == (("11ms",), ("11ms",))
    assert "underscores_in_headers" not in lines
    assert "proxy_buffering" not in lines
    lines = _lines(any_header_names=True, request_buffering=False, response_buffering=False)
    assert (lines["underscores_in_headers"], lines["ignore_invalid_headers"]) == (("on",), ("off",))
    assert (lines["proxy_buffering"], lines["proxy_request_buffering"]) == (("off",), ("off",))


@pytest.mark.parametrize(
    ("fragment", "names"),
    [
        ("gzip on;", {"gzip"}),
        ("  gzip\n on; add_header A 'b; proxy_buffering off;';", {"gzip", "add_header"}),
        ("# gzip on;\nsub_filter a b;", {"sub_filter"}),
        ("location = /up { client_max_body_size 1m; }", {"location"}),
        ("if ($a) { return 403; } gzip on;", {"if", "gzip"}),
        ("set $x ${host}b; gzip on;", {"set", "gzip"}),
        ('rewrite ^/a#b /c; add_header X "}"; gzip on;', {"rewrite", "add_header", "gzip"}),
        ("", set()),
    ],
)
def test_what_a_fragment_says_itself_is_seen(fragment: str, names: set[str]) -> None:
    assert stated([Block(fragment)]) == names


def test_lines_are_found_whole() -> None:
    fragment = Block('error_page 404 /x.html;\nlocation / { error_page 500 /y; }\nerror_page 502 =200 "/a b;c";')
    assert lines_of("error_page", [fragment]) == ("error_page 404 /x.html;", 'error_page 502 =200 "/a b;c";')
