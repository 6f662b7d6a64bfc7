"""A repository with an application, and deploy/pipeline called in it as a build server does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.harness import process

DEPLOY: Final = Path(__file__).parents[2] / "deploy"
PIPELINE: Final = DEPLOY / "pipeline"

_TESTS: Final = """\
import importlib.util
import unittest

from aiohttp.test_utils import TestClient, TestServer

spec = importlib.util.spec_from_file_location("app", "deploy/example/app.py")
app = importlib.util.module_from_spec(spec)
spec.loader.exec_module(app)


class Application(unittest.IsolatedAsyncioTestCase):
    async def test_it_is_healthy(self):
        async with TestClient(TestServer(app.application("1", "test"))) as client:
            assert (await client.get("/healthz")).status == 200
"""


class Repository:
    """The example application under git, as its developers have it: deploy/example, and tests of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.app = directory / "deploy" / "example" / "app.py"
        self.app.parent.mkdir(parents=True)
        for name in ("app.py", "Dockerfile"):
            shutil.copyfile(DEPLOY / "example" / name, self.app.parent / name)
        (directory / "test_app.py").write_text(_TESTS, encoding="utf-8")
        (directory / ".gitignore").write_text("__pycache__/\n", encoding="utf-8")
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *arguments: str) -> str:
        own = ["-c", "user.name=A Developer", "-c", "user.email=developer@example.com", "-c", "commit.gpgsign=false"]
        own += ["-c", "core.hooksPath=/dev/null"]
        command = ["git", *own, *arguments]
        return subprocess.run(command, cwd=self.directory, check=True, capture_output=True, text=True).stdout.strip()

    def replace(self, old: str, new: str) -> None:
        """Change the application. Raise AssertionError where it has no such text."""
        text = self.app.read_text(encoding="utf-8")
        assert old in text, old
        self.app.write_text(text.replace(old, new), encoding="utf-8")

    def commit(self, subject: str) -> str:
        """Commit everything and return the commit."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", subject)
        return self.git("rev-parse", "HEAD")


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """How a stage ended."""

    code: int
    said: str


class Pipeline:
    """Calls stages in a repository. ``settings`` are `PIPELINE_…` in small letters; others are ``environment``."""

    def __init__(
        self, repository: Repository, settings: Mapping[str, object], environment: Mapping[str, str] | None = None
    ) -> None:
        self.repository = repository
        self.settings = dict(settings)
        self.output = repository.directory / "build" / "pipeline"
        self._environment = dict(environment or {})

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIPELINE_", "ANSIBLE_"))}
        given = {f"PIPELINE_{name.upper()}": str(value) for name, value in self.settings.items()}
        return {**kept, **given, **self._environment}

    def start(self, stage: str, *flags: str) -> subprocess.Popen[bytes]:
        command = [str(PIPELINE / "all")] if stage == "all" else [sys.executable, str(PIPELINE), stage]
        return subprocess.Popen(
            [*command, *flags],
            cwd=self.repository.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def run(self, stage: str, *flags: str, timeout: float = 300.0) -> Done:
        """Run one stage, or ``all``, to its end."""
        child = self.start(stage, *flags)
        try:
            said, _ = child.communicate(timeout=timeout)
        finally:
            process.stop(child, patience=60)
        return Done(code=child.returncode, said=said.decode())
