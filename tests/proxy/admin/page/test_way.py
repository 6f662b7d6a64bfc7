"""The picture of a request's way: everything is inside, nothing lies over something else, shares are widths."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from proxygen.proxy.admin.page.way import WIDTH, Box, Way, way
from proxygen.proxy.admin.service_report import InstanceReport, InstanceState, ServiceDetail, VariantReport
from tests.proxy.admin.page.reports import WEB, instance

instances = st.lists(
    st.builds(instance, st.integers(1, 250), st.sampled_from(InstanceState), weight=st.integers(0, 1000)),
    max_size=12,
)
services = st.builds(
    lambda routes, groups: ServiceDetail(
        name="web", state="served", routes=tuple(routes), variants=tuple(map(variant, range(len(groups)), groups))
    ),
    st.lists(st.text(max_size=80), max_size=12),
    st.lists(instances, max_size=6),
)


def variant(place: int, group: list[InstanceReport]) -> VariantReport:
    return VariantReport(name=f"v{place}", asked=1000, effective=1000, instances=tuple(group))


def overlap(one: Box, other: Box) -> bool:
    return one.x == other.x and abs(one.y - other.y) < one.height


@given(services)
def test_boxes_lie_inside_and_beside_each_other(service: ServiceDetail) -> None:
    picture = way(service)
    for node in picture.nodes:
        assert 0 <= node.x < node.x + node.width <= WIDTH
        assert 0 <= node.y - node.height / 2 < node.y + node.height / 2 <= picture.height
    assert not any(overlap(one, other) for one, other in combinations(picture.nodes, 2))


@given(services)
def test_every_line_joins_two_boxes(service: ServiceDetail) -> None:
    picture = way(service)
    right = {f"M{node.x + node.width} {node.y:g}" for node in picture.nodes}
    left = {f"{node.x} {node.y:g}" for node in picture.nodes}
    for edge in picture.edges:
        assert edge.path.split("C")[0] in right
        assert " ".join(edge.path.split()[-2:]) in left


def texts(picture: Way, kind: str) -> list[str]:
    return [node.text for node in picture.nodes if kind in node.kind.split()]


def test_each_variant_shows_its_share_and_its_errors() -> None:
    edges = [edge for edge in way(WEB).edges if edge.text]
    assert [(edge.text, edge.note, edge.level) for edge in edges] == [
        ("10 %", "10/s, 4.0 % err.", "bad"),
        ("90 %", "90/s, 0 % err.", ""),
    ]
    assert edges[0].width < edges[1].width


def test_a_variant_that_gets_nothing_has_no_line_of_its_colour() -> None:
    off = replace(WEB, variants=(replace(WEB.variants[0], effective=0), WEB.variants[1]))
    assert [edge.kind for edge in way(off).edges if edge.text] == ["none", "series-1"]


def test_many_instances_become_one_box_and_those_that_serve_go_first() -> None:
    picture = way(WEB)
    assert texts(picture, "more") == ["5 more instances"]
    assert len(texts(picture, "serving")) == 1 + 4
    assert texts(picture, "unhealthy") == []


def test_many_routes_become_one_box() -> None:
    picture = way(replace(WEB, routes=tuple(f"r{number}/" for number in range(9))))
    assert texts(picture, "route") == ["r0/", "r1/", "r2/", "r3/", "r4/", "4 more routes"]


def test_long_texts_are_cut_and_whole_in_the_tooltip() -> None:
    long = "a" * 90 + ".example.com/"
    (node,) = [node for node in way(replace(WEB, routes=(long,))).nodes if node.kind == "route"]
    assert (len(node.text) < 30, node.text[-1], node.whole) == (True, "…", long)


def test_the_picture_is_told_in_sentences_too() -> None:
    first, canary, stable = way(WEB).sentences
    assert "app.example.com/, www.example.com/ go to the service web" in first
    assert "canary gets 10 %, 10.04 % measured, 10/s with 4.0 % errors, by 1 of 1 instance" in canary
    assert "stable gets 90 %" in stable
