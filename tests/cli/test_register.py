"""The options of `proxygen register`: by variable as on the command line, empty ones too."""

from __future__ import annotations

from typing import Any

import click
import pytest

from proxygen.cli.register import VARIABLES, register

NEEDED = ("--name", "web", "--port", "8080")
OPTIONS = [one for one in register.params if isinstance(one, click.Option) and str(one.envvar).startswith(VARIABLES)]
SEVERAL = [one for one in OPTIONS if one.multiple]
SWITCHES = [one for one in OPTIONS if one.is_flag]


def each(options: list[click.Option]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("option", options, ids=lambda option: option.opts[0])


def read(*arguments: str) -> dict[str, Any]:
    """What the command is called with; where it was given does not matter."""
    with register.make_context("register", [*arguments, "--", "true"]) as context:
        return context.params


def sample(option: click.Option) -> str:
    return "8080" if option.name == "port" else "some=value"


def needed_beside(option: click.Option) -> list[str]:
    flags = dict(zip(NEEDED[::2], NEEDED[1::2], strict=True))
    return [text for flag, value in flags.items() if flag != option.opts[0] for text in (flag, value)]


def test_there_are_options() -> None:
    assert len(OPTIONS) > 40
    assert len(SEVERAL) > 5
    assert len(SWITCHES) > 3


@each(OPTIONS)
def test_a_variable_is_what_its_option_is(option: click.Option, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [option.opts[0]] if option.is_flag else [option.opts[0], sample(option)]
    expected = read(*needed_beside(option), *given)
    assert option.name is not None
    monkeypatch.setenv(str(option.envvar), "true" if option.is_flag else sample(option))
    assert read(*needed_beside(option)) == expected
    assert expected[option.name] not in ((), None, False)


@each(SEVERAL)
def test_several_values_stand_between_spaces(option: click.Option, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(str(option.envvar), "a=b  c=d")
    assert read(*NEEDED)[str(option.name)] == ("a=b", "c=d")


@each(SWITCHES)
@pytest.mark.parametrize("word", ["0", "false", "no", "off", ""])
def test_a_switch_can_be_off(option: click.Option, word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(str(option.envvar), word)
    assert read(*NEEDED)[str(option.name)] is False


@each(OPTIONS)
def test_an_empty_variable_is_unset(option: click.Option, monkeypatch: pytest.MonkeyPatch) -> None:
    """That is how compose files hand on what nobody set; but an empty gRPC check asks for the whole server."""
    monkeypatch.setenv(str(option.envvar), "")
    expected = read(*NEEDED, "--check-grpc") if option.name == "check_grpc" else read(*NEEDED)
    assert read(*NEEDED) == expected
