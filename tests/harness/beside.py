"""A Consul, an nginx and a sidecar of their own, for tests of a module that share them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import find_nginx, first_nginx, missing


@dataclass(frozen=True, slots=True)
class Beside:
    """The three parts."""

    consul: ConsulAgent
    nginx: NginxServer
    sidecar: Sidecar


@contextmanager
def beside_nginx(directory: Path, settings: Mapping[str, object] | None = None) -> Iterator[Beside]:
    """Start Consul and nginx in a directory, and make a sidecar with these settings; it is not started."""
    binary = find_nginx(first_nginx())
    if binary is None:
        missing("nginx")
    consul = ConsulAgent(directory / "consul")
    nginx = NginxServer(binary, directory / "nginx", output=directory / "output")
    sidecar = Sidecar(consul, nginx, directory / "sidecar", settings)
    try:
        consul.start()
        nginx.start()
        yield Beside(consul, nginx, sidecar)
    finally:
        sidecar.kill()
        nginx.stop()
        consul.kill()
