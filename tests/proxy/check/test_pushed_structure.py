"""The first gate reads what Lua is told, too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.templating import Block, Templates
from proxygen.proxy.check.structure import StructureGate
from proxygen.proxy.draft import Drafter
from proxygen.proxy.plan.types import Memory, Policy
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings


def _rendered() -> Rendered:
    route = "proxygen.route=web.example.com"
    tags = {"a": (route,), "b": (route,), "c": (route, "proxygen.canary=10%")}
    instances = tuple(
        Instance(
            service=ServiceName("web"),
            id=name,
            node="n",
            datacenter="dc1",
            address="10.0.0.1",
            port=port,
            tags=tags[name],
        )
        for port, name in enumerate(tags, 8001)
    )
    catalog = Catalog(datacenter="dc1", services={ServiceName("web"): instances})
    renderer = Renderer(Templates(), Surroundings(pushed=True), Snippets())
    return Drafter(Policy(), renderer).draft(catalog, Memory(), {}).rendered


def test_what_is_rendered_passes() -> None:
    assert StructureGate(own_templates=False).refusals(_rendered()) == ()


@pytest.mark.parametrize(
    ("told", "otherwise"),
    [
        ('"10.0.0.1:8001/', '"10.0.0.9:8001/'),
        ('"round_robin -"', '"random -"'),
        ("1000:", "2000:"),
        ('"10.0.0.1:8001/', '"", "10.0.0.1:8001/'),
        ('"round_robin -",', ""),
    ],
)
def test_lua_that_is_told_something_else_is_refused(told: str, otherwise: str) -> None:
    rendered = _rendered()
    files = []
    for file in rendered.files:
        units = tuple(replace(unit, text=Block(unit.text.replace(told, otherwise))) for unit in file.units)
        files.append(replace(file, units=units))
    (refusal,) = StructureGate(own_templates=False).refusals(replace(rendered, files=tuple(files)))
    assert "are not the plan's" in refusal.reason
    assert refusal.services == ("web",)
