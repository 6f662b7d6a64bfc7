"""What a container's labels ask for: ours (``proxygen.KEY``, ``proxygen.PORT.KEY``), and those of registrator
(``SERVICE_KEY``, ``SERVICE_PORT_KEY``, in the environment too), read into the same keys.

A key is a flag of ``proxygen register`` without its dashes, or a key of the proxy tags. What stands for a port wins
over what stands for the container, and our labels over registrator's.

Variables ``SERVICE_…`` are an application's own, more often than not. They count where a label of registrator's kind
says that the container is one for registrator, or the operator does; never beside our labels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from proxygen.kit.errors import BadInput
from proxygen.registration.containers import Container, Port
from proxygen.registration.secrets import looks_secret
from proxygen.registration.service import meta_problem
from proxygen.tags import KEYS

IGNORE: Final = "ignore"
META: Final = "meta."
TAGGED_ADDRESS: Final = "tagged-address."
"""Beginnings of keys that name an entry: ``meta.team=shop``."""

_ONE: Final = frozenset(
    {
        *("name", "id", "port", "address", "announce", "network", "weights", IGNORE),
        *("check-tcp", "check-tls", "check-method", "check-interval", "check-timeout", "check-ttl", "check-initially"),
        "deregister-after",
    }
)
_SEVERAL: Final = frozenset({"tag", "check-http", "check-grpc"})
"""Between spaces, as a label cannot repeat."""
_TAG_KEYS: Final = {key.name: key.repeatable for key in KEYS}

_OF_PORT: Final = re.compile(r"([0-9]{1,5})(?:/(tcp|udp))?\.(.+)")
_REGISTRATORS: Final = "SERVICE_"
_REGISTRATORS_OF_PORT: Final = re.compile(r"([0-9]{1,5})_(.+)")
_UNESCAPED_COMMA: Final = re.compile(r"(?<!\\),")
_TRANSLATED: Final = {
    "name": "name",
    "id": "id",
    "check_tcp": "check-tcp",
    "check_http": "check-http",
    "check_http_method": "check-method",
    "check_grpc": "check-grpc",
    "check_interval": "check-interval",
    "check_timeout": "check-timeout",
    "check_initial_status": "check-initially",
    "check_deregister_after": "deregister-after",
    "check_grpc_use_tls": "check-tls",
}
_WITHOUT_EFFECT: Final = frozenset({"check_tls_skip_verify", "check_https_method"})
"""We do not verify certificates in checks, and there is one method for all."""


@dataclass(frozen=True, slots=True)
class LabelValue:
    """What was written for one key."""

    texts: tuple[str, ...]
    place: str
    """The label or variable, for errors."""

    @property
    def text(self) -> str:
        """The last one, where only one counts."""
        return self.texts[-1]

    def refuse(self, reason: str) -> BadInput:
        """The error to raise: it names the label or variable."""
        return BadInput(f"{self.place}: {reason}")


Keys = Mapping[str, LabelValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Everything that a container's labels ask for."""

    common: dict[str, LabelValue] = field(default_factory=dict)
    by_port: dict[tuple[int, str], dict[str, LabelValue]] = field(default_factory=dict)
    """By number and protocol; the protocol is "" where none was written."""
    is_registrators: bool
    """Whether registrator would have registered every port of it."""
    remarks: list[str] = field(default_factory=list)
    """What is left out of it, and why, without any value."""

    def of(self, port: Port) -> tuple[Keys, Keys]:
        """What is asked for a port: everything that counts there, and what was written for this very port."""
        own = {**self.by_port.get((port.number, ""), {}), **self.by_port.get((port.number, port.protocol), {})}
        return {**self.common, **own}, own


def read_labels(container: Container, *, prefix: str, variables: bool = False) -> Wanted | None:
    """Return what is asked for; None where nothing is. Raise BadInput for a key that does not exist.

    ``variables``: those of registrator's kind count without a label that says so.
    """
    ours = {key: text for key, text in container.labels.items() if key.startswith(f"{prefix}.")}
    asks = any(_is_registrators(label) for label in container.labels)
    sources = [container.environment] if (asks or variables) and not ours else []
    registrators = dict(_registrators_texts(*sources, *([container.labels] if asks or sources else [])))
    if not registrators and not ours:
        return None
    wanted = Wanted(is_registrators=bool(registrators))
    for key, text in registrators.items():
        match = _REGISTRATORS_OF_PORT.fullmatch(key)
        into, rest = (wanted.common, key) if match is None else (_port(wanted, match[1], ""), match[2])
        into.update(_translate(rest, text, f"{_REGISTRATORS}{key.upper()}", wanted.remarks))
    _read_ours(wanted, ours, prefix)
    return wanted


def _read_ours(wanted: Wanted, ours: Mapping[str, str], prefix: str) -> None:
    for label, text in sorted(ours.items()):
        key = label.removeprefix(f"{prefix}.")
        match = _OF_PORT.fullmatch(key)
        into, rest = (wanted.common, key) if match is None else (_port(wanted, match[1], match[2] or ""), match[3])
        value = _read(rest, text, label)
        if rest.startswith(META) and (problem := meta_problem(rest.removeprefix(META), value.text)):
            wanted.remarks.append(f"{label} is left out: {problem}")
        else:
            into[rest] = value


def _port(wanted: Wanted, number: str, protocol: str) -> dict[str, LabelValue]:
    return wanted.by_port.setdefault((int(number), protocol), {})


def _is_registrators(label: str) -> bool:
    """Whether registrator itself gives the label a meaning, other than that of one more entry of Meta."""
    key = label.removeprefix(_REGISTRATORS).lower() if label.startswith(_REGISTRATORS) else ""
    match = _REGISTRATORS_OF_PORT.fullmatch(key)
    key = key if match is None else match[2]
    return key in _TRANSLATED or key in ("ignore", "tags") or key.startswith("check_")


def _registrators_texts(*sources: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Registrator's keys in small letters; a later source wins, as labels do there over the environment."""
    for source in sources:
        for name, text in source.items():
            if name.startswith(_REGISTRATORS) and name != _REGISTRATORS and text:
                yield name.removeprefix(_REGISTRATORS).lower(), text


def _translate(key: str, text: str, place: str, remarks: list[str]) -> Iterator[tuple[str, LabelValue]]:
    if key in _TRANSLATED:
        # There check_tcp and ignore mean yes whatever they say.
        yield _TRANSLATED[key], LabelValue(("true",) if key == "check_tcp" else (text,), place)
    elif key == "ignore":
        yield IGNORE, LabelValue(("true",), place)
    elif key == "tags":
        texts = (tag.replace("\\,", ",").strip() for tag in _UNESCAPED_COMMA.split(text))
        yield "tag", LabelValue(tuple(filter(None, texts)), place)
    elif key == "check_https":
        yield "check-http", LabelValue((text,), place)
        yield "check-tls", LabelValue(("true",), place)
    elif key in _WITHOUT_EFFECT:
        return
    elif key.startswith("check_"):
        raise BadInput(
            f"{place}: there is no such check here; take SERVICE_CHECK_HTTP, _TCP or the image's HEALTHCHECK"
        )
    elif problem := "it looks like a secret" if looks_secret(key, text) else meta_problem(key, text):
        remarks.append(f"{place} is left out: {problem}")
    else:
        yield f"{META}{key}", LabelValue((text,), place)


def _read(key: str, text: str, place: str) -> LabelValue:
    is_named = any(key.startswith(start) and key != start for start in (META, TAGGED_ADDRESS))
    if key in _SEVERAL or _TAG_KEYS.get(key, False):
        return LabelValue(tuple(text.split()) or ("",), place)
    if key in _ONE or key in _TAG_KEYS or is_named:
        return LabelValue((text.strip(),), place)
    known = sorted({*_ONE, *_SEVERAL, f"{META}KEY", f"{TAGGED_ADDRESS}NAME"})
    raise BadInput(f"{place}: no such key; there are those of the proxy tags, and {', '.join(known)}")
