"""The container engine's commands that we use, where Docker and Podman differ and where not."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shipping.credentials import Access
from shipping.errors import Failure
from shipping.programs import attempt, run, run_patiently
from shipping.state import DIGEST


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """Docker or Podman, and how it gets at the registry."""

    command: Sequence[str]
    access: Access
    timeout: float

    @property
    def _is_podman(self) -> bool:
        return Path(self.command[0]).name == "podman"

    @property
    def _certificates(self) -> list[str]:
        # Docker's daemon speaks to the registry; it looks into /etc/docker/certs.d alone.
        directory = self.access.certificates
        return [f"--cert-dir={directory}"] if self._is_podman and directory else []

    def pull(self, reference: str) -> None:
        """Fetch from the registry, even if an image of that name is here."""
        command = [*self.command, "pull", "--quiet", *self._certificates, reference]
        run_patiently(command, timeout=self.timeout, environment=self.access.environment)

    def inspect(self, reference: str) -> Mapping[str, Any]:
        """Return what the engine knows of an image that is here."""
        command = [*self.command, "image", "inspect", reference]
        answer = run(command, timeout=60, keep=True, environment=self.access.environment)
        described: Mapping[str, Any] = json.loads(answer)[0]
        return described

    def resolve(self, reference: str) -> str:
        """Return REPOSITORY@DIGEST of what the registry has under a tag now."""
        if "@" in reference:
            return reference
        self.pull(reference)
        repository = _repository(reference)
        for name in self.inspect(reference)["RepoDigests"]:
            # An engine may also list a digest of its own making, which the registry never saw.
            if name.startswith(f"{repository}@") and self._has(name):
                return str(name)
        raise Failure(f"the registry's digest of {reference} cannot be found out")

    def _has(self, pinned: str) -> bool:
        command = [*self.command, "pull", "--quiet", *self._certificates, pinned]
        return attempt(command, timeout=self.timeout, keep=True, environment=self.access.environment).code == 0

    def build(
        self,
        context: Path,
        file: Path,
        *,
        tag: str,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
        options: Sequence[str],
    ) -> str:
        """Build, and return the image's id. The same input gives the same id, out of the engine's cache."""
        given = [f"--build-arg={key}={value}" for key, value in arguments.items()]
        given += [f"--label={key}={value}" for key, value in labels.items()]
        command = [*self.command, "build", *self._certificates, *options, *given, f"--tag={tag}", f"--file={file}"]
        run([*command, str(context)], timeout=self.timeout, environment=self.access.environment)
        return str(self.inspect(tag)["Id"])

    def push(self, tag: str) -> str:
        """Push, and return the digest under which the registry has it."""
        if not self._is_podman:
            run_patiently([*self.command, "push", tag], timeout=self.timeout, environment=self.access.environment)
            return self.resolve(tag).rpartition("@")[2]
        with tempfile.TemporaryDirectory(prefix="pipeline-") as scratch:
            file = Path(scratch) / "digest"
            command = [*self.command, "push", f"--digestfile={file}", *self._certificates, tag]
            run_patiently(command, timeout=self.timeout, environment=self.access.environment)
            digest = file.read_text(encoding="utf-8").strip()
        if not DIGEST.fullmatch(digest):
            raise Failure(f"{self.command[0]} did not say under which digest it pushed {tag}")
        return digest

    def copy_out(self, image: str, path: str, target: Path) -> None:
        """Take one file out of an image. Nothing of the image runs."""
        # An image of no command needs one named; it is never started.
        made = run(
            [*self.command, "create", image, "/none"], timeout=120, keep=True, environment=self.access.environment
        )
        container = made.split()[-1]
        try:
            command = [*self.command, "cp", f"{container}:{path}", str(target)]
            run(command, timeout=120, environment=self.access.environment)
        finally:
            run([*self.command, "rm", container], timeout=60, keep=True, environment=self.access.environment)


def _repository(reference: str) -> str:
    """Take the tag off; a colon before the last slash is a port's."""
    path, slash, last = reference.rpartition("/")
    return f"{path}{slash}{last.partition(':')[0]}"
