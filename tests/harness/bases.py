"""Base images under the names that deploy/ uses. Nothing can be pulled where tests run, so they are made from packages.

A build in a container reaches the package registries as this machine does: with its mirrors, its pip settings and
its certificates, none of which stay in an image.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Final

from tests.harness.engine import Engine
from tests.harness.tools import cache_folder, find_consul, missing

SUITE: Final = "bookworm"
DEBIAN: Final = f"docker.io/library/debian:{SUITE}-slim"
"""The base of everything that deploy/ builds."""

CONSUL: Final = "docker.io/hashicorp/consul:1.21"
"""The official image of Consul."""

_CERTIFICATES: Final = Path("/etc/ssl/certs/ca-certificates.crt")
_CERTIFICATES_WITHIN: Final = Path("/etc/build-certificates.crt")
"""Not where a package would write its own."""


_LIKE_THE_SLIM_ONE: Final = (
    *("path-exclude=/usr/share/doc/*", "path-include=/usr/share/doc/*/copyright"),
    *("path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*", "path-exclude=/usr/share/info/*"),
    "force-unsafe-io",
)
"""What dpkg is told in the official slim image, for all that is installed on it later."""


def import_debian(engine: Engine) -> None:
    """Make the base image. Skip the test where that cannot be."""
    engine.call("import", "--quiet", _debian_archive(), DEBIAN, timeout=120)


def _debian_archive() -> Path:
    """Return the root file system of a fresh Debian as an archive of today, from the cache folder or made by now."""
    if shutil.which("mmdebstrap") is None:
        missing("mmdebstrap (Debian's and Ubuntu's package)")
    folder = cache_folder() / "debian"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"{SUITE}-{date.today().isoformat()}.tar"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not archive.exists():
            for former in folder.glob("*.tar"):
                former.unlink()
            _bootstrap(archive)
    return archive


def _bootstrap(archive: Path) -> None:
    fresh = archive.with_suffix(".new.tar")
    options = [f"--dpkgopt={option}" for option in _LIKE_THE_SLIM_ONE]
    with (archive.parent / "mmdebstrap.log").open("wb") as log:
        command: list[str | Path] = [
            "mmdebstrap",
            "--variant=minbase",
            "--mode=root",
            *options,
            SUITE,
            fresh,
            _mirror(),
        ]
        subprocess.run(command, stdout=log, stderr=log, check=True, timeout=900)
    fresh.rename(archive)


def build(
    engine: Engine,
    context: Path,
    *,
    name: str,
    file: Path | None = None,
    arguments: Mapping[str, str] | None = None,
    scratch: Path,
) -> str:
    """Build an image with the engine and return its name. Raise RuntimeError with the end of what the build said."""
    given = [f"--build-arg={key}={value}" for key, value in (arguments or {}).items()]
    # runc cannot make the name spaces that a build step wants inside this kind of machine; chroot needs none.
    # Podman's own format knows no HEALTHCHECK.
    options = ["--format=docker", "--isolation=chroot", "--network=host", *registry_volumes(scratch)]
    dockerfile = file or context / "Dockerfile"
    engine.call("build", *options, *given, f"--tag={name}", f"--file={dockerfile}", context, timeout=900)
    return name


def registry_volumes(scratch: Path) -> list[str]:
    """Return options that let a container reach the package registries; what they mount lies in ``scratch``."""
    pip = scratch / "pip.conf"
    pip.write_text(_pip_settings())
    volumes = [f"--volume={pip}:/etc/pip.conf:ro"]
    if _CERTIFICATES.exists():
        volumes.append(f"--volume={_CERTIFICATES}:{_CERTIFICATES_WITHIN}:ro")
    return volumes


_CONSUL_FILE: Final = """\
ARG BASE
FROM ${BASE}
RUN groupadd --gid 1000 consul && useradd --uid 100 --gid 1000 --no-create-home consul \\
    && mkdir -p /consul/data && chown -R consul:consul /consul
COPY consul /bin/consul
VOLUME /consul/data
"""
"""User, directories and the program's place are those of the official image."""


def build_consul(engine: Engine, scratch: Path) -> str:
    """Make an image of this machine's Consul under the official one's name, and return it."""
    consul = find_consul()
    if consul is None:
        missing("consul")
    shutil.copyfile(consul, scratch / "consul")
    (scratch / "consul").chmod(0o755)
    (scratch / "Dockerfile").write_text(_CONSUL_FILE)
    return build(engine, scratch, name=CONSUL, arguments={"BASE": DEBIAN}, scratch=scratch)


def _mirror() -> str:
    """Where this machine has Debian's packages from."""
    targets = ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
    answer = subprocess.run(targets, capture_output=True, text=True, check=True)
    return next(uri for uri in answer.stdout.split() if uri.rstrip("/").endswith("/debian"))


def _pip_settings() -> str:
    """Return the settings of this machine's pip that a build needs too."""
    lines = ["[global]"]
    if _CERTIFICATES.exists():
        lines.append(f"cert = {_CERTIFICATES_WITHIN}")
    index = os.environ.get("PIP_INDEX_URL") or _pip_says("global.index-url")
    if index:
        lines.append(f"index-url = {index}")
    return "\n".join(lines) + "\n"


def _pip_says(name: str) -> str:
    command = [sys.executable, "-m", "pip", "config", "get", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
