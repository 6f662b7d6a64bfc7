"""Registering a service in Consul from inside it: announced, kept announced, and gone without a lost request.

::

    async with Registration(
        name="web", port=8080, tags=ProxyTags(route=["app.example.com"], canary="10%"), check=HttpCheck("/healthz")
    ):
        ...

Importing this package loads nothing of the proxy, and no library; entering a `Registration` loads the client for
Consul. Start reading at `proxygen.registration.application`.
"""

from proxygen.catalog import Health
from proxygen.kit.errors import BadInput, TagError
from proxygen.registration.application import Registration
from proxygen.registration.checks import Check, GrpcCheck, HealthCallable, HttpCheck, TcpCheck, TtlCheck
from proxygen.registration.service import Weights
from proxygen.tags import ProxyTags

__all__ = [
    "BadInput",
    "Check",
    "GrpcCheck",
    "Health",
    "HealthCallable",
    "HttpCheck",
    "ProxyTags",
    "Registration",
    "TagError",
    "TcpCheck",
    "TtlCheck",
    "Weights",
]
