"""A Consul that speaks HTTPS alone, with whoever has a certificate, and denies by default."""

from __future__ import annotations

import http.client
import ssl
import urllib.request
from pathlib import Path

from tests.harness.consul import ConsulAgent
from tests.harness.ports import free_port


class SecureConsul(ConsulAgent):
    """``config`` is HCL as an operator writes it; the test's own port takes the place of 8501. ``tls`` is the
    test's own as a client."""

    def __init__(self, directory: Path, *, config: str, tls: ssl.SSLContext) -> None:
        super().__init__(directory)
        port = free_port()
        (directory / "own.hcl").write_text(config.replace("8501", str(port)), encoding="utf-8")
        self._files.append("own.hcl")
        self.address = f"127.0.0.1:{port}"
        self._opener = urllib.request.build_opener(_Tls(tls))

    @property
    def url(self) -> str:
        return f"https://{self.address}"

    def _denies_reads(self) -> bool:
        return self.token is None


class _Tls(urllib.request.HTTPHandler):
    """Sends what is asked over plain HTTP through TLS."""

    def __init__(self, context: ssl.SSLContext) -> None:
        super().__init__()
        self._context = context

    def http_open(self, request: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPSConnection, request, context=self._context)
