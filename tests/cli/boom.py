"""Commands that fail in every way a command can."""

from __future__ import annotations

import errno

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.kit.errors import ConsulUnreachable, OutputUnusable
from proxygen.settings import Settings

FAILURES = {
    "refused": OutputUnusable("cannot write\n  here"),
    "consul": ConsulUnreachable("Consul does not answer"),
    "together": ExceptionGroup(
        "tasks", [OutputUnusable("one"), ExceptionGroup("more", [ConsulUnreachable("two"), ConsulUnreachable("two")])]
    ),
    "bug": RuntimeError("a bug"),
    "bug-among-others": ExceptionGroup("tasks", [OutputUnusable("one"), RuntimeError("a bug")]),
    "pipe": BrokenPipeError(errno.EPIPE, "Broken pipe"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "interrupt": KeyboardInterrupt(),
}


@click.command(cls=Command, examples=["proxygen boom bug"])
@settings_options("log")
@click.argument("failure")
def boom(settings: Settings, failure: str) -> int:
    """Fail, or return the number given."""
    if failure.isdecimal():
        return int(failure)
    raise FAILURES[failure]
