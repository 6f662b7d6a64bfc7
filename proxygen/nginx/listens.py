"""Where a generation has nginx listen."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_LISTEN: Final = re.compile(rb"(?:^|[\s;{}])listen\s+([^\s;]+)(\s[^;]*\budp\b)?[^;]*;")
"""Also what stands in a comment: one address too many makes us careful, one too few would not."""


def listens(generation: Path) -> frozenset[str]:
    """Return addresses as they are written, ``udp`` after those of datagrams. Raise OSError."""
    return frozenset(
        (address + (b" udp" if udp else b"")).decode(errors="replace")
        for part in ("http.d", "stream.d")
        for file in sorted((generation / part).glob("*.conf"))
        for address, udp in _LISTEN.findall(file.read_bytes())
    )
