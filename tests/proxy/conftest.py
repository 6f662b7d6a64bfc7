"""An operator's files on disk, without an nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.settings import NginxSettings
from tests.model.story import Story, a_story

ReadConf = Callable[[str], OperatorConf]


@pytest.fixture
def story() -> Iterator[Story]:
    yield from a_story()


@pytest.fixture
def binary(tmp_path: Path) -> Binary:
    return Binary(
        path=Path("/usr/sbin/nginx"),
        version=(1, 22, 1),
        modules=frozenset({"stream"}),
        prefix=tmp_path / "prefix",
        conf_path=Path("/etc/nginx/nginx.conf"),
        pid_path=Path("/run/nginx.pid"),
        error_log=None,
    )


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """The operator's directory."""
    path = tmp_path / "etc"
    path.mkdir()
    return path


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


@pytest.fixture
def read_conf(etc: Path, output: Path, binary: Binary) -> ReadConf:
    """Read this text as nginx.conf; OUTPUT in it is the output directory."""

    def read(text: str) -> OperatorConf:
        (etc / "nginx.conf").write_text(text.replace("OUTPUT", str(output)))
        return read_operator_conf(NginxSettings(conf=etc / "nginx.conf"), output, binary)

    return read
