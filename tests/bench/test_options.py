"""What every benchmark is told."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from tests.bench.options import add_consul


@pytest.mark.parametrize("script", [None, "exit 0", "exit 1", "echo Consul"])
def test_a_program_that_is_no_consul_is_refused_in_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], script: str | None
) -> None:
    program = tmp_path / "consul"
    program.write_text("\0" if script is None else f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    parser = argparse.ArgumentParser()
    add_consul(parser)
    with pytest.raises(SystemExit):
        parser.parse_args(["--consul", str(program)])
    assert f"--consul: {program} is no Consul" in capsys.readouterr().err
