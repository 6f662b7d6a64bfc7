"""Where a generation has nginx listen."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from proxygen.proxy.nginx.addresses import Listen, Listens, listen

FOLDERS: Final[Mapping[str, str]] = {"http": "http.d", "stream": "stream.d"}
"""The folder of each context."""
_LISTEN: Final = re.compile(rb"listen[ \t]+([^;\n]+);")


def listens(contents: Mapping[str, bytes]) -> Listens:
    """Return what a generation's files say; ``contents`` by their paths in it."""
    texts: dict[str, dict[bytes, None]] = {context: {} for context in FOLDERS}
    for context, folder in FOLDERS.items():
        for path, content in contents.items():
            if path.startswith(f"{folder}/"):
                texts[context].update(dict.fromkeys(_said(content)))
    read = {context: map(_listen, found) for context, found in texts.items()}
    return {context: [each for each in found if each.addresses] for context, found in read.items()}


def listens_of(generation: Path) -> Listens:
    """The same of a generation on disk. Raise OSError."""
    files = (file for folder in FOLDERS.values() for file in sorted((generation / folder).glob("*.conf")))
    return listens({str(file.relative_to(generation)): file.read_bytes() for file in files})


def _said(content: bytes) -> Iterator[bytes]:
    """At the beginning of a line, where templates have it: a host, a path or a service's name may hold the word too.

    To look for the word first takes a quarter of the time.
    """
    for found in _LISTEN.finditer(content):
        line = content.rfind(b"\n", 0, found.start()) + 1
        if not content[line : found.start()].strip(b" \t"):
            yield found[1]


def _listen(text: bytes) -> Listen:
    return listen([word.strip("\"'") for word in text.decode(errors="replace").split()])
