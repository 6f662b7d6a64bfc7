"""``nginx -t`` on a candidate: it reads what nginx would read, and touches nothing of the running nginx."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxygen.proxy.apply.publish import Output, hold_output
from proxygen.proxy.check.wrapper import operators_names
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.integration.proxy import Proxy


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    with hold_output(tmp_path / "output") as output:
        yield output


@pytest.fixture
async def proxy(nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], output: Output) -> Proxy:
    """An nginx that is not started."""
    return await Proxy.make(make_nginx(nginx_binary), output, port=free_port(), stamp=f"127.0.0.1:{free_port()}")


async def _test(proxy: Proxy, scratch: Path, *, http: str = "", server: str = "") -> tuple[int, str]:
    """Test a candidate; return nginx's exit status, and its output with the operator's file names."""
    completed = await proxy.check(proxy.candidate("x", http=http, server=server), scratch)
    return completed.returncode, operators_names(scratch, completed.output)


def _rewrite(proxy: Proxy, old: str, new: str) -> None:
    text = proxy.server.conf.read_text()
    assert old in text
    proxy.server.conf.write_text(text.replace(old, new))


async def test_the_pid_file_is_neither_made_nor_touched(proxy: Proxy, tmp_path: Path) -> None:
    """A bare ``nginx -t`` makes an empty one, after which ``nginx -s reload`` fails for want of a number."""
    assert (await _test(proxy, tmp_path / "stopped"))[0] == 0
    assert not proxy.server.pid_file.exists()
    proxy.server.start()
    before = proxy.server.pid_file.stat()
    assert (await _test(proxy, tmp_path / "running"))[0] == 0
    after = proxy.server.pid_file.stat()
    assert (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size)


async def test_the_compiled_in_pid_file_is_spared_too(proxy: Proxy, tmp_path: Path) -> None:
    _rewrite(proxy, f"pid {proxy.server.pid_file};", "")
    path = proxy.conf.pid_path
    before = path.exists() and path.stat().st_mtime_ns
    assert (await _test(proxy, tmp_path / "scratch"))[0] == 0
    assert (path.exists() and path.stat().st_mtime_ns) == before


async def test_a_refusal_is_not_written_to_the_running_nginxs_log(proxy: Proxy, tmp_path: Path) -> None:
    """Else an apply that follows would read it as the master's."""
    proxy.server.start()
    code, output = await _test(proxy, tmp_path / "scratch", http="nonsense;\n")
    assert code == 1
    assert "nonsense" in output
    # Its own lines go on arriving: workers are still being started.
    assert "nonsense" not in proxy.server.errors()


async def test_a_live_unix_stamp_survives_a_test(
    any_nginx_binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    output: Output,
    short_directory: Path,
    tmp_path: Path,
) -> None:
    """nginx -t removes the unix sockets that it has bound itself: not those that a running nginx holds."""
    socket = short_directory / "stamp.sock"
    proxy = await Proxy.make(make_nginx(any_nginx_binary), output, port=free_port(), stamp=f"unix:{socket}")
    assert (await _test(proxy, tmp_path / "stopped"))[0] == 0
    assert not socket.exists()
    proxy.server.start()
    await proxy.apply("one")
    assert (await _test(proxy, tmp_path / "running"))[0] == 0
    assert socket.exists()
    assert (await proxy.apply("two")).outcome == "applied"


async def test_a_refusal_in_the_candidate_names_its_own_file_and_line(proxy: Proxy, tmp_path: Path) -> None:
    status, output = await _test(proxy, tmp_path / "scratch", http="\n\nnonsense;\n")
    assert status == 1
    assert 'unknown directive "nonsense" in ' in output
    assert output.count("/http.d/site.conf:3\n") == 1


async def test_a_refusal_in_the_operators_files_names_them(proxy: Proxy, tmp_path: Path) -> None:
    _rewrite(proxy, "events {", "\nnonsense;\nevents {")
    line = proxy.server.conf.read_text().splitlines().index("nonsense;") + 1
    status, output = await _test(proxy, tmp_path / "scratch")
    assert status == 1
    assert f"in {proxy.server.conf}:{line}\n" in output


@pytest.mark.parametrize("how", ["relative", "absolute"])
async def test_relative_files_and_nested_includes_are_read(proxy: Proxy, tmp_path: Path, how: str) -> None:
    """mime.types beside nginx.conf, and the include of the live generation in a file of a glob among others."""
    directory = proxy.server.directory
    (directory / "mime.types").write_text("types { text/html html; }\n")
    sites = directory / "sites"
    sites.mkdir()
    sizes = "map_hash_bucket_size 512; map_hash_max_size 4096;"
    (sites / "a.conf").write_text(f"{sizes} map $host $from_a {{ default a; }}\n")
    (sites / "b.conf").write_text(f"# comment\ninclude {proxy.output.directory}/current/http.d/*.conf;\n")
    where = "sites" if how == "relative" else str(sites)
    own = f"include {proxy.output.directory}/current/http.d/*.conf;"
    _rewrite(proxy, own, f"include mime.types; include {where}/*.conf;")
    status, output = await _test(proxy, tmp_path / "good", server="add_header X $from_a;")
    assert status == 0, output
    status, output = await _test(proxy, tmp_path / "bad", http="nonsense;\n")
    assert status == 1
    assert "/http.d/site.conf:1\n" in output, "the candidate itself was read"
    (sites / "b.conf").write_text(f"# comment\nnonsense;\ninclude {proxy.output.directory}/current/http.d/*.conf;\n")
    assert f"in {sites}/b.conf:2\n" in (await _test(proxy, tmp_path / "nested"))[1]
