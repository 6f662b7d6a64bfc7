"""The generations on disk; needs no running sidecar."""

from __future__ import annotations

import click

from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, print_table
from proxygen.kit.errors import OutputUnusable
from proxygen.proxy.admin.history import attempts, generation_report
from proxygen.proxy.admin.report import GenerationReport
from proxygen.proxy.admin.summary import by_push
from proxygen.proxy.apply.publish import generations
from proxygen.proxy.record.journal import load_journal
from proxygen.settings import Settings

_DIGEST_SHOWN = 12


@click.command(cls=Command, examples=["proxygen history", "proxygen history --output /var/lib/proxygen --json"])
@settings_options("output")
@click.option("--json", "as_json", is_flag=True, help="Print the generations as JSON.")
def history(settings: Settings, as_json: bool) -> None:
    """List the generations on disk, newest first.

    "live" is the one that nginx includes; "proven" are those that nginx was seen to serve, which are the ones
    worth a rollback.
    """
    directory = settings.output.directory
    if not directory.is_dir():
        raise OutputUnusable(f"there is no directory {directory}; --output-directory says where generations are")
    made = attempts(load_journal(directory))
    reports = [generation_report(each, made.get(each.number)) for each in reversed(generations(directory))]
    if as_json:
        print_json(reports)
    elif reports:
        print_table(
            ("GENERATION", "STATE", "CREATED", "DIGEST", "CAUSE"),
            (
                (report.number, _state(report), report.created, report.digest[:_DIGEST_SHOWN], report.cause)
                for report in reports
            ),
        )
    else:
        click.echo(f"no generation in {directory} yet", err=True)


def _state(report: GenerationReport) -> str:
    return ("live" if report.live else report.outcome) + by_push(report.by)
