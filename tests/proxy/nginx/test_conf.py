"""What the operator's nginx.conf says."""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path

import pytest

from proxygen.kit.errors import BadInput
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import MAP_SIZES, ConfSource
from proxygen.settings import NginxSettings
from tests.harness.tools import NginxBinary
from tests.proxy.conftest import ReadConf

_HTTP = "http { include OUTPUT/current/http.d/*.conf; }\n"


def test_main_settings_are_read(read_conf: ReadConf, tmp_path: Path) -> None:
    conf = read_conf(
        "pid run/x.pid;\nerror_log /var/log/e.log notice;\nworking_directory /srv;\nworker_shutdown_timeout 30s;\n"
        + _HTTP
    )
    assert conf.pid_path == tmp_path / "prefix/run/x.pid"
    assert conf.error_log == Path("/var/log/e.log")
    assert conf.working_directory == Path("/srv")
    assert conf.worker_shutdown_timeout == "30s"


def test_what_is_not_said_is_the_binarys(read_conf: ReadConf) -> None:
    conf = read_conf(_HTTP)
    assert (conf.pid_path, conf.error_log) == (Path("/run/nginx.pid"), None)


@pytest.mark.parametrize("name", ["stderr", "syslog:server=127.0.0.1", "memory:32m debug"])
def test_a_log_that_is_no_file_is_none(read_conf: ReadConf, name: str) -> None:
    assert read_conf(f"error_log {name};\n" + _HTTP).error_log is None


def test_directives_of_the_operator_are_known_through_includes(read_conf: ReadConf, etc: Path) -> None:
    (etc / "conf.d").mkdir()
    (etc / "conf.d/hash.conf").write_text("server_names_hash_bucket_size 64;\nserver { gzip on; }\n")
    conf = read_conf("http { include conf.d/*.conf; sendfile on; }\nstream { tcp_nodelay on; }\n")
    assert {"server_names_hash_bucket_size", "sendfile", "server"} <= conf.http_directives
    assert "gzip" not in conf.http_directives
    assert conf.stream_directives == {"tcp_nodelay"}


@pytest.mark.parametrize(
    "line",
    [
        "include OUTPUT/current/http.d/*.conf;",
        "include 'OUTPUT/current/http.d/*.conf';",
        "include OUTPUT/../output/current/http.d/*;",
        "include ../output/current/http.d/*.conf;",
    ],
)
def test_the_include_of_the_live_generation_is_found(read_conf: ReadConf, line: str) -> None:
    assert read_conf(f"http {{ {line} }}").includes == {"http"}


def test_it_is_found_through_a_symbolic_link_and_in_a_nested_file(
    read_conf: ReadConf, etc: Path, tmp_path: Path, output: Path
) -> None:
    output.mkdir()
    os.symlink(output, tmp_path / "elsewhere")
    (etc / "sites").mkdir()
    (etc / "sites/proxygen.conf").write_text(f"include {tmp_path}/elsewhere/current/http.d/*.conf;")
    conf = read_conf("http { include sites/*.conf; }\nstream { include OUTPUT/current/stream.d/*.conf; }")
    assert conf.includes == {"http", "stream"}


@pytest.mark.parametrize(
    "text",
    [
        "http { }",
        "http { server { include OUTPUT/current/http.d/*.conf; } }",
        "stream { include OUTPUT/current/http.d/*.conf; }",
        "http { include OUTPUT/current/stream.d/*.conf; }",
        "http { include OUTPUT/current/http.d/one.conf; }",
        "http { # include OUTPUT/current/http.d/*.conf;\n }",
    ],
)
def test_a_missing_include_is_refused_with_the_line_to_add(read_conf: ReadConf, output: Path, text: str) -> None:
    conf = read_conf(text)
    line = f"add this line inside http {{ … }}: include {output}/current/http.d/*.conf;"
    with pytest.raises(BadInput, match=re.escape(line)):
        conf.require_include("http")


def test_the_fingerprint_follows_every_file_and_nothing_else(read_conf: ReadConf, etc: Path, output: Path) -> None:
    (etc / "conf.d").mkdir()
    (etc / "conf.d/a.conf").write_text("gzip on;")
    text = "http { include conf.d/*.conf; include OUTPUT/current/http.d/*.conf; }"
    first = read_conf(text).fingerprint
    live = output / "current/http.d"
    live.mkdir(parents=True)
    (live / "x.conf").write_text("server { }")
    assert read_conf(text).fingerprint == first
    (etc / "conf.d/a.conf").write_text("gzip off;")
    second = read_conf(text).fingerprint
    (etc / "conf.d/b.conf").write_text("")
    assert len({first, second, read_conf(text).fingerprint}) == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http { include missing.conf; }", "nginx.conf:1 includes .*missing.conf, which does not exist"),
        ("a;\nhttp {\n", "nginx.conf:2 is not nginx syntax"),
        ("include nginx.conf;", "does it include itself"),
    ],
)
def test_files_that_cannot_be_read_are_named(read_conf: ReadConf, text: str, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        read_conf(text)


def test_the_source_reads_again_only_what_changed_came_or_went(tmp_path: Path, binary: Binary) -> None:
    """A pass over the catalog does not read a hundred files to learn that they are the same."""
    main, parts = tmp_path / "nginx.conf", tmp_path / "conf.d"
    parts.mkdir()
    main.write_text("events {} http { include conf.d/*.conf; }")
    source = ConfSource(NginxSettings(conf=main), tmp_path / "output", binary)
    first = source.read()
    assert source.read() is first
    (parts / "a.conf").write_text("server_names_hash_bucket_size 512;")
    second = source.read()
    assert "server_names_hash_bucket_size" in second.http_directives
    assert source.read() is second
    (parts / "a.conf").unlink()
    assert source.read().fingerprint == first.fingerprint
    main.write_text("pid other.pid; events {} http { include conf.d/*.conf; }")
    assert source.read().pid_path.name == "other.pid"


MAP = 'map $uri $mine { default ""; }'
SIZES = " ".join(f"{line};" for line in MAP_SIZES)


@pytest.mark.parametrize(
    ("before", "after", "fits"),
    [(MAP, "", False), (SIZES + MAP, "", True), ("", MAP, True), (f"{MAP_SIZES[0]}; {MAP}", "", False)],
)
def test_a_map_before_the_include_needs_its_sizes_before_it(
    nginx_binary: NginxBinary, read_conf: ReadConf, tmp_path: Path, before: str, after: str, fits: bool
) -> None:
    """As nginx judges it, which calls ours a duplicate once it has read a map."""
    conf = read_conf(f"http {{ {before} include OUTPUT/current/http.d/*.conf; {after} }}\n")
    rendered = " ".join(f"{line};" for line in MAP_SIZES if line.partition(" ")[0] not in conf.http_directives)
    live = tmp_path / "live.conf"
    live.write_text(f"pid {tmp_path}/pid; events {{}} http {{ access_log off; {before} {rendered} {after} }}\n")
    command = [nginx_binary.path, "-t", "-c", live, "-e", tmp_path / "error.log", "-p", tmp_path]
    said = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (said.returncode == 0) is fits, said.stderr
    with nullcontext() if fits else pytest.raises(BadInput, match=SIZES):
        conf.require_include("http")


@pytest.mark.incident("T40")
def test_a_carriage_return_belongs_to_the_comment_it_stands_in(read_conf: ReadConf, etc: Path) -> None:
    """nginx ends a comment at a line feed alone."""
    (etc / "conf.d").mkdir()
    (etc / "conf.d/a.conf").write_bytes(b"# pasted\rinclude /nonexistent;\r\ngzip on;\r\n")
    conf = read_conf("http { include conf.d/*.conf; include OUTPUT/current/http.d/*.conf; }")
    assert "gzip" in conf.http_directives
    assert conf.texts[etc / "conf.d/a.conf"].count("\r") == 3


@pytest.mark.incident("T40")
def test_an_include_reads_what_the_c_library_finds(read_conf: ReadConf, etc: Path) -> None:
    (etc / "sites").mkdir()
    (etc / "sites/#left-over#").write_text("half a {")
    (etc / "sites/1.conf").write_text("gzip on;")
    (etc / "sites/proxygen").write_text("sendfile on;")
    assert read_conf("http { include sites/[^.#]*; }").http_directives == {"include", "gzip", "sendfile"}
    assert read_conf("http { include sites/[[:digit:]]*; }").http_directives == {"include", "gzip"}


@pytest.mark.incident("T40")
def test_a_file_is_found_whatever_letters_its_name_has(read_conf: ReadConf, etc: Path) -> None:
    """nginx takes the bytes as they are."""
    (etc / "bücher.conf").write_text("gzip on;")
    assert "gzip" in read_conf("http { include bücher.conf; }").http_directives
    assert "gzip" in read_conf("http { include b*cher.conf; }").http_directives


@pytest.mark.incident("T40")
@pytest.mark.parametrize("line", MAP_SIZES)
def test_a_size_of_maps_after_the_include_is_refused_with_what_to_move(read_conf: ReadConf, line: str) -> None:
    conf = read_conf(f"http {{\n include OUTPUT/current/http.d/*.conf;\n {line};\n}}")
    with pytest.raises(BadInput, match=rf"nginx.conf:3: {line.partition(' ')[0]} stands after .* move the line before"):
        conf.require_include("http")


@pytest.mark.incident("T40")
@pytest.mark.parametrize(
    "rest",
    [
        "server_names_hash_bucket_size 512; server_names_hash_max_size 4096;",
        "variables_hash_bucket_size 256; variables_hash_max_size 4096;",
        "server { } map $uri $mine { }",
    ],
)
def test_what_nginx_takes_after_the_include_is_accepted(read_conf: ReadConf, rest: str) -> None:
    read_conf(f"http {{ include OUTPUT/current/http.d/*.conf; {rest} }}").require_include("http")
