"""Patterns of ``include`` find what glob(3) finds."""

from __future__ import annotations

import ctypes
import locale
import os
from pathlib import Path

import pytest

from proxygen.proxy.nginx.globbing import find, has_magic

NAMES = (
    *("a.conf", "b.conf", "B.conf", "ab.conf", "1.conf", "22.conf", ".hidden.conf", "#a.conf#", "a.conf~"),
    *(
        "a-b.conf",
        "_.conf",
        "^.conf",
        "!.conf",
        "].conf",
        "[a].conf",
        "*.conf",
        "a b.conf",
        "back\\slash.conf",
        "é.conf",
    ),
)
PATTERNS = (
    *("*", "*.conf", "?.conf", "??.conf", ".*.conf", "[ab].conf", "[a-b]*.conf", "[!a]*.conf", "[^.#]*", "[^a-z]*"),
    *("[[:digit:]]*.conf", "[^[:digit:]]*", "[[:alpha:]_].conf", "[[:upper:][:digit:]].conf", "[[:punct:]].conf"),
    *("[]a].conf", "[^]a].conf", "[a-].conf", "[z-a].conf", "[[]a].conf", "\\*.conf", "[\\]].conf", "\\[a].conf"),
    *("[a.conf", "[!].conf", "*[~]", "*.CONF", "sub/*.conf", "*/*.conf", "[s]ub/[^b].conf", "*\\\\*", "\\.*.conf"),
    *("[[:nothing:]].conf", "*/none*", "sub/../*.conf"),
)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in NAMES:
        (tmp_path / name).touch()
        (tmp_path / "sub" / name).touch()
    (tmp_path / "dangling.conf").symlink_to("/nonexistent")
    return tmp_path


@pytest.mark.incident("T40")
@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_pattern_finds_what_the_c_library_finds_in_its_order(directory: Path, pattern: str) -> None:
    whole = os.fsencode(directory / pattern)
    assert find(whole) == _glob(whole)


def test_a_path_without_a_wildcard_is_no_pattern() -> None:
    assert [has_magic(text) for text in (b"/a/b.conf", b"/a/*", b"/a?", b"/[a", b"/a]")] == [
        False,
        True,
        True,
        True,
        False,
    ]


class _Found(ctypes.Structure):
    """``glob_t``, as far as it is read; the rest is room."""

    _fields_ = (
        ("count", ctypes.c_size_t),
        ("paths", ctypes.POINTER(ctypes.c_char_p)),
        ("room", ctypes.c_char * 256),
    )


def _glob(pattern: bytes) -> tuple[bytes, ...]:
    library = ctypes.CDLL(None)
    found = _Found()
    before = locale.setlocale(locale.LC_ALL)
    # nginx sets none, so to it a byte is a letter.
    locale.setlocale(locale.LC_ALL, "C")
    try:
        failed = library.glob(pattern, 0, None, ctypes.byref(found))
    finally:
        locale.setlocale(locale.LC_ALL, before)
    try:
        return () if failed else tuple(path or b"" for path in found.paths[: found.count])
    finally:
        library.globfree(ctypes.byref(found))
