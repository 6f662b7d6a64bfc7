"""A site per nginx binary: started once, and shared by all tests of tags, because a start costs seconds."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import LUA, each_nginx, find_lua_nginx, find_nginx, missing, pushed_layout
from tests.integration.certificates import Authority
from tests.integration.site import Site


@pytest.fixture(scope="session")
def site_consul(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    """An agent that no other test empties."""
    agent = ConsulAgent(tmp_path_factory.mktemp("site-consul"))
    agent.start()
    yield agent
    agent.stop()


@pytest.fixture(scope="session", params=[*each_nginx("site"), pushed_layout("site")])
def site(
    request: pytest.FixtureRequest, site_consul: ConsulAgent, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A running sidecar beside each nginx. Services stay until the end, so every test has hosts of its own.

    Where hosts and locations are the point, a module adds the layout of a large catalog (`LAYOUTS`): nobody can tell.

    One worker: round robin, passive health and rate limits are then exact, as nginx counts them per worker.
    """
    name, _, layout = request.param.partition(", ")
    binary = find_lua_nginx() if layout == "pushed" else find_nginx(name)
    if binary is None:
        missing(f"nginx ({request.param})")
    directory = tmp_path_factory.mktemp(f"site-{binary.name}-{layout}")
    authority = Authority()
    settings = _operators_files(directory, authority)
    if layout == "shared":
        settings["proxy.share_servers_from"] = 1
    nginx = NginxServer(
        binary, directory / "nginx", output=directory / "output", modules=LUA if layout == "pushed" else (), workers=1
    )
    sidecar = Sidecar(site_consul, nginx, directory / "sidecar", settings)
    site = Site(site_consul, nginx, sidecar, authority)
    nginx.start()
    try:
        sidecar.start()
        yield site
    finally:
        sidecar.kill()
        nginx.stop()
        site.close()
        site_consul.clean()


def _operators_files(directory: Path, authority: Authority) -> dict[str, object]:
    """Settings, and what they name on disk."""
    certificates, htpasswd = directory / "certificates", directory / "htpasswd"
    certificates.mkdir()
    htpasswd.mkdir()
    authority.issue(certificates, "wildcard", "*.tls.example.com")
    authority.issue(certificates, "exact", "exact.tls.example.com")
    authority.issue(certificates, "named", "elsewhere.example.org", "named.example.org")
    authority.issue(certificates, "renewed", "renewed.example.org")
    # secret, by openssl passwd -apr1; and password, in the form {SHA}.
    (htpasswd / "staff").write_text(
        "ann:$apr1$8sFt66rZ$eup.HOtZcQ/VrnApBM3rR/\nbob:{SHA}W6ph5Mm5Pz8GgiULbPgzG37mj9g=\n"
    )
    return {
        "proxy.certificates": str(certificates),
        "proxy.htpasswd": str(htpasswd),
        "consul.meta_sweep": "500ms",
        "reload.gap": "0ms",
        "log.level": "info",
    }


@pytest.fixture
async def stack() -> AsyncIterator[contextlib.AsyncExitStack]:
    """Whatever a test enters, left when it ends."""
    async with contextlib.AsyncExitStack() as stack:
        yield stack
