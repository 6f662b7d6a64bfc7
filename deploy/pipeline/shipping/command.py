"""The command line: which stage, and what the exit code says."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence

from shipping import settings as settings_module
from shipping.errors import Failure
from shipping.programs import say
from shipping.stages import ABORT, STAGES, prepare, run_all, run_stage

_EPILOG = "Exit codes: 0 done, 1 failed (the text says what serves), 2 a setting or the order of stages cannot be used."


def main(arguments: Sequence[str]) -> int:
    """Run one stage or all; return the exit code."""
    signal.signal(signal.SIGTERM, _end)
    given = vars(_parser().parse_args(arguments))
    chosen = given.pop("stage")
    try:
        settings = settings_module.load(given, os.environ)
        prepare(settings)
        if chosen == "all":
            run_all(settings)
        else:
            run_stage(next(stage for stage in (*STAGES, ABORT) if stage.name == chosen), settings)
    except Failure as failure:
        say(f"pipeline: {failure}")
        return failure.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    stages = "\n".join(f"  {stage.name:9} {stage.meaning}" for stage in (*STAGES, ABORT))
    parser = argparse.ArgumentParser(
        prog="pipeline",
        description=f"Ship the commit that is checked out.\n\n{stages}\n  all       the stages in this order",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("stage", choices=[*(stage.name for stage in (*STAGES, ABORT)), "all"], metavar="STAGE")
    settings_module.add_flags(parser)
    return parser


def _end(*_: object) -> None:
    """Leave through every `finally`: what holds credentials is removed, what runs is ended."""
    sys.exit(128 + signal.SIGTERM)
