"""One container engine for all tests of deploy/, with the base images that its files name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.bases import build, build_consul, import_debian
from tests.harness.engine import Engine, own_engine
from tests.harness.systemd_host import BARE, FURNISHED, SystemdHost, build_hosts, network
from tests.harness.systemd_site import follow_the_page

DEPLOY = Path(__file__).parents[2] / "deploy"


@pytest.fixture(scope="session")
def yard() -> Iterator[Engine]:
    """The engine; its images live as long as the session."""
    with own_engine(driver="overlay") as engine:
        yield engine


@pytest.fixture(scope="session")
def debian(yard: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the base image."""
    return import_debian(yard, tmp_path_factory.mktemp("debian"))


@pytest.fixture(scope="session")
def host_images(yard: Engine, debian: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of hosts that systemd runs are built; the directory that hosts need."""
    scratch = tmp_path_factory.mktemp("hosts")
    build_hosts(yard, scratch)
    return scratch


@pytest.fixture(scope="session")
def host_network(yard: Engine, host_images: Path) -> Iterator[str]:
    with network(yard, f"pg-hosts-{os.getpid()}") as name:
        yield name


_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module")
def make_host(yard: Engine, host_images: Path, host_network: str) -> Iterator[Callable[..., SystemdHost]]:
    """Make and boot a host that lives as long as the module; arguments are those of `SystemdHost`."""
    made: list[SystemdHost] = []

    def make(*, image: str = FURNISHED, options: tuple[str, ...] = ()) -> SystemdHost:
        name = f"host{next(_NUMBERS)}"
        host = SystemdHost(yard, name, network=host_network, scratch=host_images, image=image, options=options)
        made.append(host)
        host.start()
        return host

    yield make
    for host in made:
        host.remove()


@pytest.fixture(scope="session")
def proxygen_image(yard: Engine, debian: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the image that deploy/Dockerfile makes."""
    scratch = tmp_path_factory.mktemp("image")
    name = "localhost/proxygen:latest"
    arguments = {"BASE": debian}
    return build(yard, DEPLOY.parent, file=DEPLOY / "Dockerfile", name=name, arguments=arguments, scratch=scratch)


@pytest.fixture(scope="session")
def example_images(yard: Engine, proxygen_image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of the example application's images, by version: 1 and 2."""
    scratch, file = tmp_path_factory.mktemp("example"), DEPLOY / "example" / "Dockerfile"
    names = {version: f"localhost/proxygen-example:{version}" for version in ("1", "2")}
    for version, name in names.items():
        arguments = {"BASE": proxygen_image, "VERSION": version}
        build(yard, DEPLOY.parent, file=file, name=name, arguments=arguments, scratch=scratch)
    return names


@pytest.fixture(scope="session")
def example_image(example_images: dict[str, str]) -> str:
    """The name of the example application's image, version 1."""
    return example_images["1"]


@pytest.fixture(scope="session")
def consul_image(yard: Engine, debian: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of Consul's official image; inside is the Consul of this machine."""
    return build_consul(yard, tmp_path_factory.mktemp("consul-image"))


@pytest.fixture(scope="session")
def installed_host(
    yard: Engine, host_images: Path, host_network: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SystemdHost]:
    """A fresh Debian with a Consul of its own, on which somebody followed the page about systemd.

    Its /srv/engine.sock is the socket of the engine that it lives in.
    """
    engine = (f"--volume={yard.socket}:/srv/engine.sock",)
    host = SystemdHost(yard, "sidecar", network=host_network, scratch=host_images, image=BARE, options=engine)
    try:
        host.start()
        said = follow_the_page(host, tmp_path_factory.mktemp("checkout"))
        assert "Directory listing for /" in said, said[-3000:]
        assert "hello    stable   100%" in said, said[-3000:]
        yield host
    finally:
        host.remove()
