"""Who is let in where both the operator and a tag say it: those whom each of them alone would let in.

The operator speaks in nginx.conf's ``http`` and in his fragments; nginx inherits ``allow``, ``deny``, ``limit_req`` and
``add_header`` all or nothing, and ``satisfy any`` makes an alternative of what both ask for.
"""

from __future__ import annotations

import base64
import itertools
import socket
import ssl
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.case import BALANCER, STRANGER, Sent
from tests.conformance.instance import Record, Switch
from tests.conformance.sending import exchange
from tests.conformance.site import Service, Site, pair, proxied
from tests.conformance.wire import Connection
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary

OPERATORS: Final = {
    "allow": "allow 127.0.1.0/24; deny all;",
    "deny": "deny 127.0.1.0/24;",
    "auth": "auth_basic own; auth_basic_user_file {own};",
    "both": "allow 127.0.1.0/24; deny all; auth_basic own; auth_basic_user_file {own};",
    "either": "satisfy any; allow 127.0.1.0/24; deny all; auth_basic own; auth_basic_user_file {own};",
    "any": "satisfy any;",
    "any-allow": "satisfy any; allow 127.0.1.0/24; deny all;",
}
TAGS: Final[dict[str, tuple[str, ...]]] = {
    "plain": (),
    "allow": ("allow=127.0.0.0/23",),
    "deny": ("deny=127.0.1.0/24",),
    "within": ("allow=127.0.0.0/16", "deny=127.0.1.0/24"),
    "all-but": ("allow=0.0.0.0/0", "deny=127.0.0.0/24"),
    "auth": ("auth=staff",),
    "auth-allow": ("auth=staff", "allow=127.0.1.0/24"),
}
PLACES: Final = ("server", "location")
SOURCES: Final = ("127.0.0.1", "127.0.1.1", "127.0.2.1")
USERS: Final = (None, "ada", "bob", "eve")
"""ada's password is the operator's and the tag's, bob's his alone, eve's the tag's alone."""
KINDS: Final = (Sent(), Sent(method="PUT", body=b"x"), Sent(headers=("Accept: text/event-stream",)))
"""Requests of which each kind goes by another location."""


TURNED_AWAY: Final[dict[str, set[str]]] = {
    "plain": set(),
    "allow": {"127.0.2.1"},
    "deny": {"127.0.1.1"},
    "within": {"127.0.1.1"},
    "all-but": {"127.0.0.1"},
    "auth": set(),
    "auth-allow": {"127.0.0.1", "127.0.2.1"},
}
"""Of the sources, by these tags alone."""


def _host(*parts: str) -> str:
    return f"{'-'.join(parts)}.req.example.com"


@dataclass(frozen=True, slots=True)
class Passwords:
    directory: Path

    @property
    def own(self) -> Path:
        return self.directory / "own"

    @property
    def settings(self) -> dict[str, object]:
        return {"proxy.htpasswd": str(self.directory / "tags"), "proxy.snippets": str(self.directory / "snippets")}


def _passwords(directory: Path) -> Passwords:
    for name in ("tags", "snippets"):
        (directory / name).mkdir(parents=True)
    found = Passwords(directory)
    for file, users in ((found.own, ("ada", "bob")), (directory / "tags" / "staff", ("ada", "eve"))):
        file.write_text("".join(f"{user}:{{PLAIN}}{user}\n" for user in users))
    return found


def _is_let_in(site: Site, host: str, source: str, user: str | None, sent: Sent) -> bool:
    status = _status(site, host, source, user, sent)
    assert status in {200, 401, 403}, status
    return status == 200


def _status(site: Site, host: str, source: str, user: str | None, sent: Sent) -> int | None:
    credentials = base64.b64encode(f"{user}:{user}".encode()).decode()
    headers = (*sent.headers, *([f"Authorization: Basic {credentials}"] if user else []))
    asked = Sent(method=sent.method, body=sent.body, headers=headers, source=source)
    return exchange(site, host, asked, "http").status


def _let_in(site: Site, host: str) -> frozenset[tuple[str, str | None]]:
    """Whom a host lets in, and that it is the same for every kind of request."""
    by_kind = {
        frozenset(who for who in itertools.product(SOURCES, USERS) if _is_let_in(site, host, *who, sent))
        for sent in KINDS
    }
    assert len(by_kind) == 1, by_kind
    return by_kind.pop()


@pytest.fixture(scope="module")
def fragmented(binary: NginxBinary, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """For each place, operator and set of tags a host of its own; and each set of tags with no operator."""
    directory = tmp_path_factory.mktemp(f"fragmented-{binary.name}")
    passwords = _passwords(directory / "operator")
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = []
        for place, (operator, says), (name, tags) in itertools.product(PLACES, OPERATORS.items(), TAGS.items()):
            host = _host(place, operator, name)
            services.append(_service(f"{place}-{operator}-{name}", host, tags, ports))
            of = host if place == "server" else services[-1].name
            (directory / "operator" / "snippets" / f"{place}-{of}.conf").write_text(says.format(own=passwords.own))
        services += [_service(f"alone-{name}", _host("alone", name), tags, ports) for name, tags in TAGS.items()]
        yield stack.enter_context(proxied(binary, directory / "site", services, record, settings=passwords.settings))


def _service(name: str, host: str, tags: tuple[str, ...], ports: Sequence[int]) -> Service:
    return Service(name=name, tags=(f"route={host}", *tags), ports=tuple(ports))


@pytest.mark.incident("T41")
@pytest.mark.parametrize("name", TAGS)
@pytest.mark.parametrize("operator", OPERATORS)
@pytest.mark.parametrize("place", PLACES)
def test_a_tag_only_narrows_what_a_fragment_allows(fragmented: Site, place: str, operator: str, name: str) -> None:
    """Who comes in by both comes in by each, and the other way round."""
    by_tags = {
        (source, user)
        for source, user in itertools.product(SOURCES, USERS)
        if source not in TURNED_AWAY[name] and ("auth" not in name or user in {"ada", "eve"})
    }
    alone = _let_in(fragmented, _host("alone", name))
    assert alone == by_tags
    without = _let_in(fragmented, _host(place, operator, "plain"))
    assert _let_in(fragmented, _host(place, operator, name)) == alone & without


@pytest.mark.incident("T41")
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_tag_only_narrows_what_nginx_conf_allows(
    fragmented: Site, binary: NginxBinary, tmp_path: Path, operator: str
) -> None:
    passwords = _passwords(tmp_path / "operator")
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [_service(name, _host(name), tags, ports) for name, tags in TAGS.items()]
        around = OPERATORS[operator].format(own=passwords.own)
        site = stack.enter_context(
            proxied(binary, tmp_path / "site", services, record, settings=passwords.settings, http=around)
        )
        without = _let_in(site, _host("plain"))
        for name in TAGS:
            assert _let_in(site, _host(name)) == _let_in(fragmented, _host("alone", name)) & without


@pytest.mark.incident("T41")
def test_an_alternative_of_the_operators_is_none_to_a_tags_password(binary: NginxBinary, tmp_path: Path) -> None:
    """Where his fragment leaves no other location to ask for it in, the service is refused."""
    passwords = _passwords(tmp_path / "operator")
    (tmp_path / "operator" / "snippets" / "location-auth.conf").write_text("location /sub { return 204; }")
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [_service(name, _host(name), TAGS[name], ports) for name in ("plain", "auth")]
        around = OPERATORS["any-allow"]
        site = stack.enter_context(
            proxied(binary, tmp_path / "site", services, record, settings=passwords.settings, http=around)
        )
        assert _let_in(site, _host("plain")) == {("127.0.1.1", user) for user in USERS}
        everybody = itertools.product(SOURCES, USERS, KINDS)
        assert {_status(site, _host("auth"), *each) for each in everybody} == {503}, "it is refused"


# --- the same in stream


@contextmanager
def _streams(
    binary: NginxBinary, directory: Path, tags: dict[str, tuple[str, ...]], *, around: str = "", fragment: str = ""
) -> Iterator[dict[str, int]]:
    """The ports of TCP services with these tags."""
    snippets = directory / "snippets"
    snippets.mkdir(parents=True)
    (snippets / "stream.conf").write_text(fragment)
    instance = Switch("instance")
    ports = {name: free_port() for name in tags}
    services = [
        Service(name=name, tags=("protocol=tcp", f"listen={ports[name]}", *more), ports=(instance.port,))
        for name, more in tags.items()
    ]
    settings = {"proxy.snippets": str(snippets), "proxy.stream_address": "127.0.0.1"}
    instance.open()
    try:
        with proxied(binary, directory / "site", services, Record(), settings=settings, stream=around):
            yield ports
    finally:
        instance.close()


def _streams_for(port: int) -> frozenset[str]:
    """The addresses from which the instance is reached."""
    found = set()
    for source in SOURCES:
        with socket.create_connection(("127.0.0.1", port), 60, (source, 0)) as client:
            try:
                answer = client.recv(100)
            except ConnectionResetError:
                answer = b""
            if answer:
                found.add(source)
    return frozenset(found)


STREAM_TAGS: Final = {name: tags for name, tags in TAGS.items() if not any(tag.startswith("auth") for tag in tags)}


@pytest.mark.incident("T41")
@pytest.mark.parametrize("is_fragment", [False, True])
@pytest.mark.parametrize(
    "says",
    [
        "allow 127.0.1.0/24; deny all;",
        "deny 127.0.1.0/24;",
        "deny 127.0.1.1; allow 127.0.0.0/8; allow unix:; deny all;",
        "allow all;",
    ],
)
def test_a_tag_only_narrows_what_stream_allows(
    binary: NginxBinary, tmp_path: Path, says: str, *, is_fragment: bool
) -> None:
    where = {"fragment": says} if is_fragment else {"around": says}
    with (
        _streams(binary, tmp_path / "alone", STREAM_TAGS) as alone,
        _streams(binary, tmp_path / "with", STREAM_TAGS, **where) as both,
    ):
        without = _streams_for(both["plain"])
        for name in STREAM_TAGS:
            assert _streams_for(alone[name]) == set(SOURCES) - TURNED_AWAY[name]
            assert _streams_for(both[name]) == _streams_for(alone[name]) & without


# --- what else is inherited all or nothing


@pytest.mark.incident("T41")
@pytest.mark.parametrize("place", ["conf", "http", "server", "location", "gated"])
def test_a_tags_rate_counts_beside_the_operators(binary: NginxBinary, tmp_path: Path, place: str) -> None:
    """His allows one request, the tag's hundred more; also where a tag's password is asked for before his."""
    passwords = _passwords(tmp_path / "operator")
    zone, limit = "limit_req_zone $binary_remote_addr zone=own:1m rate=1r/m;", "limit_req zone=own;"
    fragments = {"http": "http", "server": "server", "location": "location-rated", "gated": "location-rated"}
    if place == "gated":
        limit += f" auth_basic own; auth_basic_user_file {passwords.own};"
    if place in fragments:
        (tmp_path / "operator" / "snippets" / f"{fragments[place]}.conf").write_text(limit)
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        service = _service("rated", _host("rated"), ("rate=100r/s:100", "auth=staff"), ports)
        around = f"{zone} {limit}" if place == "conf" else zone
        site = stack.enter_context(
            proxied(binary, tmp_path / "site", [service], record, settings=passwords.settings, http=around)
        )
        ada = Sent(headers=("Authorization: Basic YWRhOmFkYQ==",))
        assert [exchange(site, _host("rated"), ada, "http").status for _ in range(3)] == [200, 429, 429]


@pytest.mark.incident("T41")
@pytest.mark.parametrize("place", ["conf", "http", "server"])
def test_a_tags_headers_stand_beside_the_operators(binary: NginxBinary, tmp_path: Path, place: str) -> None:
    passwords = _passwords(tmp_path / "operator")
    says = "add_header X-Own own always; proxy_set_header X-Passed own; proxy_set_header Host evil;"
    if place != "conf":
        says = says.partition(" proxy_set")[0] if place == "server" else says
        (tmp_path / "operator" / "snippets" / f"{place}.conf").write_text(says)
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        services = [
            _service("plain", _host("plain"), (), ports),
            Service(
                name="all",
                tags=(f"route={_host('all')}", "tls=auto", "hsts=true", "sticky=cookie", "auth=staff"),
                second=("canary=50%",),
                ports=tuple(ports),
            ),
        ]
        around = says if place == "conf" else ""
        site = stack.enter_context(
            proxied(binary, tmp_path / "site", services, record, settings=passwords.settings, http=around)
        )
        ada = Sent(headers=("Authorization: Basic YWRhOmFkYQ==",))
        for name, sent, status in (("plain", Sent(), 200), ("all", ada, 200), ("all", Sent(), 401)):
            reply = exchange(site, _host(name), sent, "http" if name == "plain" else "tls", name=f"{place}.{name}")
            assert (reply.status, reply.values("X-Own")) == (status, ["own"])
        assert reply.values("Strict-Transport-Security") != []
        if place != "server":
            (received,) = record.of(f"{place}.all")
            assert (received.values("X-Passed"), received.values("Host")) == (["own"], [_host("all")])


@pytest.mark.incident("T41")
@pytest.mark.parametrize("place", ["conf", "http"])
def test_a_tag_opens_no_version_of_tls_that_the_operator_shut(binary: NginxBinary, tmp_path: Path, place: str) -> None:
    passwords = _passwords(tmp_path / "operator")
    says = "ssl_protocols TLSv1.3;"
    (tmp_path / "operator" / "snippets" / "http.conf").write_text(says if place == "http" else "")
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        service = _service("secure", _host("secure"), ("tls=auto",), ports)
        around = says if place == "conf" else ""
        site = stack.enter_context(
            proxied(binary, tmp_path / "site", [service], record, settings=passwords.settings, http=around)
        )
        assert exchange(site, _host("secure"), Sent(), "tls13").status == 200
        older = ssl.create_default_context(cadata=site.authority.pem.decode())
        older.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            Connection(port=site.https, tls=older, name=_host("secure"))


@pytest.mark.incident("T41")
def test_who_a_trusted_proxy_says_a_client_is_decides_whether_it_is_let_in(binary: NginxBinary, tmp_path: Path) -> None:
    with ExitStack() as stack:
        record = Record()
        ports = pair(record, stack)
        service = _service("far", _host("far"), ("allow=203.0.113.0/24",), ports)
        settings = {"proxy.trusted_proxies": f"{BALANCER}/32"}
        site = stack.enter_context(proxied(binary, tmp_path / "site", [service], record, settings=settings))
        for source, said, status in (
            (BALANCER, "203.0.113.9", 200),
            (BALANCER, "198.51.100.9", 403),
            (STRANGER, "203.0.113.9", 403),
        ):
            sent = Sent(headers=(f"X-Forwarded-For: {said}",), source=source)
            assert exchange(site, _host("far"), sent, "http").status == status


def test_nginx_takes_whatever_stands_on_both_sides(binary: NginxBinary, tmp_path: Path) -> None:
    """Nothing is said twice in one block, and no zone is unknown: neither an error nor a warning."""
    passwords = _passwords(tmp_path / "operator")
    around = (
        "limit_req_zone $binary_remote_addr zone=own:1m rate=1000r/s; limit_req zone=own burst=5 nodelay;"
        "limit_conn_zone $binary_remote_addr zone=conn:1m; limit_conn conn 100; satisfy any;"
        f'auth_basic own; auth_basic_user_file {passwords.own}; add_header X-Own "a;b\\"c $host";'
        "proxy_ignore_headers Set-Cookie X-Accel-Redirect; grpc_ignore_headers X-Accel-Charset;"
        "fastcgi_param APP own; uwsgi_param APP own; proxy_next_upstream error timeout http_503;"
        "proxy_set_header X-Own own; grpc_set_header X-Own own; grpc_set_header Host own;"
    )
    (tmp_path / "operator" / "snippets" / "location-web.conf").write_text(
        "limit_req zone=own; limit_req_status 503; client_max_body_size 1m; proxy_ignore_headers Vary X-Accel-Charset;"
    )
    (tmp_path / "operator" / "snippets" / "server-grpc.req.example.com.conf").write_text(
        "proxy_ignore_headers X-Accel-Redirect; grpc_ignore_headers X-Accel-Redirect X-Accel-Charset;"
    )
    tags = ("rate=100r/s:100", "auth=staff", "allow=0.0.0.0/0,::/0", "deny=::1/128,127.0.0.0/8", "body-size=2m")
    services = [
        Service(name=name, tags=(f"route={_host(name)}/p", f"protocol={protocol}", *tags), ports=(1,))
        for name, protocol in (("web", "http"), ("grpc", "grpc"), ("php", "fastcgi"), ("wsgi", "uwsgi"))
    ]
    with proxied(binary, tmp_path / "site", services, Record(), settings=passwords.settings, http=around) as site:
        done = subprocess.run([*site.nginx.command, "-t"], check=False, capture_output=True, text=True)
        assert (done.returncode, "[warn]" in done.stderr) == (0, False), done.stderr
        assert "quarantine" not in site.said
