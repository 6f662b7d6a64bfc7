"""Every knob, once: its type, default, unit and help.

The flag (``--reload-settle``), the environment variable (``PROXYGEN_RELOAD_SETTLE``), the TOML key
(``settle`` in ``[reload]``), ``--help`` and the reference page all derive from the fields below.
Precedence: flag, environment, ``proxygen.toml``, default. Consul's own variables (``CONSUL_HTTP_ADDR``
and its siblings) are read as its other tools read them and stand just below ``PROXYGEN_CONSUL_…``.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args, get_origin

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from proxygen.errors import SettingsError
from proxygen.units import parse_duration

ENVIRONMENT_PREFIX: Final = "PROXYGEN_"
DEFAULT_FILE: Final = "proxygen.toml"


def _seconds(value: object) -> object:
    return parse_duration(value) / 1000 if isinstance(value, str) else value


def _split(value: object) -> object:
    return tuple(value.replace(",", " ").split()) if isinstance(value, str) else value


Seconds = Annotated[float, BeforeValidator(_seconds)]
"""Seconds; a text carries its unit (``25ms``, ``2s``, ``1m``), a bare number is seconds."""

Texts = Annotated[tuple[str, ...], BeforeValidator(_split)]
"""Several values; one text is split at commas and white space."""

_LISTEN: Final = re.compile(r"(?:(?:\[[0-9a-fA-F:]+\]|[0-9.]+):)?[0-9]{1,5}")


def _listen(value: object) -> object:
    texts = _split(value)
    for text in texts if isinstance(texts, list | tuple) else ():
        if _LISTEN.fullmatch(str(text)) is None or not 0 < int(str(text).rpartition(":")[2]) < 65536:
            raise ValueError(f"{text!r} is not [ADDRESS:]PORT, such as 80, 127.0.0.1:8080 or [::]:80")
    return texts


Listens = Annotated[tuple[str, ...], BeforeValidator(_listen)]


class Slice(BaseModel):
    """A group of knobs that belong to one part of the program."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConsulSettings(Slice):
    """How to reach Consul."""

    address: str = Field("127.0.0.1:8500", description="HOST:PORT, http(s)://HOST:PORT or unix:///PATH (CONSUL_HTTP_ADDR)")
    token: SecretStr | None = Field(None, description="ACL token (CONSUL_HTTP_TOKEN)")
    token_file: Path | None = Field(None, description="file with the ACL token; read again when Consul refuses the token (CONSUL_HTTP_TOKEN_FILE)")
    auth: SecretStr | None = Field(None, description="USER:PASSWORD for HTTP basic authentication (CONSUL_HTTP_AUTH)")
    ssl: bool = Field(False, description="use HTTPS for an address without a scheme (CONSUL_HTTP_SSL)")
    ssl_verify: bool = Field(True, description="verify the server's certificate (CONSUL_HTTP_SSL_VERIFY)")
    ca_cert: Path | None = Field(None, description="CA certificate file (CONSUL_CACERT)")
    ca_path: Path | None = Field(None, description="directory of CA certificates (CONSUL_CAPATH)")
    client_cert: Path | None = Field(None, description="client certificate file (CONSUL_CLIENT_CERT)")
    client_key: Path | None = Field(None, description="client key file (CONSUL_CLIENT_KEY)")
    tls_server_name: str | None = Field(None, description="name to expect in the server's certificate (CONSUL_TLS_SERVER_NAME)")
    namespace: str | None = Field(None, description="Enterprise namespace (CONSUL_NAMESPACE)")
    partition: str | None = Field(None, description="Enterprise admin partition (CONSUL_PARTITION)")
    datacenter: str | None = Field(None, description="datacenter to watch; default the agent's own")
    wait: Seconds = Field(60.0, gt=0, le=60, description="longest wait of one blocking query; at most 60s, which bounds what a lost index can cost")
    stale: bool = Field(True, description="let any server answer; an answer without a known leader is never believed")
    max_staleness: Seconds = Field(30.0, gt=0, description="an answer from a server that lost contact with the leader for longer is not believed")
    max_connections: int = Field(64, ge=4, le=180, description="sockets to the agent; the agent allows 200 per client address by default")
    kv_prefix: str = Field("proxygen", pattern=r"^[A-Za-z0-9._-]+(/[A-Za-z0-9._-]+)*$", description="where the operator's overrides live in KV")
    meta_sweep: Seconds = Field(10.0, ge=0, description="how often services without proxy tags are asked whether their Meta carries a route; 0 never asks")


class ProxySettings(Slice):
    """What nginx is told about the outside."""

    tag_prefix: str = Field("proxygen", pattern=r"^[a-z][a-z0-9-]{0,30}$", description="prefix of proxy tags: PREFIX.KEY=VALUE, in Meta PREFIX-KEY")
    http_listen: Listens = Field(("80",), description="where virtual servers listen for HTTP: [ADDRESS:]PORT, several separated by commas")
    https_listen: Listens = Field(("443",), description="where virtual servers with a certificate listen for HTTPS")
    stream_address: str | None = Field(None, description="address on which stream routes listen; default all")
    stream_ports: str = Field("1024-65535", pattern=r"^[0-9]{1,5}(-[0-9]{1,5})?$", description="ports that a service may ask for with the listen tag")
    allowed_addresses: Texts = Field(("0.0.0.0/0", "::/0"), description="networks in which instances may live; narrow it to yours")
    denied_addresses: Texts = Field(("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "ff00::/8"), description="networks in which no instance may live, whatever it registers")
    claims: Mapping[str, tuple[str, ...]] = Field(default_factory=dict, description="who may claim which hosts: host pattern to service name patterns; hosts that no pattern names are free")
    trusted_proxies: Texts = Field((), description="networks whose X-Forwarded-For is believed")
    certificates: Path | None = Field(None, description="directory of NAME.crt (or .pem) and NAME.key files for the tls tag")
    htpasswd: Path | None = Field(None, description="directory of htpasswd files for the auth tag")
    templates: Path | None = Field(None, description="directory whose files replace the shipped templates of the same name")
    snippets: Path | None = Field(None, description="directory of the operator's own fragments: http.conf, server.conf, server-HOST.conf, location-SERVICE.conf, stream.conf")
    seed: str = Field("", description="seed of the server order, so that not every proxy tries the same instance first; default the host's name")
    hsts_max_age: Seconds = Field(31_536_000.0, ge=0, description="max-age that the hsts tag sends")
    retry_after: Seconds = Field(5.0, ge=1, description="Retry-After of the page that answers for a route without instances")


class NginxSettings(Slice):
    """How to find, check and signal nginx."""

    binary: str = Field("nginx", description="nginx's own binary, by name or path")
    conf: Path = Field(Path("/etc/nginx/nginx.conf"), description="the operator's nginx.conf, which includes OUTPUT/current/http.d/*.conf in http and OUTPUT/current/stream.d/*.conf in stream")
    prefix: Path | None = Field(None, description="nginx's -p prefix, where it is started with one")
    pid: Path | None = Field(None, description="pid file of the master; default what nginx.conf or the binary says")
    error_log: Path | None = Field(None, description="error log to quote from; default what nginx.conf says")
    reload: Literal["signal", "command", "docker"] = Field("signal", description="how to ask for a reload")
    reload_command: Texts = Field((), description="command and arguments for reload = command; run without a shell")
    container: str | None = Field(None, description="container to send HUP to for reload = docker")
    docker_host: str = Field("unix:///var/run/docker.sock", description="Docker's or Podman's API for reload = docker")
    stamp: str = Field("127.0.0.1:18082", pattern=r"^(127\.[0-9.]+:[0-9]{1,5}|\[::1\]:[0-9]{1,5}|unix:/[A-Za-z0-9._/-]{1,95})$", description="private address on which nginx tells its generation: loopback ADDRESS:PORT, or unix:/PATH on a volatile file system")
    check_timeout: Seconds = Field(60.0, gt=0, description="longest time for one nginx -t")


class OutputSettings(Slice):
    """Where generations live."""

    directory: Path = Field(Path("/var/lib/proxygen"), description="directory of generations, current and state")
    keep: int = Field(10, ge=2, le=1000, description="generations kept on disk")


class ReloadSettings(Slice):
    """When to apply, and how long to wait for the proof."""

    settle: Seconds = Field(0.025, ge=0, le=10, description="how long a change waits for company")
    settle_max: Seconds = Field(2.0, gt=0, le=60, description="longest time that a flood of changes can put an apply off")
    gap: Seconds = Field(0.25, ge=0, description="smallest time between two reloads")
    jitter: float = Field(0.1, ge=0, le=1, description="random part added to the gap, so that many proxies do not reload at once")
    deadline: Seconds = Field(5.0, gt=0, description="time for the proof that a reload took, beside three times the measured nginx -t")
    overlap: Seconds = Field(1.0, gt=0, description="where nginx's processes cannot be seen: how long the new generation must answer alone")
    alive_after: Seconds = Field(0.3, ge=0, description="a new worker must still live this long after the new generation answered")
    max_draining: int = Field(16, ge=1, description="old workers still finishing requests above which the next reload waits")
    max_draining_wait: Seconds = Field(30.0, ge=0, description="longest time that a reload waits for draining workers")
    retry_min: Seconds = Field(0.5, gt=0, description="first pause before an apply that failed is tried again; doubles each time")
    retry_max: Seconds = Field(30.0, gt=0, description="longest pause before an apply that failed is tried again")


class AdminSettings(Slice):
    """The sidecar's own page and API, off the proxy's data path."""

    listen: str = Field("127.0.0.1:18081", pattern=r"^(off|(\[[0-9a-fA-F:]+\]|[0-9.]+):[0-9]{1,5})$", description="ADDRESS:PORT of the admin API, or off")
    socket: Path | None = Field(None, description="unix socket of the admin API for commands on the same host; default OUTPUT/state/admin.sock")
    token: SecretStr | None = Field(None, description="bearer token for writes over TCP; without one they are refused")
    fresh: Seconds = Field(120.0, gt=0, description="how old Consul's last good answer may be before /readyz says so")


class LogSettings(Slice):
    """proxygen's own log, on standard error."""

    format: Literal["text", "json"] = Field("text", description="text for people, json for machines")
    level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severity that is written")


class Settings(Slice):
    """All knobs, by slice. Build it with `load`."""

    consul: ConsulSettings = ConsulSettings()
    proxy: ProxySettings = ProxySettings()
    nginx: NginxSettings = NginxSettings()
    output: OutputSettings = OutputSettings()
    reload: ReloadSettings = ReloadSettings()
    admin: AdminSettings = AdminSettings()
    log: LogSettings = LogSettings()


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting under all its names."""

    slice: str
    name: str
    field: FieldInfo

    @property
    def flag(self) -> str:
        return f"--{self.slice}-{self.name}".replace("_", "-")

    @property
    def variable(self) -> str:
        return f"{ENVIRONMENT_PREFIX}{self.slice}_{self.name}".upper()

    @property
    def key(self) -> str:
        return f"{self.slice}.{self.name}"

    @property
    def help(self) -> str:
        return self.field.description or ""

    @property
    def is_boolean(self) -> bool:
        return self.field.annotation is bool

    @property
    def choices(self) -> tuple[str, ...]:
        annotation = self.field.annotation
        return get_args(annotation) if get_origin(annotation) is Literal else ()

    @property
    def is_table(self) -> bool:
        return get_origin(self.field.annotation) is Mapping

    @property
    def default(self) -> str:
        value = self.field.get_default(call_default_factory=True)
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def knobs() -> Iterator[Knob]:
    """Yield every knob in the order of declaration."""
    for slice_name, slice_field in Settings.model_fields.items():
        annotation = slice_field.annotation
        assert isinstance(annotation, type) and issubclass(annotation, Slice)
        for name, field in annotation.model_fields.items():
            yield Knob(slice=slice_name, name=name, field=field)


_CONSUL_VARIABLES: Final = {
    "CONSUL_HTTP_ADDR": "address",
    "CONSUL_HTTP_TOKEN": "token",
    "CONSUL_HTTP_TOKEN_FILE": "token_file",
    "CONSUL_HTTP_AUTH": "auth",
    "CONSUL_HTTP_SSL": "ssl",
    "CONSUL_HTTP_SSL_VERIFY": "ssl_verify",
    "CONSUL_CACERT": "ca_cert",
    "CONSUL_CAPATH": "ca_path",
    "CONSUL_CLIENT_CERT": "client_cert",
    "CONSUL_CLIENT_KEY": "client_key",
    "CONSUL_TLS_SERVER_NAME": "tls_server_name",
    "CONSUL_NAMESPACE": "namespace",
    "CONSUL_PARTITION": "partition",
}

_Values = dict[str, dict[str, Any]]


def load(flags: Mapping[str, str] | None = None, *, file: Path | None = None, environment: Mapping[str, str] | None = None) -> Settings:
    """Merge flags (by ``slice.name``), environment, file and defaults.

    ``file`` must exist when given; without one ``proxygen.toml`` in the working directory is used where it is.
    Raise SettingsError with the key, the value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    values: _Values = {}
    origins: dict[str, str] = {}
    for origin, layer in (
        *_file_layer(file),
        *_environment_layers(environment),
        ("flag", {key: value for key, value in (flags or {}).items()}),
    ):
        for key, value in layer.items():
            slice_name, _, name = key.partition(".")
            values.setdefault(slice_name, {})[name] = value
            origins[key] = origin
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise SettingsError(_explain(error, origins)) from error


def _file_layer(file: Path | None) -> list[tuple[str, dict[str, Any]]]:
    path = file or Path(DEFAULT_FILE)
    if file is None and not path.is_file():
        return []
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error
    known = {knob.key for knob in knobs()}
    layer: dict[str, Any] = {}
    for slice_name, table in document.items():
        if slice_name not in Settings.model_fields or not isinstance(table, dict):
            raise SettingsError(f"settings file {path}: unknown key {slice_name!r}; the tables are {', '.join(Settings.model_fields)}")
        for name, value in table.items():
            key = f"{slice_name}.{name.replace('-', '_')}"
            if key not in known:
                allowed = ", ".join(knob.name for knob in knobs() if knob.slice == slice_name)
                raise SettingsError(f"settings file {path}: unknown key {slice_name}.{name}; [{slice_name}] has {allowed}")
            layer[key] = value
    return [(f"settings file {path}", layer)]


def _environment_layers(environment: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
    known = {knob.variable: knob.key for knob in knobs()}
    consul = {f"consul.{name}": environment[variable] for variable, name in _CONSUL_VARIABLES.items() if environment.get(variable)}
    own: dict[str, Any] = {}
    for variable, value in environment.items():
        if variable in known:
            own[known[variable]] = value
    return [("environment", consul), ("environment", own)]


def _explain(error: ValidationError, origins: Mapping[str, str]) -> str:
    lines = []
    for detail in error.errors():
        key = ".".join(str(part) for part in detail["loc"][:2])
        value = "(hidden)" if "token" in key or "auth" in key else repr(detail["input"])
        knob = next((knob for knob in knobs() if knob.key == key), None)
        names = f"{key} ({knob.flag}, {knob.variable})" if knob else key
        lines.append(f"{names} = {value} from {origins.get(key, 'default')}: {detail['msg']}")
    return "; ".join(lines)
