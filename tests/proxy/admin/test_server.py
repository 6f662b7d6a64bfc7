from __future__ import annotations

import asyncio
import socket
import stat
from dataclasses import replace
from pathlib import Path

import aiohttp.web
import pytest
from pydantic import SecretStr

from proxygen.kit.errors import Refused, SettingsError, SidecarUnavailable
from proxygen.proxy.admin.client import connect
from proxygen.proxy.admin.place import socket_path
from proxygen.proxy.admin.report import State
from proxygen.proxy.admin.server import serving
from proxygen.settings import AdminSettings
from tests.harness.ports import free_port
from tests.proxy.admin.sidecar import STATUS, RememberingSidecar


async def test_the_client_reads_back_what_the_sidecar_reports(short_directory: Path) -> None:
    sidecar = RememberingSidecar()
    settings = AdminSettings(listen="off")
    async with serving(sidecar, settings, short_directory), connect(settings, short_directory) as client:
        assert await client.status() == STATUS
        sidecar.report = replace(STATUS, state=State.DEGRADED, reasons=("why",))
        assert (await client.status()).reasons == ("why",)
        assert (await client.rollback(None)).generation == 41
        with pytest.raises(Refused, match="nothing is held"):
            await client.release_hold()


async def test_the_socket_is_its_owners_alone_and_goes_with_the_sidecar(short_directory: Path) -> None:
    settings = AdminSettings(listen="off")
    path = socket_path(settings, short_directory)
    async with serving(RememberingSidecar(), settings, short_directory):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not path.exists()


async def test_a_socket_that_a_killed_sidecar_left_is_replaced(short_directory: Path) -> None:
    settings = AdminSettings(listen="off", socket=short_directory / "a.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(settings.socket))
    with pytest.raises(SidecarUnavailable, match="no sidecar answers"):
        async with connect(settings, short_directory) as client:
            await client.status()
    async with serving(RememberingSidecar(), settings, short_directory), connect(settings, short_directory) as client:
        assert (await client.status()).version == STATUS.version


async def test_a_living_sidecars_socket_is_not_taken(short_directory: Path) -> None:
    settings = AdminSettings(listen="off")
    async with serving(RememberingSidecar(), settings, short_directory):
        with pytest.raises(SettingsError, match="another sidecar answers"):
            async with serving(RememberingSidecar(), settings, short_directory):
                pass
        async with connect(settings, short_directory) as client:
            assert (await client.status()).version == STATUS.version


async def test_a_file_in_the_sockets_place_is_not_deleted(short_directory: Path) -> None:
    path = short_directory / "precious"
    path.write_text("data", encoding="utf-8")
    with pytest.raises(SettingsError, match="admin socket"):
        async with serving(RememberingSidecar(), AdminSettings(listen="off", socket=path), short_directory):
            pass
    assert path.read_text(encoding="utf-8") == "data"


async def test_a_path_too_long_for_a_socket_is_reached_all_the_same(tmp_path: Path) -> None:
    """sun_path holds 107 bytes; where an operator keeps OUTPUT is not for the kernel's structure to say."""
    settings, output = AdminSettings(listen="off"), tmp_path / ("x" * 120)
    async with serving(RememberingSidecar(), settings, output), connect(settings, output) as client:
        assert (await client.status()).version == STATUS.version
        with pytest.raises(SettingsError, match="another sidecar answers"):
            async with serving(RememberingSidecar(), settings, output):
                pass
    assert not list((output / "state").iterdir())


async def test_over_tcp_the_client_writes_with_the_token_only(short_directory: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    settings = AdminSettings(listen=listen, token=SecretStr("b1gs1cr3t"))
    elsewhere = short_directory / "other"
    async with serving(RememberingSidecar(), settings, short_directory):
        async with connect(settings, elsewhere) as client:
            assert (await client.rollback(7)).generation == 7
        async with connect(AdminSettings(listen=listen), elsewhere) as client:
            assert (await client.status()).version == STATUS.version
            with pytest.raises(SidecarUnavailable, match="401"):
                await client.rollback(7)


async def test_a_taken_port_is_named_and_leaves_no_socket_behind(short_directory: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = AdminSettings(listen=f"127.0.0.1:{other.getsockname()[1]}")
        with pytest.raises(SettingsError, match=r"admin\.listen"):
            async with serving(RememberingSidecar(), settings, short_directory):
                pass
    assert not socket_path(settings, short_directory).exists()


async def test_an_answer_that_is_not_ours_is_no_status(short_directory: Path) -> None:
    """A stranger on the port must not look like a sidecar."""
    app = aiohttp.web.Application()

    async def stranger(_request: aiohttp.web.Request) -> aiohttp.web.Response:
        return aiohttp.web.Response(text="<html>hello</html>")

    app.router.add_get("/api/v1/status", stranger)
    runner = aiohttp.web.AppRunner(app)
    await runner.setup()
    port = free_port()
    await aiohttp.web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        async with connect(AdminSettings(listen=f"127.0.0.1:{port}"), short_directory) as client:
            with pytest.raises(SidecarUnavailable, match="another version"):
                await client.status()
    finally:
        await runner.cleanup()


async def test_a_listener_that_is_served_no_longer_is_told(
    short_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What nobody thought of ends the task that accepts, and clients would be left waiting."""
    settings = AdminSettings(listen=f"127.0.0.1:{free_port()}")
    async with serving(RememberingSidecar(), settings, short_directory) as served:
        ended = asyncio.create_task(served.run())
        async with connect(settings, short_directory) as client:
            assert (await client.status()).version == STATUS.version
        assert not ended.done()

        async def broken(*_arguments: object) -> None:
            raise RuntimeError("nobody thought of this")

        monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", broken)
        host, _, port = settings.listen.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(port))
        with pytest.raises(RuntimeError, match="nobody thought of this"):
            await asyncio.wait_for(ended, 60)
        writer.close()
