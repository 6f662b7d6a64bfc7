"""Tags that open and shut: tls, redirect-https, hsts, auth, allow, deny, rate, body-size."""

from __future__ import annotations

import base64
import ssl

import pytest

from tests.harness import process
from tests.harness.gateways import Uwsgi
from tests.integration.site import LAYOUTS, Site

pytestmark = LAYOUTS


@pytest.fixture(scope="module")
def doors(site: Site) -> Site:
    """Services of one instance each, named by what they try."""
    services = {
        "auto": ["route=auto.tls.example.com", "tls=auto"],
        "exact": ["route=exact.tls.example.com", "tls=auto"],
        "named": ["route=named.example.org", "tls=named"],
        "renewed": ["route=renewed.example.org", "tls=renewed"],
        "strict": ["route=strict.tls.example.com", "tls=auto", "redirect-https=true", "hsts=true"],
        "lodger": ["route=auto.tls.example.com/lodger", "tls=auto", "hsts=true"],
        "plain": ["route=plain.tls.example.com"],
        "auth": ["route=auth.door.example.com", "auth=staff"],
        "allow": ["route=allow.door.example.com", "allow=127.0.1.0/24,2001:db8::/32"],
        "deny": ["route=deny.door.example.com", "deny=127.0.2.0/24,127.0.3.9/32"],
        "both": ["route=both.door.example.com", "allow=127.0.4.0/24", "deny=127.0.4.66/32"],
        "burst": ["route=burst.door.example.com", "rate=1r/m:2"],
        "rate": ["route=rate.door.example.com", "rate=1r/m"],
        "body": ["route=body.door.example.com", "body-size=2k"],
        "unlimited": ["route=unlimited.door.example.com", "body-size=0", "protocol=uwsgi"],
    }
    # aiohttp has a limit of its own, 1 MiB as nginx.
    apps = [site.keep(Uwsgi(name)) if name == "unlimited" else site.app(name) for name in services]
    for app, tags in zip(apps, services.values(), strict=True):
        site.register(f"door-{app.name}", app, *tags)
    in_meta = site.app("door-meta")
    site.register(
        "door-meta",
        in_meta,
        meta={
            "proxygen-route": "meta.door.example.com",
            "proxygen-deny": "127.0.2.0/24,127.0.3.9/32",
            "proxygen-body-size": "2k",
            "proxygen-rate": "1000r/s:100",
        },
    )
    site.until_served(*apps, in_meta)
    return site


# --- TLS


@pytest.mark.parametrize("name", ["auto.tls.example.com", "exact.tls.example.com", "named.example.org"])
def test_a_host_is_served_over_tls_with_a_certificate_that_its_client_trusts(doors: Site, name: str) -> None:
    answer = doors.ask(name, tls=True)
    assert (answer.status, answer.instance) == (200, name.partition(".")[0])
    seen = answer.seen["headers"]
    assert (seen["x-forwarded-proto"], seen["x-forwarded-port"]) == ("https", str(doors.sidecar.https))


def test_auto_prefers_the_certificate_of_the_name_to_a_wildcard(doors: Site) -> None:
    assert doors.certificate_of("exact.tls.example.com") != doors.certificate_of("auto.tls.example.com")
    assert doors.certificate_of("strict.tls.example.com") == doors.certificate_of("auto.tls.example.com")


@pytest.mark.parametrize("name", ["unknown.tls.example.com", "unknown.example.net", "plain.tls.example.com"])
def test_a_handshake_for_a_name_without_a_certificate_is_refused(doors: Site, name: str) -> None:
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        doors.certificate_of(name)


def test_a_host_with_tls_answers_plain_http_too(doors: Site) -> None:
    assert doors.ask("auto.tls.example.com").seen["headers"]["x-forwarded-proto"] == "http"


def test_a_renewed_certificate_is_served(doors: Site) -> None:
    old = doors.certificate_of("renewed.example.org")
    directory = doors.sidecar.config.parent.parent / "certificates"
    doors.authority.issue(directory, "renewed", "renewed.example.org")
    process.wait_until(lambda: doors.certificate_of("renewed.example.org") != old, what="the new certificate")
    assert doors.ask("renewed.example.org", tls=True).instance == "renewed"


def test_redirect_https_sends_plain_http_to_the_same_place_over_tls(doors: Site) -> None:
    answer = doors.ask("strict.tls.example.com", "/a%20b?c=d", method="POST", body=b"kept by 308")
    assert answer.status == 308
    assert answer.headers["location"] == f"https://strict.tls.example.com:{doors.sidecar.https}/a%20b?c=d"
    assert doors.ask("strict.tls.example.com", tls=True).instance == "strict"


def test_hsts_is_sent_over_tls_only(doors: Site) -> None:
    secure = doors.ask("strict.tls.example.com", tls=True)
    assert secure.headers["strict-transport-security"] == "max-age=31536000"
    assert "strict-transport-security" not in doors.ask("strict.tls.example.com").headers
    assert "strict-transport-security" not in doors.ask("auto.tls.example.com", tls=True).headers


def test_a_path_under_anothers_host_does_not_bind_the_host(doors: Site) -> None:
    answer = doors.ask("auto.tls.example.com", "/lodger", tls=True)
    assert answer.instance == "lodger"
    assert "strict-transport-security" not in answer.headers


# --- who may come in


@pytest.mark.parametrize(
    ("who", "status"),
    [("ann:secret", 200), ("bob:password", 200), ("ann:wrong", 401), ("eve:secret", 401), (None, 401)],
)
def test_auth_asks_for_a_password_of_the_operators_file(doors: Site, who: str | None, status: int) -> None:
    headers = {} if who is None else {"Authorization": f"Basic {base64.b64encode(who.encode()).decode()}"}
    answer = doors.ask("auth.door.example.com", headers=headers)
    assert answer.status == status
    assert (answer.headers.get("www-authenticate") == 'Basic realm="restricted"') is (status == 401)


@pytest.mark.parametrize(
    ("service", "source", "status"),
    [
        ("allow", "127.0.1.5", 200),
        ("allow", "127.0.0.1", 403),
        ("deny", "127.0.0.1", 200),
        ("deny", "127.0.2.7", 403),
        ("deny", "127.0.3.9", 403),
        ("deny", "127.0.3.8", 200),
        ("both", "127.0.4.1", 200),
        ("both", "127.0.4.66", 403),
        ("both", "127.0.0.1", 403),
        ("meta", "127.0.3.9", 403),
        ("meta", "127.0.3.8", 200),
    ],
)
def test_allow_and_deny_go_by_the_clients_address(doors: Site, service: str, source: str, status: int) -> None:
    assert doors.ask(f"{service}.door.example.com", source=source).status == status


def test_a_forwarded_address_opens_no_door(doors: Site) -> None:
    assert doors.ask("allow.door.example.com", headers={"X-Forwarded-For": "127.0.1.5"}).status == 403


# --- how much


def test_rate_answers_429_beyond_the_burst_and_counts_by_client(doors: Site) -> None:
    def statuses(host: str, source: str) -> list[int]:
        return [doors.ask(f"{host}.door.example.com", source=source).status for _ in range(5)]

    assert statuses("burst", "127.0.7.1") == [200, 200, 200, 429, 429]
    assert statuses("burst", "127.0.7.2") == [200, 200, 200, 429, 429]
    assert statuses("rate", "127.0.7.1") == [200, 429, 429, 429, 429]
    assert statuses("meta", "127.0.7.1") == [200] * 5


def test_body_size_is_the_largest_body(doors: Site) -> None:
    def status(host: str, size: int) -> int:
        return doors.ask(f"{host}.door.example.com", method="POST", body=b"x" * size).status

    assert (status("body", 2_048), status("body", 2_049)) == (200, 413)
    assert (status("meta", 2_048), status("meta", 2_049)) == (200, 413)
    assert (status("deny", 1_000_000), status("deny", 1_100_000)) == (200, 413)
    assert status("unlimited", 1_100_000) == 200
