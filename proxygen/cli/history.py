"""The generations on disk; needs no running sidecar."""

from __future__ import annotations

import click

from proxygen.admin.report import GenerationReport
from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.cli.output import print_json, print_table
from proxygen.errors import OutputUnusable
from proxygen.nginx.publish import Generation, generations
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
    reports = [report_generation(generation) for generation in reversed(generations(directory))]
    if as_json:
        print_json(reports)
    elif reports:
        print_table(
            ("GENERATION", "STATE", "CREATED", "DIGEST"),
            ((report.number, report.outcome, report.created, report.digest[:_DIGEST_SHOWN]) for report in reports),
        )
    else:
        click.echo(f"no generation in {directory} yet", err=True)


def report_generation(generation: Generation) -> GenerationReport:
    """Return what the admin API and ``history`` say of a generation."""
    return GenerationReport(
        number=generation.number,
        digest=generation.stamp.digest,
        created=generation.published_at,
        live=generation.live,
        outcome="live" if generation.live else "proven" if generation.proven else "not proven",
    )
