"""The pages' scripts and style sheets: exactly the files that were there at the start, under a hash of them all."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_TYPES: Final = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is sent."""

    body: bytes
    content_type: str


class Assets:
    """Reads all files when it is made: what is sent never depends on a path that somebody asked for."""

    def __init__(self, directory: Path = Path(__file__).parent / "static") -> None:
        self._files: Final = {
            path.relative_to(directory).as_posix(): Asset(path.read_bytes(), _TYPES[path.suffix])
            for path in sorted(directory.rglob("*"))
            if path.suffix in _TYPES and path.is_file()
        }
        seen = hashlib.blake2b(digest_size=6)
        for name, asset in self._files.items():
            seen.update(f"{name}:{len(asset.body)}:".encode() + asset.body)
        self.version: Final = seen.hexdigest()

    @property
    def styles(self) -> tuple[str, ...]:
        """Our own last, so that it may say more than a library's."""
        names = [name for name in self._files if name.endswith(".css")]
        return tuple(self.address(name) for name in sorted(names, key=lambda name: ("/" not in name, name)))

    @property
    def script(self) -> str:
        return self.address("live.js")

    def address(self, name: str) -> str:
        return f"/static/{self.version}/{name}"

    def find(self, name: str) -> Asset | None:
        return self._files.get(name)
