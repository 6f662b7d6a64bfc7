"""One container engine for all tests of deploy/, with the base images that its files name."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.harness.bases import CONSUL, DEBIAN, build, build_consul, import_debian
from tests.harness.engine import Engine, own_engine
from tests.harness.shelf import VARIABLE as SHELF
from tests.harness.shelf import Shelf
from tests.harness.systemd_host import BARE, FURNISHED, SystemdHost, build_hosts, network
from tests.harness.systemd_site import follow_the_page

DEPLOY = Path(__file__).parents[2] / "deploy"


_GROUPS = {
    "hosts": ("test_systemd", "test_ansible_sidecar", "test_logging"),
    "orchestrators": ("test_kubernetes", "test_nomad", "test_pipeline", "test_ansible_application"),
}
"""Who uses the same hosts and engine, by the beginning of the file's name; all others are "containers"."""

_SHARED = {"yard", "reader"}
"""Fixtures that cost much and serve many tests: the engine, and Nomad's reader, which is compiled."""


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep together what shares an engine; images are shared by all of a run."""
    for item in items:
        if item.path.parent == Path(__file__).parent and _SHARED & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.xdist_group(_group(item.path.name)))
            # The first one waits for images that are built, by itself or by another process.
            item.add_marker(pytest.mark.timeout(2400), append=False)


def _group(file: str) -> str:
    return next((group for group, names in _GROUPS.items() if file.startswith(names)), "containers")


@pytest.fixture(scope="session")
def shelf() -> Shelf:
    """Where images are built; they live as long as the run."""
    return Shelf(Path(os.environ[SHELF]))


@pytest.fixture(scope="session")
def yard(shelf: Shelf) -> Iterator[Engine]:
    """The engine, which has what is on the shelf."""
    with own_engine(driver="overlay", images=shelf.storage) as engine:
        yield engine


@pytest.fixture(scope="session")
def debian(shelf: Shelf) -> str:
    """The name of the base image."""
    return shelf.provide(DEBIAN, import_debian)


@pytest.fixture(scope="session")
def host_images(shelf: Shelf, debian: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The images of hosts that systemd runs are built; the directory that hosts need."""
    scratch = tmp_path_factory.mktemp("hosts")
    shelf.provide(FURNISHED, lambda engine: build_hosts(engine, scratch))
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
def proxygen_image(shelf: Shelf, debian: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of the image that deploy/Dockerfile makes."""
    scratch = tmp_path_factory.mktemp("image")
    name, file = "localhost/proxygen:latest", DEPLOY / "Dockerfile"

    def make(engine: Engine) -> None:
        build(engine, DEPLOY.parent, file=file, name=name, arguments={"BASE": debian}, scratch=scratch)

    return shelf.provide(name, make)


@pytest.fixture(scope="session")
def example_images(shelf: Shelf, proxygen_image: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The names of the example application's images, by version: 1 and 2."""
    scratch, file = tmp_path_factory.mktemp("example"), DEPLOY / "example" / "Dockerfile"
    names = {version: f"localhost/proxygen-example:{version}" for version in ("1", "2")}
    for version, name in names.items():
        arguments = {"BASE": proxygen_image, "VERSION": version}

        def make(engine: Engine, name: str = name, arguments: dict[str, str] = arguments) -> None:
            build(engine, DEPLOY.parent, file=file, name=name, arguments=arguments, scratch=scratch)

        shelf.provide(name, make)
    return names


@pytest.fixture(scope="session")
def example_image(example_images: dict[str, str]) -> str:
    """The name of the example application's image, version 1."""
    return example_images["1"]


@pytest.fixture(scope="session")
def consul_image(shelf: Shelf, debian: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of Consul's official image; inside is the Consul of this machine."""
    scratch = tmp_path_factory.mktemp("consul-image")
    return shelf.provide(CONSUL, lambda engine: build_consul(engine, scratch))


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
