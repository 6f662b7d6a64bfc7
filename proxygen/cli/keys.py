"""Flags for the keys of proxy tags, derived from the grammar's one table."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import click

from proxygen.tags import KEYS

R = TypeVar("R")


def key_options(*, variables: str = "") -> Callable[[Callable[..., R]], Callable[..., R]]:
    """Give a command a flag for every key; ``variables`` begins the names of environment variables that set them."""

    def decorate(command: Callable[..., R]) -> Callable[..., R]:
        for key in reversed(KEYS):
            variable = f"{variables}{key.name.replace('-', '_')}".upper() if variables else None
            shown = f" [{variable}]" if variable else ""
            command = click.option(
                f"--{key.name}",
                f"key__{key.field}__{key.name.replace('-', '_')}",
                metavar=key.syntax.partition(" (")[0].replace(" or ", "|").replace(", ", "|"),
                multiple=True,
                envvar=variable,
                help=f"{key.meaning}. Default: {key.default}.{' May repeat.' if key.repeatable else ''}{shown}",
            )(command)
        return command

    return decorate


def tag_texts(values: Mapping[str, Sequence[str]], prefix: str) -> list[str]:
    """Return what was given to the flags of `key_options` as tags, not judged yet."""
    given = [(name.partition("__")[2].partition("__")[2].replace("_", "-"), texts) for name, texts in values.items()]
    return [f"{prefix}.{key}={text}" for key, several in given for text in several]
