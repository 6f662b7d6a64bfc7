"""What the operator says is left to him: nginx takes his fragments and his nginx.conf as it would without us."""

from __future__ import annotations

import http.client
import json
import re
import subprocess
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import warm
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.sidecar import to_toml
from tests.harness.tools import NginxBinary, each_nginx, find_nginx, missing
from tests.integration.site import NO_HEADERS

IN_LOCATIONS: Final = (
    "proxy_connect_timeout 5s;",
    "proxy_read_timeout 10m;",
    "proxy_send_timeout 10m;",
    "proxy_buffering off;",
    "proxy_request_buffering off;",
    "proxy_next_upstream error timeout;",
    "proxy_next_upstream off;",
    "proxy_next_upstream_tries 2;",
    "proxy_buffer_size 64k; proxy_buffers 8 64k;",
    "proxy_http_version 1.0;",
    "proxy_intercept_errors on; error_page 502 503 /own.html;",
    "proxy_redirect off;",
    "proxy_cookie_path off;",
    "proxy_set_header X-Own own;",
    "client_max_body_size 8m;",
    "client_body_timeout 5m;",
    "recursive_error_pages on;",
    "add_header X-Own own always;",
    "error_page 404 /own.html;",
    "limit_rate 100k;",
    "if ($arg_own) { return 403; }",
    "rewrite ^/own/(.*)$ /$1 break;",
    "location ~ [.]own$ { return 200 own; }",
    "gzip on; gzip_types text/css;",
    "access_log off;",
    "set $own ${host}; satisfy any;",
)
IN_SERVERS: Final = (
    "client_max_body_size 8m;",
    "server_tokens on;",
    "absolute_redirect on;",
    "large_client_header_buffers 4 16k;",
    "request_pool_size 4k;",
    "underscores_in_headers on;",
    "proxy_buffer_size 64k; proxy_buffers 8 64k; proxy_busy_buffers_size 128k;",
    "proxy_buffer_size 4k;",
    "proxy_read_timeout 10m; proxy_send_timeout 10m; proxy_socket_keepalive off; proxy_next_upstream_timeout 1s;",
    "proxy_buffering off; proxy_request_buffering off;",
    "error_page 404 /own.html; location = /own.html { internal; return 200 own; }",
    "add_header X-Own own always; gzip on;",
    "location = /up { client_max_body_size 100m; return 200; }",
)
AROUND: Final = (
    "proxy_buffer_size 64k; proxy_buffers 8 64k;",
    "proxy_read_timeout 10m; client_max_body_size 8m; server_tokens on; gzip on; gzip_buffers 16 8k;",
    "error_page 404 /own.html; add_header X-Own own;",
)
"""What stands in nginx.conf's own ``http``."""
ADA: Final = {"Authorization": f"Basic {b64encode(b'ada:secret').decode()}"}

TAGS: Final = (
    (),
    ("timeout=5s", "idle-timeout=5s", "connect-timeout=1s", "body-size=1m"),
    ("request-buffering=false", "response-buffering=false", "retries-unsafe=true"),
    ("retries=0",),
)


def _rendered(
    binary: NginxBinary, directory: Path, services: dict[str, list[str]], *, around: str = "", port: int = 1
) -> NginxServer:
    """What becomes of services with these tags, and of the fragments in ``snippets``, beside this nginx.conf."""
    nginx = NginxServer(binary, directory / "nginx", output=directory / "output", http=around)
    snippets = directory / "snippets"
    snippets.mkdir(exist_ok=True)
    knobs = {
        "proxy.http_listen": f"127.0.0.1:{free_port()}",
        "proxy.snippets": str(snippets),
        "nginx.binary": str(binary.path),
        "nginx.conf": str(nginx.conf),
        "nginx.prefix": str(nginx.directory),
        # Not where it is rendered to, which it refuses to touch.
        "output.directory": str(directory / "live"),
        "traffic.sample": 0,
        **({"proxy.htpasswd": str(directory / "htpasswd")} if (directory / "htpasswd").exists() else {}),
    }
    config, catalog = directory / "proxygen.toml", directory / "catalog.json"
    config.write_text(to_toml(knobs))
    entries = {name: [_entry(name, tags, port)] for name, tags in services.items()}
    catalog.write_text(json.dumps({"datacenter": "dc1", "services": entries}))
    target = nginx.output / "current"
    done = warm.run(["render", "--config", config, "--catalog", catalog, "--output", target], timeout=120)
    assert done.returncode == 0, done.stderr
    assert "quarantine" not in done.stderr
    return nginx


def _entry(name: str, tags: list[str], port: int) -> dict[str, Any]:
    """As /v1/health/service/NAME tells of one instance; at port 1 nobody listens."""
    service = {
        "ID": name,
        "Service": name,
        "Tags": [f"proxygen.{tag}" for tag in tags],
        "Address": "127.0.0.1",
        "Port": port,
        "Weights": {"Passing": 1, "Warning": 1},
        "CreateIndex": 1,
        "ModifyIndex": 1,
    }
    check = {"CheckID": "one", "ServiceID": name, "Status": "critical" if name == "down" else "passing"}
    node = {"Node": "node", "Address": "127.0.0.1", "Datacenter": "dc1"}
    return {"Node": node, "Service": service, "Checks": [check]}


def _complaints(nginx: NginxServer) -> list[str]:
    done = subprocess.run([*nginx.command, "-t"], check=False, capture_output=True, text=True)
    assert "[emerg]" in done.stderr or done.returncode == 0
    return [line for line in done.stderr.splitlines() if "[emerg]" in line or "[warn]" in line]


def test_whatever_a_fragment_says_nginx_takes_it(nginx_binary: NginxBinary, tmp_path: Path) -> None:
    (tmp_path / "snippets").mkdir()
    services: dict[str, list[str]] = {}
    for place, text in enumerate(IN_LOCATIONS):
        for number, tags in enumerate(TAGS):
            name = f"l{place}-{number}"
            # nginx takes no location inside of one that a path's own end makes exact.
            path = "" if text.startswith("location") else "/p"
            services[name] = [f"route={name}.example.com{path}", "strip-prefix=true", *tags]
            (tmp_path / "snippets" / f"location-{name}.conf").write_text(text)
    for place, text in enumerate(IN_SERVERS):
        services[f"s{place}"] = [f"route=s{place}.example.com"]
        (tmp_path / "snippets" / f"server-s{place}.example.com.conf").write_text(text)
    services["g"] = ["route=g.example.com", "protocol=grpc"]
    (tmp_path / "snippets" / "location-g.conf").write_text(
        "client_max_body_size 8m; client_body_timeout 1m; grpc_read_timeout 1m; grpc_send_timeout 1m; "
        "grpc_connect_timeout 1s; grpc_next_upstream off; grpc_next_upstream_tries 2;"
    )
    nginx = _rendered(nginx_binary, tmp_path, services)
    assert _complaints(nginx) == []


@pytest.mark.parametrize("around", AROUND)
def test_whatever_nginx_conf_says_around_ours_nginx_takes_it(
    nginx_binary: NginxBinary, tmp_path: Path, around: str
) -> None:
    services = {"web": ["route=web.example.com"], "g": ["route=g.example.com", "protocol=grpc"]}
    assert _complaints(_rendered(nginx_binary, tmp_path, services, around=around)) == []


def _asked(
    nginx: NginxServer, host: str, path: str, *, method: str = "GET", headers: Mapping[str, str] = NO_HEADERS
) -> tuple[int, str, Mapping[str, str]]:
    conf = (nginx.output / "current" / "http.d" / "20-servers.conf").read_text()
    address = re.search(r"listen (127[.]0[.]0[.]1:[0-9]+)", conf)
    assert address is not None
    connection = http.client.HTTPConnection(address[1], timeout=30)
    with closing(connection):
        connection.request(method, path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), dict(answer.getheaders())


def test_pages_of_the_operators_go_before_ours_and_ours_stay_for_the_rest(
    nginx_binary: NginxBinary, tmp_path: Path
) -> None:
    """Nobody listens on the services' port: 502; and 503 where no instance is healthy."""
    (tmp_path / "snippets").mkdir()
    (tmp_path / "snippets" / "server-own.example.com.conf").write_text(
        "error_page 502 /own.html; location = /own.html { internal; return 200 own; }"
    )
    (tmp_path / "snippets" / "location-mine.conf").write_text("error_page 502 =200 /own.html;")
    services = {
        "own": ["route=own.example.com"],
        "mine": ["route=own.example.com/mine"],
        "web": ["route=web.example.com/web"],
        "down": ["route=down.example.com"],
    }
    nginx = _rendered(nginx_binary, tmp_path, services, around="error_page 404 /nowhere.html;")
    nginx.start()
    try:
        assert _asked(nginx, "own.example.com", "/x")[:2] == (502, "own")
        assert _asked(nginx, "own.example.com", "/mine")[:2] == (200, "own")
        status, body, headers = _asked(nginx, "web.example.com", "/web")
        assert (status, headers["Retry-After"]) == (502, "5")
        assert "<h1>502 Bad Gateway</h1>" in body
        status, body, headers = _asked(nginx, "down.example.com", "/")
        assert (status, headers["Retry-After"]) == (503, "5")
        assert "<h1>503" in body
    finally:
        nginx.stop()


@pytest.mark.parametrize(
    ("method", "headers"),
    [
        ("GET", {}),
        ("GET", {"Accept": "text/event-stream"}),
        ("GET", {"Prefer": "wait=1"}),
        ("GET", {"Upgrade": "websocket", "Connection": "upgrade"}),
        ("PUT", {}),
        ("DELETE", {}),
        ("ODD", {}),
    ],
    ids=str,
)
def test_a_fragments_rule_holds_for_every_kind_of_request(
    ruled: NginxServer, method: str, headers: dict[str, str]
) -> None:
    """It sees the path with its prefix, as the client wrote it."""
    assert _asked(ruled, "rule.example.com", "/p/admin", method=method, headers=headers)[0] == 403
    assert _asked(ruled, "rule.example.com", "/p/other", method=method, headers=headers)[0] == 502


@pytest.mark.parametrize(
    ("method", "headers"), [("GET", {}), ("PUT", {}), ("GET", {"Accept": "text/event-stream"})], ids=str
)
def test_an_error_that_leads_to_an_instance_which_fails_too_stays_an_error(
    ruled: NginxServer, method: str, headers: dict[str, str]
) -> None:
    assert _asked(ruled, "web.example.com", "/x", method=method, headers=headers)[0] in {500, 502}


@pytest.fixture(scope="module", params=each_nginx())
def ruled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NginxServer]:
    binary = find_nginx(request.param)
    if binary is None:
        missing(f"nginx ({request.param})")
    directory = tmp_path_factory.mktemp("ruled")
    (directory / "snippets").mkdir()
    (directory / "snippets" / "location-rule.conf").write_text("if ($uri ~ ^/p/admin) { return 403; }")
    services = {"rule": ["route=rule.example.com/p", "strip-prefix=true"], "web": ["route=web.example.com"]}
    nginx = _rendered(binary, directory, services, around="error_page 502 503 504 /50x.html;")
    nginx.start()
    yield nginx
    nginx.stop()


@pytest.mark.incident("T43")
@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize("auth", [[], ["auth=staff.htpasswd"]], ids=["", "with-a-password"])
@pytest.mark.parametrize("is_for_all", [False, True], ids=["in-a-fragment", "for-all"])
def test_a_path_behind_strip_prefix_and_the_operators_auth_request_is_as_the_client_wrote_it(
    any_nginx_binary: NginxBinary, tmp_path: Path, method: str, auth: list[str], *, is_for_all: bool
) -> None:
    """The subrequest goes through the virtual server once more, and to a service with a prefix of its own."""
    port = free_port()
    echo = f"server {{ listen 127.0.0.1:{port}; location / {{ return 200 $request_uri; }} }}"
    (tmp_path / "snippets").mkdir()
    asks = "auth_request /gate/allows%2Fme;"
    for name, text in (("server", asks if is_for_all else ""), ("location-web", "" if is_for_all else asks)):
        (tmp_path / "snippets" / f"{name}.conf").write_text(f"satisfy all; {text}" if name == "server" else text)
    (tmp_path / "htpasswd").mkdir()
    (tmp_path / "htpasswd" / "staff.htpasswd").write_text("ada:{PLAIN}secret\n")
    services = {
        "web": ["route=web.example.com/api", "strip-prefix=true", *auth],
        "gate": ["route=web.example.com/gate", "strip-prefix=true"],
    }
    nginx = _rendered(
        any_nginx_binary, tmp_path, services, around=f"{echo} satisfy all; {asks if is_for_all else ''}", port=port
    )
    nginx.start()
    try:
        for path in ("a%2Fb", "/x//y", "http%3A%2F%2Fh%2F", "plain?q=%2F"):
            got = _asked(nginx, "web.example.com", f"/api/{path}", method=method, headers=ADA)
            assert got[:2] == (200, f"/{path}")
    finally:
        nginx.stop()
