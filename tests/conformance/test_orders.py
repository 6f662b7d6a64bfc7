"""What an instance's answer orders nginx to do, and where nginx itself leads a request: never to what is another's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.conformance.case import Sent
from tests.conformance.instance import Record
from tests.conformance.sending import exchange, unique
from tests.conformance.site import Service, Site, pair, proxied
from tests.harness.tools import NginxBinary

HOST: Final = "one.req.example.com"
AWAY: Final = ("/other/secret", "/own.html", "/.proxygen/14.grpc", "@proxygen_502", "@once_/other")
"""Another service's path, an internal one of the operator's, and ours."""
KINDS: Final = (Sent(), Sent(method="PUT", body=b"x"), Sent(headers=("Accept: text/event-stream",)))
OPERATORS: Final = {
    "server": "location = /own.html { internal; return 200 own; }",
    "server-ignores": (
        "location = /own.html { internal; return 200 own; } proxy_ignore_headers Set-Cookie X-Accel-Redirect;"
    ),
    "location-one": "proxy_ignore_headers Set-Cookie;",
    "conf": "proxy_ignore_headers Set-Cookie;",
}


@contextmanager
def _site(
    binary: NginxBinary, directory: Path, *, fragments: Mapping[str, str], http: str = "", accel: bool = False
) -> Iterator[Site]:
    (directory / "snippets").mkdir(parents=True)
    for name, text in fragments.items():
        (directory / "snippets" / f"{name}.conf").write_text(text)
    with ExitStack() as stack:
        record = Record()
        first, second = pair(record, stack)
        services = [
            Service(name="one", tags=(f"route={HOST}",), ports=(first,)),
            Service(name="strips", tags=(f"route={HOST}/p", "strip-prefix=true"), ports=(first,)),
            Service(name="other", tags=(f"route={HOST}/other",), ports=(second,)),
        ]
        settings = {"proxy.snippets": str(directory / "snippets"), "proxy.accel_headers": accel}
        yield stack.enter_context(proxied(binary, directory / "site", services, record, settings=settings, http=http))


def _asked(site: Site, sent: Sent, does: str) -> tuple[bytes, list[str]]:
    """The answer, and its headers of this kind."""
    asked = Sent(method=sent.method, body=sent.body, headers=sent.headers, does=does)
    reply = exchange(site, HOST, asked, "http")
    return reply.body, [name for name, _ in reply.headers or () if name.lower().startswith("x-accel")]


@pytest.mark.incident("T56")
@pytest.mark.parametrize("operator", OPERATORS)
def test_an_instance_leads_nobody_to_what_is_anothers(binary: NginxBinary, tmp_path: Path, operator: str) -> None:
    """Whatever else the operator has nginx ignore; and no client is told of it."""
    says = OPERATORS[operator]
    place = operator.removesuffix("-ignores")
    fragments = {} if operator == "conf" else {place: says}
    with _site(binary, tmp_path, fragments=fragments, http=says if operator == "conf" else "") as site:
        for sent in KINDS:
            for away in AWAY:
                assert _asked(site, sent, f"header:X-Accel-Redirect:{away}") == (b"hello", [])
        assert _asked(site, Sent(), "header:X-Accel-Limit-Rate:1") == (b"hello", [])
        done = subprocess.run([*site.nginx.command, "-t"], check=False, capture_output=True, text=True)
        assert "[warn]" not in done.stderr


def test_an_instance_leads_to_an_internal_path_where_the_operator_wants_it(binary: NginxBinary, tmp_path: Path) -> None:
    with _site(binary, tmp_path, fragments={"server": OPERATORS["server"]}, accel=True) as site:
        assert _asked(site, Sent(), "header:X-Accel-Redirect:/own.html") == (b"own", [])


def test_an_instance_can_have_its_answer_passed_on_at_once(binary: NginxBinary, tmp_path: Path) -> None:
    with _site(binary, tmp_path, fragments={}) as site, site.connect("") as connection:
        name = unique("unbuffered")
        connection.send(f"GET /?id={name}&do=unbuffered:{name} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        assert b"first" in connection.read_until(b"first")
        site.record.open(name)
        assert b"other" in connection.read_until(b"other")


@pytest.mark.incident("T43")
@pytest.mark.parametrize(
    ("fragments", "target", "seen"),
    [
        ({"location-strips": "proxy_intercept_errors on; error_page 404 = /p/page;"}, "/p/missing", "GET /page"),
        ({"location-strips": "proxy_intercept_errors on; error_page 404 /p/page;"}, "/p/missing", "GET /page"),
        ({"location-one": "proxy_intercept_errors on; error_page 404 = /p/page;"}, "/missing", "GET /page"),
        ({"server": "rewrite ^/p/old/(.*)$ /p/new/$1 last;"}, "/p/old/x", "GET /new/x"),
        ({"server": "if ($host) { rewrite ^/p/old/(.*)$ /p/new/$1 last; }"}, "/p/old/x", "GET /new/x"),
        ({"location-strips": "rewrite ^/p/old/(.*)$ /new/$1 break;"}, "/p/old/x", "GET /new/x"),
        ({"server": "location = /p/old/x { try_files /none /p/new/x; }"}, "/p/old/x", "GET /new/x"),
    ],
)
def test_where_the_operator_leads_a_request_is_where_it_goes(
    binary: NginxBinary, tmp_path: Path, fragments: dict[str, str], target: str, seen: str
) -> None:
    """And not to what the client wrote first."""
    with _site(binary, tmp_path, fragments=fragments) as site:
        name = unique("led")
        exchange(site, HOST, Sent(target=target, does="status:404"), "http", name=name)
        # A page has no query of its own, and so no name.
        received = [*site.record.of(name), *site.record.of("")]
        assert received[-1].line == seen
