"""The law of keys: what a registration states either changes what nginx gets, or something says that it does not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

import pytest

from proxygen.catalog import ServiceName
from proxygen.kit.templating import Templates
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Certificate, Plan, Policy
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from proxygen.tags import KEYS, Combine, Key, Protocol, lint_tags, parse_tags, without_effect
from tests.proxy.plan.catalogs import catalog, instance, service

HOST: Final = "web.example.com"
RENDERER: Final = Renderer(Templates(), Surroundings(), Snippets())
CERTIFICATE: Final = Certificate(name="c", hosts=(HOST,), certificate="/c.crt", key="/c.key", fingerprint="ff")
POLICY: Final = Policy(certificates=(CERTIFICATE,), htpasswd={"staff": "/h/staff"})


@dataclass(frozen=True, slots=True)
class Stated:
    """A value that is not the key's default, and what other tags it needs to come to something."""

    value: str
    beside: tuple[str, ...] = ()


CORPUS: Final = MappingProxyType(
    {
        "route": Stated(f"{HOST}/more"),
        "canary": Stated("20%"),
        "variant": Stated("blue:20%"),
        "sticky": Stated("ip"),
        "force": Stated("header:X-Canary"),
        "weight": Stated("5"),
        "balance": Stated("least_conn"),
        "failover": Stated("dc2"),
        "listen": Stated("5433"),
        "strip-prefix": Stated("true", (f"route={HOST}/below",)),
        "redirect-https": Stated("true", ("tls=c",)),
        "hsts": Stated("true", ("tls=c",)),
        "websocket": Stated("false"),
        "tls": Stated("c"),
        "timeout": Stated("77s"),
        "idle-timeout": Stated("77s"),
        "connect-timeout": Stated("7s"),
        "body-size": Stated("7m"),
        "request-buffering": Stated("false"),
        "response-buffering": Stated("false"),
        "max-fails": Stated("7"),
        "fail-timeout": Stated("77s"),
        "retries": Stated("7"),
        "retries-unsafe": Stated("true"),
        "keepalive": Stated("7"),
        "keepalive-timeout": Stated("77s"),
        "rate": Stated("7r/s"),
        "allow": Stated("10.0.0.0/8"),
        "deny": Stated("192.0.2.0/24"),
        "auth": Stated("staff"),
    }
)
"""Of each key but `protocol`, whose values are compared with each other."""

KEYS_BESIDE_PROTOCOL: Final = tuple(key for key in KEYS if key.name != "protocol")
HOLDING: Final = tuple(
    (key, protocol) for key in KEYS_BESIDE_PROTOCOL for protocol in Protocol if protocol in key.protocols
)
NOT_HOLDING: Final = tuple(
    (key, protocol) for key in KEYS_BESIDE_PROTOCOL for protocol in Protocol if protocol not in key.protocols
)


def name_of(value: object) -> str:
    return value.name if isinstance(value, Key) else str(value)


def tags_without(key: Key, protocol: Protocol) -> tuple[str, ...]:
    """The smallest tags beside which a key can come to something."""
    is_known = key.name in CORPUS
    assert is_known, f"give {key.name} a value in CORPUS, and what it needs"
    asked = "listen=5432" if protocol.is_stream else f"route={HOST}"
    return (*CORPUS[key.name].beside, f"protocol={protocol}", asked)


def tags_with(key: Key, protocol: Protocol) -> tuple[str, ...]:
    """The same and the key; one that may not repeat takes the place of its other value."""
    others = (tag for tag in tags_without(key, protocol) if key.repeatable or not tag.startswith(f"{key.name}="))
    return (*others, f"{key.name}={CORPUS[key.name].value}")


def planned(own: tuple[str, ...], others: tuple[str, ...]) -> Plan:
    """One instance and what it states, beside another one and a canary, and one in another datacenter."""
    here = catalog(instance("web", 1, *others), instance("web", 2, *own), instance("web", 3, *others, "canary=10%"))
    away = replace(instance("web", 4, *others), datacenter="dc2")
    return plan_routes(replace(here, elsewhere={"dc2": {ServiceName("web"): (away,)}}), POLICY)


def text(plan: Plan) -> str:
    """What nginx gets of a plan in which everything can be used."""
    assert not plan.quarantined
    assert [one.problem for one in plan.services[0].instances if one.problem] == []
    return "\n".join(content.decode() for content in RENDERER.render(plan).contents.values())


@pytest.mark.parametrize(("key", "protocol"), HOLDING, ids=name_of)
def test_each_key_changes_what_nginx_gets(key: Key, protocol: Protocol) -> None:
    """A key that is read and forgotten, or that has no value in the corpus, fails here."""
    before, after = tags_without(key, protocol), tags_with(key, protocol)
    stating = planned(after, before)
    is_same = text(stating) == text(planned(before, before))
    assert not is_same, f"{key.name} changes nothing with protocol={protocol}"
    assert not any("no effect" in warning for warning in service(stating, "web").warnings)


def test_each_protocol_is_spoken_in_its_own_way() -> None:
    found = set()
    for protocol in Protocol:
        asked = (f"protocol={protocol}", "listen=5432" if protocol.is_stream else f"route={HOST}")
        found.add(text(planned(asked, asked)))
    assert len(found) == len(Protocol)


@pytest.mark.parametrize(("key", "protocol"), NOT_HOLDING, ids=name_of)
def test_a_key_that_does_not_hold_is_refused_or_said_to_have_no_effect(key: Key, protocol: Protocol) -> None:
    """In `tags lint` and on the service in the plan alike."""
    tags = tags_with(key, protocol)
    problems = lint_tags([f"proxygen.{tag}" for tag in tags])
    if problems:
        assert f"proxygen.{key.name}" in [problem.place for problem in problems]
        assert protocol not in key.ignored_with
        return
    said = f"{key.name} has no effect with protocol={protocol}: "
    assert any(warning.startswith(said) for warning in service(planned(tags, tags), "web").warnings)
    stated = parse_tags([f"proxygen.{tag}" for tag in tags])
    assert any(warning.startswith(said) for warning in without_effect(stated, [stated]))


@pytest.mark.parametrize(("key", "protocol"), NOT_HOLDING, ids=name_of)
def test_why_a_key_does_not_hold_is_known(key: Key, protocol: Protocol) -> None:
    assert key.why_not(protocol)
    assert not key.ignored_with & key.protocols


@pytest.mark.parametrize(("key", "protocol"), HOLDING, ids=name_of)
def test_what_one_instance_states_is_an_option_of_the_service_where_the_newest_counts(
    key: Key, protocol: Protocol
) -> None:
    """An instance that is newer and silent takes nothing away; what belongs to less than the service is no option."""
    options = service(planned(tags_with(key, protocol), tags_without(key, protocol)), "web").options
    if key.combine is Combine.NEWEST:
        assert getattr(options, key.field) == key.parse(CORPUS[key.name].value)
    elif key.name != "listen":
        assert getattr(options, key.field) in (None, ())
