from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import pytest
from ecs_logging import StructlogFormatter
from pydantic import SecretStr

from proxygen import __version__
from proxygen.kit.errors import SettingsError
from proxygen.kit.log import HIDDEN, configure, get_logger
from proxygen.settings import load

SECRET = "b1gs1cr3t"


@pytest.mark.parametrize("form", ["text", "json", "ecs"])
@pytest.mark.parametrize(
    "fields",
    [
        {"token": SECRET},
        {"consul_token": SECRET},
        {"http_auth": SECRET},
        {"password": SECRET},
        {"anything": SecretStr(SECRET)},
        {"headers": {"X-Consul-Token": SECRET}},
        {"headers": [("a", {"Authorization": SECRET})]},
        {"error": f"Authorization: Bearer {SECRET}"},
        {"url": f"http://user:{SECRET}@127.0.0.1/v1"},
        {"url": f"http://127.0.0.1/v1/kv?token={SECRET}&stale"},
    ],
    ids=str,
)
def test_no_secret_reaches_the_log(form: str, fields: dict[str, object], capsys: pytest.CaptureFixture[str]) -> None:
    configure(format=form, level="info")  # type: ignore[arg-type]
    get_logger("test").info("asked", **fields)
    written = capsys.readouterr().err
    assert "asked" in written
    assert HIDDEN in written
    assert SECRET not in written


def test_an_address_keeps_its_port(capsys: pytest.CaptureFixture[str]) -> None:
    """Only what stands before an @ can be a password."""
    configure(format="json")
    get_logger("test").info("asked", error="Consul at http://127.0.0.1:8500 does not answer: mail ops@example.com")
    assert "http://127.0.0.1:8500 does" in capsys.readouterr().err


def test_a_file_that_holds_a_token_may_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="json")
    get_logger("test").info("read", token_file="/run/secrets/token", author="someone")
    line = json.loads(capsys.readouterr().err)
    assert (line["token_file"], line["author"]) == ("/run/secrets/token", "someone")


def test_a_secret_in_a_traceback_is_hidden(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="json")
    try:
        raise ValueError(f"Bearer {SECRET}")
    except ValueError:
        get_logger("test").exception("failed")
    line = json.loads(capsys.readouterr().err)
    assert "ValueError" in line["exception"]
    assert SECRET not in json.dumps(line)


def test_json_is_one_object_a_line_with_the_event_and_its_facts(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="json", level="debug")
    get_logger("proxygen.test").debug("reload proven", generation=42, service="evil\nname")
    captured = capsys.readouterr()
    assert captured.out == ""
    (text,) = captured.err.splitlines()
    line = json.loads(text)
    assert list(line)[:3] == ["timestamp", "level", "event"]
    assert (line["event"], line["level"], line["generation"]) == ("reload proven", "debug", 42)
    assert (line["module"], line["service"]) == ("proxygen.test", "evil\nname")


def test_a_hostile_name_cannot_forge_a_line_or_move_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="text")
    get_logger("test").warning("quarantined", service="a\n2026-01-01T00:00:00Z [info     ] all is well\x1b[2J")
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b[2J" not in written


def test_what_is_below_the_level_is_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    configure(level="warning")
    get_logger("test").info("quiet")
    get_logger("test").warning("loud")
    written = capsys.readouterr().err
    assert "quiet" not in written
    assert "loud" in written


def test_a_logger_made_before_the_settings_were_read_obeys_them(capsys: pytest.CaptureFixture[str]) -> None:
    logger = get_logger("early")
    configure(format="json")
    logger.info("late")
    assert json.loads(capsys.readouterr().err)["event"] == "late"


def test_libraries_warn_in_the_same_form_and_do_not_chatter(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="json", level="debug")
    logging.getLogger("aiohttp.server").warning("token=%s was odd", SECRET)
    logging.getLogger("aiohttp.server").info("chatter")
    (text,) = capsys.readouterr().err.splitlines()
    line = json.loads(text)
    assert (line["module"], line["level"]) == ("aiohttp.server", "warning")
    assert SECRET not in text


class _Full(io.StringIO):
    """A file on a full disk."""

    def write(self, text: str, /) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_log_that_cannot_be_written_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk behind standard error, or a stream that was closed under it."""
    full = _Full()
    monkeypatch.setattr("sys.stderr", full)
    configure()
    get_logger("test").error("lost")
    full.close()
    get_logger("test").error("lost too")


def test_a_log_whose_reader_has_left_stops_nobody() -> None:
    """The other end of the pipe is gone, as when a log collector dies."""
    program = (
        "from proxygen.kit.log import configure, get_logger; configure(); print('ready', flush=True); input();"
        "[get_logger('test').error('lost') for _ in range(3)]; print('alive', flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stderr is not None
        assert process.stdout.readline() == "ready\n"
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "alive\n"


# --- the Elastic Common Schema


def _flat(document: dict[str, Any]) -> dict[str, Any]:
    """The same with every name in its dotted form, which Elasticsearch takes for the nested one."""
    found = {}
    for key, value in document.items():
        inner = {f".{name}": item for name, item in _flat(value).items()} if isinstance(value, dict) else {"": value}
        found |= {f"{key}{rest}": item for rest, item in inner.items()}
    return found


def test_an_event_in_ecs_is_named_as_the_schemas_own_library_names_it(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="ecs")
    get_logger("proxygen.test").warning("asked in vain", error="refused", service="web", generation=42)
    line = json.loads(capsys.readouterr().err)
    assert list(line)[:4] == ["@timestamp", "log.level", "message", "ecs.version"]
    facts = {
        "event": "asked in vain",
        "@timestamp": line["@timestamp"],
        "event.kind": "event",
        "event.module": "proxygen",
        "event.dataset": "proxygen.log",
        "service.name": "proxygen",
        "service.type": "proxygen",
        "service.version": __version__,
        "process.pid": os.getpid(),
        "log.logger": "proxygen.test",
        "error.message": "refused",
        "proxygen.service": "web",
        "proxygen.generation": 42,
    }
    theirs = json.loads(StructlogFormatter()(None, "warning", facts))
    # The version that each was made for.
    assert (line.pop("ecs.version"), theirs.pop("ecs.version")) == ("8.11.0", "1.6.0")
    assert _flat(line) == _flat(theirs)
    assert datetime.fromisoformat(line["@timestamp"]).tzinfo is not None


def test_a_traceback_in_ecs_is_the_errors_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="ecs")
    try:
        raise ValueError(f"Bearer {SECRET}")
    except ValueError:
        get_logger("test").exception("failed", error="the first")
    line = json.loads(capsys.readouterr().err)
    assert "ValueError" in line["error"]["stack_trace"]
    assert line["error"]["message"] == "the first"
    assert SECRET not in json.dumps(line)


def test_libraries_warn_in_ecs_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure(format="ecs")
    logging.getLogger("aiohttp.server").warning("odd")
    line = json.loads(capsys.readouterr().err)
    assert (line["log"]["logger"], line["log.level"], line["message"]) == ("aiohttp.server", "warning", "odd")


# --- syslog


class _Receiver:
    """A datagram socket, as a syslog daemon has one."""

    def __init__(self, path: Path) -> None:
        self.name = f"unix:{path}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.setblocking(False)

    def lines(self) -> list[bytes]:
        found = []
        with contextlib.suppress(BlockingIOError):
            while True:
                found.append(self.socket.recv(1 << 17))
        return found


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[_Receiver]:
    receiver = _Receiver(tmp_path / "log")
    yield receiver
    receiver.socket.close()
    configure()


@pytest.mark.parametrize("form", ["json", "ecs"])
def test_a_syslog_receiver_gets_the_lines_of_standard_error(
    form: Literal["json", "ecs"], receiver: _Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(format=form, syslog=receiver.name)
    get_logger("test").info("said", service="evil\nname")
    get_logger("test").error("failed", token=SECRET)
    logging.getLogger("aiohttp.server").warning("odd")
    written = capsys.readouterr().err.splitlines()
    got = [re.fullmatch(rb"<(\d+)>\w{3} [ \d]\d [\d:]{8} proxygen\[(\d+)\]: (.*)", line) for line in receiver.lines()]
    assert [match and match[3].decode() for match in got] == written
    # The facility daemon, and the severities of RFC 5424, section 6.2.1.
    assert [match and int(match[1]) - 24 for match in got] == [6, 3, 4]
    assert {match and int(match[2]) for match in got} == {os.getpid()}


def test_text_to_syslog_is_one_line_without_a_control_character(receiver: _Receiver) -> None:
    configure(syslog=receiver.name)
    try:
        raise ValueError("two\nlines")
    except ValueError:
        get_logger("test").exception("failed", service="a\x1b[2J")
    (line,) = receiver.lines()
    assert b"ValueError" in line
    assert not re.search(rb"[\x00-\x1f\x7f]", line)


def test_a_line_too_long_for_syslog_is_shortened_and_stays_a_document(
    receiver: _Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    configure(format="ecs", syslog=receiver.name)
    get_logger("test").info("one", text="ä" * 100_000, number=7)
    get_logger("test").info("many", **{f"fact{number}": "ä" * 1000 for number in range(200)})
    assert len(capsys.readouterr().err) > 200_000
    one, many = (json.loads(line.partition(b": ")[2]) for line in receiver.lines())
    assert (one["message"], one["proxygen"]["number"], one["proxygen"]["text"]) == ("one", 7, "ä" * 1000)
    assert (many["message"], many["proxygen"]) == ("many", {"shortened": True})


def test_a_receiver_that_reads_nothing_costs_lines_and_no_time(
    receiver: _Receiver, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel's queue holds few datagrams (net.unix.max_dgram_qlen); a send that blocks would then wait for ever."""
    configure(format="json", syslog=receiver.name)
    log = get_logger("test")
    for number in range(2000):
        log.info("said", number=number)
    said = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["number"] for line in said if line["event"] == "said"] == list(range(2000))
    # Told once, where it can be read.
    assert [line["event"] for line in said if line["event"] != "said"] == ["syslog takes no lines"]
    taken = len(receiver.lines())
    assert 0 < taken < 2000
    log.info("said at last")
    last, account = (json.loads(line.partition(b": ")[2]) for line in receiver.lines())
    assert last["event"] == "said at last"
    assert (account["event"], account["lost"]) == ("syslog takes lines again", 2000 - taken)


def test_a_receiver_that_comes_late_or_anew_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "late"
    configure(format="json", syslog=f"unix:{path}")
    log = get_logger("test")
    log.info("before")
    assert "No such file" in capsys.readouterr().err
    for name in ("first", "second"):
        receiver = _Receiver(path)
        log.info(name)
        assert any(f'"{name}"'.encode() in line for line in receiver.lines())
        receiver.socket.close()
        path.unlink()
    configure()


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("[::1]", socket.AF_INET6)])
def test_over_the_network_a_line_has_the_form_of_rfc_5424(host: str, family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as receiver:
        receiver.bind((host.strip("[]"), 0))
        receiver.settimeout(5)
        configure(format="json", syslog=f"udp:{host}:{receiver.getsockname()[1]}")
        get_logger("test").info("said")
        line = receiver.recv(1 << 16).decode()
    configure()
    match = re.fullmatch(r"<30>1 (\S+) (\S+) proxygen (\d+) - - (\{.*\})", line)
    assert match is not None, line
    assert datetime.fromisoformat(match[1]).tzinfo is not None
    assert (match[2], int(match[3])) == (socket.gethostname(), os.getpid())
    assert json.loads(match[4])["event"] == "said"


@pytest.mark.parametrize(
    "text",
    ["/dev/log", "unix:relative", "unix:/" + "x" * 107, "udp:localhost:514", "udp:127.0.0.1:0", "tcp:127.0.0.1:1"],
)
def test_what_is_no_receiver_is_refused_by_its_name(text: str) -> None:
    with pytest.raises(SettingsError, match=r"log\.syslog") as refused:
        load({"log.syslog": text}, environment={})
    assert text in str(refused.value)
