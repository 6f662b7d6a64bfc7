from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from proxygen import cli


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """What a command left behind."""

    code: int
    out: str
    err: str


Proxygen = Callable[..., Finished]


@pytest.fixture
def proxygen(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Proxygen:
    """Run a command line in this process, in an empty directory and without the caller's Consul variables."""
    monkeypatch.chdir(tmp_path)
    for variable in ("CONSUL_HTTP_ADDR", "CONSUL_HTTP_TOKEN", "CONSUL_HTTP_TOKEN_FILE", "CONSUL_HTTP_SSL"):
        monkeypatch.delenv(variable, raising=False)

    def run(*arguments: str) -> Finished:
        capsys.readouterr()
        code = cli.run_command_line(arguments)
        captured = capsys.readouterr()
        return Finished(code=code, out=captured.out, err=captured.err)

    return run
