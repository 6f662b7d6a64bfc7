"""Where the admin API's unix socket is, for those who serve it and those who ask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from proxygen.settings import AdminSettings

SOCKET_NAME: Final = "admin.sock"

_LONGEST_SOCKET_PATH: Final = 107
"""Bytes; sun_path of unix(7) less its NUL."""


def socket_path(settings: AdminSettings, output: Path) -> Path:
    """Return where the unix socket is: the setting, or ``OUTPUT/state/admin.sock``."""
    return settings.socket or output / "state" / SOCKET_NAME


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """A name for a unix socket that is short enough for sun_path, whatever directory it lies in.

    Linux reaches a directory through a descriptor of it too. Raise OSError where the directory is not there.
    """
    if len(bytes(path)) <= _LONGEST_SOCKET_PATH:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
