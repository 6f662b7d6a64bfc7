"""The lock: exact versions of everything that is installed for the demo, the tests, the linters and the image."""

from __future__ import annotations

from pathlib import Path

from .basics import ROOT, run, say, variables
from .environment import GROUPS, LOCK, PROJECT, settings_of

SUBSETS = {
    "deploy/image/requirements.txt": (PROJECT.name, "--extra=docker", "--extra=network"),
    "deploy/image/requirements-build.txt": ("--group=image",),
}
"""What is also a file of its own, for a server that is installed with pip alone; its versions are the lock's."""


def renew(venv: Path) -> None:
    """Write the lock anew, with the newest versions that pyproject.toml allows, and the subsets after it."""
    say(f"writing {LOCK.name} with today's newest versions")
    groups = [f"--group={group}" for group in GROUPS]
    _compile(venv, LOCK, PROJECT.name, "--all-extras", *groups, "--upgrade")
    for name, choice in SUBSETS.items():
        _compile(venv, ROOT / name, *choice, f"--constraints={LOCK.name}", "--no-annotate")


def _compile(venv: Path, file: Path, *choice: str) -> None:
    """Have uv resolve for every Python from 3.11 on and every system; the file names no registry and no path."""
    silent = ["--quiet", "--no-header", "--no-emit-index-url", "--no-emit-find-links"]
    how = ["--universal", "--python-version=3.11", "--generate-hashes", "--no-build"]
    settings = {**variables(), **settings_of([str(venv / "bin" / "python"), "-m", "pip"])}
    command = [str(venv / "bin" / "uv"), "pip", "compile", *how, *silent, f"--output-file={file}", *choice]
    run(command, env=settings, cwd=ROOT)
