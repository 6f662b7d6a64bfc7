"""The reference pages, written from the code: ``python -m proxygen.cli.reference docs/reference``."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import click

from proxygen.cli import INTERNAL_ERROR, INTERRUPTED, proxygen
from proxygen.cli.lazy import Command, SectionedOption
from proxygen.cli.log_events import LogEvent, log_events
from proxygen.kit import log
from proxygen.kit.errors import ProxygenError
from proxygen.kit.log import SYSLOG_BACK, SYSLOG_SILENT
from proxygen.kit.metrics import Family
from proxygen.kit.units import format_duration
from proxygen.network.agent import metrics as network_metrics
from proxygen.proxy.admin.api import ENDPOINTS
from proxygen.proxy.admin.families import FAMILIES
from proxygen.proxy.admin.openapi import description
from proxygen.proxy.admin.statuses import STATUSES
from proxygen.proxy.record.events import LASTING, TELLINGS, Kind, Topic
from proxygen.registration import metrics as registrator_metrics
from proxygen.settings import CONSUL_VARIABLES, Knob, Settings, knobs
from proxygen.settings.values import LONGEST
from proxygen.tags import EVERY_PROTOCOL, KEYS, PREFIX, Key, Protocol

_NOTE: Final = "<!-- Written by `python -m proxygen.cli.reference docs/reference`. Change the code, then run it. -->"


def pages() -> Mapping[str, str]:
    """Return every reference page by its file's name."""
    written = {name: "\n".join([_NOTE, "", *write()]) + "\n" for name, write in _PAGES.items()}
    return {**written, "openapi.json": json.dumps(description(ENDPOINTS), indent=1) + "\n"}


def main(directory: str) -> None:
    """Write the pages into ``directory``."""
    for name, text in pages().items():
        path = Path(directory) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "Each setting has a flag, an environment variable and a key in `proxygen.toml`. A flag goes before the"
    yield "environment, the environment before the file, the file before the default. The file is the one that"
    yield "`--config` or `PROXYGEN_CONFIG` names, else `proxygen.toml` in the working directory, if there is one."
    yield "An empty variable counts as unset. Durations are a whole number and `ms`, `s`, `m`, `h` or `d`; in TOML a"
    yield f"bare number is seconds; the longest is {format_duration(round(LONGEST * 1000))}. Lists are"
    yield "separated by commas, or are lists in TOML."
    for name, field in Settings.model_fields.items():
        yield from ("", f"## `[{name}]`", "", f"{inspect.getdoc(field.annotation)}", "")
        yield from _table(
            ("Key", "Flag", "Variable", "Default", "Meaning"), (_row(knob) for knob in knobs() if knob.slice == name)
        )
    yield from ("", "## Consul's own variables", "")
    yield "They are read as Consul's other tools read them, and stand just below `PROXYGEN_CONSUL_…`."
    yield ""
    yield from _table(
        ("Variable", "Setting"), ((f"`{variable}`", f"`consul.{name}`") for variable, name in CONSUL_VARIABLES.items())
    )


def _row(knob: Knob) -> Sequence[str]:
    flag = "only in TOML" if knob.is_table else f"`{knob.flag}`"
    variable = "" if knob.is_table else f"`{knob.variable}`"
    # The words true and false say no more than the default does.
    allowed = "" if knob.is_boolean or not knob.allowed else f" ({knob.allowed})"
    return f"`{knob.name}`", flag, variable, f"`{knob.default}`" if knob.default else "", knob.help + allowed


def _commands() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Every command takes `--help`, `--config FILE`, `--log-format text|json` and `--log-level LEVEL`, and flags"
    yield "for the [settings](settings.md) that it uses. A wrong flag, setting or input is exit code 2, a Consul that"
    yield "does not answer 3, an interrupt 130, and a bug 70: [errors](errors.md)."
    for name, command in _walk(proxygen, ()):
        yield from ("", f"## `proxygen {name}`", "", inspect.cleandoc(command.help or ""), "")
        yield from _own_options(command)
        slices = sorted({_slice(option) for option in command.params if isinstance(option, SectionedOption)} - {"log"})
        if slices:
            yield f"Settings: {', '.join(f'[`{name}`](settings.md#{name})' for name in slices)}."
            yield ""
        yield "```sh"
        yield from command.examples
        yield "```"


def _walk(group: click.Group, path: tuple[str, ...]) -> Iterator[tuple[str, Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _walk(command, (*path, name))
        elif isinstance(command, Command):
            yield " ".join((*path, name)), command


def _own_options(command: Command) -> Iterator[str]:
    context = click.Context(command)
    usage = " ".join(part for part in command.collect_usage_pieces(context) if part != "[OPTIONS]")
    own = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not isinstance(option, SectionedOption) and option.name != "config"
    ]
    if usage:
        yield from (f"Arguments: `{usage}`", "")
    records = [record for option in own if (record := option.get_help_record(context))]
    if records:
        yield from _table(("Flag", "Meaning"), ((f"`{flags}`", meaning) for flags, meaning in records))
        yield ""


def _slice(option: SectionedOption) -> str:
    return option.section.removeprefix("Settings: ")


def _tags() -> Iterator[str]:
    yield "# Proxy tags"
    yield ""
    yield "A service is proxied when at least one of its instances carries a `route` tag. A tag is"
    yield f"`{PREFIX}.KEY=VALUE` in Consul's `Tags`; the same keys may stand in the service's `Meta` as `{PREFIX}-KEY`,"
    yield "where the values of a key that may repeat are separated by spaces. A tag goes before Meta. The prefix is"
    yield "the setting `proxy.tag_prefix`. A tag that cannot be read costs the instance that states it alone."
    yield ""
    yield "`proxygen tags build` builds tags; `proxygen tags lint` checks a service definition before it is registered."
    yield ""
    yield from _table(
        ("Key", "Value", "Meaning", "Default", "Example"),
        (
            (
                f"`{key.name}`{' (may repeat)' if key.repeatable else ''}",
                key.syntax,
                key.meaning,
                key.default,
                f"`{PREFIX}.{key.name}={key.example}`",
            )
            for key in KEYS
        ),
    )
    yield from ("", "## Where a key holds", "")
    yield "nginx has one set of options for a service, and its instances may state different ones, as during a deploy."
    yield "The last column says which values count; `status` shows a warning while instances disagree on an option."
    yield ""
    yield "A key that does not hold with the service's protocol is either refused, or taken without effect:"
    yield "`proxygen tags lint` and `status` then name it. The value `false` is never refused."
    yield "Of `sticky` and `balance`, tcp and udp take the values that need no request."
    yield ""
    yield from _table(
        ("Key", "Holds with", "No effect with", "Refused with", "Whose it is, and what counts"), map(_holding, KEYS)
    )


def _holding(key: Key) -> Sequence[str]:
    refused = EVERY_PROTOCOL - key.protocols - key.ignored_with
    return f"`{key.name}`", *map(_protocols, (key.protocols, key.ignored_with, refused)), key.combine


def _protocols(some: frozenset[Protocol]) -> str:
    return "every protocol" if some == EVERY_PROTOCOL else ", ".join(one for one in Protocol if one in some)


def _metrics() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "`/metrics` on the [admin address](settings.md#admin), as Prometheus' text or as OpenMetrics; what to do with"
    yield "them: [monitor](../how-to/monitor.md). Beside these there are the usual `process_…` metrics."
    yield ""
    yield "No label has values without bound: a service's name stands only in what is read at each scrape, of"
    yield "the services that the newest plan has, so that a service which is gone leaves no series."
    yield ""
    yield from _families(FAMILIES)
    yield from ("", "## The network's agent", "")
    yield "On [`network.metrics`](settings.md#network)."
    yield ""
    yield from _families(network_metrics.FAMILIES)
    yield from ("", "## The registrator", "")
    yield "On [`registrator.metrics`](settings.md#registrator)."
    yield ""
    yield from _families(registrator_metrics.FAMILIES)


def _families(families: Iterable[Family]) -> Iterator[str]:
    yield from _table(
        ("Metric", "Type", "Labels", "Meaning"),
        (
            (f"`{family.series}`", family.type, ", ".join(f"`{label}`" for label in family.labels), family.help)
            for family in families
        ),
    )


def _events() -> Iterator[str]:
    yield "# Events"
    yield ""
    yield "What happens is told in three places: as events of `/api/v1/events` and of the status page, as what lasts"
    yield "now in `proxygen status` and `proxygen_conditions`, and in the log. How to follow them:"
    yield "[monitor](../how-to/monitor.md#events), [collect logs](../how-to/logs.md). `proxygen_events_total` counts"
    yield "each kind."
    yield ""
    yield "## Kinds"
    yield ""
    yield from _table(("Kind", "Tells", "In the log", "Level there"), map(_kind, Kind))
    yield from ("", "## What lasts", "")
    yield "`proxygen_conditions` has a series for each topic."
    yield ""
    lasting = ((f"`{topic}`", f"`{LASTING[topic].begins}`", f"`{LASTING[topic].ends}`") for topic in Topic)
    yield from _table(("Topic", "Begins with", "Ends with"), lasting)
    yield from ("", "## Lines of the log", "")
    yield "The field `event` of a line is one of these, whole; what the line is about is in its other fields. The lines"
    yield "of the kinds above come from `proxygen.proxy.record.events`, unless they are here too."
    yield ""
    yield from _table(("Event", "Level", "Field `module`"), map(_log_event, _lines_of_the_log()))


def _kind(kind: Kind) -> Sequence[str]:
    telling = TELLINGS[kind]
    return f"`{kind}`", telling.meaning, f"`{telling.log}`" if telling.log else "", telling.level if telling.log else ""


def _lines_of_the_log() -> Iterator[LogEvent]:
    yield from log_events(Path(__file__).parents[1])
    for event in (SYSLOG_SILENT, SYSLOG_BACK):
        yield LogEvent(event=event, levels=("warning",), loggers=(log.__name__,))


def _log_event(event: LogEvent) -> Sequence[str]:
    return f"`{event.event}`", ", ".join(event.levels), ", ".join(f"`{logger}`" for logger in event.loggers)


def _errors() -> Iterator[str]:
    yield "# Errors"
    yield ""
    yield "A command that fails says why in one line and ends with an exit code; the API answers with a status and"
    yield '`{"error": TEXT}`. The text says what was refused, where, and what still runs. An application that uses'
    yield "proxygen as a library catches these classes of `proxygen.kit.errors`. Who catches the one in the second"
    yield "column catches the one in the first too."
    yield ""
    yield from _table(("Error", "Kind of", "Exit code", "Status", "Meaning"), map(_error, _tree(ProxygenError)))
    yield ""
    yield "Where it can, the API answers more exactly: 404 for what is not there, 412 where the state is another than"
    yield "the request named. [Its description](openapi.json) has the statuses of each operation."
    yield ""
    yield "Other exit codes: 0 for done; 1 where `check`, `diff`, `tags lint` or a status found something, or where"
    yield f"what reads the output has left; 2 for a wrong flag; {INTERNAL_ERROR} for a bug in proxygen; {INTERRUPTED}"
    yield "for an interrupt; and for `register` that of its command."


def _tree(kind: type[ProxygenError]) -> Iterator[type[ProxygenError]]:
    for below in kind.__subclasses__():
        # A module that refines one for itself may be loaded or not.
        if below.__module__ == kind.__module__:
            yield below
            yield from _tree(below)


def _error(kind: type[ProxygenError]) -> Sequence[str]:
    above, status = kind.__bases__[0].__name__, next(STATUSES[each] for each in kind.__mro__ if each in STATUSES)
    meaning = inspect.cleandoc(kind.__doc__ or "").partition("\n")[0]
    return f"`{kind.__name__}`", f"`{above}`", str(kind.exit_code), str(status.value), meaning


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(headings)} |"
    yield f"|{'---|' * len(headings)}"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


_PAGES: Final = {
    "settings.md": _settings,
    "commands.md": _commands,
    "tags.md": _tags,
    "metrics.md": _metrics,
    "events.md": _events,
    "errors.md": _errors,
}

if __name__ == "__main__":
    main(*sys.argv[1:])
