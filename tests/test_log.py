from __future__ import annotations

import errno
import io
import json
import logging
import os
import subprocess
import sys

import pytest
from pydantic import SecretStr

from proxygen.log import HIDDEN, configure, get_logger

SECRET = "b1gs1cr3t"


@pytest.mark.parametrize("form", ["text", "json"])
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
        "from proxygen.log import configure, get_logger; configure(); print('ready', flush=True); input();"
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
