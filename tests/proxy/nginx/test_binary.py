"""What an nginx binary tells about itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.nginx.binary import inspect_binary, parse_version_output
from proxygen.settings import NginxSettings

_DEBIAN = """\
nginx version: nginx/1.22.1
built with OpenSSL 3.0.11 19 Sep 2023
TLS SNI support enabled
configure arguments: --with-cc-opt='-g -O2 -fPIC' --prefix=/usr/share/nginx --conf-path=/etc/nginx/nginx.conf \
--error-log-path=stderr --pid-path=/run/nginx.pid --with-http_v2_module --with-stream=dynamic
"""


def test_paths_and_modules_are_read() -> None:
    binary = parse_version_output(_DEBIAN, path=Path("/usr/sbin/nginx"), prefix=None)
    assert binary.version == (1, 22, 1)
    assert {"http_v2_module", "stream"} <= binary.modules
    assert (binary.conf_path, binary.pid_path) == (Path("/etc/nginx/nginx.conf"), Path("/run/nginx.pid"))
    assert binary.error_log is None


def test_relative_paths_are_those_of_the_prefix() -> None:
    text = "nginx version: nginx/1.31.3\nconfigure arguments: --prefix=. --pid-path=nginx.pid --conf-path=nginx.conf\n"
    binary = parse_version_output(text, path=Path("/x/nginx"), prefix=Path("/srv/proxy"))
    assert (binary.prefix, binary.pid_path) == (Path("/srv/proxy"), Path("/srv/proxy/nginx.pid"))
    assert binary.error_log == Path("/srv/proxy/logs/error.log")


@pytest.mark.parametrize(
    ("version", "keepalive", "http2", "reject", "stderr"),
    [
        ("1.18.0", False, False, False, False),
        ("1.19.4", False, False, True, False),
        ("1.22.1", False, False, True, True),
        ("1.25.1", False, True, True, True),
        ("1.27.3", False, True, True, True),
        ("1.27.4", True, True, True, True),
        ("1.31.0", True, True, True, True),
    ],
)
def test_capabilities_follow_the_version(
    version: str, keepalive: bool, http2: bool, reject: bool, stderr: bool
) -> None:
    binary = parse_version_output(f"nginx version: nginx/{version} (Ubuntu)", path=Path("/n"), prefix=None)
    found = (binary.keepalive_min_timeout, binary.http2_directive, binary.reject_handshake, binary.log_to_stderr_flag)
    assert found == (keepalive, http2, reject, stderr)


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("nginx version: openresty/1.25.3.2\n", (1, 25, 3)),
        ("Angie version: Angie/1.11.3\nnginx version: nginx/1.29.3\n", (1, 29, 3)),
        ("Tengine version: Tengine/2.3.4\nnginx version: nginx/1.18.0\n", (1, 18, 0)),
    ],
)
def test_what_was_made_of_nginx_tells_whose_version_it_has(said: str, version: tuple[int, int, int]) -> None:
    assert parse_version_output(said, path=Path("/n"), prefix=None).version == version


async def test_a_missing_binary_says_what_to_do() -> None:
    with pytest.raises(NginxUnavailable, match=re.escape("--nginx-binary")):
        await inspect_binary(NginxSettings(binary="no-such-nginx"))


async def test_another_program_is_not_taken_for_nginx() -> None:
    with pytest.raises(NginxUnavailable, match="is not nginx"):
        await inspect_binary(NginxSettings(binary="echo"))
