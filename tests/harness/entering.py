"""Entering a named network namespace, as ``ip netns exec`` does."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_LIBC: Final = ctypes.CDLL(None, use_errno=True)

_CLONE_NEWNS: Final = 0x20000
_MS_REC: Final = 0x4000
_MS_SLAVE: Final = 1 << 19
_MNT_DETACH: Final = 2
"""Of mount(2), umount2(2) and clone(2)."""


def set_namespace(descriptor: int) -> None:
    """Have this thread inside the namespace that a file of ``/proc/PID/ns`` or ``/run/netns`` stands for."""
    _done(_LIBC.setns(descriptor, 0))


def enter_for_good(name: str) -> None:
    """Have this process inside, with mounts of its own: ``/sys`` is that of the namespace."""
    with open(f"/run/netns/{name}", "rb") as inside:
        set_namespace(inside.fileno())
    _done(_LIBC.unshare(_CLONE_NEWNS))
    _done(_LIBC.mount(b"", b"/", b"none", _MS_SLAVE | _MS_REC, None))
    _done(_LIBC.umount2(b"/sys", _MNT_DETACH))
    _done(_LIBC.mount(name.encode(), b"/sys", b"sysfs", 0, None))


def _done(status: int) -> None:
    if status:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
