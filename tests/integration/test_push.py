"""What needs no reload goes to nginx's workers at once, and the files follow."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import find_nginx

LUA = ("ndk_http", "ngx_http_lua")


@pytest.fixture
def lua_nginx(make_nginx: Callable[..., NginxServer]) -> NginxServer:
    binary = find_nginx("debian")
    if binary is None or binary.modules is None or not (binary.modules / "ngx_http_lua_module.so").exists():
        pytest.skip("needs Debian's nginx with libnginx-mod-http-lua")
    server = make_nginx(binary, modules=LUA)
    server.start()
    return server


def test_first(consul: ConsulAgent, lua_nginx: NginxServer, tmp_path: Path, make_sidecar: Callable[..., Sidecar]) -> None:
    sidecar = make_sidecar(consul, lua_nginx)
    consul.register("web", id="a", port=1001, tags=["proxygen.route=web.example.com"])
    consul.register("web", id="b", port=1002, tags=["proxygen.route=web.example.com"])
    sidecar.start()
    process.wait_until(lambda: sidecar.applies() >= 1, what="applied")
    import time
    for n in range(8):
        consul.register("web", id=f"c{n}", port=1003 + n, tags=["proxygen.route=web.example.com"])
        time.sleep(0.3)
    time.sleep(3)
    print((lua_nginx.output / "current/http.d/10-upstreams.conf").read_text())
    print(sidecar.log.read_text()[-6000:])
    print(lua_nginx.error_log.read_text()[-3000:])
    assert 0
