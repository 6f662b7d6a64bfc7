from __future__ import annotations

import ast
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from proxygen import cli
from proxygen.cli import COMMANDS
from proxygen.cli import proxygen as group
from proxygen.cli.lazy import Command, LazyCommand
from proxygen.settings import knobs
from tests.cli.conftest import Proxygen
from tests.harness import warm

HEAVY = ("pydantic", "aiohttp", "jinja2", "crossplane", "structlog", "msgspec", "consul", "asyncio")


@pytest.fixture(autouse=True)
def _boom(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(COMMANDS, "boom", LazyCommand("tests.cli.boom:boom", "Fail."))


def commands(parent: click.Group, path: tuple[str, ...] = ()) -> list[tuple[str, click.Command]]:
    context = click.Context(parent)
    found = []
    for name in parent.list_commands(context):
        command = parent.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            found += commands(command, (*path, name))
        else:
            found.append((" ".join((*path, name)), command))
    return found


EVERY = commands(group)


def defined(source: str) -> set[str]:
    """The functions of a module that click makes commands of."""
    return {
        node.name
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and ast.unparse(decorator.func).endswith(".command")
    }


def test_every_command_that_is_written_can_be_called() -> None:
    """One that no table and no group names would be in no help and on no page."""
    folder = Path(cli.__file__).parent
    written = {(path.stem, name) for path in folder.glob("*.py") for name in defined(path.read_text())}
    called = {(function.__module__.rpartition(".")[2], function.__name__) for function in map(innermost, EVERY)}
    assert written == called


def innermost(entry: tuple[str, click.Command]) -> Callable[..., object]:
    callback = entry[1].callback
    assert callback is not None
    return inspect.unwrap(callback)


def test_a_command_is_seen_where_it_is_written() -> None:
    source = "@click.command(cls=Command)\ndef one(): ...\n@group.command('b')\ndef two(): ...\ndef three(): ..."
    assert defined(source) == {"one", "two"}


def test_every_setting_is_a_flag_of_some_command() -> None:
    flags = {flag for _, command in EVERY for parameter in command.params for flag in parameter.opts}
    assert {knob.flag for knob in knobs() if not knob.is_table} <= flags


def test_help_imports_nothing_heavy() -> None:
    """`proxygen --help` answers at once."""
    program = (
        "import sys; from proxygen.cli import run_command_line; code = run_command_line(['--help']); "
        f"print([name for name in {HEAVY!r} if name in sys.modules], code, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ended.stderr.split("\n")[0] == "[] 0"
    for name in COMMANDS:
        assert name == "boom" or f"  {name} " in ended.stdout


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[name for name, _ in EVERY])
def test_every_command_explains_itself_with_examples(name: str, command: click.Command, proxygen: Proxygen) -> None:
    assert isinstance(command, Command)
    assert command.examples
    ended = proxygen(*name.split(), "--help")
    assert ended.code == 0
    for expected in ("Usage:", "--config", "--log-format", "--log-level", "Examples:", *command.examples):
        assert expected in ended.out
    assert any(f"proxygen {name}" in example for example in command.examples)


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[name for name, _ in EVERY])
def test_a_wrong_flag_is_code_2_and_points_to_the_help(name: str, command: click.Command, proxygen: Proxygen) -> None:
    ended = proxygen(*name.split(), "--no-such-flag")
    assert ended.code == 2
    assert "--help" in ended.err


@pytest.mark.parametrize(("name", "command"), EVERY, ids=[name for name, _ in EVERY])
def test_no_flag_of_a_command_means_two_things(name: str, command: click.Command) -> None:
    flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
    assert len(flags) == len(set(flags))


@pytest.mark.parametrize(
    ("failure", "code", "line"),
    [
        ("0", 0, None),
        ("1", 1, None),
        ("refused", 1, "proxygen: cannot write here"),
        ("consul", 3, "proxygen: Consul does not answer"),
        ("together", 3, "proxygen: one\nproxygen: two"),
        ("interrupt", 130, None),
    ],
)
def test_each_way_to_fail_has_its_code_and_one_line(
    failure: str, code: int, line: str | None, proxygen: Proxygen
) -> None:
    ended = proxygen("boom", failure)
    assert (ended.code, ended.out) == (code, "")
    assert ended.err.strip() == (line or "")


@pytest.mark.parametrize("failure", ["bug", "bug-among-others", "disk"])
def test_a_bug_is_code_70_and_shows_its_traceback_only_at_debug(failure: str, proxygen: Proxygen) -> None:
    quiet = proxygen("boom", failure)
    assert quiet.code == 70
    assert quiet.err.count("\n") == 1
    assert "--log-level debug" in quiet.err
    loud = proxygen("boom", failure, "--log-level", "debug")
    assert loud.code == 70
    assert "Traceback" in loud.err
    assert loud.out == ""


def test_a_reader_that_leaves_is_no_error_worth_a_word() -> None:
    with subprocess.Popen([*warm.COLD, "status", "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
        assert started.wait() == 1


def test_an_unknown_command_is_code_2(proxygen: Proxygen) -> None:
    ended = proxygen("statsu")
    assert ended.code == 2
    assert "statsu" in ended.err


def test_a_wrong_setting_is_code_2_and_one_line(proxygen: Proxygen) -> None:
    ended = proxygen("history", "--output-keep", "1")
    assert ended.code == 2
    assert ended.err.startswith("proxygen: output.keep = '1' from the command line")
    assert ended.err.count("\n") == 1


def test_the_version_is_shown(proxygen: Proxygen) -> None:
    ended = proxygen("--version")
    assert ended.code == 0
    assert ended.out.startswith("proxygen, version ")
