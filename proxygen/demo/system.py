"""The demo's processes: each is started by us, waited for, and ended by its own id."""

from __future__ import annotations

import asyncio
import json
import os
import random
import secrets
import shutil
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import BadInput, ProxygenError, SidecarUnavailable
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.report import State
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import read_operator_conf
from proxygen.proxy.nginx.lua import missing_lua
from proxygen.settings import Settings, load
from proxygen.tags import ProxyTags, format_tags

HOST: Final = "web.demo.local"
SERVICE: Final = "web"
CANARY: Final = "canary-1"
STABLE: Final = ("stable-1", "stable-2")

_PATIENCE: Final = 30.0
_END: Final = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What runs, and where to look at it."""

    http: int
    consul: str
    page: str
    token: str
    """For what the page changes."""
    settings_file: Path


@asynccontextmanager
async def running(*, port: int | None, canary: str) -> AsyncIterator[Demo]:
    """Run the whole system while the block runs; afterwards nothing of it is left."""
    consul = shutil.which("consul")
    if consul is None:
        raise BadInput("there is no consul on PATH; deploy/demo fetches one, or install any version from 1.8")
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="proxygen-demo-")))
        ports = _Ports()
        http = port if port is not None else ports.take(8080)
        address = await _consul(stack, consul, folder, ports)
        settings = _settings(folder, http, address, ports)
        binary = await inspect_binary(settings.nginx)
        await _nginx(stack, binary, settings, folder)
        await _instances(stack, settings, folder, ports, canary)
        await _start(
            stack,
            (sys.executable, "-m", "proxygen", "run", "--config", str(folder / "proxygen.toml")),
            folder / "sidecar.log",
        )
        await _until(lambda: _is_ready(settings), "the sidecar", folder / "sidecar.log")
        yield Demo(
            http=http,
            consul=f"http://{address}/ui/",
            page=f"http://{settings.admin.listen}/",
            token=settings.admin.token.get_secret_value() if settings.admin.token else "",
            settings_file=folder / "proxygen.toml",
        )


_PORTS: Final = range(10_000, 32_000)
"""Below 32768, from where on Linux gives ports to clients: a connection of any program could take one before nginx."""


class _Ports:
    """Free ports of the loopback interface, each handed out once."""

    def __init__(self) -> None:
        self._taken: set[int] = set()

    def take(self, wanted: int = 0) -> int:
        candidate = wanted or random.choice(_PORTS)
        while candidate in self._taken or not _is_free(candidate):
            candidate = random.choice(_PORTS)
        self._taken.add(candidate)
        return candidate


def _is_free(port: int) -> bool:
    with closing(socket.socket()) as probe:
        # nginx sets it too; without it a port of a moment ago would count as taken.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _variables() -> dict[str, str]:
    """Our environment without the user's settings, which would win over the demo's file, and without NGINX, from which
    nginx takes listening sockets."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("CONSUL_", "PROXYGEN_")) and name != "NGINX"
    }


async def _start(stack: AsyncExitStack, command: Sequence[str], log: Path) -> None:
    """Start a process; at the end it is asked to stop, then killed."""
    output = stack.enter_context(log.open("ab"))
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=_variables(),
        start_new_session=True,
    )

    async def end() -> None:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(_END):
                    await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()

    stack.push_async_callback(end)


async def _until(condition: Callable[[], Awaitable[bool]], what: str, log: Path) -> None:
    """Raise ProxygenError with the end of the log where the condition does not come true in time."""
    deadline = time.monotonic() + _PATIENCE
    while not await condition():
        if time.monotonic() > deadline:
            raise ProxygenError(f"{what} did not come up within {_PATIENCE:.0f}s; the end of its log: {_end_of(log)}")
        await asyncio.sleep(0.05)


def _end_of(log: Path) -> str:
    return " | ".join(log.read_text(errors="replace").splitlines()[-5:])


async def _consul(stack: AsyncExitStack, binary: str, folder: Path, ports: _Ports) -> str:
    http = ports.take()
    named = {"serf_lan": ports.take(), "serf_wan": ports.take(), "server": ports.take(), "dns": ports.take()}
    # grpc_tls came with Consul 1.14, which refuses neither its absence nor grpc = -1; 1.8 knows only grpc.
    config = {"ports": {**named, "http": http, "grpc": -1}, "disable_update_check": True, "log_level": "WARN"}
    path = folder / "consul.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    command = (binary, "agent", "-dev", "-bind=127.0.0.1", "-client=127.0.0.1", f"-config-file={path}")
    await _start(stack, command, folder / "consul.log")
    address = f"127.0.0.1:{http}"
    settings = load({"consul.address": address}, environment={})

    async def has_leader() -> bool:
        try:
            async with ConsulClient(settings.consul) as client:
                return bool((await client.read("/v1/catalog/services")).body.count(b"consul"))
        except ProxygenError:
            return False

    await _until(has_leader, "Consul", folder / "consul.log")
    return address


def _settings(folder: Path, http: int, consul: str, ports: _Ports) -> Settings:
    values = {
        "consul.address": consul,
        "proxy.http_listen": f"127.0.0.1:{http}",
        "proxy.https_listen": f"127.0.0.1:{ports.take()}",
        "nginx.binary": shutil.which("nginx") or "nginx",
        "nginx.conf": str(folder / "nginx.conf"),
        "nginx.prefix": str(folder),
        "nginx.stamp": f"127.0.0.1:{ports.take()}",
        "output.directory": str(folder / "output"),
        "admin.listen": f"127.0.0.1:{ports.take()}",
        "admin.token": secrets.token_urlsafe(16),
    }
    tables: dict[str, list[str]] = {}
    for key, value in values.items():
        table, _, name = key.partition(".")
        tables.setdefault(table, []).append(f"{name} = {json.dumps(value)}")
    text = "\n".join(f"[{table}]\n" + "\n".join(lines) for table, lines in tables.items())
    path = folder / "proxygen.toml"
    path.touch(0o600)
    path.write_text(text + "\n", encoding="utf-8")
    return load(values, environment={})


async def _nginx(stack: AsyncExitStack, binary: Binary, settings: Settings, folder: Path) -> None:
    modules = _lua_modules(binary)
    _write_conf(settings, folder, modules)
    if modules and await _missing_lua(binary, settings):
        _write_conf(settings, folder, [])
    early = ("-e", f"{folder}/error.log") if binary.log_to_stderr_flag else ()
    command = (str(binary.path), "-p", f"{folder}/", "-c", str(settings.nginx.conf), *early, "-g", "daemon off;")
    await _start(stack, command, folder / "nginx.log")

    async def has_pid() -> bool:
        path = folder / "nginx.pid"
        return path.exists() and path.read_text().strip().isdigit()

    await _until(has_pid, "nginx", folder / "error.log")


def _lua_modules(binary: Binary) -> list[Path]:
    """Debian's modules for Lua, which servers are pushed with; none where they are not installed."""
    modules = [binary.modules_path / f"{name}_module.so" for name in ("ndk_http", "ngx_http_lua")]
    return modules if all(module.is_file() for module in modules) else []


async def _missing_lua(binary: Binary, settings: Settings) -> str:
    conf = await asyncio.to_thread(read_operator_conf, settings.nginx, settings.output.directory, binary)
    return await missing_lua(binary, conf, timeout=settings.nginx.check_timeout)


def _write_conf(settings: Settings, folder: Path, modules: Sequence[Path]) -> None:
    conf = [
        # Debian's nginx loads its stream module from a file; the demo has no stream route and does without.
        *(f"load_module {module};" for module in modules),
        "user root;" if os.getuid() == 0 else "",
        "worker_processes 2;",
        "worker_shutdown_timeout 30s;",
        f"pid {folder}/nginx.pid;",
        f"error_log {folder}/error.log notice;",
        "events { worker_connections 1024; }",
        "http {",
        f"    access_log {folder}/access.log;",
        *(f"    {kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")),
        f"    include {settings.output.directory}/current/http.d/*.conf;",
        "}",
    ]
    settings.nginx.conf.write_text("\n".join(line for line in conf if line) + "\n", encoding="utf-8")


async def _instances(stack: AsyncExitStack, settings: Settings, folder: Path, ports: _Ports, canary: str) -> None:
    async with ConsulClient(settings.consul) as client:
        for name in (*STABLE, CANARY):
            port = ports.take()
            await _start(stack, (sys.executable, "-m", "proxygen.demo.app", name, str(port)), folder / f"{name}.log")
            tags = ProxyTags(route=[HOST], canary=canary) if name == CANARY else ProxyTags(route=[HOST])
            await _until(lambda port=port: _answers(port), name, folder / f"{name}.log")  # type: ignore[misc]
            await client.agent.service.register(
                SERVICE,
                service_id=name,
                address="127.0.0.1",
                port=port,
                tags=list(format_tags(tags)),
                check={"HTTP": f"http://127.0.0.1:{port}/", "Interval": "2s", "Status": "passing"},
            )


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


async def _is_ready(settings: Settings) -> bool:
    """Ready, and all three instances are in the live generation."""
    try:
        async with connect(settings.admin, settings.output.directory) as sidecar:
            report = await sidecar.status()
    except SidecarUnavailable:
        return False
    seen = {
        instance.id for service in report.services for variant in service.variants for instance in variant.instances
    }
    return report.state is State.READY and seen == {*STABLE, CANARY}
