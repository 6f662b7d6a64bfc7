"""A fresh Debian on which somebody followed the page about systemd, word for word."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from tests.harness.load import Load
from tests.harness.process import wait_until
from tests.harness.systemd_host import ROOT, SystemdHost

HELLO: Final = MappingProxyType({"Host": "hello.example.com"})
SETTINGS: Final = "/etc/proxygen/proxygen.toml"
CHECKOUT: Final = "/root/proxygen"
DROP_INS: Final = "/etc/systemd/system/proxygen.service.d"


def shell_blocks() -> list[str]:
    """Return what the page tells people to type."""
    page = (ROOT / "deploy" / "README.md").read_text(encoding="utf-8")
    section = page.partition("\n## With systemd\n")[2].partition("\n## ")[0]
    return re.findall(r"^```sh\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)


def follow_the_page(host: SystemdHost, scratch: Path) -> str:
    """Install proxygen on a host that has a Consul of its own; return what the commands said."""
    host.install_consul()
    host.start_consul()
    host.copy_checkout(CHECKOUT, scratch)
    return host.shell("".join(shell_blocks()), timeout=1500, directory=CHECKOUT)


def wait(condition: Callable[[], object], what: str) -> None:
    """Like `wait_until`, for a host that shares a busy machine with others of its kind."""
    wait_until(condition, what=what, timeout=90.0)


def get(host: SystemdHost, headers: Mapping[str, str] = HELLO) -> int:
    """Ask nginx from outside; return the status."""
    request = urllib.request.Request(f"http://{host.address}/", headers=dict(headers))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=5) as answer:
        return int(answer.status)


def wait_ready(host: SystemdHost) -> None:
    command = ("proxygen", "status", "--json", "--config", SETTINGS)
    wait(lambda: '"state": "ready"' in host.run(*command, check=False), "ready")


def drop_in(host: SystemdHost, name: str, text: str) -> None:
    """Add to the sidecar's unit, or take away where ``text`` is empty."""
    if text:
        host.write(f"{DROP_INS}/{name}.conf", text)
    else:
        host.run("rm", f"{DROP_INS}/{name}.conf")
    host.systemctl("daemon-reload")


@asynccontextmanager
async def nothing_fails(host: SystemdHost) -> AsyncIterator[None]:
    """Send requests while the block runs; each must be answered well."""
    load = Load(host.address, 80, headers=HELLO, clients=4, pause=0.02)
    sending = asyncio.create_task(load.send(1_000_000))
    try:
        await load.until_more(50)
        yield
        await load.until_more(50)
    finally:
        load.stop()
        tally = await sending
    assert tally.failed == 0, tally.failures
    assert tally.ok > 50
