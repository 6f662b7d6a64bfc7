"""The first gate: hostile values that slip into a template never become directives."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from proxygen.kit.errors import CheckRefused, TemplateError
from proxygen.kit.templating import Block, Templates
from proxygen.proxy.check.structure import StructureGate
from proxygen.proxy.plan.types import Plan
from proxygen.proxy.render.renderer import Rendered, RenderedFile, Renderer, Unit
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.tags import Host
from proxygen.tags import Path as RoutePath
from tests import golden
from tests.proxy.plan.catalogs import instance, plan

SHIPPED = Path(__file__).parents[3] / "templates"


def _render(planned: Plan, own: Path | None = None, **snippets: str) -> Rendered:
    return Renderer(Templates(own), Surroundings(), Snippets(files=snippets)).render(planned)


def _raw(directory: Path, name: str, expression: str) -> Path:
    """An operator's copy of a shipped template that prints one value without its quotes."""
    text = (SHIPPED / name).read_text()
    printed = f"{{{{ {expression} | q }}}}"
    assert printed in text
    raw = "{% filter replace('\"', '') %}" + printed + "{% endfilter %}"
    (directory / name).write_text(text.replace(printed, raw))
    return directory


def _attack(planned: Plan, service: str, *, host: str | None = None, path: str | None = None) -> Plan:
    """A plan in which a hostile text got past the types that should have refused it."""
    servers = []
    for server in planned.servers:
        mine = [location.service.name == service for location in server.locations]
        if any(mine):
            locations = tuple(
                dataclasses.replace(location, path=RoutePath(path) if path and is_mine else location.path)
                for location, is_mine in zip(server.locations, mine, strict=True)
            )
            server = dataclasses.replace(server, host=Host(host) if host else server.host, locations=locations)
        servers.append(server)
    return dataclasses.replace(planned, servers=tuple(servers))


def _neighbours() -> Plan:
    return plan(
        instance("alpha", 1, "route=alpha.example.com"),
        instance("evil", 2, "route=evil.example.com/x"),
        instance("omega", 3, "route=omega.example.com"),
    )


def test_what_the_shipped_templates_make_of_a_catalog_passes() -> None:
    assert StructureGate(own_templates=False).refusals(golden.rendered()) == ()


@pytest.mark.parametrize(
    "path",
    [
        "/x { return 200 pwned; } location /y",
        "/x;} location /y { return 200 pwned;",
        "~ ^/(.*)",
        "^~ /",
        "/x } } server { location /y",
        "/x # comment",
        "/x { include /etc/passwd; } location /y",
        "/x { proxy_pass http://127.0.0.1:8500; } location /y",
        "/{",
        "/x}",
    ],
)
def test_a_path_printed_raw_by_an_operators_template_is_refused_by_service_and_line(tmp_path: Path, path: str) -> None:
    own = _raw(tmp_path, "location.conf.j2", "match.path")
    rendered = _render(_attack(_neighbours(), "evil", path=path), own)
    refusals = StructureGate(own_templates=True).refusals(rendered)
    assert refusals
    for refusal in refusals:
        assert (refusal.gate, refusal.file, refusal.services) == ("crossplane", "http.d/20-servers.conf", ("evil",))
        assert "evil" in str(refusal)
    (servers,) = [file for file in rendered.files if file.path == "http.d/20-servers.conf"]
    lines = servers.text.splitlines()
    first = next(number for number, line in enumerate(lines, 1) if "server_name evil.example.com" in line)
    after = next(number for number, line in enumerate(lines, 1) if "server_name omega.example.com" in line)
    assert all(first - 3 <= refusal.line <= after for refusal in refusals)


@pytest.mark.parametrize(
    "host",
    [
        "a.test; location /pwn { return 200; } #",
        "a.test; return 200 pwned",
        "a.test b.test",
        "a.test; } server { listen 1; server_name b.test",
        "~^.* x",
    ],
)
def test_a_host_printed_raw_by_an_operators_template_is_refused(tmp_path: Path, host: str) -> None:
    own = _raw(tmp_path, "server.conf.j2", "name")
    refusals = StructureGate(own_templates=True).refusals(_render(_attack(_neighbours(), "evil", host=host), own))
    assert {refusal.services for refusal in refusals} == {("evil",)}


@pytest.mark.parametrize("text", ["/x { return 200 pwned; } location /y", "a;b", 'quote"', "# x", "{}"])
def test_the_same_texts_are_harmless_where_the_shipped_templates_print_them(text: str) -> None:
    """The quoting filter alone holds: neither gate has anything to find."""
    for attack in ({"host": text}, {"path": f"/{text}"}):
        rendered = _render(_attack(_neighbours(), "evil", **attack))
        assert StructureGate(own_templates=False).refusals(rendered) == ()


def test_a_variable_in_a_value_never_reaches_a_file() -> None:
    with pytest.raises(TemplateError, match=r"\$"):
        _render(_attack(_neighbours(), "evil", path="/$http_authorization"))


def test_one_refused_service_does_not_keep_another_from_passing(tmp_path: Path) -> None:
    own = _raw(tmp_path, "location.conf.j2", "match.path")
    gate = StructureGate(own_templates=True)
    attacked = _render(_attack(_neighbours(), "evil", path="/x; evil on; #"), own)
    assert {refusal.services for refusal in gate.refusals(attacked)} == {("evil",)}
    assert gate.refusals(_render(_neighbours(), own)) == ()
    # What was refused is looked at again, not remembered as seen.
    assert {refusal.services for refusal in gate.refusals(attacked)} == {("evil",)}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("upstream a {\n    server 10.0.0.1:80;\n    server 10.0.0.6:80;\n}\n", "server"),
        ("upstream b {\n    server 10.0.0.1:80;\n}\n", "not the plan's"),
        ("upstream a {\n    server 10.0.0.6:80;\n}\n", "not the plan's"),
        ("upstream a {\n    server 10.0.0.1:80 backup;\n}\n", "arguments"),
        ("upstream a {\n    server 10.0.0.1:80;\n", "expecting"),
        ("upstream a {\n    server 10.0.0.1:80;\n}\n}\nevents {\n", "unexpected"),
        ("upstream a {\n    server 10.0.0.1:80;\n}\nhttp {\n}\n", "http"),
        ("", "missing"),
    ],
)
def test_what_the_plan_did_not_ask_for_is_refused(text: str, reason: str) -> None:
    """Whatever a template made of it: upstreams and their servers are compared one by one."""
    inert = Block("upstream inert {\n    server inert;\n}\n")
    unit = Unit(
        context="http",
        text=Block(text),
        inert=inert,
        owners=((1, ("web",)),),  # type: ignore[arg-type]
        upstreams=(("a", ("10.0.0.1:80",)),),
    )
    rendered = Rendered(plan=plan(), files=(RenderedFile("http.d/10-upstreams.conf", (unit,)),))
    (refusal,) = StructureGate(own_templates=False).refusals(rendered)
    assert refusal.services == ("web",)
    assert reason in refusal.reason


def test_a_template_of_the_operators_that_is_wrong_by_itself_is_nobodys_fault(tmp_path: Path) -> None:
    (tmp_path / "upstream.conf.j2").write_text("upstream {\n")
    rendered = _render(_neighbours(), tmp_path)
    with pytest.raises(CheckRefused, match="whatever the values are"):
        StructureGate(own_templates=True).refusals(rendered)


def test_operators_templates_may_say_more_than_ours(tmp_path: Path) -> None:
    text = (SHIPPED / "location.conf.j2").read_text()
    include = "{% include location.protocol_template %}"
    assert include in text
    (tmp_path / "location.conf.j2").write_text(text.replace(include, f"        gzip on;\n{include}"))
    rendered = _render(_neighbours(), tmp_path)
    assert "gzip on;" in rendered.contents["http.d/20-servers.conf"].decode()
    assert StructureGate(own_templates=True).refusals(rendered) == ()
    with pytest.raises(CheckRefused, match="gzip"):
        StructureGate(own_templates=False).refusals(rendered)


def test_operators_snippets_pass_with_what_they_say() -> None:
    rendered = _render(_neighbours(), **{"location-evil.conf": "        add_header X-Snippet yes;\n        gzip on;\n"})
    assert StructureGate(own_templates=True).refusals(rendered) == ()


def test_shapes_that_come_and_go_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service whose time-out changes for ever must not fill the memory with what it once looked like."""
    most, services = 200, 60
    for module in ("proxygen.proxy.render.twins", "proxygen.proxy.check.structure"):
        monkeypatch.setattr(f"{module}.MAX_SHAPES", most)
    renderer, gate = Renderer(Templates(), Surroundings(), Snippets()), StructureGate(own_templates=False)
    for round_ in range(5):
        start = 1 + round_ * services
        members = [
            instance(f"s{number}", number, f"route=s{number}.example.com", f"timeout={start + number}ms")
            for number in range(services)
        ]
        assert gate.refusals(renderer.render(plan(*members))) == ()
    # A shape is one of a service's and what all have in common.
    assert len(renderer._twins._inert) < most + services + 20
    assert len(gate._inert) < most + services + 20


def test_a_large_catalog_and_a_small_change_to_it_both_pass() -> None:
    members = [instance(f"s{number}", number, f"route=s{number}.example.com") for number in range(1, 120)]
    renderer, gate = Renderer(Templates(), Surroundings(), Snippets()), StructureGate(own_templates=False)
    assert gate.refusals(renderer.render(plan(*members))) == ()
    assert gate.refusals(renderer.render(plan(*members, instance("s1", 200, "route=s1.example.com")))) == ()
