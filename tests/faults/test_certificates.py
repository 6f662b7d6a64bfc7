"""Certificates that are replaced under load, with the whole sidecar on a real Consul and a real nginx."""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.certificates import Authority
from tests.integration.site import Client
from tests.integration.waiting import HOST, ROUTE, answers, call, until

MakeSidecar = Callable[..., Sidecar]


class Visitor:
    """Asks over TLS, each time on a new connection, and counts."""

    def __init__(self, sidecar: Sidecar, authority: Authority) -> None:
        self._port = sidecar.https
        self._tls = ssl.create_default_context(cadata=authority.pem.decode())
        self.served = 0
        self.failures: list[str] = []

    def ask(self) -> None:
        client = Client(self._port, source="127.0.0.1", tls=self._tls, name=HOST)
        try:
            answer = client.ask(HOST)
        except OSError as error:
            self.failures.append(repr(error))
        else:
            self.failures += [f"status {answer.status}"] * (answer.status != 200)
            self.served += 1
        finally:
            client.close()

    def shown(self) -> bytes:
        """The certificate that is shown now."""
        with (
            socket.create_connection(("127.0.0.1", self._port), timeout=20) as connection,
            self._tls.wrap_socket(connection, server_hostname=HOST) as secured,
        ):
            return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True) or b"").encode()

    async def more(self, requests: int) -> None:
        wanted = self.served + requests
        await until(lambda: self.served >= wanted, f"{requests} more requests; {self.failures[:3]}")

    @asynccontextmanager
    async def visiting(self) -> AsyncIterator[None]:
        stopped = asyncio.Event()

        async def visit() -> None:
            while not stopped.is_set():
                await call(self.ask)

        async with asyncio.TaskGroup() as group:
            group.create_task(visit())
            try:
                yield
            finally:
                stopped.set()


@pytest.mark.incident("T58")
@pytest.mark.parametrize("order", [("key", "crt"), ("crt", "key")], ids=" then ".join)
async def test_t58_a_pair_that_is_replaced_one_file_after_the_other_fails_no_request(
    order: tuple[str, str], consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a pause between the files of a new pair, as long as 60 requests take. Meanwhile another service is
    registered, so that nginx reloads, and nginx reloads once more by itself; the old pair serves. Once both files are
    there, the new one does. An operator's rollback to before still finds the old one."""
    authority, directory, new = Authority(), tmp_path / "certificates", tmp_path / "new"
    for each in (directory, new):
        each.mkdir()
        authority.issue(each, "web", HOST)
    sidecar = make_sidecar(consul, running, **{"proxy.certificates": str(directory)})
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE, "proxygen.tls=auto"])
        sidecar.start()
        visitor = Visitor(sidecar, authority)
        before = sidecar.generation()
        async with visitor.visiting():
            await visitor.more(5)
            old = await call(visitor.shown)
            shutil.copyfile(new / f"web.{order[0]}", directory / f"web.{order[0]}")
            await until(lambda: "previous pair" in str(sidecar.status()["warnings"]), "the half pair told of")
            consul.register("late", port=app.port, tags=["proxygen.route=late.example.com"])
            await answers(sidecar, "late.example.com")
            running.reload()
            await visitor.more(60)
            assert await call(visitor.shown) == old
            shutil.copyfile(new / f"web.{order[1]}", directory / f"web.{order[1]}")
            await until(lambda: visitor.shown() == (new / "web.crt").read_bytes(), "the new certificate")
            await visitor.more(20)
            await call(sidecar.command, "rollback", str(before))
            await until(lambda: visitor.shown() == old, "the old certificate again")
            await visitor.more(5)
        assert not visitor.failures
    assert "emerg" not in running.errors()
    expires = {one["name"]: one["expires"] for one in sidecar.status()["certificates"]}
    assert expires.keys() == {"web"}
    assert "certificate web expires at" in str(sidecar.status()["conditions"]), "in a day, which is soon"


@pytest.mark.incident("T58")
async def test_t58_a_restart_of_nginx_and_of_the_sidecar_finds_the_old_pair_too(
    consul: ConsulAgent, running: NginxServer, make_sidecar: MakeSidecar, tmp_path: Path
) -> None:
    """Injects a restart of both between the two files."""
    authority, directory = Authority(), tmp_path / "certificates"
    directory.mkdir()
    authority.issue(directory, "web", HOST)
    sidecar = make_sidecar(consul, running, **{"proxy.certificates": str(directory)})
    with App("web-1") as app:
        consul.register("web", port=app.port, tags=[ROUTE, "proxygen.tls=auto"])
        sidecar.start()
        visitor = Visitor(sidecar, authority)
        old = visitor.shown()
        (directory / "web.key").write_text("not yet\n")
        await until(lambda: "previous pair" in str(sidecar.status()["warnings"]), "the half pair told of")
        await call(running.restart)
        assert await call(visitor.shown) == old
        await call(sidecar.stop)
        await call(sidecar.start)
        assert await call(visitor.shown) == old
        assert not sidecar.status()["quarantined"]
        visitor.ask()
        assert not visitor.failures
