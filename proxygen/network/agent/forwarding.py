"""The one kernel setting that the agent changes, and one that it only reports."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

_IPV4: Final = Path("/proc/sys/net/ipv4")
_STRICT: Final = 1


def let_forward() -> str:
    """Have the kernel forward packets of IPv4. Return why it does not; empty where it does."""
    path = _IPV4 / "ip_forward"
    try:
        if path.read_text().strip() == "1":
            return ""
        path.write_text("1\n")
    except OSError as error:
        return f"{path} is not 1 and cannot be set ({error.strerror}): containers reach nobody outside of this host"
    _log.info("forwarding switched on", file=str(path))
    return ""


def report_strict_filter(link: str) -> None:
    """Say where the kernel drops what comes in by another link than answers would go out by."""
    modes = {name: _mode(name) for name in ("all", link)}
    # The stricter of the two counts (ip-sysctl).
    if max(modes.values()) == _STRICT:
        _log.warning("reverse path filter is strict", link=link, rp_filter=modes)


def _mode(link: str) -> int:
    with suppress(OSError, ValueError):
        return int((_IPV4 / "conf" / link / "rp_filter").read_text())
    return 0
