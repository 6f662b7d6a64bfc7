"""One setting under all its names, derived from its field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Literal, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from proxygen.kit.units import format_duration
from proxygen.settings.slices import Settings, Slice
from proxygen.settings.values import Seconds

ENVIRONMENT_PREFIX: Final = "PROXYGEN_"
_SECONDS: Final = get_args(Seconds)[1]


def flag_of(key: str) -> str:
    """As on the command line: ``consul.tls_server_name`` is ``--consul-tls-server-name``."""
    return f"--{key}".replace(".", "-").replace("_", "-")


def variable_of(key: str) -> str:
    """As in the environment: ``consul.address`` is ``PROXYGEN_CONSUL_ADDRESS``."""
    return f"{ENVIRONMENT_PREFIX}{key.replace('.', '_')}".upper()


@dataclass(frozen=True, slots=True, kw_only=True)
class Knob:
    """One setting under all its names."""

    slice: str
    name: str
    field: FieldInfo

    @property
    def flag(self) -> str:
        """As on the command line: ``--consul-address``."""
        return flag_of(self.key)

    @property
    def variable(self) -> str:
        """As in the environment: ``PROXYGEN_CONSUL_ADDRESS``."""
        return variable_of(self.key)

    @property
    def key(self) -> str:
        """As in a settings file and in messages: ``consul.address``."""
        return f"{self.slice}.{self.name}"

    @property
    def help(self) -> str:
        """What it says of itself in ``--help`` and in the reference."""
        return self.field.description or ""

    @property
    def is_boolean(self) -> bool:
        """Whether the flag has no value and a counterpart with ``no-``."""
        return self.field.annotation is bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The words that are allowed; empty where it is no choice between words."""
        annotation = self.field.annotation
        return get_args(annotation) if get_origin(annotation) is Literal else ()

    @property
    def is_table(self) -> bool:
        """Whether only a settings file can hold it: it has keys of its own."""
        return get_origin(self.field.annotation) is Mapping

    @property
    def is_duration(self) -> bool:
        """Whether it takes seconds, or a number with a unit such as ``5m``."""
        return _SECONDS in self.field.metadata

    @property
    def is_secret(self) -> bool:
        """Whether no message may show its value."""
        return SecretStr in get_args(self.field.annotation)

    @property
    def default(self) -> str:
        """The default as a person would write it; "" for none."""
        value = self.field.get_default(call_default_factory=True)
        if value is None or value == {}:
            return ""
        if self.is_duration:
            return format_duration(round(value * 1000))
        if isinstance(value, tuple):
            return ",".join(map(str, value))
        return str(value).lower() if isinstance(value, bool) else str(value)

    @property
    def allowed(self) -> str:
        """The allowed values in words; "" where any text or path will do."""
        if self.is_boolean:
            return "true, false"
        if self.choices:
            return ", ".join(self.choices)
        bounds = [self._bound(item) for item in self.field.metadata]
        return ", ".join(bound for bound in bounds if bound)

    def _bound(self, item: object) -> str:
        for attribute, words in (("gt", "more than"), ("ge", "at least"), ("le", "at most")):
            limit = getattr(item, attribute, None)
            if limit is not None:
                return f"{words} {format_duration(round(limit * 1000)) if self.is_duration and limit else limit}"
        return ""


def knobs() -> Iterator[Knob]:
    """Yield every knob in the order of declaration."""
    for slice_name, slice_field in Settings.model_fields.items():
        annotation = slice_field.annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, Slice)
        for name, field in annotation.model_fields.items():
            yield Knob(slice=slice_name, name=name, field=field)
