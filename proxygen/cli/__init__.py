"""The command line: which commands exist, and how each way of failing leaves the process.

Start at `COMMANDS`. A command's module is imported only when that command is asked for, so that
``proxygen --help`` answers at once. A command returns its exit code; None means 0.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NoReturn

import click

from proxygen import __version__
from proxygen.cli.lazy import LazyCommand, LazyGroup
from proxygen.kit.errors import ProxygenError

INTERRUPTED: Final = 130
INTERNAL_ERROR: Final = 70
"""EX_SOFTWARE of sysexits.h."""

COMMANDS: Final = {
    "run": LazyCommand("proxygen.cli.run:run", "Watch Consul and keep nginx serving what it says: the sidecar."),
    "render": LazyCommand("proxygen.cli.render:render", "Render what nginx would be given."),
    "check": LazyCommand("proxygen.cli.render:check", "Pass every gate; say what is left out and why."),
    "diff": LazyCommand("proxygen.cli.render:diff", "Show what would change against the live generation."),
    "snapshot": LazyCommand("proxygen.cli.snapshot:snapshot", "Write the watched part of Consul to a file."),
    "status": LazyCommand("proxygen.cli.admin:status", "Show what the running sidecar serves and why."),
    "top": LazyCommand("proxygen.cli.top:top", "Watch what nginx serves in a terminal."),
    "history": LazyCommand("proxygen.cli.history:history", "List the generations on disk."),
    "rollback": LazyCommand("proxygen.cli.admin:rollback", "Go back to an earlier generation."),
    "release-hold": LazyCommand("proxygen.cli.admin:release_hold", "Let a held plan through."),
    "canary": LazyCommand("proxygen.cli.canary:canary", "Read and write a service's canary share."),
    "demo": LazyCommand("proxygen.cli.demo:demo", "Run the whole system on this machine and measure the split."),
    "register": LazyCommand("proxygen.cli.register:register", "Run a command, registered in Consul while it runs."),
    "registrator": LazyCommand("proxygen.cli.registrator:registrator", "Register the containers of the local engine."),
    "network": LazyCommand("proxygen.cli.network:network", "Let containers on different hosts reach each other."),
    "tags": LazyCommand("proxygen.cli.tags:tags", "Build, check and set proxy tags."),
}


@click.group(
    cls=LazyGroup, entries=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110}
)
@click.version_option(__version__, prog_name="proxygen")
def proxygen() -> None:
    """Serve with nginx what Consul knows: watch, prove, publish, and never leave nginx worse off.

    Every command explains itself: proxygen COMMAND --help.
    """


def main() -> NoReturn:
    """Run the command line and leave with its exit code."""
    sys.exit(run_command_line(sys.argv[1:]))


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; every error ends here, as one line on standard error."""
    _open_closed_streams()
    try:
        code = _invoke(arguments)
        sys.stdout.flush()
        return code
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except OSError as error:
        if error.errno != errno.EPIPE:
            return _internal_error(error)
        # The reader (head, less) has left. Python would complain again when it flushes at exit.
        sys.stdout = None
        return 1
    except Exception as error:
        return _internal_error(error)


def _open_closed_streams() -> None:
    """Where we were started without one of the three, whatever we open first would stand in its place, and in its
    place in every program that we start."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            # The lowest number that is free.
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for as long as we run


def _invoke(arguments: Sequence[str]) -> int:
    try:
        code: object = proxygen.main(args=list(arguments), prog_name="proxygen", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.FileError as error:
        _say(error.format_message())
        return 2
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except ProxygenError as error:
        _say(str(error))
        return error.exit_code
    except ExceptionGroup as group:
        # Tasks that work together fail together; the first is the cause of the others' end.
        causes = list(_leaves(group))
        if not all(isinstance(cause, ProxygenError) for cause in causes):
            raise
        for text in dict.fromkeys(map(str, causes)):
            _say(text)
        return max(cause.exit_code for cause in causes if isinstance(cause, ProxygenError))


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


def _say(text: str) -> None:
    # A full disk, or a reader that has left, must not cost the exit code.
    with suppress(OSError):
        click.echo(f"proxygen: {' '.join(text.split())}", err=True)


def _internal_error(error: Exception) -> int:
    # Imported here: --help needs no log.
    import structlog

    from proxygen.kit.log import configure, get_logger

    if not structlog.is_configured():
        configure()
    get_logger(__name__).debug("unexpected error", exc_info=error)
    _say(f"unexpected {type(error).__name__}: {error} (run with --log-level debug for the traceback)")
    return INTERNAL_ERROR
