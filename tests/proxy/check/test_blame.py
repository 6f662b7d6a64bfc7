"""Whose a message of nginx is."""

from __future__ import annotations

from itertools import count

import pytest

from proxygen.kit.templating import Templates
from proxygen.proxy.check.blame import Blame
from proxygen.proxy.check.messages import Message
from proxygen.proxy.render.rendered import Rendered
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.proxy.conftest import ReadConf
from tests.proxy.plan.catalogs import instance, plan

SERVERS = "http.d/20-servers.conf"


@pytest.fixture
def rendered() -> Rendered:
    planned = plan(instance("web", 1, "route=web.test"), instance("db", 2, "protocol=tcp", "listen=15432"))
    return Renderer(Templates(), Surroundings(), Snippets()).render(planned)


@pytest.fixture
def blame(read_conf: ReadConf, rendered: Rendered) -> Blame:
    return Blame(rendered, read_conf("http { include OUTPUT/current/http.d/*.conf; }"))


@pytest.mark.incident("T38")
@pytest.mark.parametrize(
    ("text", "services"),
    [
        ('"proxy_read_timeout" directive invalid value', ("web",)),
        ("protocol options redefined for 0.0.0.0:443", ()),
        ("a duplicate default server for 0.0.0.0:80", ()),
        ("duplicate listen options for 0.0.0.0:80", ()),
        ('"ssl_stapling" ignored, host not found in OCSP responder "x" in the certificate "/c.crt"', ()),
    ],
)
def test_what_a_tag_cannot_cause_is_nobodys_though_a_services_line_is_named(
    blame: Blame, rendered: Rendered, text: str, services: tuple[str, ...]
) -> None:
    """``listen`` and its options come from the operator's settings."""
    line = next(line for line in count(1) if rendered.owners_at(SERVERS, line))
    refusal = blame.of(Message(level="warn", text=text, file=SERVERS, line=line))
    assert (refusal.services if refusal else ()) == services


@pytest.mark.incident("T37")
@pytest.mark.parametrize(
    "text",
    [
        'duplicate "127.0.0.1:15432" address and port pair',
        'duplicate "[::]:15432" address and port pair',
        'conflicting server name "" on 0.0.0.0:15432, ignored',
        "bind() to 0.0.0.0:15432 failed (98: Address already in use)",
    ],
)
def test_a_port_is_its_claimants_whichever_line_is_named(blame: Blame, text: str) -> None:
    refusal = blame.of(Message(level="emerg", text=text, file="/etc/nginx/nginx.conf", line=7))
    assert refusal is not None
    assert refusal.services == ("db",)


@pytest.mark.incident("T36")
@pytest.mark.parametrize(
    ("name", "services"), [("web.test", ("web",)), (".web.test", ("web",)), ("*.web.test", ()), ("", ()), ("_", ())]
)
def test_a_host_is_its_claimants(blame: Blame, name: str, services: tuple[str, ...]) -> None:
    refusal = blame.of(Message(level="warn", text=f'conflicting server name "{name}" on 0.0.0.0:80, ignored'))
    assert (refusal.services if refusal else ()) == services
