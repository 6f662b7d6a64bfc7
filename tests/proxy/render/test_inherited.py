"""What the operator says around ours is said again beside it, and nothing twice."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from proxygen.kit.templating import Block
from proxygen.proxy.render.clients import our_headers
from proxygen.proxy.render.inherited import added_headers, ignored_headers, limits, parameters
from proxygen.proxy.render.surroundings import Surroundings
from proxygen.proxy.render.views import DefaultLine, Template
from tests import golden

OUTER = (Block('add_header X-A "a;b" always;\nadd_header X-B b;\nlimit_req zone=z;\n'),)
INNER = (Block("add_header X-C c;"),)


def test_the_innermost_level_that_says_something_is_said_again() -> None:
    assert added_headers((), (), OUTER) == ('add_header X-A "a;b" always;', "add_header X-B b;")
    assert added_headers((), INNER, OUTER) == ("add_header X-C c;",)
    assert added_headers(INNER, OUTER) == ()
    assert limits((), INNER, OUTER) == ("limit_req zone=z;",)


@pytest.mark.parametrize(("value", "again"), [("on", True), ("merge", False), ("off", False)])
def test_where_nginx_merges_headers_itself_or_is_to_drop_them_they_are_not_said_again(
    value: str, *, again: bool
) -> None:
    said = (Block(f"add_header_inherit {value};"), *OUTER)
    assert bool(added_headers((), said)) is again


def test_what_is_passed_to_instances_under_a_name_of_ours_stays_ours() -> None:
    said = (Block('proxy_set_header HOST evil; proxy_set_header "X-Own" own;'),)
    assert parameters("proxy_set_header", (), said, ours={"host"}) == ('proxy_set_header "X-Own" own;',)
    assert parameters("proxy_set_header", (Block("proxy_set_header X-Else 1;"),), said) == ()


@pytest.mark.parametrize("around", [Surroundings(), Surroundings(trusted_proxies=("10.0.0.0/8",))])
def test_every_header_that_a_virtual_server_passes_has_a_name_of_ours_once(around: Surroundings) -> None:
    text = golden.rendered().contents["http.d/20-servers.conf"].decode()
    for server in text.split("\nserver {")[1:]:
        for module in ("proxy", "grpc"):
            names = Counter(name.lower() for name in re.findall(rf'^    {module}_set_header "?([\w-]+)', server, re.M))
            assert names.keys() <= our_headers(around)
            assert set(names.values()) <= {1}


@pytest.mark.incident("T56")
def test_orders_are_ignored_beside_what_the_operator_ignores_and_none_is_named_twice() -> None:
    assert ignored_headers(Template.GRPC, (), ()) == DefaultLine(
        "grpc_ignore_headers", ("X-Accel-Redirect", "X-Accel-Charset")
    )
    outer = (Block("proxy_ignore_headers Vary x-accel-redirect;"),)
    line = ignored_headers(Template.PROXY, (), outer)
    assert line is not None
    assert Counter(str(word).lower() for word in line.words) == Counter(
        ["vary", "x-accel-redirect", "x-accel-expires", "x-accel-limit-rate", "x-accel-charset"]
    )
    within = ignored_headers(Template.PROXY, outer, ())
    assert within is not None
    assert within.words == ("X-Accel-Expires", "X-Accel-Limit-Rate", "X-Accel-Charset")
    everything = (Block(f"grpc_ignore_headers {' '.join(('X-Accel-Redirect', 'X-Accel-Charset'))};"),)
    assert ignored_headers(Template.GRPC, everything, ()) is None
