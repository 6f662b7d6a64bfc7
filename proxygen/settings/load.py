"""Merging flags, environment, file and defaults into `Settings`."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from proxygen.kit.errors import SettingsError
from proxygen.settings.knobs import knobs, variable_of
from proxygen.settings.retired import RETIRED, remark
from proxygen.settings.slices import Settings

DEFAULT_FILE: Final = "proxygen.toml"

CONSUL_VARIABLES: Final = {
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
"""Consul's own variables, each with the name of the knob in `ConsulSettings` that it sets."""


def load(
    flags: Mapping[str, str] | None = None,
    *,
    file: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Merge flags (by ``slice.name``), environment, file and defaults.

    ``file`` must exist when given; without one ``proxygen.toml`` in the working directory is used where it is.
    Raise SettingsError with the key, the value and what is allowed.
    """
    environment = os.environ if environment is None else environment
    values: dict[str, dict[str, Any]] = {}
    origins: dict[str, str] = {}
    remarks: dict[str, str] = {}
    for origin, layer in (*_file_layer(file), *_environment_layers(environment), *_flag_layer(flags or {})):
        for key, value in layer.items():
            if key in RETIRED:
                remarks[key] = remark(key, origin)
                continue
            slice_name, _, name = key.partition(".")
            values.setdefault(slice_name, {})[name] = value
            origins[key] = origin
    try:
        settings = Settings.model_validate(values).with_remarks(remarks.values())
    except ValidationError as error:
        raise SettingsError("; ".join(_explain(dict(detail), origins) for detail in error.errors())) from error
    _require_room_for_a_poll(settings)
    return settings


def _require_room_for_a_poll(settings: Settings) -> None:
    """Where nothing changes Consul answers once per wait, and adds up to a sixteenth of it."""
    wait, fresh = settings.consul.wait, settings.admin.fresh
    if fresh < wait * 17 / 16:
        raise SettingsError(
            f"admin.fresh = {fresh:g}s is shorter than one blocking query of consul.wait = {wait:g}s can take, so a"
            f" quiet Consul would look stale; set at least {wait * 17 / 16:g}s, or a shorter wait"
        )


_Layer = tuple[str, dict[str, Any]]


def _file_layer(file: Path | None) -> list[_Layer]:
    path = file or Path(DEFAULT_FILE)
    if file is None and not path.is_file():
        return []
    layer: dict[str, Any] = {}
    for slice_name, table in _document(path).items():
        if slice_name not in Settings.model_fields or not isinstance(table, dict):
            tables = ", ".join(Settings.model_fields)
            raise SettingsError(f"settings file {path}: unknown key {slice_name} = {table!r}; the tables are {tables}")
        layer |= _table_layer(path, slice_name, table)
    return [(f"settings file {path}", layer)]


def _document(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError(f"settings file {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"settings file {path}: {error}") from error


def _table_layer(path: Path, slice_name: str, table: Mapping[str, Any]) -> dict[str, Any]:
    names = [knob.name for knob in knobs() if knob.slice == slice_name]
    for name, value in table.items():
        key = name.replace("-", "_")
        if key not in names and f"{slice_name}.{key}" not in RETIRED:
            # A misspelt name may hold a token.
            shown = "(hidden)" if slice_name in ("consul", "admin") else repr(value)
            allowed = ", ".join(names)
            raise SettingsError(
                f"settings file {path}: unknown key {slice_name}.{name} = {shown}; [{slice_name}] has {allowed}"
            )
    return {f"{slice_name}.{name.replace('-', '_')}": value for name, value in table.items()}


def _environment_layers(environment: Mapping[str, str]) -> list[_Layer]:
    # An empty variable counts as unset: that is how compose files and unit files hand on what nobody set. An
    # unknown PROXYGEN_… is no error: Kubernetes makes PROXYGEN_SERVICE_HOST up for a service named proxygen.
    present = {variable: value for variable, value in environment.items() if value}
    consul = {f"consul.{name}": present[variable] for variable, name in CONSUL_VARIABLES.items() if variable in present}
    own = {knob.key: present[knob.variable] for knob in knobs() if knob.variable in present and not knob.is_table}
    own |= {key: present[variable] for key in RETIRED if (variable := variable_of(key)) in present}
    return [("Consul's variables", consul), ("the environment", own)]


def _flag_layer(flags: Mapping[str, str]) -> list[_Layer]:
    return [("the command line", dict(flags))]


def _explain(detail: Mapping[str, Any], origins: Mapping[str, str]) -> str:
    """Say which knob, which value, from where, and what is allowed."""
    key = ".".join(str(part) for part in detail["loc"][:2])
    knob = next((knob for knob in knobs() if knob.key == key), None)
    if knob is None:
        return f"{key}: {detail['msg']}"
    value = "(hidden)" if knob.is_secret else repr(detail["input"])
    reason = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "string_pattern_mismatch":
        reason = f"not of the form {detail['ctx']['pattern'].strip('^$')}"
    allowed = f" (allowed: {knob.allowed})" if knob.allowed else ""
    return f"{key} = {value} from {origins[key]}: {reason}{allowed}; also {knob.flag}, {knob.variable}: {knob.help}"
