"""A click group that imports a subcommand only when it is asked for, and commands that show examples."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click


@dataclass(frozen=True, slots=True)
class LazyCommand:
    """A subcommand that is not imported yet."""

    target: str
    """``package.module:attribute``."""
    summary: str
    """The line that the group's help shows."""

    def load(self) -> click.Command:
        """Import the module that holds it: no other command's imports are paid for."""
        module, _, attribute = self.target.partition(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command


class LazyGroup(click.Group):
    """A group whose subcommands are named by a table."""

    def __init__(self, *arguments: Any, entries: Mapping[str, LazyCommand], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.entries = entries

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order of the table, which groups them for the reader."""
        return list(self.entries)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command; None for a name that there is not."""
        entry = self.entries.get(name)
        return entry.load() if entry else None

    def format_commands(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table's summaries, so that ``--help`` imports no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.summary) for name, entry in self.entries.items()])


class SectionedOption(click.Option):
    """An option that help lists under a heading of its own instead of among the command's."""

    def __init__(self, *arguments: Any, section: str, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.section = section


class Command(click.Command):
    """A command whose help groups the settings by section and ends with examples."""

    def __init__(self, *arguments: Any, examples: Sequence[str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.examples = tuple(examples)

    def format_options(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Each section by itself, in the order in which its first option stands; "Options" comes first."""
        sections: dict[str, list[tuple[str, str]]] = {"Options": []}
        for parameter in self.get_params(context):
            record = parameter.get_help_record(context)
            if record is not None and isinstance(parameter, click.Option):
                section = parameter.section if isinstance(parameter, SectionedOption) else "Options"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, context: click.Context, formatter: click.HelpFormatter) -> None:
        """Unwrapped: an example is one line that can be copied."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':{formatter.current_indent}}{example}\n")
