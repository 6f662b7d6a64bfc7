from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.kit.errors import SettingsError
from proxygen.settings import Settings, knobs


def command(*names: str) -> tuple[click.Command, list[Any]]:
    seen: list[Any] = []

    @click.command(cls=Command, examples=["proxygen probe"])
    @settings_options(*names)
    def probe(settings: Settings) -> None:
        seen.append(settings)

    return probe, seen


def invoke(probe: click.Command, *arguments: str, **environment: str) -> None:
    result = CliRunner().invoke(probe, arguments, env=environment, catch_exceptions=False, standalone_mode=False)
    assert result.exception is None


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_knob_but_tables_has_a_flag_with_its_variable_and_default() -> None:
    probe, _ = command(*{knob.slice for knob in knobs()})
    context = click.Context(probe, terminal_width=10_000, max_content_width=10_000)
    help_text = probe.get_help(context)
    for knob in knobs():
        if not knob.is_table:
            assert f"{knob.flag}" in help_text
            assert knob.variable in help_text
            assert not knob.default or knob.default in help_text


def test_a_command_that_names_no_slice_has_those_of_the_sidecar() -> None:
    probe, _ = command()
    flags = {flag for parameter in probe.params for flag in parameter.opts}
    assert any(flag.startswith("--guard-") for flag in flags)
    assert not any(flag.startswith("--registrator-") for flag in flags)


def test_a_flag_reaches_the_settings_and_beats_the_environment() -> None:
    probe, seen = command("consul")
    invoke(
        probe,
        *("--consul-wait", "7s", "--consul-max-connections", "9", "--no-consul-stale", "--log-level", "error"),
        PROXYGEN_CONSUL_WAIT="8s",
        PROXYGEN_CONSUL_KV_PREFIX="mine",
    )
    (settings,) = seen
    assert (settings.consul.wait, settings.consul.max_connections, settings.consul.stale) == (7, 9, False)
    assert (settings.consul.kv_prefix, settings.log.level) == ("mine", "error")


def test_a_list_is_separated_by_commas() -> None:
    probe, seen = command("proxy")
    invoke(probe, "--proxy-http-listen", "80,[::]:80")
    assert seen[0].proxy.http_listen == ("80", "[::]:80")


def test_a_command_has_only_the_flags_it_named() -> None:
    probe, _ = command("proxy.tag_prefix")
    flags = {flag for parameter in probe.params for flag in parameter.opts}
    assert flags == {"--config", "--proxy-tag-prefix", "--log-format", "--log-level", "--log-syslog"}


def test_settings_come_from_the_file_that_is_named_by_flag_or_variable(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("[output]\nkeep = 3\n", encoding="utf-8")
    probe, seen = command("output")
    invoke(probe, "--config", str(file))
    invoke(probe, PROXYGEN_CONFIG=str(file))
    assert [settings.output.keep for settings in seen] == [3, 3]
    with pytest.raises(SettingsError, match=r"nope\.toml"):
        invoke(probe, "--config", "nope.toml")


def test_output_is_short_for_the_output_directory_unless_the_command_has_its_own() -> None:
    probe, seen = command("output")
    invoke(probe, "--output", "/srv/a")
    assert seen[0].output.directory == Path("/srv/a")

    @click.command(cls=Command, examples=["proxygen own"])
    @settings_options("output")
    @click.option("--output")
    def own(settings: Settings, output: str) -> None:
        seen.append((output, settings.output.directory))

    invoke(own, "--output", "-", "--output-directory", "/srv/b")
    assert seen[1] == ("-", Path("/srv/b"))
