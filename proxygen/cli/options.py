"""Flags for the settings, derived from their one declaration, and the loaded `Settings` for the command."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import click

from proxygen.cli.lazy import SectionedOption
from proxygen.kit import log
from proxygen.settings import DEFAULT_FILE, Knob, Settings, knobs, load
from proxygen.settings.knobs import flag_of
from proxygen.settings.retired import RETIRED

_LOG: Final = log.get_logger(__name__)

R = TypeVar("R")

CONFIG_VARIABLE: Final = "PROXYGEN_CONFIG"

_OF_OTHER_COMMANDS: Final = frozenset({"registrator", "network"})
"""Slices that mean nothing to the sidecar."""
_SHORT_FLAGS: Final = {"output.directory": "--output"}


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsSource:
    """Where a command's settings come from, so that they can be read again while it runs."""

    flags: Mapping[str, str]
    """By ``slice.name``, as given on the command line."""
    config: Path | None

    @property
    def file(self) -> Path | None:
        """The settings file that counts; None where there is none."""
        default = Path(DEFAULT_FILE)
        return self.config or (default if default.is_file() else None)

    def load(self) -> Settings:
        """Read file and environment and lay the flags over them. Raise SettingsError."""
        return load(self.flags, file=self.config)


def settings_options(*names: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command ``--config``, a flag for every knob that is named, and its ``settings``.

    A name is a slice or a single knob (``proxy.tag_prefix``); no name means every knob of the sidecar's, and the
    log's are always among them. Stand directly below ``@click.command``: a flag that the command declares itself
    (``render --output``) is then left to the command.
    """

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        @functools.wraps(command)
        def with_settings(*arguments: Any, source: SettingsSource, **options: Any) -> R:
            settings = source.load()
            configure_log(settings)
            return command(*arguments, settings=settings, **options)

        return source_options(*names)(with_settings)

    return decorate


def configure_log(settings: Settings) -> None:
    """Set the log up, and say there what was set and has no effect any more."""
    log.configure(format=settings.log.format, level=settings.log.level, syslog=settings.log.syslog)
    log_remarks(settings)


def log_remarks(settings: Settings) -> None:
    """Say in the log what was set and has no effect any more."""
    for remark in settings.remarks:
        _LOG.warning("setting without effect", reason=remark)


def source_options(*names: str) -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Like `settings_options`, for a command that reads its settings itself, more than once: it gets ``source``."""
    wanted = {*names, "log"} if names else {knob.slice for knob in knobs()} - _OF_OTHER_COMMANDS
    retired = [key for key in RETIRED if key.partition(".")[0] in wanted]
    chosen = [knob for knob in knobs() if {knob.slice, knob.key} & wanted]

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        own = {name for parameter in getattr(command, "__click_params__", ()) for name in parameter.opts}

        @functools.wraps(command)
        def with_source(*arguments: Any, config: Path | None, **options: Any) -> R:
            flags = {knob.key: options.pop(_parameter(knob)) for knob in chosen if not knob.is_table}
            flags |= {key: options.pop(_parameter_of(key)) for key in retired}
            given = {key: value for key, value in flags.items() if value is not None}
            return command(*arguments, source=SettingsSource(flags=given, config=config), **options)

        decorated: Callable[..., R] = with_source
        for key in retired:
            decorated = click.option(flag_of(key), _parameter_of(key), hidden=True)(decorated)
        for knob in reversed(chosen):
            if not knob.is_table:
                decorated = _option(knob, own)(decorated)
        return _config_option(decorated)

    return decorate


def _parameter(knob: Knob) -> str:
    return _parameter_of(knob.key)


def _parameter_of(key: str) -> str:
    return key.replace(".", "__")


def _option(knob: Knob, own: set[str]) -> Callable[[Callable[..., R]], Callable[..., R]]:
    flag = f"{knob.flag}/--no{knob.flag.removeprefix('-')}" if knob.is_boolean else knob.flag
    return click.option(
        flag,
        *(short for short in [_SHORT_FLAGS.get(knob.key)] if short and short not in own),
        _parameter(knob),
        cls=SectionedOption,
        section=_section(knob),
        type=_type(knob),
        metavar=None if knob.is_boolean or knob.choices else _metavar(knob),
        callback=_text,
        default=None,
        help=" ".join(_help(knob)),
    )


def _type(knob: Knob) -> click.ParamType[Any] | type:
    if knob.is_boolean:
        return bool
    return click.Choice(knob.choices) if knob.choices else str


def _text(_context: click.Context, _parameter: click.Parameter, value: object) -> str | None:
    """Hand every flag on as text: `load` is the one place that judges values."""
    return str(value).lower() if isinstance(value, bool) else None if value is None else str(value)


def _metavar(knob: Knob) -> str:
    if knob.is_duration:
        return "DURATION"
    annotation = str(knob.field.annotation)
    for part, metavar in (("Path", "PATH"), ("int", "NUMBER"), ("float", "NUMBER"), ("tuple", "LIST")):
        if part in annotation:
            return metavar
    return "TEXT"


def _section(knob: Knob) -> str:
    return f"Settings: {knob.slice}"


def _help(knob: Knob) -> Iterator[str]:
    yield knob.help
    yield f"[{knob.variable}{f'; default {knob.default}' if knob.default else ''}]"


def _config_option(command: Callable[..., R]) -> Callable[..., R]:
    return click.option(
        "--config",
        envvar=CONFIG_VARIABLE,
        type=click.Path(path_type=Path),
        metavar="FILE",
        help=f"Settings file (TOML). [{CONFIG_VARIABLE}; default proxygen.toml in the working directory, if any]",
    )(command)
