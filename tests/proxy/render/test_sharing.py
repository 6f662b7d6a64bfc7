"""Hosts that share a virtual server: only those that nobody can tell apart from hosts with one of their own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.catalog import Health, Instance
from proxygen.kit.templating import Templates
from proxygen.proxy.check.structure import StructureGate
from proxygen.proxy.plan.types import Authorities
from proxygen.proxy.render.locations import location_view
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.sharing import HOSTS_EACH, Kinds
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.proxy.render.virtual_servers import server_view
from tests.proxy.plan.catalogs import instance, plan

_ALONE = "http.d/20-servers.conf"
_SHARED = "http.d/30-shared-servers.conf"
_SHARING = Surroundings(share_from=1)


def _render(*members: Instance, around: Surroundings = _SHARING, own: Path | None = None, **snippets: str) -> Rendered:
    files = {f"{name.replace('_', '-')}.conf": text for name, text in snippets.items()}
    return Renderer(Templates(own), around, Snippets(files=files)).render(plan(*members))


def _plain(number: int, *more: str) -> Instance:
    return instance(f"plain-{number}", number, f"route=plain-{number}.example.com", *more)


def _names(rendered: Rendered, path: str) -> set[str]:
    return {name for file in rendered.files if file.path == path for unit in file.units for name in unit.names}


def test_hosts_that_differ_in_their_target_only_share_a_virtual_server() -> None:
    rendered = _render(_plain(1), _plain(2), _plain(3))
    assert _names(rendered, _SHARED) == {f"plain-{number}.example.com" for number in (1, 2, 3)}
    assert _names(rendered, _ALONE) == {"_"}
    text = rendered.contents[_SHARED].decode()
    assert (text.count("server {"), text.count("proxy_pass ")) == (1, 3)
    for number in (1, 2, 3):
        (upstream,) = [
            name
            for file in rendered.files
            for unit in file.units
            for name, _ in unit.upstreams
            if f"_plain_{number}_" in name
        ]
        assert f"\n    plain-{number}.example.com http://{upstream};\n" in text
    assert StructureGate(own_templates=False).refusals(rendered) == ()


def test_hosts_share_with_their_like_only() -> None:
    slow = [_plain(number, "timeout=9s") for number in (3, 4)]
    rendered = _render(_plain(1), _plain(2), *slow, _plain(5, "timeout=8s"))
    (file,) = [file for file in rendered.files if file.path == _SHARED]
    assert {frozenset(unit.names) for unit in file.units} == {
        frozenset({"plain-1.example.com", "plain-2.example.com"}),
        frozenset({"plain-3.example.com", "plain-4.example.com"}),
    }
    assert "plain-5.example.com" in _names(rendered, _ALONE)


def test_hosts_with_verified_instances_share_with_their_like_and_others_load_no_authority() -> None:
    around = replace(_SHARING, upstream_ca=Authorities(file="/ca.pem", fingerprint="aa"))
    spoken = [_plain(number, f"protocol={name}") for number, name in enumerate(("https", "grpcs", "http") * 2)]
    rendered = _render(*spoken, around=around)
    text = rendered.contents[_SHARED].decode()
    servers = {
        kind: server
        for server in text.split("\nserver {")[1:]
        for kind in ("proxy", "grpc")
        if f"{kind}_ssl_trusted_certificate /ca.pem;" in server
    }
    assert servers.keys() == {"proxy", "grpc"}
    assert text.count("server {") == 3
    assert "grpc_ssl_verify on;" in servers["grpc"]
    assert "proxy_ssl_verify on;" in servers["proxy"]
    assert text.count("/ca.pem") == 2
    assert StructureGate(own_templates=False).refusals(rendered) == ()


@pytest.mark.parametrize(
    "odd",
    [
        instance("odd", 9, "route=*.odd.example.com"),
        # Words that nginx obeys in a map.
        instance("odd", 9, "route=default"),
        instance("odd", 9, "route=include"),
        instance("odd", 9, "route=odd.example.com", "route=odd.example.com/more"),
        instance("odd", 9, "route=odd.example.com", "rate=5r/s"),
        instance("odd", 9, "route=odd.example.com", "canary=10%", "force=header:X-Canary"),
        instance("odd", 9, "route=odd.example.com", health=Health.CRITICAL),
        instance("odd", 9, "route=odd.example.com", "weight=heavy"),
        instance("snipped", 9, "route=odd.example.com"),
    ],
    ids=lambda one: " ".join(one.tags) or one.health,
)
def test_what_needs_something_of_its_own_has_a_virtual_server_of_its_own(odd: Instance) -> None:
    """Beside two of its like, so that it is not alone for lack of company."""
    like = [
        replace(odd, id=f"like-{number}", tags=tuple(tag.replace("odd", f"like-{number}") for tag in odd.tags))
        for number in (1, 2)
        if "odd" in odd.tags[0]
    ]
    like = [replace(one, service=type(one.service)(f"{one.service}-{one.id}")) for one in like]
    snippets = {f"location_{name}": "# mine" for name in ("snipped", "snipped_like_1", "snipped_like_2")}
    rendered = _render(_plain(1), _plain(2), odd, *like, **snippets)
    assert _names(rendered, _SHARED) == {"plain-1.example.com", "plain-2.example.com"}
    assert {odd.tags[0].partition("=")[2].partition("/")[0]} <= _names(rendered, _ALONE)
    assert StructureGate(own_templates=True).refusals(rendered) == ()


def test_below_the_set_number_of_hosts_every_host_has_its_own() -> None:
    members = [_plain(number) for number in range(1, 10)]
    for share_from, shares in ((0, False), (11, False), (10, True)):
        # The default server counts too.
        rendered = _render(*members, around=Surroundings(share_from=share_from))
        assert (_SHARED in rendered.contents) is shares


def test_an_operators_own_template_knows_one_host(tmp_path: Path) -> None:
    shipped = Templates().read("server.conf.j2")
    (tmp_path / "server.conf.j2").write_text(
        shipped.replace("server_name {{ name | q }}", "server_name {{ server.name | q }}")
    )
    rendered = _render(_plain(1), _plain(2), own=tmp_path)
    assert _names(rendered, _ALONE) == {"_", "plain-1.example.com", "plain-2.example.com"}
    assert StructureGate(own_templates=True).refusals(rendered) == ()


def test_a_line_that_names_a_host_is_its_services_and_the_common_location_everybodys() -> None:
    (file,) = [file for file in _render(_plain(1), _plain(2)).files if file.path == _SHARED]
    for number, line in enumerate(file.text.splitlines(), 1):
        named = tuple(f"plain-{which}" for which in (1, 2) if f"plain-{which}.example.com" in line)
        if named:
            assert file.owners_at(number) == named, line
        elif "proxy_pass" in line:
            assert file.owners_at(number) == ("plain-1", "plain-2")
        elif "listen" in line:
            assert file.owners_at(number) == ()


def test_one_host_more_changes_no_other_shared_virtual_server() -> None:
    members = [_plain(number) for number in range(1, 20 * HOSTS_EACH)]
    renderer = Renderer(Templates(), _SHARING, Snippets())
    before, after = (
        {unit for file in renderer.render(plan(*some)).files if file.path == _SHARED for unit in file.units}
        for some in (members, [*members, _plain(9_999)])
    )
    assert len(after) == len(before)
    assert len(before - after) == 1
    assert max(len(unit.names) for unit in after) < 2 * HOSTS_EACH


def test_a_host_that_leads_to_no_upstream_is_refused_before_nginx() -> None:
    """In a map nginx looks for it at a request only."""
    rendered = _render(_plain(1), _plain(2))
    kept = tuple(file for file in rendered.files if file.path != "http.d/10-upstreams.conf")
    refusals = StructureGate(own_templates=False).refusals(replace(rendered, files=kept))
    assert {refusal.reason.partition(" ")[0] for refusal in refusals} == {"plain-1.example.com", "plain-2.example.com"}


def test_a_target_that_is_not_the_plans_is_refused() -> None:
    rendered = _render(_plain(1), _plain(2))
    files = []
    for file in rendered.files:
        units = tuple(
            replace(
                unit, text=type(unit.text)(unit.text.replace("plain-1.example.com http:", "plain-3.example.com http:"))
            )
            for unit in file.units
        )
        files.append(replace(file, units=units))
    (refusal,) = StructureGate(own_templates=False).refusals(replace(rendered, files=tuple(files)))
    assert "plain-3.example.com" in refusal.reason


def test_a_service_with_a_limit_of_its_own_shares_not_even_with_itself() -> None:
    """What names the service is not the same for all hosts of a virtual server."""
    two = instance("two", 1, "route=a.two.example.com", "route=b.two.example.com", "rate=5r/s")
    assert _names(_render(two, _plain(2), _plain(3)), _SHARED) == {"plain-2.example.com", "plain-3.example.com"}
    unlimited = replace(two, tags=two.tags[:2])
    assert {"a.two.example.com", "b.two.example.com"} <= _names(_render(unlimited, _plain(2)), _SHARED)


def test_hosts_of_one_kind_have_it_as_one_object() -> None:
    """They are compared by it, at every plan."""
    kinds = Kinds()
    found = []
    for server in plan(_plain(1), _plain(2), _plain(3, "timeout=9s")).servers[1:]:
        locations = [location_view(each, server, _SHARING, Snippets()) for each in server.locations]
        sharer = kinds.sharer(server, server_view(server, _SHARING, Snippets()), locations)
        assert sharer is not None
        found.append(sharer.kind)
    assert found[0] is found[1]
    assert found[0] is not found[2]
    assert found[0].mark != found[2].mark
