"""How to reach Consul, and who we are there: the few settings that each request needs, without the library behind
`proxygen.settings`. An application that registers itself pays for nothing else."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxygen.kit.errors import SettingsError

if TYPE_CHECKING:
    from proxygen.settings import ConsulSettings

_TEXTS: Final = {
    "CONSUL_HTTP_ADDR": "address",
    "CONSUL_HTTP_TOKEN": "token",
    "CONSUL_HTTP_AUTH": "auth",
    "CONSUL_TLS_SERVER_NAME": "tls_server_name",
    "CONSUL_NAMESPACE": "namespace",
    "CONSUL_PARTITION": "partition",
}
_PATHS: Final = {
    "CONSUL_HTTP_TOKEN_FILE": "token_file",
    "CONSUL_CACERT": "ca_cert",
    "CONSUL_CAPATH": "ca_path",
    "CONSUL_CLIENT_CERT": "client_cert",
    "CONSUL_CLIENT_KEY": "client_key",
}
_SWITCHES: Final = {"CONSUL_HTTP_SSL": "ssl", "CONSUL_HTTP_SSL_VERIFY": "ssl_verify"}
_WORDS: Final = {"true": True, "1": True, "false": False, "0": False}
"""As Consul's own tools write them."""
_OWN: Final = "PROXYGEN_CONSUL_"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulAccess:
    """Fields and defaults are those of the settings ``consul.*``; secrets are plain texts that no ``repr`` shows."""

    address: str = "127.0.0.1:8500"
    token: str = field(default="", repr=False)
    token_file: Path | None = None
    auth: str = field(default="", repr=False)
    """USER:PASSWORD."""
    ssl: bool = False
    ssl_verify: bool = True
    ca_cert: Path | None = None
    ca_path: Path | None = None
    client_cert: Path | None = None
    client_key: Path | None = None
    tls_server_name: str | None = None
    namespace: str | None = None
    partition: str | None = None

    @classmethod
    def of(cls, settings: ConsulSettings) -> ConsulAccess:
        """Take what counts here from all settings."""
        token, auth = (secret.get_secret_value() if secret else "" for secret in (settings.token, settings.auth))
        return cls(
            address=settings.address,
            token=token,
            token_file=settings.token_file,
            auth=auth,
            ssl=settings.ssl,
            ssl_verify=settings.ssl_verify,
            ca_cert=settings.ca_cert,
            ca_path=settings.ca_path,
            client_cert=settings.client_cert,
            client_key=settings.client_key,
            tls_server_name=settings.tls_server_name,
            namespace=settings.namespace,
            partition=settings.partition,
        )

    @classmethod
    def from_variables(cls, environment: Mapping[str, str]) -> ConsulAccess | None:
        """Read Consul's own variables. None where one of proxygen's speaks of Consul, or a switch is no plain one: then
        it takes `proxygen.settings` to say what counts, or what is wrong."""
        present = {variable: value for variable, value in environment.items() if value}
        said = {name: present[variable].lower() for variable, name in _SWITCHES.items() if variable in present}
        switches: dict[str, Any] = {name: _WORDS.get(word) for name, word in said.items()}
        if None in switches.values() or any(variable.startswith(_OWN) for variable in present):
            return None
        texts: dict[str, Any] = {name: present[one] for one, name in _TEXTS.items() if one in present}
        paths: dict[str, Any] = {name: Path(present[one]) for one, name in _PATHS.items() if one in present}
        return cls(**texts, **paths, **switches)

    @property
    def tenancy(self) -> list[tuple[str, str]]:
        """Query parameters that say whose catalog is meant, in Consul Enterprise."""
        pairs = (("ns", self.namespace), ("partition", self.partition))
        return [(name, value) for name, value in pairs if value]

    @property
    def authentication(self) -> dict[str, str]:
        """The header for HTTP basic authentication, where it is set. Raise SettingsError for what is none."""
        if not self.auth:
            return {}
        if ":" not in self.auth:
            raise SettingsError("consul.auth is not USER:PASSWORD")
        return {"Authorization": f"Basic {base64.b64encode(self.auth.encode()).decode()}"}
