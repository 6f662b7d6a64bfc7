"""What several benchmarks can be told."""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.harness.consul import choose_consul
from tests.harness.tools import consul_version


class _Choose(argparse.Action):
    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: str | Sequence[object] | None,
        option_string: str | None = None,
    ) -> None:
        path = Path(str(values))
        if not path.is_file():
            parser.error(f"{option_string}: {path} is no file")
        try:
            consul_version(path.absolute())
        except (OSError, ValueError, subprocess.CalledProcessError) as error:
            parser.error(f"{option_string}: {path} is no Consul: {error}")
        choose_consul(path.absolute())
        setattr(namespace, self.dest, path)


def add_consul(parser: argparse.ArgumentParser) -> None:
    """Let ``--consul PATH`` say which Consul is started."""
    parser.add_argument("--consul", action=_Choose, metavar="PATH", help="a Consul program; default the one on PATH")
