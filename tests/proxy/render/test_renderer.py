"""Rendering: the same plan gives the same bytes, however it was reached, and every line has its owner."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxygen.catalog import Health, Instance
from proxygen.kit.errors import TemplateError
from proxygen.kit.templating import Templates
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.types import Certificate, Memory, Plan, Policy
from proxygen.proxy.render.renderer import MAX_PAGE, Rendered, Renderer, _hash_sizes
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests import golden
from tests.harness.examples import examples
from tests.proxy.plan.catalogs import catalog, instance, plan

TEMPLATES = Templates()


def render(planned: Plan, *, around: Surroundings | None = None, **snippets: str) -> Rendered:
    files = {f"{name.replace('_', '-')}.conf": text for name, text in snippets.items()}
    return Renderer(TEMPLATES, around or Surroundings(), Snippets(files=files)).render(planned)


def text(rendered: Rendered, path: str = "http.d/20-servers.conf") -> str:
    return rendered.contents[path].decode()


# --- the files themselves


def test_a_small_catalog_becomes_the_files_that_the_manual_shows() -> None:
    """tests/golden holds the catalog and the files; ``python -m tests.golden`` writes them anew."""
    files = golden.rendered().contents
    expected = {f"{path.parent.name}/{path.name}": path.read_text() for path in golden.HERE.glob("*.d/*.conf")}
    assert {path: content.decode() for path, content in files.items()} == expected


def test_an_empty_catalog_still_answers_unknown_hosts() -> None:
    rendered = render(plan())
    assert [file.path for file in rendered.files] == ["http.d/00-http.conf", "http.d/20-servers.conf"]
    assert "return 404" in text(rendered)


def test_a_service_that_nobody_can_serve_keeps_its_route_and_names_nothing_that_is_not_declared() -> None:
    """The limit's zone stands beside the upstreams; without them nginx would refuse it, and with it everybody."""
    planned = plan(instance("a", 1, "route=a.example.com", "rate=1r/s", "sticky=cookie", health=Health.CRITICAL))
    servers = text(render(planned))
    assert "server_name a.example.com;" in servers
    assert "limit_req" not in servers
    assert "$svc_" not in servers


def test_a_service_with_several_ports_declares_its_upstream_once() -> None:
    members = [instance("db", number, "protocol=tcp", f"listen={5430 + number}") for number in (1, 2)]
    streams = text(render(plan(*members)), "stream.d/streams.conf")
    assert streams.count("upstream ") == 1
    assert (streams.count("listen 5431;"), streams.count("listen 5432;")) == (1, 1)


def test_operators_snippets_stand_where_their_names_say() -> None:
    planned = plan(
        instance("web", 1, "route=web.example.com"),
        instance("api", 2, "route=api.example.com"),
        instance("db", 3, "protocol=tcp", "listen=5432"),
    )
    rendered = render(
        planned,
        http="# in http",
        server="# in every server",
        server_web_example_com="# unknown",
        location_api="# in api",
        stream="# in stream",
    )
    assert text(rendered, "http.d/00-http.conf").count("# in http\n") == 1
    servers = text(rendered)
    assert servers.count("# in every server\n") == servers.count("server {")
    api = servers.index("# in api\n")
    assert servers.rindex("server {", 0, api) == servers.rindex("server {", 0, servers.rindex("# in api\n"))
    assert text(rendered, "stream.d/streams.conf").count("# in stream\n") == 1


@pytest.mark.parametrize("page", ["$http_cookie", "x" * 4_000])
def test_a_page_that_nginx_could_not_take_is_refused(page: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("templates")
    (directory / "404.html").write_text(page)
    with pytest.raises(TemplateError, match=r"404\.html"):
        Renderer(Templates(directory), Surroundings(), Snippets())


def test_a_page_says_what_became_of_its_request(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("templates")
    (directory / "404.html").write_text("<b>{{status}} {{reason}}</b>\n{{request_id}} {{other}}")
    rendered = Renderer(Templates(directory), Surroundings(), Snippets()).render(plan())
    page = '"<b>${status} ${proxygen_reason}</b>\n${proxygen_request_id} {{other}}"'
    assert page in text(rendered, "http.d/00-http.conf")


# --- the same bytes


_TAGS = st.lists(
    st.sampled_from(
        [
            "route=a.example.com",
            "route=b.example.com/p",
            "route=*.example.com",
            "route=/any",
            "canary=10%",
            "canary=0%",
            "variant=blue:20%",
            "sticky=cookie",
            "force=header:X-Canary",
            "weight=3",
            "weight=heavy",
            "balance=hash:$uri",
            "rate=5r/s",
            "timeout=5s",
            "strip-prefix=true",
            "tls=auto",
            "protocol=tcp",
            "protocol=grpc",
            "listen=5432",
            "listen=5433",
        ]
    ),
    max_size=6,
    unique=True,
)
_INSTANCES = st.lists(
    st.builds(
        lambda service, number, tags, health, weight: instance(
            service, number, *tags, health=health, weight_passing=weight
        ),
        st.sampled_from(["a", "b", "c", "d"]),
        st.integers(1, 6),
        _TAGS,
        st.sampled_from([Health.PASSING, Health.PASSING, Health.WARNING, Health.CRITICAL]),
        st.integers(0, 3),
    ),
    max_size=10,
    unique_by=lambda one: (one.service, one.key),
)
_POLICY = Policy(
    certificates=(Certificate(name="c", hosts=("*.example.com",), certificate="/c", key="/k", fingerprint="f"),)
)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(_INSTANCES, min_size=2, max_size=5), st.sampled_from([0, 1, 3]))
def test_what_is_rendered_after_other_catalogs_is_what_is_rendered_alone(
    history: list[list[Instance]], share_from: int
) -> None:
    """Nothing that the planner and the renderer remember shows in the result."""
    around = Surroundings(share_from=share_from)
    planner, renderer, memory = Planner(_POLICY), Renderer(TEMPLATES, around, Snippets()), Memory()
    for members in history:
        now = catalog(*members)
        planned = planner.plan(now, memory, {})
        fresh = Planner(_POLICY).plan(now, memory, {})
        assert planned == fresh
        incremental, alone = renderer.render(planned), render(fresh, around=around)
        assert incremental.contents == alone.contents
        assert incremental.digest == alone.digest
        memory = planned.memory


@settings(max_examples=examples(30), deadline=None)
@given(_INSTANCES, st.randoms(use_true_random=False))
def test_the_order_in_which_consul_lists_things_does_not_show(members: list[Instance], random: object) -> None:
    shuffled = list(members)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert render(plan(*members, policy=_POLICY)).contents == render(plan(*shuffled, policy=_POLICY)).contents


def test_a_change_in_one_service_changes_no_other_services_lines() -> None:
    others = [instance(name, number, f"route={name}.example.com") for number, name in enumerate("xyz", 1)]
    before = render(plan(*others, instance("web", 9, "route=web.example.com")))
    after = render(plan(*others, instance("web", 9, "route=web.example.com", "rate=1r/s", "canary=5%", "timeout=1s")))
    changed = {name for name in ("x", "y", "z", "web") if _lines_of(before, name) != _lines_of(after, name)}
    assert changed == {"web"}


def test_a_renewed_certificate_makes_another_configuration() -> None:
    """Its path is the same; without its fingerprint in the text nothing would be reloaded."""
    one = instance("web", 1, "route=web.example.com", "tls=auto")
    old = _POLICY.certificates[0]
    renewed = Policy(certificates=(dataclasses.replace(old, fingerprint="g"),))
    assert render(plan(one, policy=_POLICY)).digest != render(plan(one, policy=renewed)).digest


# --- owners


def test_every_line_of_a_service_is_owned_by_it() -> None:
    planned = plan(
        instance("one", 1, "route=shared.example.com", "rate=1r/s", port=1001),
        instance("two", 2, "route=shared.example.com/two", "timeout=2s", port=1002),
        instance("three", 3, "route=own.example.com", port=1003),
        instance("four", 4, "protocol=tcp", "listen=5432", port=1004),
    )
    rendered = render(planned)
    idents = {service.ident: service.name for service in planned.services}
    seen = set()
    for file in rendered.files:
        for number, line in enumerate(file.text.splitlines(), 1):
            for ident, name in idents.items():
                if ident in line:
                    assert file.owners_at(number) == (name,), (file.path, number, line)
                    seen.add(name)
    assert seen == {"one", "two", "three", "four"}


def test_a_shared_line_is_owned_by_all_who_share_it() -> None:
    planned = plan(instance("one", 1, "route=shared.example.com"), instance("two", 2, "route=shared.example.com/two"))
    (servers,) = [file for file in render(planned).files if file.path == "http.d/20-servers.conf"]
    line = servers.text.splitlines().index("    server_name shared.example.com;") + 1
    assert servers.owners_at(line) == ("one", "two")


def _lines_of(rendered: Rendered, name: str) -> list[str]:
    return [
        line
        for file in rendered.files
        for number, line in enumerate(file.text.splitlines(), 1)
        if file.owners_at(number) == (name,)
    ]


@pytest.mark.parametrize(
    ("services", "variables", "hosts", "names"),
    [(0, 4096, 0, 4096), (682, 4096, 2047, 4096), (683, 8192, 2048, 8192), (1366, 16384, 4097, 16384)],
)
def test_tables_have_room_for_all_names_in_powers_of_two(services: int, variables: int, hosts: int, names: int) -> None:
    """The default server is one of the virtual servers."""
    some = plan(instance("web", 1, "route=web.example.com"))
    many = dataclasses.replace(some, services=some.services * services, servers=some.servers[:1] * (hosts + 1))
    sizes = {size.directive: size.value for size in _hash_sizes(many)}
    assert sizes == {
        "server_names_hash_bucket_size": 512,
        "server_names_hash_max_size": names,
        "map_hash_bucket_size": 512,
        "map_hash_max_size": 4096,
        "variables_hash_bucket_size": 256,
        "variables_hash_max_size": variables,
    }


def test_what_the_operator_says_himself_is_not_said_again() -> None:
    """Each may stand only once; what he says in http says nothing of stream."""
    around = Surroundings(
        operator_directives=frozenset({"map_hash_max_size"}),
        operator_stream_directives=frozenset({"variables_hash_bucket_size"}),
    )
    members = [instance("web", 1, "route=web.example.com"), instance("db", 2, "protocol=tcp", "listen=5432")]
    rendered = render(plan(*members), around=around)
    directives = {
        path: {line.split()[0] for line in text(rendered, path).splitlines() if "_hash_" in line}
        for path in ("http.d/00-http.conf", "stream.d/00-stream.conf")
    }
    assert directives["http.d/00-http.conf"] == {
        f"{table}_hash_{what}_size" for table in ("server_names", "map", "variables") for what in ("bucket", "max")
    } - {"map_hash_max_size"}
    assert directives["stream.d/00-stream.conf"] == {"variables_hash_max_size"}


@pytest.mark.parametrize(
    ("tags", "reject_handshake", "is_rejected"),
    [
        (("route=web.example.com", "tls=c"), True, True),
        (("route=web.example.com", "tls=c"), False, False),
        (("route=web.example.com",), True, False),
        (("route=/", "tls=c"), True, False),
    ],
)
def test_tls_for_other_names_is_rejected_where_some_host_has_it_and_the_default_has_none(
    tags: tuple[str, ...], *, reject_handshake: bool, is_rejected: bool
) -> None:
    around = Surroundings(reject_handshake=reject_handshake)
    rendered = render(plan(instance("web", 1, *tags), policy=_POLICY), around=around)
    assert ("ssl_reject_handshake on;" in text(rendered, "http.d/00-http.conf")) is is_rejected


@pytest.mark.parametrize(("written", "read"), [("a", "a\n"), ("a\n", "a\n"), ("", "\n")])
def test_a_fragment_ends_with_its_line(written: str, read: str) -> None:
    assert Snippets(files={"http.conf": written})["http.conf"] == (read,)
    assert Snippets()["http.conf"] == ()


@pytest.mark.parametrize("length", [MAX_PAGE, MAX_PAGE + 1])
def test_a_page_may_have_as_many_bytes_as_nginx_reads(length: int, tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = tmp_path_factory.mktemp("templates")
    (directory / "503.html").write_text("ä" * (length // 2) + "x" * (length % 2))
    if length == MAX_PAGE:
        Renderer(Templates(directory), Surroundings(), Snippets())
    else:
        with pytest.raises(TemplateError, match=r"503\.html"):
            Renderer(Templates(directory), Surroundings(), Snippets())


def test_a_stream_with_the_operators_fragment_is_nobodys_alone_and_http_is_told_from_it() -> None:
    members = [instance("web", 1, "route=web.example.com"), instance("db", 2, "protocol=tcp", "listen=5432")]
    for snippets, owners in (({}, ("db",)), ({"stream": "# mine"}, ())):
        files = {file.path: file for file in render(plan(*members), **snippets).files}
        assert files["stream.d/streams.conf"].owners_at(1) == owners
        assert files["http.d/10-upstreams.conf"].owners_at(1) == ("web",)
        assert "_db_" not in files["http.d/10-upstreams.conf"].text


def test_a_unit_says_which_upstreams_and_servers_the_plan_means() -> None:
    planned = plan(
        instance("web", 1, "route=web.example.com"), instance("web", 2, "route=web.example.com", "canary=5%")
    )
    (file,) = [file for file in render(planned).files if file.path == "http.d/10-upstreams.conf"]
    stable, canary = (each.name for each in planned.services[0].upstreams)
    assert [unit.upstreams for unit in file.units] == [
        ((stable, ("10.0.0.1:8080",)), (canary, ("10.0.0.2:8080", "10.0.0.1:8080")))
    ]


def test_a_quarantined_service_holds_its_ports_in_both_protocols() -> None:
    bad = [
        instance("db", 1, "protocol=tcp", "listen=5431", "weight=x"),
        instance("db", 2, "protocol=udp", "listen=5432", "weight=x"),
    ]
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets())
    for _ in range(2):
        streams = text(renderer.render(plan(*bad)), "stream.d/streams.conf")
        assert [line.strip() for line in streams.splitlines() if "listen" in line] == [
            "listen 5431;",
            "listen 5432 udp reuseport;",
        ]


def test_a_stream_that_changes_is_written_anew() -> None:
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets())
    for tags in (("listen=5432",), ("listen=5433",), ("listen=5433", "timeout=500ms"), ("listen=5432",)):
        planned = plan(instance("db", 1, "protocol=tcp", *tags))
        assert renderer.render(planned).contents == render(planned).contents


def test_a_stream_that_did_not_change_is_not_rendered_again() -> None:
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets())
    first, second = (
        renderer.render(plan(instance("db", 1, "protocol=tcp", "listen=5432"), *more)).files
        for more in ((), (instance("web", 2, "route=web.example.com"),))
    )
    assert first[-1].path == second[-1].path == "stream.d/streams.conf"
    assert first[-1].units[0] is second[-1].units[0]


def test_what_is_shared_is_rendered_again_only_where_it_says_something_else() -> None:
    renderer = Renderer(TEMPLATES, Surroundings(), Snippets())
    web, api = (
        instance("web", 1, "route=web.example.com"),
        instance("api", 2, "route=api.example.com/v1", "strip-prefix=true"),
    )
    first, second, third = (renderer.render(plan(*each)) for each in ((web,), (web, instance("x", 3)), (web, api)))
    assert first.files[0].units[0] is second.files[0].units[0]
    assert first.files[0].units[0].text != third.files[0].units[0].text
    assert third.contents == render(plan(web, api)).contents
