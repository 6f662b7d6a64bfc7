"""`proxygen register -- COMMAND` as a container's engine sees it: signals in, an exit code out, nothing left behind."""

from __future__ import annotations

import array
import fcntl
import json
import os
import pty
import select
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from proxygen.registration.signals import PASSED_ON, STOPPING, find_signal
from tests.harness import process, warm
from tests.harness.consul import ConsulAgent
from tests.harness.entrypoint import Entrypoint
from tests.harness.ports import free_port

Register = Callable[..., Entrypoint]

INSTANCE = (sys.executable, "-m", "tests.harness.instance")


@pytest.fixture
def register(consul: ConsulAgent, tmp_path: Path) -> Iterator[Register]:
    """Start entrypoints with these options; what still runs at the end is killed with everything below it."""
    started: list[Entrypoint] = []

    def start(*options: object, **environment: str) -> Entrypoint:
        started.append(Entrypoint(consul, tmp_path / f"register{len(started)}.log", options, environment))
        return started[-1]

    yield start
    for entrypoint in started:
        entrypoint.kill()


def web(port: int, *options: object) -> tuple[object, ...]:
    """The options of an instance on loopback that leaves at once."""
    return ("--name", "web", "--port", port, "--address", "127.0.0.1", "--drain", "0s", *options)


def process_only(*command: object) -> tuple[object, ...]:
    """A command without a port, registered as long as it runs."""
    return (*web(1, "--check-process"), "--", *command)


def held(consul: ConsulAgent) -> Any:
    """The services on the agent, by id."""
    return consul.get("/v1/agent/services")


def until_registered(consul: ConsulAgent) -> Any:
    process.wait_until(lambda: held(consul), what="a service on the agent", timeout=30)
    (service,) = held(consul).values()
    return service


def test_a_command_is_announced_when_it_answers_and_gone_when_it_has_ended(
    consul: ConsulAgent, register: Register
) -> None:
    port = free_port()
    running = register(
        *web(port, "--route", "app.example.com", "--canary", "10%", "--tag", "v1", "--meta", "team=shop"),
        *("--check-http", "/healthz", "--weights", "10,2", "--", *INSTANCE, "web-1", port),
    )
    service = until_registered(consul)
    assert service["Tags"] == ["proxygen.route=app.example.com", "proxygen.canary=10%", "v1"]
    assert service["Meta"] == {"team": "shop"}
    assert service["Weights"] == {"Passing": 10, "Warning": 2}
    (check,) = [check for check in consul.get("/v1/agent/checks").values() if check["ServiceID"] == service["ID"]]
    assert check["Status"] == "passing", "it was asked before it was announced"
    assert running.stop() == 0, running.said
    assert held(consul) == {}


def test_every_option_has_a_variable(consul: ConsulAgent, register: Register) -> None:
    """For images whose command line nobody can edit."""
    variables = {
        "NAME": "shop",
        "PORT": "80",
        "ID": "shop-7",
        "ADDRESS": "env:POD_IP",
        "ROUTE": "a.example.com b.example.com",
        "CHECK_PROCESS": "true",
        "DRAIN": "0s",
        "WEIGHTS": "3",
    }
    environment = {f"PROXYGEN_REGISTER_{name}": value for name, value in variables.items()}
    running = register("--", "sleep", "1000", POD_IP="127.0.0.9", **environment)
    service = until_registered(consul)
    assert (service["ID"], service["Address"], service["Port"]) == ("shop-7", "127.0.0.9", 80)
    assert service["Tags"] == ["proxygen.route=a.example.com", "proxygen.route=b.example.com"]
    assert service["Weights"] == {"Passing": 3, "Warning": 3}
    assert running.stop() == 128 + signal.SIGTERM


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("sh", "-c", "exit 0"), 0),
        (("sh", "-c", "exit 5"), 5),
        (("sh", "-c", "kill -KILL $$"), 137),
        (("no-such-command",), 127),
        (("/etc/passwd",), 126),
    ],
    ids=lambda value: str(value),
)
def test_the_exit_code_is_the_commands(
    consul: ConsulAgent, register: Register, command: tuple[str, ...], code: int
) -> None:
    running = register(*process_only(*command))
    assert running.ended() == code, running.said
    assert held(consul) == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--name", "a/b", "--port", "80"), "name = 'a/b'"),
        (("--name", "web", "--port", "0"), "--port"),
        (("--name", "web", "--port", "80", "--route", "evil;}"), "proxygen.route"),
        (("--name", "web", "--port", "80", "--address", "interface:nosuch0"), "interface:nosuch0"),
        (("--name", "web", "--port", "80", "--meta", "team"), "KEY=VALUE"),
        (("--name", "web", "--port", "80", "--check-http", "healthz"), "neither a path"),
        (("--name", "web", "--port", "80", "--drain", "soon"), "drain"),
        (("--name", "web", "--port", "80", "--local", "8080"), "--local"),
        (("--name", "web", "--port", "80", "--protocol", "udp", "--listen", "5353"), "--check-command"),
    ],
    ids=lambda value: " ".join(value[3:]) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_announced_starts_no_command(
    consul: ConsulAgent, register: Register, tmp_path: Path, options: tuple[str, ...], reason: str
) -> None:
    running = register(*options, "--", "touch", tmp_path / "started")
    assert running.ended() == 2, running.said
    assert reason in running.said
    assert not (tmp_path / "started").exists()


def test_the_command_runs_on_without_consul(make_consul: Callable[..., ConsulAgent], tmp_path: Path) -> None:
    consul = make_consul()
    running = Entrypoint(consul, tmp_path / "log", process_only("sleep", "1000"))
    try:
        running.until_said("cannot be kept up")
        consul.start()
        until_registered(consul)
        assert running.stop() == 128 + signal.SIGTERM
    finally:
        running.kill()
    assert held(consul) == {}


def test_signals_go_on_to_the_command(register: Register, tmp_path: Path) -> None:
    names = ("HUP", "USR1", "USR2")
    traps = "".join(f"trap 'echo got-{name}' {name}; " for name in names)
    # A shell runs its traps between two commands.
    running = register(*process_only("sh", "-c", f"{traps} echo ready; while :; do sleep 0.05; done"))
    running.until_said("ready")
    for name in names:
        running.send(getattr(signal, f"SIG{name}"))
        running.until_said(f"got-{name}")
    assert running.stop() == 128 + signal.SIGTERM


RECORDER = """
import signal, sys
def record(number, frame):
    print(f"got-{number}", flush=True)
    if number == int(sys.argv[1]):
        sys.exit(7)
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
    signal.signal(number, record)
print("ready", flush=True)
while True:
    signal.pause()
"""
"""A command that says each signal that it gets, and ends by one of them."""


@pytest.mark.incident("T66")
def test_every_signal_that_can_be_passed_on_is(register: Register) -> None:
    """Real-time ones, and those of job control too; what asks to end is another test's."""
    running = register(*process_only(sys.executable, "-c", RECORDER, 0))
    running.until_said("ready")
    numbers = sorted(PASSED_ON - STOPPING)
    assert {signal.SIGTSTP, signal.SIGWINCH, signal.SIGABRT, signal.SIGRTMIN + 3, signal.SIGIO} <= set(numbers)
    for number in numbers:
        os.kill(running.process.pid, number)
        running.until_said(f"got-{int(number)}\n")
    # By now nothing but this ends what it runs.
    running.kill()


@pytest.mark.incident("T66")
@pytest.mark.parametrize("name", ["USR1", "WINCH", "QUIT", "ABRT", "TSTP", "RTMIN+3", "TERM"])
@pytest.mark.parametrize("sent", ["its own", "SIGTERM"])
def test_an_images_own_stop_signal_drains_and_ends_the_command(
    consul: ConsulAgent, register: Register, name: str, sent: str
) -> None:
    """What arrives goes on after the drain; for SIGTERM, by which anybody stops anything, the command gets its own."""
    number = find_signal(name)
    assert number is not None
    running = register(
        *("--name", "web", "--port", "1", "--address", "127.0.0.1", "--check-process", "--drain", "1h"),
        *("--stop-signal", name, "--", sys.executable, "-c", RECORDER, number),
    )
    running.until_said("ready")
    until_registered(consul)
    os.kill(running.process.pid, number if sent == "its own" else signal.SIGTERM)
    running.until_said("leaving")
    process.wait_until(
        lambda: any("_service_maintenance" in check for check in consul.get("/v1/agent/checks")), what="maintenance"
    )
    assert "got-" not in running.said
    assert running.stop() == 7, running.said
    assert f"got-{number}\n" in running.said
    assert held(consul) == {}


@pytest.mark.parametrize("name", ["KILL", "STOP", "SEGV", "NOPE", ""])
def test_what_cannot_stop_a_command_is_refused(register: Register, tmp_path: Path, name: str) -> None:
    running = register("--stop-signal", name, *process_only("touch", tmp_path / "started"))
    assert running.ended() == 2
    assert "--stop-signal" in running.said
    assert not (tmp_path / "started").exists()


@pytest.mark.incident("T70")
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_with_streams_closed_the_command_runs_and_its_code_is_ours(
    consul: ConsulAgent, tmp_path: Path, closed: str
) -> None:
    """And nothing of ours stands where the command expects its streams."""
    script = f"ls -l /proc/self/fd > {tmp_path}/streams; exit 5"
    options = map(str, process_only("sh", "-c", script))
    started = ["register", "--consul-address", consul.address, *options]
    shell = f'exec "$@" {closed}'
    done = subprocess.run(
        ["sh", "-c", shell, "sh", *warm.COLD, *started], timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert done.returncode == 5, done.stdout
    assert "socket:" not in (tmp_path / "streams").read_text()
    assert "eventpoll" not in (tmp_path / "streams").read_text()


@pytest.mark.incident("T70")
@pytest.mark.parametrize("stream", [">", "2>"])
def test_on_a_full_disk_the_commands_code_is_ours(consul: ConsulAgent, stream: str) -> None:
    started = ["register", "--consul-address", consul.address, *map(str, process_only("sh", "-c", "exit 5"))]
    done = subprocess.run(["sh", "-c", f'exec "$@" {stream}/dev/full', "sh", *warm.COLD, *started], timeout=60)
    assert done.returncode == 5


def test_a_reader_of_the_log_that_reads_no_more_holds_nothing_up(consul: ConsulAgent) -> None:
    """As where an engine's log driver hangs: the pipe is full, and SIGTERM was heard by nobody (containerd#9342)."""
    options = map(str, process_only("sh", "-c", "yes & sleep 1000"))
    command = [*warm.COLD, "register", "--consul-address", consul.address, *options]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        until_registered(consul)
        assert running.stdout is not None
        pipe = running.stdout.fileno()
        size = fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
        process.wait_until(lambda: unread(pipe) > size - select.PIPE_BUF, what="a full pipe")
        running.terminate()
        assert running.wait(30) == 128 + signal.SIGTERM
        assert held(consul) == {}
    finally:
        with suppress(psutil.NoSuchProcess):
            for below in psutil.Process(running.pid).children(recursive=True):
                below.kill()
        running.kill()


def unread(pipe: int) -> int:
    """How many bytes lie in a pipe."""
    counted = array.array("i", [0])
    fcntl.ioctl(pipe, termios.FIONREAD, counted)
    return counted[0]


def from_a_parent_with(kept: str, *command: object, consul: ConsulAgent, log: Path) -> subprocess.Popen[bytes]:
    """Start an entrypoint by a program that keeps signals from what it starts, such as ``nohup``: by `env` of GNU."""
    options = map(str, process_only(*command))
    started = [*warm.COLD, "register", "--consul-address", consul.address, *options]
    with log.open("wb") as output:
        return subprocess.Popen(["env", kept, *started], stdout=output, stderr=output, start_new_session=True)


def test_signals_that_a_parent_blocked_reach_us_and_the_command(consul: ConsulAgent, tmp_path: Path) -> None:
    """A mask is inherited. With SIGCHLD in it nobody saw the command end, and SIGTERM was never heard (procServ#48)."""
    running = from_a_parent_with("--block-signal", "sh", "-c", "exit 5", consul=consul, log=tmp_path / "first")
    assert running.wait(30) == 5
    running = from_a_parent_with("--block-signal", "sleep", "1000", consul=consul, log=tmp_path / "second")
    until_registered(consul)
    running.terminate()
    assert running.wait(30) == 128 + signal.SIGTERM
    assert held(consul) == {}


def test_what_a_parent_ignores_for_us_stays_ignored(consul: ConsulAgent, tmp_path: Path) -> None:
    """As ``nohup`` wants it: the terminal's end ended the command, which outlived it without us (oq-engine#4027)."""
    script = "grep SigIgn /proc/self/status; exec sleep 1000"
    running = from_a_parent_with("--ignore-signal=HUP", "sh", "-c", script, consul=consul, log=tmp_path / "log")
    until_registered(consul)
    running.send_signal(signal.SIGHUP)
    running.send_signal(signal.SIGTERM)
    assert running.wait(30) == 128 + signal.SIGTERM
    assert "SigIgn:\t0000000000000001" in (tmp_path / "log").read_text()


class Typist:
    """A shell in a terminal, and who types into it."""

    def __init__(self, *command: object) -> None:
        self.pid, self._terminal = pty.fork()
        if self.pid == 0:
            os.execvp(str(command[0]), [*map(str, command)])  # noqa: S606 - it is typed into
        self.shown = ""

    def types(self, text: str) -> None:
        os.write(self._terminal, text.encode())

    def sees(self, text: str) -> None:
        """Wait until the terminal shows this after what it showed before."""

        def shows() -> bool:
            if select.select([self._terminal], [], [], 0)[0]:
                with suppress(OSError):
                    self.shown += os.read(self._terminal, 1 << 16).decode(errors="replace")
            return text in self.shown

        try:
            process.wait_until(shows, what=f"{text!r} in the terminal", timeout=60)
        except TimeoutError as error:
            raise TimeoutError(f"{error}: {self.shown}") from error
        self.shown = self.shown.partition(text)[2]

    def ended(self) -> int:
        status: list[int] = []

        def has_ended() -> bool:
            # What is written to a terminal that nobody reads waits.
            if select.select([self._terminal], [], [], 0)[0]:
                with suppress(OSError):
                    os.read(self._terminal, 1 << 16)
            pid, code = os.waitpid(self.pid, os.WNOHANG)
            status.append(code)
            return pid != 0

        process.wait_until(has_ended, what="the end", timeout=60)
        return os.waitstatus_to_exitcode(status[-1])


BASH = ("env", "PS1=ask> ", "bash", "--norc", "--noprofile", "--noediting", "-i")


@pytest.mark.incident("T66")
def test_a_shell_in_a_terminal_works_as_without_us(consul: ConsulAgent) -> None:
    """Ctrl-C ends what the shell runs, Ctrl-Z stops it, and the shell goes on; its code is ours."""
    typist = Typist(*warm.COLD, "register", "--consul-address", consul.address, *process_only(*BASH))
    typist.sees("ask> ")
    typist.types("sh -c 'echo up-$((40 + 2)); exec sleep 1000'\n")
    typist.sees("up-42")
    typist.types("\x03")
    typist.sees("ask> ")
    typist.types("echo code-$?-$((40 + 2))\n")
    typist.sees("code-130-42")
    typist.types("cat\n")
    typist.types("one\n")
    typist.sees("one\r\none")
    typist.types("\x1a")
    typist.sees("Stopped")
    typist.sees("ask> ")
    typist.types("fg\n")
    typist.sees("cat\r\n")
    typist.types("two\n")
    typist.sees("two\r\ntwo")
    typist.types("\x04")
    typist.sees("ask> ")
    typist.types("exit 9\n")
    assert typist.ended() == 9
    process.wait_until(lambda: held(consul) == {}, what="deregistered", timeout=30)


@pytest.mark.incident("T66")
def test_a_command_is_a_job_of_the_shell_that_started_us(consul: ConsulAgent) -> None:
    """Stopped by Ctrl-Z with us, continued by fg with us, and ended by Ctrl-C as any other."""
    typist = Typist(*BASH)
    typist.sees("ask> ")
    # The echo of what is typed must not be what is waited for.
    command = process_only("sh", "-c", "echo up-$((40 + 2)); exec cat")
    started = (*warm.COLD, "register", "--log-level", "error", "--consul-address", consul.address, *command)
    typist.types(" ".join(map(shlex.quote, map(str, started))) + "\n")
    typist.sees("up-42")
    typist.types("one\n")
    typist.sees("one\r\none")
    typist.types("\x1a")
    typist.sees("Stopped")
    typist.sees("ask> ")
    typist.types("fg\n")
    typist.sees("exec cat'\r\n")
    typist.types("two\n")
    typist.sees("two\r\ntwo")
    typist.types("\x03")
    typist.sees("ask> ")
    typist.types("echo code-$?-$((40 + 2))\n")
    typist.sees("code-130-42")
    typist.types("exit 3\n")
    assert typist.ended() == 3
    process.wait_until(lambda: held(consul) == {}, what="deregistered", timeout=30)


GIVES_AWAY = """
import os, signal, time
job = os.fork()
if job == 0:
    time.sleep(1000)
os.setpgid(job, job)
signal.signal(signal.SIGTTOU, signal.SIG_IGN)
os.tcsetpgrp(0, job)
print(f"away-{40 + 2}", flush=True)
print("got", input()[::-1], flush=True)
os.kill(job, signal.SIGKILL)
"""
"""A command that puts a job of its own into the foreground, and reads all the same."""


@pytest.mark.incident("T66")
def test_a_command_that_reads_from_behind_gets_the_terminal_where_no_shell_would_give_it(consul: ConsulAgent) -> None:
    """It was continued at once, to be stopped again, and so on without an end."""
    command = process_only(sys.executable, "-c", GIVES_AWAY)
    typist = Typist(*warm.COLD, "register", "--consul-address", consul.address, *command)
    typist.sees("away-42")
    typist.types("drawer\n")
    typist.sees("got reward")
    assert typist.ended() == 0


@pytest.mark.incident("T66")
def test_a_command_goes_on_under_a_script_that_nobody_can_continue(consul: ConsulAgent) -> None:
    """Such as the shell of an image's ENTRYPOINT: it is PID 1, and no shell that knows jobs."""
    command = process_only("sh", "-c", "echo up-$((40 + 2)); exec cat")
    started = (*warm.COLD, "register", "--consul-address", consul.address, *command)
    typist = Typist("sh", "-c", '"$@"; exit $?', "sh", *started)
    typist.sees("up-42")
    typist.types("\x1a")
    typist.types("one\n")
    typist.sees("one\r\none")
    typist.types("\x04")
    assert typist.ended() == 0


def test_orphans_are_reaped(register: Register) -> None:
    """What loses its parent comes to us, is no zombie when it ends, and does not end the command."""
    running = register(*process_only("sh", "-c", "(sh -c 'sleep 0.1' & echo left-$!) ; echo ready; sleep 1000"))
    running.until_said("ready")
    me = psutil.Process(running.process.pid)
    process.wait_until(lambda: len(me.children(recursive=True)) == 2, what="only the shell and its sleep", timeout=30)
    assert not [child for child in me.children(recursive=True) if child.status() == psutil.STATUS_ZOMBIE]
    assert running.stop() == 128 + signal.SIGTERM


def test_a_shells_orphans_get_the_time_to_end(register: Register) -> None:
    """A shell dies of SIGTERM and tells nothing to what it runs; that gets SIGTERM too, and its grace."""
    inner = "trap 'echo inner-ended; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
    running = register(*process_only("sh", "-c", f'sh -c "{inner}"; :'))
    running.until_said("ready")
    assert running.stop() == 128 + signal.SIGTERM
    assert "inner-ended" in running.said


def test_a_command_that_does_not_listen_is_killed_after_its_grace(consul: ConsulAgent, register: Register) -> None:
    running = register("--grace", "200ms", *process_only("sh", "-c", "trap '' TERM; echo ready; sleep 1000; :"))
    running.until_said("ready")
    until_registered(consul)
    assert running.stop() == 128 + signal.SIGKILL
    assert held(consul) == {}


def test_a_second_signal_cuts_the_drain_short(consul: ConsulAgent, register: Register) -> None:
    running = register(
        *("--name", "web", "--port", "1", "--address", "127.0.0.1", "--check-process", "--drain", "1h"),
        *("--", "sleep", "1000"),
    )
    running.until_said("registered")
    running.send(signal.SIGTERM)
    running.until_said("leaving")
    process.wait_until(
        lambda: any("_service_maintenance" in check for check in consul.get("/v1/agent/checks")), what="maintenance"
    )
    assert running.stop() == 128 + signal.SIGTERM
    assert held(consul) == {}


def test_a_command_that_never_answers_is_ended_and_was_never_announced(consul: ConsulAgent, register: Register) -> None:
    running = register(*web(free_port(), "--start-timeout", "500ms"), "--", "sleep", "1000")
    assert running.ended() == 1
    assert "did not become ready within 0.5s" in running.said
    assert held(consul) == {}
    assert "registered" not in running.said


def test_a_command_that_is_not_ready_is_ended_without_a_drain(register: Register) -> None:
    running = register(
        *("--name", "web", "--port", free_port(), "--address", "127.0.0.1", "--drain", "1h"),
        *("--", "sh", "-c", "echo started; sleep 1000"),
    )
    running.until_said("started")
    assert running.stop() == 128 + signal.SIGTERM
    assert "registered" not in running.said


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs root and unshare")
def test_it_is_fit_for_pid_1(consul: ConsulAgent, tmp_path: Path) -> None:
    """In a namespace of its own the kernel hands it every orphan, and ignores what it does not handle."""
    log = tmp_path / "log"
    command = "(setsid sh -c 'sleep 0.1' &); echo ready; sleep 1000"
    options = map(str, process_only("sh", "-c", command))
    started = process.start(
        [
            *("unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *warm.COLD),
            *("register", "--consul-address", consul.address, *options),
        ],
        log=log,
    )
    try:
        process.wait_until(lambda: "ready" in log.read_text(), what="the command", timeout=30)
        until_registered(consul)
        (first,) = psutil.Process(started.pid).children()
        process.wait_until(lambda: len(first.children(recursive=True)) == 2, what="the orphan reaped", timeout=30)
        first.send_signal(signal.SIGTERM)
        assert started.wait(60) == 128 + signal.SIGTERM, log.read_text()
    finally:
        process.stop(started, signal.SIGKILL)
    assert held(consul) == {}


def test_a_command_tells_health(consul: ConsulAgent, register: Register, tmp_path: Path) -> None:
    """The exit code of --check-command is the status; a command that fails is not announced to begin with."""
    file = tmp_path / "health"
    file.write_text("2")
    check = f"sh -c 'exit $(cat {file})'"
    running = register(*web(1, "--check-command", check, "--check-ttl", "1500ms"), "--", "sleep", "1000")

    def status() -> list[str]:
        found = consul.get("/v1/agent/checks").values()
        return [check["Status"] for check in found if check["ServiceID"]]

    process.wait_until(lambda: psutil.Process(running.process.pid).children(), what="the command", timeout=30)
    assert held(consul) == {}
    for code, wanted in (("0", "passing"), ("1", "warning"), ("2", "critical"), ("0", "passing")):
        file.write_text(code)
        process.wait_until(lambda wanted=wanted: status() == [wanted], what=wanted, timeout=30)  # type: ignore[misc]
    assert running.stop() == 128 + signal.SIGTERM


def test_what_the_command_prints_stays_its_own(consul: ConsulAgent, tmp_path: Path) -> None:
    """Our log goes to standard error and to syslog; standard output has no byte of ours."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "log"))
        receiver.setblocking(False)
        script = "import sys; print('{out}', end=''); print('err', file=sys.stderr)"
        options = ["--consul-address", consul.address, "--log-format", "ecs", "--log-syslog", f"unix:{tmp_path}/log"]
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "proxygen",
                "register",
                *options,
                *map(str, process_only(sys.executable, "-c", script)),
            ],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        sent = []
        with suppress(BlockingIOError):
            while True:
                sent.append(receiver.recv(1 << 16).decode().partition(": ")[2])
    assert done.stdout == "{out}"
    ours = [line for line in done.stderr.splitlines() if line != "err"]
    assert sent == ours
    assert "the command ended" in [json.loads(line)["message"] for line in ours]
