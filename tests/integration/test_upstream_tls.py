"""proxy.upstream_ca on real nginx: an instance that speaks TLS is used only with a certificate that it vouches for."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

from proxygen.kit.errors import BadInput
from proxygen.proxy.policy.operator_files import read_authorities
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.gateways import GrpcEcho
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority
from tests.integration.site import Site


def speaking(authority: Authority, directory: Path, *hosts: str) -> ssl.SSLContext:
    """The TLS of an instance with a certificate for these hosts."""
    directory.mkdir(exist_ok=True)
    path = authority.issue(directory, hosts[0], *hosts)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, path.with_suffix(".key"))
    return context


@pytest.fixture
def place(tmp_path: Path, request: pytest.FixtureRequest) -> SimpleNamespace:
    """The operator's directories, and the authority that vouches for instances.

    Fragments are there for a test that asks for them: the first gate is stricter where there are none.
    """
    ours = Authority()
    place = SimpleNamespace(ours=ours, ca=tmp_path / "ca.pem", keys=tmp_path / "keys", snippets=tmp_path / "snippets")
    place.certificates = tmp_path / "certificates"
    for directory in (place.snippets, place.certificates):
        directory.mkdir()
    place.has_fragments = getattr(request, "param", "") == "fragments"
    place.ca.write_bytes(ours.pem)
    ours.issue(place.certificates, "grpc", "grpc.example.com", "wrong-grpc.example.com")
    (place.snippets / "location-legacy.conf").write_text("proxy_ssl_verify off;\n")
    return place


@pytest.fixture
def site(
    consul: ConsulAgent, nginx: NginxServer, make_sidecar: Callable[..., Sidecar], place: SimpleNamespace
) -> Iterator[Site]:
    sidecar = make_sidecar(
        consul,
        nginx,
        proxy__upstream_ca=str(place.ca),
        **({"proxy__snippets": str(place.snippets)} if place.has_fragments else {}),
        proxy__certificates=str(place.certificates),
        reload__gap="0ms",
        log__level="info",
    )
    sidecar.start()
    site = Site(consul, nginx, sidecar, place.ours)
    yield site
    site.close()


@pytest.mark.parametrize("place", ["fragments"], indirect=True)
def test_only_instances_that_the_authority_vouches_for_are_used(site: Site, place: SimpleNamespace) -> None:
    """A stranger's certificate, and one for another host, get no request; beside a good instance nobody notices."""
    stranger = Authority()
    apps = {
        "good": site.app("good", tls=speaking(place.ours, place.keys, "good.example.com")),
        "strange": site.app("strange", tls=speaking(stranger, place.keys, "strange.example.com")),
        "other": site.app("other", tls=speaking(place.ours, place.keys, "elsewhere.example.com")),
        "legacy": site.app("legacy", tls=speaking(stranger, place.keys, "whatever.example.com")),
        "plain": site.app("plain"),
    }
    for name, app in apps.items():
        site.register(name, app, f"route={name}.example.com", f"protocol={'http' if name == 'plain' else 'https'}")
    site.register("good", apps["strange"], "route=good.example.com", "protocol=https", id="good-2")
    site.until_served(*apps.values())
    assert {site.ask("good.example.com").instance for _ in range(10)} == {"good"}
    for name, status in (("strange", 502), ("other", 502), ("legacy", 200), ("plain", 200)):
        assert site.ask(f"{name}.example.com").status == status, name
    assert (apps["strange"].requests, apps["other"].requests) == (0, 0)
    # Found by a wild card, the host that is asked for is what counts.
    wide = site.app("wide", tls=speaking(place.ours, place.keys, "*.wide.example.com"))
    site.register("wide", wide, "route=*.wide.example.com", "protocol=https")
    site.until_served(wide)
    assert site.ask("any.wide.example.com").instance == "wide"


def test_the_same_holds_for_grpc(site: Site, place: SimpleNamespace) -> None:
    place.keys.mkdir()
    for name, authority in (("grpc", place.ours), ("wrong-grpc", Authority())):
        path = authority.issue(place.keys, name, f"{name}.example.com")
        pair = (path.with_suffix(".key").read_bytes(), path.read_bytes())
        echo = site.keep(GrpcEcho(name, certificate=pair))
        site.register(name, echo, f"route={name}.example.com", "protocol=grpcs", "tls=auto")
        site.until_served(echo)

    def say(name: str) -> bytes:
        credentials = grpc.ssl_channel_credentials(place.ours.pem)
        host = f"{name}.example.com"
        options = [("grpc.ssl_target_name_override", host), ("grpc.default_authority", host)]
        options.append(("grpc.enable_http_proxy", 0))
        with grpc.secure_channel(f"127.0.0.1:{site.sidecar.https}", credentials, options) as channel:
            return bytes(channel.unary_unary("/test.Echo/Say")(b"hello", timeout=10))

    assert say("grpc") == b"grpc:hello"
    with pytest.raises(grpc.RpcError) as refused:
        say("wrong-grpc")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


def test_another_authority_takes_the_place_of_the_first_and_a_broken_file_does_not(
    site: Site, place: SimpleNamespace
) -> None:
    app: App = site.app("good", tls=speaking(place.ours, place.keys, "good.example.com"))
    site.register("good", app, "route=good.example.com", "protocol=https")
    site.until_served(app)
    assert site.ask("good.example.com").status == 200
    before = site.sidecar.generation()
    place.ca.write_text("-----BEGIN CERTIFICATE-----\nnothing\n-----END CERTIFICATE-----\n")
    site.until_status(lambda status: "proxy.upstream_ca" in str(status), "a word about the file")
    assert site.sidecar.generation() == before
    assert site.ask("good.example.com").status == 200
    renewed = place.ca.with_suffix(".new")
    renewed.write_bytes(Authority().pem)
    renewed.replace(place.ca)
    site.until_live(lambda live: live and site.sidecar.generation() != before, "another generation")
    assert site.ask("good.example.com").status == 502


@pytest.mark.parametrize("content", [None, "", "no certificate"], ids=["missing", "empty", "text"])
def test_a_file_that_holds_no_authority_is_bad_input(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "ca.pem"
    if content is not None:
        file.write_text(content)
    with pytest.raises(BadInput, match=r"proxy\.upstream_ca .*ca\.pem: "):
        read_authorities(file)
