"""Applying generations to a real nginx, and what happens when it does not take them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from proxygen.kit.errors import NginxUnavailable
from proxygen.proxy.apply.outcome import Outcome
from proxygen.proxy.apply.publish import Output, current, generations, hold_output, publish
from proxygen.proxy.nginx.master import Master, send_reload
from tests.harness import process
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.process import wait_until
from tests.harness.tools import NginxBinary, each_nginx
from tests.integration.proxy import Proxy

MakeProxy = Callable[..., Awaitable[Proxy]]


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    with hold_output(tmp_path / "output") as output:
        yield output


@pytest.fixture
def make_proxy(output: Output, make_nginx: Callable[..., NginxServer]) -> MakeProxy:
    """Make a proxy around a server that is not started."""

    async def make(binary: NginxBinary, *, options: dict[str, object] | None = None, **server: object) -> Proxy:
        return await Proxy.make(
            make_nginx(binary, **server),
            output,
            port=free_port(),
            **{"stamp": f"127.0.0.1:{free_port()}", **(options or {})},
        )

    return make


@pytest.fixture
async def proxy(nginx_binary: NginxBinary, make_proxy: MakeProxy) -> Proxy:
    """A running nginx that serves generation 1, proven."""
    proxy = await make_proxy(nginx_binary)
    proxy.server.start()
    applied = await proxy.apply("one")
    assert (applied.outcome, applied.generation) == (Outcome.APPLIED, 1)
    return proxy


async def test_a_change_is_applied_and_proven(proxy: Proxy) -> None:
    """When an apply is over, no worker is left that would answer with the old generation."""
    before = proxy.server.accepting()
    applied = await proxy.apply("two")
    assert applied.outcome is Outcome.APPLIED
    assert proxy.server.accepting().isdisjoint(before)
    assert {await asyncio.to_thread(proxy.get) for _ in range(50)} == {"two"}
    assert [generation.proven for generation in generations(proxy.output.directory)] == [True, True]
    assert set(applied.durations) == {"drain", "publish", "reload", "prove"}


async def test_an_output_with_a_unix_stamp_is_proven(
    any_nginx_binary: NginxBinary, make_proxy: MakeProxy, short_directory: Path
) -> None:
    proxy = await make_proxy(any_nginx_binary, options={"stamp": f"unix:{short_directory}/stamp.sock"})
    proxy.server.start()
    assert (await proxy.apply("one")).outcome is Outcome.APPLIED
    assert (await proxy.apply("two")).outcome is Outcome.APPLIED
    assert await proxy.answers("two")


@pytest.mark.parametrize(
    ("first", "second", "quoted"),
    [
        ("limit_req_zone $uri zone=z:1m rate=9r/s;\n", "limit_req_zone $host zone=z:1m rate=9r/s;\n", "previously"),
        ("proxy_cache_path DIR/a keys_zone=c:1m;\n", "proxy_cache_path DIR/b keys_zone=c:1m;\n", "previously"),
    ],
    ids=["zone-with-another-key", "cache-moved"],
)
async def test_what_the_master_refuses_in_silence_is_rolled_back(
    proxy: Proxy, tmp_path: Path, first: str, second: str, quoted: str
) -> None:
    """It passes nginx -t; the master refuses it; the generation before serves on, and the log says why."""
    (tmp_path / "cache").mkdir()
    first, second = (text.replace("DIR", str(tmp_path / "cache")) for text in (first, second))
    assert (await proxy.apply("two", http=first)).outcome is Outcome.APPLIED
    candidate = proxy.candidate("three", http=second)
    assert (await proxy.check(candidate, tmp_path / "scratch")).returncode == 0
    started = time.monotonic()
    applied = await proxy.applier.apply(candidate, proxy.conf, {})
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 2)
    assert quoted in applied.reason
    assert any(quoted in line for line in applied.log)
    assert time.monotonic() - started < 4, "seen by the log, not by the deadline"
    assert current(proxy.output.directory) == 2
    assert await proxy.answers("two")
    assert (await proxy.apply("four", http=first)).outcome is Outcome.APPLIED


async def test_a_cause_that_stays_fills_no_disk(proxy: Proxy) -> None:
    """Each try leaves a generation behind; the newest two stay to be looked at."""
    zone = "limit_req_zone {key} zone=z:1m rate=9r/s;\n"
    assert (await proxy.apply("one", http=zone.format(key="$uri"))).outcome is Outcome.APPLIED
    live = current(proxy.output.directory)
    for _ in range(4):
        refused = await proxy.apply("two", http=zone.format(key="$host"))
        assert (refused.outcome, refused.generation) == (Outcome.ROLLED_BACK, live)
    failed = [generation.number for generation in generations(proxy.output.directory) if not generation.proven]
    assert len(failed) == 2
    assert await proxy.answers("one")


async def test_a_port_that_somebody_else_holds_is_rolled_back_and_taken_later(proxy: Proxy, tmp_path: Path) -> None:
    """T8: nginx -t does not see it; nginx tries for 2.5 s; the old generation serves all the while."""
    port = free_port()
    with socket.create_server(("127.0.0.1", port)):
        more = f"listen 127.0.0.1:{port};"
        candidate = proxy.candidate("two", server=more)
        assert (await proxy.check(candidate, tmp_path / "scratch")).returncode == 0
        applied = await proxy.applier.apply(candidate, proxy.conf, {})
        assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 1)
        assert any("(98: Address" in line for line in applied.log)
        assert await proxy.answers("one")
    assert (await proxy.apply("two", server=more)).outcome is Outcome.APPLIED
    assert await proxy.answers("two")


async def test_a_refusal_that_comes_after_the_deadline_does_not_count_against_the_way_back(proxy: Proxy) -> None:
    """nginx writes its last word on a taken port after 2.5 s; by then the old generation is being restored."""
    proxy.applier = proxy.make_applier(deadline="1s")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        applied = await proxy.apply("two", server=f"listen 127.0.0.1:{taken.getsockname()[1]};")
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 1)
    assert await proxy.answers("one")
    assert (await proxy.apply("three")).outcome is Outcome.APPLIED


async def test_a_candidate_that_ends_every_worker_is_rolled_back_at_once(
    make_proxy: MakeProxy, any_nginx_binary: NginxBinary, tmp_path: Path
) -> None:
    """A total outage that nginx -t cannot foresee: seen by the processes, long before the deadline."""
    if any_nginx_binary.modules is None or not (any_nginx_binary.modules / "ngx_http_lua_module.so").exists():
        pytest.skip("needs Debian's libnginx-mod-http-lua")
    proxy = await make_proxy(any_nginx_binary, modules=["ndk_http", "ngx_http_lua"])
    proxy.server.start()
    assert (await proxy.apply("one")).outcome is Outcome.APPLIED
    candidate = proxy.candidate("two", http="init_worker_by_lua_block { os.exit(2) }\n")
    assert (await proxy.check(candidate, tmp_path / "scratch")).returncode == 0
    applied = await proxy.applier.apply(candidate, proxy.conf, {})
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 1)
    assert "every worker ended" in applied.reason
    assert applied.durations["prove"] < 2
    assert await proxy.answers("one")
    assert (await proxy.apply("three")).outcome is Outcome.APPLIED


async def test_a_reload_that_ends_an_outage_may_take_its_time(
    make_proxy: MakeProxy, any_nginx_binary: NginxBinary
) -> None:
    """While a master without workers still parses a large configuration, nobody has ended who was started."""
    if any_nginx_binary.modules is None or not (any_nginx_binary.modules / "ngx_http_lua_module.so").exists():
        pytest.skip("needs Debian's libnginx-mod-http-lua")
    proxy = await make_proxy(any_nginx_binary, modules=["ndk_http", "ngx_http_lua"])
    proxy.server.start()
    assert (await proxy.apply("one")).outcome is Outcome.APPLIED
    fatal = proxy.candidate("two", http="init_worker_by_lua_block { os.exit(2) }\n")
    publish(proxy.output, fatal, {})
    proxy.server.reload()
    await asyncio.to_thread(wait_until, lambda: not proxy.server.workers(), what="the outage")
    os.kill(proxy.server.pid, signal.SIGSTOP)
    task = asyncio.create_task(proxy.applier.roll_back(1, proxy.conf, test_seconds=0))
    # Asking for the stamp takes its own half second while nobody is there to answer.
    await asyncio.sleep(2)
    assert not task.done()
    os.kill(proxy.server.pid, signal.SIGCONT)
    assert (await task).outcome is Outcome.APPLIED
    assert await proxy.answers("one")


async def test_without_nginx_the_candidate_waits_for_it(any_nginx_binary: NginxBinary, make_proxy: MakeProxy) -> None:
    """T9: nginx is absent; the error says so, the generation is there when nginx starts, and is proven then."""
    proxy = await make_proxy(any_nginx_binary)
    with pytest.raises(NginxUnavailable, match="start nginx"):
        await proxy.apply("one")
    with pytest.raises(NginxUnavailable, match="start nginx"):
        await proxy.applier.finish_pending(proxy.conf, test_seconds=0)
    assert current(proxy.output.directory) == 1
    proxy.server.start()
    assert (await proxy.applier.finish_pending(proxy.conf, test_seconds=0)).outcome is Outcome.UNCHANGED
    assert await proxy.answers("one")
    assert generations(proxy.output.directory)[0].proven


async def test_a_master_that_hangs_is_given_up_and_serves_the_old_generation(proxy: Proxy) -> None:
    """T9: the reload hangs; after the deadline the old generation is the live one, and stays so when nginx wakes."""
    proxy.applier = proxy.make_applier(deadline="1s")
    os.kill(proxy.server.pid, signal.SIGSTOP)
    try:
        applied = await proxy.apply("two")
    finally:
        os.kill(proxy.server.pid, signal.SIGCONT)
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 1)
    assert "generation 1 answers" in applied.reason
    assert await proxy.answers("one")
    assert (await proxy.apply("three")).outcome is Outcome.APPLIED
    assert await proxy.answers("three")


async def test_an_nginx_that_hangs_whole_is_an_error_with_both_reasons(proxy: Proxy) -> None:
    proxy.applier = proxy.make_applier(deadline="1s")
    processes = [proxy.server.pid, *proxy.server.workers()]
    for pid in processes:
        os.kill(pid, signal.SIGSTOP)
    try:
        with pytest.raises(NginxUnavailable, match="generation 1 was restored, and then"):
            await proxy.apply("two")
    finally:
        for pid in processes:
            os.kill(pid, signal.SIGCONT)
    assert current(proxy.output.directory) == 1
    assert (await proxy.apply("three")).outcome is Outcome.APPLIED


async def test_the_first_generation_can_be_rolled_back_too(
    any_nginx_binary: NginxBinary, make_proxy: MakeProxy
) -> None:
    """nginx was there before proxygen; a first generation that it refuses leaves it as it was."""
    proxy = await make_proxy(any_nginx_binary, http="limit_req_zone $uri zone=z:1m rate=9r/s;")
    proxy.server.start()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        applied = await proxy.apply("one", server=f"listen 127.0.0.1:{taken.getsockname()[1]};")
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, None)
    assert not (proxy.output.directory / "current").is_symlink()
    assert (await proxy.apply("two")).outcome is Outcome.APPLIED


async def test_a_reload_that_a_crash_left_out_is_done_at_the_next_start(proxy: Proxy) -> None:
    """T10: published, and killed before the reload."""
    candidate = proxy.candidate("two")
    publish(proxy.output, candidate, {})
    assert proxy.get() == "one"
    applied = await proxy.applier.finish_pending(proxy.conf, test_seconds=0)
    assert (applied.outcome, applied.generation) == (Outcome.APPLIED, 2)
    assert proxy.get() == "two"
    assert (await proxy.applier.finish_pending(proxy.conf, test_seconds=0)).outcome is Outcome.UNCHANGED


async def test_an_operator_goes_back_to_the_generation_before_or_to_any(proxy: Proxy) -> None:
    for body in ("two", "three"):
        assert (await proxy.apply(body)).outcome is Outcome.APPLIED
    back = await proxy.applier.roll_back(None, proxy.conf, test_seconds=0)
    assert (back.outcome, back.generation) == (Outcome.APPLIED, 2)
    assert proxy.get() == "two"
    back = await proxy.applier.roll_back(1, proxy.conf, test_seconds=0)
    assert (back.outcome, back.generation) == (Outcome.APPLIED, 1)
    assert proxy.get() == "one"
    assert (await proxy.apply("four")).generation == 4


async def test_where_processes_cannot_be_seen_the_stamp_is_the_proof(
    nginx_binary: NginxBinary, make_proxy: MakeProxy
) -> None:
    """A pid file that leads nowhere stands for another pid namespace; a command asks for the reload."""
    proxy = await make_proxy(nginx_binary)
    proxy.server.start()
    blind = {"pid": Path("/nonexistent/nginx.pid"), "conf": _renamed(proxy.server.conf)}
    proxy.nginx = proxy.nginx.model_copy(
        update={**blind, "reload": "command", "reload_command": ("kill", "-HUP", str(proxy.server.pid))}
    )
    proxy.applier = proxy.make_applier(overlap="400ms")
    assert (await proxy.apply("one")).outcome is Outcome.APPLIED
    applied = await proxy.apply("two")
    assert applied.outcome is Outcome.APPLIED
    assert applied.durations["prove"] > 0.4
    assert {await asyncio.to_thread(proxy.get) for _ in range(50)} == {"two"}
    with socket.create_server(("127.0.0.1", 0)) as taken:
        applied = await proxy.apply("three", server=f"listen 127.0.0.1:{taken.getsockname()[1]};")
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 2)


async def test_a_reload_command_that_fails_puts_the_old_generation_back(proxy: Proxy) -> None:
    """Else nginx would meet, at its next start, a generation that was never proven."""
    proxy.nginx = proxy.nginx.model_copy(
        update={"reload": "command", "reload_command": ("sh", "-c", "echo no such container; exit 4")}
    )
    proxy.applier = proxy.make_applier(overlap="300ms")
    applied = await proxy.apply("two")
    assert (applied.outcome, applied.generation) == (Outcome.ROLLED_BACK, 1)
    assert "ended with 4: no such container" in applied.reason
    assert await proxy.answers("one")


@pytest.mark.incident("T17", "T30")
async def test_a_reload_waits_for_draining_workers_but_not_for_ever(proxy: Proxy) -> None:
    """T30: old workers that still serve somebody are counted; above the cap the next reload waits."""
    proxy.applier = proxy.make_applier(max_draining=1, max_draining_wait="1s")
    streams = []
    try:
        drained = []
        for body in ("two", "three", "four"):
            # A request without its end keeps the worker busy that got it.
            _, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
            streams.append(writer)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n")
            await asyncio.sleep(0.2)
            applied = await proxy.apply(body)
            assert applied.outcome is Outcome.APPLIED
            drained.append(applied.durations["drain"])
        assert max(drained[:2]) < 0.5, "no more than one old worker"
        assert drained[2] >= 1, "two old workers"
    finally:
        for writer in streams:
            writer.close()


async def test_two_applies_at_once_are_one_after_the_other(proxy: Proxy) -> None:
    task = asyncio.create_task(proxy.apply("two"))
    while current(proxy.output.directory) != 2:  # noqa: ASYNC110 - the disk sends no event
        await asyncio.sleep(0.01)
    applied = await proxy.apply("three")
    assert (await task).outcome is Outcome.APPLIED
    assert applied.outcome is Outcome.APPLIED
    assert proxy.get() == "three"


async def test_a_master_of_somebody_else_says_which_right_is_missing(proxy: Proxy) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    # The saved uid leads back.
    os.setresuid(65534, 65534, 0)
    try:
        with pytest.raises(NginxUnavailable, match=r"uid 65534 may not signal .* of uid 0.* CAP_KILL"):
            send_reload(Master(pid=proxy.server.pid, own_pid=proxy.server.pid))
    finally:
        os.setresuid(0, 0, 0)


def _renamed(conf: Path) -> Path:
    """The same conf under another name, so that no master is seen to run it."""
    other = conf.with_name("elsewhere.conf")
    with contextlib.suppress(FileExistsError):
        os.link(conf, other)
    return other


async def test_an_absent_nginx_finds_nothing_that_may_keep_it_from_starting(proxy: Proxy) -> None:
    """A port that the last proven generation does not have may be taken, which no test can tell: without a running
    nginx, which would refuse it and go on, it is not published."""
    proxy.server.stop()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        more = f"listen 127.0.0.1:{taken.getsockname()[1]};"
        with pytest.raises(NginxUnavailable, match=f"generation 1 stays, .*{more[7:-1]}"):
            await proxy.apply("two", server=more)
        assert current(proxy.output.directory) == 1
        proxy.server.start()
        assert await proxy.answers("one")
    assert (await proxy.apply("two", server=more)).outcome is Outcome.APPLIED


@pytest.mark.parametrize(
    ("nginx_binary", "how"),
    [
        *(pytest.param(*each.values, "named", marks=each.marks) for each in each_nginx()),
        pytest.param("wheel", "moved", marks=pytest.mark.whole("a second nginx")),
    ],
    indirect=["nginx_binary"],
)
async def test_an_absent_nginx_is_not_taken_for_one_in_a_container(proxy: Proxy, tmp_path: Path, how: str) -> None:
    """A stranger names the path of our conf, at which it has its own; or runs the compiled-in one, and its ``-p`` says
    where that is, for a binary that was built with a relative one."""
    if os.geteuid() != 0:
        pytest.skip("needs root, for a pid namespace")
    stranger = NginxServer(proxy.server.binary, tmp_path / "stranger", output=tmp_path / "another")
    own = [stranger.binary.path, "-p", stranger.directory, "-e", stranger.error_log, "-g", "daemon off;"]
    command = own
    if how == "named":
        shown = ["mount", "--bind", stranger.conf, proxy.server.conf]
        command = ["sh", "-c", '"$1" "$2" "$3" "$4"; shift 4; exec "$@"', "sh", *shown, *own, "-c", proxy.server.conf]
    proxy.server.stop()
    box = process.start(
        ["unshare", "--pid", "--mount", "--fork", "--kill-child", *command], log=tmp_path / "unshare.log"
    )
    try:
        wait_until(stranger.pid_file.read_text, what="the stranger's pid file")
        with pytest.raises(NginxUnavailable, match="no nginx master"):
            await proxy.apply("two")
        assert "signal 1 (SIGHUP)" not in stranger.errors()
    finally:
        # unshare waits for its child whatever it is told; the child ends with it.
        process.stop(box, signal.SIGKILL)


async def test_a_port_that_only_a_crash_left_published_is_taken_back_too(proxy: Proxy) -> None:
    proxy.server.stop()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        candidate = proxy.candidate("two", server=f"listen 127.0.0.1:{taken.getsockname()[1]};")
        publish(proxy.output, candidate, {})
        with pytest.raises(NginxUnavailable, match="generation 1 stays"):
            await proxy.applier.finish_pending(proxy.conf, test_seconds=0)
        proxy.server.start()
        assert await proxy.answers("one")


async def test_an_absent_nginx_finds_the_newest_generation_with_the_ports_it_had(proxy: Proxy) -> None:
    proxy.server.stop()
    with pytest.raises(NginxUnavailable):
        await proxy.apply("two")
    proxy.server.start()
    assert await proxy.answers("two")
