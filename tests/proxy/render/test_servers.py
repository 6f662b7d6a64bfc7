"""Virtual servers are rendered anew where, and only where, something that they show has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.catalog import Health, Instance
from proxygen.kit.errors import TemplateError
from proxygen.kit.templating import Templates
from proxygen.proxy.plan import Planner, plan_routes
from proxygen.proxy.plan.types import Certificate, Memory, Policy
from proxygen.proxy.render.rendered import Unit
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.proxy.plan.catalogs import catalog, instance

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
            "idle-timeout": "500ms",
            "request-buffering": "false",
            "response-buffering": "false",
            "retries-unsafe": "true",
            "keepalive-timeout": "500ms",
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
    # An instance alone never rests.
    others.append(instance("web", 30, WEB))
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
    assert [path for path in unit.paths if path[0] == "/"] == ["/own", "/own/", "/wild", "/wild/"]


def test_a_certificate_that_was_renewed_is_written_anew_though_no_tag_changed() -> None:
    renderer, seen = Renderer(TEMPLATES, Surroundings(), Snippets()), catalog(*_web("tls=one"))
    (one, two) = _POLICY.certificates
    texts = [
        renderer.render(plan_routes(seen, Policy(certificates=(certificate,)))).contents
        for certificate in (one, replace(one, fingerprint="renewed"), replace(two, name="one"))
    ]
    assert len({text["http.d/20-servers.conf"] for text in texts}) == 3


def test_a_service_that_is_quarantined_loses_the_operators_fragment_though_nobody_served_it_before() -> None:
    """Nothing else of what its routes answer changes."""
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets(files={"location-web.conf": "# mine"}))
    down, broken = ([instance("web", 1, WEB, *tag, health=Health.CRITICAL)] for tag in ((), ("weight=x",)))
    found = [
        b"# mine" in renderer.render(plan_routes(catalog(*ones), Policy())).contents["http.d/20-servers.conf"]
        for ones in (down, broken, down)
    ]
    assert found == [True, False, True]


def test_every_line_of_a_virtual_server_is_owned_from_its_first_to_its_last() -> None:
    members = [instance("web", 1, f"{WEB}/own"), instance("wild", 2, "route=*.example.com/wild")]
    (rendered,) = _one_after_the_other(Surroundings(), members)
    unit = _units(rendered, "http.d/20-servers.conf")["web.example.com",]
    lines = unit.text.splitlines()
    first = lines.index("    location = /wild {")
    last = next(
        number for number in range(lines.index('    location "@wait_/wild" {'), len(lines)) if lines[number] == "    }"
    )
    owners = [unit.owners_at(number) for number in range(1, len(lines) + 1)]
    assert owners == [("web",)] * first + [("wild",)] * (last + 1 - first) + [("web",)] * (len(lines) - last - 1)


def test_a_frame_in_which_a_fragment_of_the_operators_stands_is_nobodys() -> None:
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets(files={"server.conf": "# mine"}))
    rendered = renderer.render(plan_routes(catalog(*_web()), Policy()))
    unit = _units(rendered, "http.d/20-servers.conf")["web.example.com",]
    lines = unit.text.splitlines()
    assert (unit.owners_at(1), unit.owners_at(lines.index("    location / {") + 1)) == ((), ("web",))


def test_of_a_shared_virtual_server_the_location_is_everybodys_and_what_is_around_it_nobodys() -> None:
    members = [instance(name, number, f"route={name}.example.com/p") for number, name in enumerate(("my web", "y"), 1)]
    members = [replace(one, tags=(one.tags[0].replace("my web", "x"),)) for one in members]
    (rendered,) = _one_after_the_other(Surroundings(share_from=1), members)
    (unit,) = _units(rendered, "http.d/30-shared-servers.conf").values()
    lines = unit.text.splitlines()
    first = lines.index("    location = /p {")
    below = range(lines.index('    location "@wait_/p" {'), len(lines))
    last = next(number for number in below if lines[number] == "    }")
    everybody = ("my web", "y")
    assert [unit.owners_at(number + 1) for number in (first - 1, first, last, last + 1, len(lines) - 1)] == [
        (),
        everybody,
        everybody,
        (),
        (),
    ]
    assert unit.paths == ("/p", "/p/", "@once_/p", "@wait_/p")
    services = {service.name: service for service in rendered.plan.services}
    labels = {"x.example.com": services[members[0].service].ident, "y.example.com": "y"}
    assert dict(unit.labels) == labels, "a name that no log can hold is nginx's own"
    for host, label in labels.items():
        owned = [
            lines[number] for number in range(len(lines)) if unit.owners_at(number + 1) == (everybody[host[0] == "y"],)
        ]
        assert f"    {host} {label};" in owned
        assert f"    server_name {host};" in owned


@pytest.mark.parametrize("printed", ["", "{{ locations | q }}{{ locations | q }}"])
def test_a_template_prints_the_locations_once(printed: str, tmp_path: Path) -> None:
    shipped = TEMPLATES.read("server.conf.j2")
    (tmp_path / "server.conf.j2").write_text(shipped.replace("{{ locations | q }}", printed))
    with pytest.raises(TemplateError, match="exactly once"):
        Renderer(Templates(tmp_path), Surroundings(), Snippets()).render(plan_routes(catalog(*_web()), Policy()))
