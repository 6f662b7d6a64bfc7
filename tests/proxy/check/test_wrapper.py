"""The nginx.conf under which a candidate is tested."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxygen.kit.errors import BadInput
from proxygen.proxy.check.wrapper import operators_names, write_wrapper
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import read_operator_conf
from proxygen.settings import NginxSettings
from tests.proxy.conftest import ReadConf


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    path = tmp_path / "scratch"
    path.mkdir()
    return path


@pytest.fixture
def candidate(tmp_path: Path) -> Path:
    path = tmp_path / "candidate"
    (path / "http.d").mkdir(parents=True)
    (path / "stream.d").mkdir()
    return path


def test_only_the_pid_and_the_live_generation_change(read_conf: ReadConf, scratch: Path, candidate: Path) -> None:
    """Every other byte, and every line number, is the operator's."""
    text = "# é\npid /run/nginx.pid;\n\nhttp {\n  gzip on;\n  include OUTPUT/current/http.d/*.conf;  # here\n}\n"
    conf = read_conf(text)
    wrapper = write_wrapper(conf, scratch, candidate)
    expected = conf.texts[conf.path].replace("/run/nginx.pid", f'"{scratch}/nginx.pid"')
    expected = expected.replace(f"{conf.output}/current/http.d/*.conf", f'"{candidate}/http.d/*.conf"')
    assert wrapper.read_text("latin-1") == expected


def test_without_a_pid_directive_the_compiled_in_pid_file_is_spared(
    read_conf: ReadConf, scratch: Path, candidate: Path
) -> None:
    wrapper = write_wrapper(read_conf("\nhttp { include OUTPUT/current/http.d/*.conf; }"), scratch, candidate)
    assert wrapper.read_text().startswith(f'pid "{scratch}/nginx.pid"; \nhttp')


def test_relative_files_are_where_they_were(read_conf: ReadConf, etc: Path, scratch: Path, candidate: Path) -> None:
    (etc / "mime.types").write_text("types { }")
    (etc / "tls").mkdir()
    (etc / "tls/web.crt").write_text("certificate")
    (etc.parent / "shared.conf").write_text("gzip on;")
    conf = read_conf("http { include mime.types; include ../shared.conf; include OUTPUT/current/http.d/*.conf; }")
    here = write_wrapper(conf, scratch, candidate).parent
    assert (here / "mime.types").read_text() == "types { }"
    assert (here / "tls/web.crt").read_text() == "certificate"
    assert (here / "../shared.conf").read_text() == "gzip on;"


@pytest.mark.parametrize("include", ["sites/*.conf", "ETC/sites/*.conf"])
def test_a_nested_include_of_the_live_generation_is_a_changed_copy(
    read_conf: ReadConf, etc: Path, output: Path, scratch: Path, candidate: Path, include: str
) -> None:
    """Its neighbours stay, and are read in the same order, from the same glob."""
    (etc / "sites").mkdir()
    (etc / "sites/a.conf").write_text("gzip on;")
    (etc / "sites/b.conf").write_text(f"\ninclude {output}/current/http.d/*.conf;")
    conf = read_conf(f"http {{\n include {include.replace('ETC', str(etc))};\n}}")
    wrapper = write_wrapper(conf, scratch, candidate)
    prefixless = NginxSettings(conf=wrapper)
    seen = read_operator_conf(prefixless, candidate, _binary(scratch))
    read = {path.name: text for path, text in seen.texts.items()}
    assert read["a.conf"] == "gzip on;"
    assert read["b.conf"] == f'\ninclude "{candidate}/http.d/*.conf";'


def test_messages_name_the_operators_files(read_conf: ReadConf, etc: Path, scratch: Path, candidate: Path) -> None:
    conf = read_conf("http { include OUTPUT/current/http.d/*.conf; }")
    wrapper = write_wrapper(conf, scratch, candidate)
    message = f'unknown directive "x" in {wrapper}:3'
    assert operators_names(scratch, message) == f'unknown directive "x" in {etc}/nginx.conf:3'


def test_stream_routes_need_the_stream_include(read_conf: ReadConf, scratch: Path, candidate: Path) -> None:
    """Else the test would pass for a candidate whose streams nginx never reads."""
    (candidate / "stream.d/x.conf").write_text("")
    conf = read_conf("http { include OUTPUT/current/http.d/*.conf; }")
    with pytest.raises(BadInput, match="inside stream"):
        write_wrapper(conf, scratch, candidate)


def _binary(prefix: Path) -> Binary:
    return Binary(
        path=Path("/usr/sbin/nginx"),
        version=(1, 22, 1),
        modules=frozenset(),
        prefix=prefix,
        conf_path=prefix / "nginx.conf",
        pid_path=prefix / "nginx.pid",
        error_log=None,
    )
