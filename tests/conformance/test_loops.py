"""An instance whose address is a balancer that leads back to this nginx: one request must not go round for ever."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc  # type: ignore[import-untyped]
import pytest

from tests.conformance.case import Sent
from tests.conformance.instance import Record
from tests.conformance.sending import exchange
from tests.conformance.site import Service, Site, proxied
from tests.harness import process
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary

_HTTP: Final = "http.req.example.com"
_GRPC: Final = "grpc.req.example.com"
_MOST: Final = 8
"""How often a request may come through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loop:
    site: Site
    balancer: NginxServer

    def until_passed(self) -> None:
        """Wait for as many requests in the balancer's access log as may be there."""
        log = self.balancer.directory / "access.log"
        process.wait_until(lambda: len(log.read_text().splitlines()) >= _MOST, what="the balancer's log")
        assert len(log.read_text().splitlines()) == _MOST


@pytest.fixture
def loop(binary: NginxBinary, tmp_path: Path) -> Iterator[_Loop]:
    plain, h2c = free_port(), free_port()
    services = [
        Service(name="plain", tags=(f"route={_HTTP}",), ports=(plain,)),
        Service(name="calls", tags=(f"route={_GRPC}", "protocol=grpc", "tls=auto"), ports=(h2c,)),
    ]
    with ExitStack() as stack:
        site = stack.enter_context(proxied(binary, tmp_path / "site", services, Record()))
        said = f"""
            server {{ listen 127.0.0.1:{plain}; location / {{
                proxy_pass http://127.0.0.1:{site.http}; proxy_set_header Host $host; }} }}
            server {{ listen 127.0.0.1:{h2c}{_http2(binary)} location / {{
                grpc_pass grpcs://127.0.0.1:{site.https}; grpc_set_header Host $host;
                grpc_ssl_server_name on; grpc_ssl_name $host; }} }}"""
        balancer = NginxServer(binary, tmp_path / "balancer", output=tmp_path / "none", http=said)
        balancer.start()
        stack.callback(balancer.stop)
        yield _Loop(site=site, balancer=balancer)


def _http2(binary: NginxBinary) -> str:
    return "; http2 on;" if binary.version >= (1, 25, 1) else " http2;"


def test_a_request_that_goes_round_ends(loop: _Loop) -> None:
    assert exchange(loop.site, _HTTP, Sent(), "http").status == 508
    loop.until_passed()


def test_a_call_that_goes_round_ends(loop: _Loop) -> None:
    credentials = grpc.ssl_channel_credentials(loop.site.authority.pem)
    options = (("grpc.ssl_target_name_override", _GRPC), ("grpc.default_authority", _GRPC))
    with (
        grpc.secure_channel(f"127.0.0.1:{loop.site.https}", credentials, options) as channel,
        pytest.raises(grpc.RpcError) as error,
    ):
        channel.unary_unary("/test.Echo/Say")(b"hello", timeout=60)
    # It ends before there is a location that knows of gRPC: clients read HTTP's status, and do not try again.
    assert error.value.code() is grpc.StatusCode.UNKNOWN  # type: ignore[attr-defined, unused-ignore]
    assert "508" in error.value.details()  # type: ignore[attr-defined, unused-ignore]
    loop.until_passed()
