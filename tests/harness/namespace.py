"""A mount namespace: what is mounted in it is gone with it, however the test ends."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Self

from tests.harness import process
from tests.harness.tools import unusable


class MountNamespace:
    """Lives as long as a process that does nothing else; other processes are started inside it."""

    def __init__(self) -> None:
        if os.geteuid() != 0 or shutil.which("unshare") is None or shutil.which("nsenter") is None:
            unusable("needs root, unshare and nsenter, to mount")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        log = Path(tempfile.mkstemp(prefix="namespace-")[1])
        try:
            self._process = process.start(["unshare", "--mount", "sleep", "3600"], log=log)
            process.wait_until(self._is_apart, what=f"a mount namespace ({log.read_text().strip()})", timeout=5)
        except TimeoutError as error:
            self.__exit__()
            unusable(str(error))
        finally:
            log.unlink()
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        process.stop(self._process)

    @property
    def pid(self) -> int:
        assert self._process is not None, "not entered"
        return self._process.pid

    def _is_apart(self) -> bool:
        return os.readlink(f"/proc/{self.pid}/ns/mnt") != os.readlink("/proc/self/ns/mnt")

    @property
    def within(self) -> list[str]:
        """The command before a command that is to run inside, in the same working directory."""
        return ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", f"--wd={Path.cwd()}"]

    def run(self, *command: str | Path) -> None:
        subprocess.run([*self.within, *map(str, command)], check=True)

    def seen(self, path: Path) -> Path:
        """The path by which a process outside reaches what is there inside."""
        return Path(f"/proc/{self.pid}/root") / path.relative_to("/")
