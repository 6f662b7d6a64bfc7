"""A private registry as people run one: over TLS, and for those who have a password."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
import subprocess
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import bcrypt

from tests.harness import process
from tests.harness.ports import free_port
from tests.harness.tools import missing

_MANIFESTS = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"


class Registry:
    """Debian's docker-registry on a loopback port, with its storage in ``directory``.

    ``certificate`` and ``key`` are PEM files of a server on 127.0.0.1, for which ``ca`` vouches.
    """

    def __init__(self, directory: Path, *, ca: Path, certificate: Path, key: Path) -> None:
        self.user = "pipeline"
        self.password = "a password: with a colon"
        self.port = free_port()
        self.address = f"127.0.0.1:{self.port}"
        self.ca = ca
        self.directory = directory
        self._log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}),
            urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(ca))),
        )
        directory.mkdir(parents=True, exist_ok=True)
        secret = bcrypt.hashpw(self.password.encode(), bcrypt.gensalt(4)).decode()
        (directory / "htpasswd").write_text(f"{self.user}:{secret}\n", encoding="utf-8")
        # JSON is YAML too.
        config = {
            "version": 0.1,
            "log": {"level": "info"},
            "storage": {"filesystem": {"rootdirectory": str(directory / "storage")}},
            "http": {"addr": self.address, "tls": {"certificate": str(certificate), "key": str(key)}},
            "auth": {"htpasswd": {"realm": "tests", "path": str(directory / "htpasswd")}},
        }
        (directory / "config.yml").write_text(json.dumps(config), encoding="utf-8")

    def start(self) -> None:
        """Start, and wait until it answers. Skip the test where there is none."""
        binary = shutil.which("docker-registry")
        if binary is None:
            missing("docker-registry (Debian's and Ubuntu's package)")
        self._process = process.start([binary, "serve", self.directory / "config.yml"], log=self._log)
        try:
            process.wait_until(lambda: self.ask("/v2/")[0] == 200, what=f"the registry on {self.address}")
        except TimeoutError as error:
            self.stop()
            raise TimeoutError(f"{error}\n{self.log()[-3000:]}") from error

    def stop(self) -> None:
        if self._process is not None:
            process.stop(self._process)

    def log(self) -> str:
        """Return what it said so far, requests included."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def credentials(self, path: Path) -> Path:
        """Write USER:PASSWORD into a file that its owner alone can read, and return it."""
        path.touch(mode=0o600)
        path.write_text(f"{self.user}:{self.password}\n", encoding="utf-8")
        return path

    def ask(self, path: str) -> tuple[int, Any, str]:
        """Return status, JSON body and the digest that the registry states."""
        pair = base64.b64encode(f"{self.user}:{self.password}".encode()).decode()
        headers = {"Authorization": f"Basic {pair}", "Accept": _MANIFESTS}
        request = urllib.request.Request(f"https://{self.address}{path}", headers=headers)
        try:
            with self._opener.open(request, timeout=10) as answer:
                return answer.status, json.loads(answer.read()), answer.headers.get("Docker-Content-Digest", "")
        except urllib.error.HTTPError as error:
            with error:
                return error.code, None, ""

    def digest(self, image: str, tag: str) -> str:
        """Return the digest of a tag, empty where there is none."""
        return self.ask(f"/v2/{image}/manifests/{tag}")[2]

    def tags(self, image: str) -> list[str]:
        answer = self.ask(f"/v2/{image}/tags/list")[1]
        return sorted((answer or {}).get("tags") or [])
