"""Virtual servers are rendered anew where, and only where, something that they show has changed."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from proxygen.model import Instance
from proxygen.plan import Planner
from proxygen.plan.types import Certificate, Memory, Policy
from proxygen.render import Rendered, Renderer, Snippets
from proxygen.rendered import Unit
from proxygen.templating import Templates
from proxygen.viewing import Surroundings
from tests.plan.catalogs import catalog, instance

WEB = "route=web.example.com"
TEMPLATES = Templates()
_POLICY = Policy(
    htpasswd={"staff": "/h/staff", "boss": "/h/boss"},
    certificates=tuple(
        Certificate(name=name, hosts=("web.example.com",), certificate=f"/{name}", key=f"/{name}.key", fingerprint=name)
        for name in ("one", "two")
    ),
)


def _web(*tags: str, canaries: int = 0, share: str = "10%") -> list[Instance]:
    members = [instance("web", 1, WEB, *tags)]
    return members + [instance("web", 10 + number, WEB, *tags, f"canary={share}") for number in range(canaries)]


def _one_after_the_other(around: Surroundings, *histories: Sequence[Instance]) -> list[Rendered]:
    planner, renderer = Planner(_POLICY), Renderer(TEMPLATES, around, Snippets())
    return [renderer.render(planner.plan(catalog(*members), Memory(), {})) for members in histories]


@pytest.mark.parametrize("share_from", [0, 1])
@pytest.mark.parametrize(
    "after",
    [
        _web(f"{key}={value}")
        for key, value in {
            "timeout": "500ms",
            "connect-timeout": "500ms",
            "retries": "5",
            "body-size": "7k",
            "websocket": "false",
            "keepalive": "3",
            "max-fails": "3",
            "fail-timeout": "500ms",
            "rate": "3r/s",
            "allow": "10.0.0.0/8",
            "deny": "10.0.0.0/8",
            "auth": "boss",
            "balance": "least_conn",
            "protocol": "grpc",
            "tls": "one",
            "weight": "x",
            "force": "header:X-To",
        }.items()
    ]
    + [_web(canaries=number) for number in (1, 3, 5)]
    + [_web(canaries=1, share="0%"), [instance("web", 1, WEB, "canary=10%")], [instance("web", 1, f"{WEB}/path")]]
    + [[*_web(), instance("api", 9, f"{WEB}/api")], [instance("other", 1, WEB)]],
    ids=str,
)
def test_nothing_of_the_last_plan_is_left(after: list[Instance], share_from: int) -> None:
    """There and back again: whatever changes alone."""
    # Two more hosts, so that there is somebody to share with.
    others = [instance(name, 20 + number, f"route={name}.example.com") for number, name in enumerate(("x", "y"))]
    around = Surroundings(share_from=share_from)
    before, after = [*others, *_web()], [*others, *after]
    first, changed, again = _one_after_the_other(around, before, after, before)
    (alone,) = _one_after_the_other(around, after)
    assert changed.contents == alone.contents
    assert first.contents == again.contents
    assert changed.contents != first.contents


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (_web("tls=one"), _web("tls=two")),
        (_web("auth=staff"), _web("auth=boss")),
        (_web(canaries=2), _web(canaries=3)),
        (_web("retries=1", canaries=3), _web("retries=2", canaries=3)),
        (_web("route=web.example.com/a"), _web("route=web.example.com/b")),
    ],
)
def test_a_value_that_becomes_another_is_written_anew(before: list[Instance], after: list[Instance]) -> None:
    _, changed = _one_after_the_other(Surroundings(), before, after)
    (alone,) = _one_after_the_other(Surroundings(), after)
    assert changed.contents == alone.contents


def _units(rendered: Rendered, path: str) -> dict[tuple[str, ...], Unit]:
    return {unit.names: unit for file in rendered.files if file.path == path for unit in file.units}


@pytest.mark.parametrize(("share_from", "path"), [(0, "http.d/20-servers.conf"), (1, "http.d/30-shared-servers.conf")])
def test_instances_that_come_and_go_leave_the_virtual_servers_as_they_are(share_from: int, path: str) -> None:
    """They stand in the upstreams; with thousands of hosts the difference is seconds."""
    other = [instance(name, 20 + number, f"route={name}.example.com") for number, name in enumerate(("x", "y"))]
    more = [*other, *_web(), instance("web", 2, WEB, "weight=5")]
    first, second = _one_after_the_other(Surroundings(share_from=share_from), [*other, *_web()], more)
    before, after = _units(first, path), _units(second, path)
    assert before.keys() == after.keys()
    assert before
    assert all(before[names] is after[names] for names in before)


def test_a_route_of_a_wider_host_is_no_claim_of_this_one() -> None:
    """The frame of a virtual server is the fault of those who ask for its host."""
    (rendered,) = _one_after_the_other(
        Surroundings(), [instance("web", 1, f"{WEB}/own"), instance("wild", 2, "route=*.example.com/wild")]
    )
    unit = _units(rendered, "http.d/20-servers.conf")["web.example.com",]
    assert unit.owners_at(1) == ("web",)
    lines = unit.text.splitlines()
    assert unit.owners_at(lines.index("    location = /wild {") + 1) == ("wild",)
    assert unit.owners_at(lines.index("    location = /own {") + 1) == ("web",)
    assert unit.owners_at(len(lines)) == ("web",)
    assert unit.paths == ("/own", "/own/", "/wild", "/wild/")
