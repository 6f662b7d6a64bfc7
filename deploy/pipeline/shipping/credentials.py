"""The registry's credentials: out of a file or two variables, into a file that only the engine is told of."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from shipping.errors import Misuse
from shipping.programs import say
from shipping.settings import Settings, variable

_SECRETS = tuple(map(variable, ("registry_user", "registry_password", "registry_credentials")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How programs get at the registry."""

    environment: Mapping[str, str]
    """What they are started with: never the credentials themselves, only where they stand."""
    certificates: Path | None
    """A directory with the registry's `ca.crt`, as Podman wants it."""


def plain_environment() -> dict[str, str]:
    """Return our own environment without what a program needs not know."""
    return {name: value for name, value in os.environ.items() if name not in _SECRETS}


@contextlib.contextmanager
def access(settings: Settings) -> Iterator[Access]:
    """Write what the engine reads, in a directory of our own that goes afterwards.

    Without credentials the engine's own login counts.
    """
    pair = _read(settings)
    directory = Path(tempfile.mkdtemp(prefix="pipeline-"))
    try:
        environment = plain_environment()
        if pair is not None:
            auth = base64.b64encode(pair.encode()).decode()
            file = directory / "config.json"
            file.touch(mode=0o600)
            file.write_text(json.dumps({"auths": {settings.registry: {"auth": auth}}}), encoding="utf-8")
            # Docker's variable, and Podman's, which is also what Docker's SDK under Ansible looks at first.
            environment |= {"DOCKER_CONFIG": str(directory), "REGISTRY_AUTH_FILE": str(file)}
        certificates = None
        if settings.registry_ca is not None:
            certificates = directory / "certificates"
            certificates.mkdir()
            shutil.copyfile(settings.registry_ca, certificates / "ca.crt")
        yield Access(environment=environment, certificates=certificates)
    finally:
        shutil.rmtree(directory)


def _read(settings: Settings) -> str | None:
    """Return USER:PASSWORD. Raise Misuse, which never quotes them."""
    if settings.registry_credentials is None:
        if (settings.registry_user is None) != (settings.registry_password is None):
            raise Misuse("of PIPELINE_REGISTRY_USER and PIPELINE_REGISTRY_PASSWORD only one is set")
        if settings.registry_user is None:
            return None
        return f"{settings.registry_user}:{settings.registry_password}"
    path = settings.registry_credentials
    mode = path.stat().st_mode
    if mode & stat.S_IWOTH:
        raise Misuse(f"{path} can be written by everybody on this machine")
    if mode & stat.S_IROTH:
        say(f"{path} can be read by everybody on this machine")
    lines = path.read_text(encoding="utf-8").split("\n")
    if ":" not in lines[0] or any(lines[1:]):
        raise Misuse(f"{path} is not one line USER:PASSWORD")
    return lines[0].rstrip("\r")
