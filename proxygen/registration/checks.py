"""How Consul learns whether an instance is well: it asks (HTTP, TCP, gRPC), or the application tells it (TTL).

Seconds are numbers, or texts with a unit such as ``500ms`` and ``1m``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import KW_ONLY, dataclass, field
from types import MappingProxyType
from typing import Any, Final, Literal
from urllib.parse import urlsplit

from proxygen.catalog import Health
from proxygen.kit.errors import BadInput, quoted
from proxygen.kit.units import format_duration, parse_duration

Seconds = float | str
Status = Literal["passing", "warning", "critical"]

HealthVerdict = bool | Health | Literal["passing", "warning", "critical"] | None
"""True and None mean passing, False means critical."""
HealthCallable = Callable[[], HealthVerdict | Awaitable[HealthVerdict]]
"""The application's own judgement, blocking or not; an exception means critical."""

LONGEST: Final = 24 * 3600.0
_NO_HEADERS: Final[Mapping[str, str]] = MappingProxyType({})


def seconds(value: Seconds, *, what: str, least: float = 0.0) -> float:
    """Return seconds. Raise BadInput that names ``what``."""
    if isinstance(value, str):
        try:
            value = parse_duration(value) / 1000
        except ValueError as error:
            raise BadInput(f"{what}: {error}") from error
    if not least <= value <= LONGEST:
        raise BadInput(f"{what} = {value:g}s is not from {least:g}s to {LONGEST:g}s")
    return float(value)


def duration(value: float) -> str:
    """Write seconds as Consul and people do."""
    return format_duration(round(value * 1000))


def authority(host: str, port: int) -> str:
    """``HOST:PORT``, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class HttpCheck:
    """Consul sends a request and takes a 2xx for passing, 429 for a warning, anything else for critical."""

    path: str
    """A path on the announced address and port, or a whole URL."""
    _: KW_ONLY
    scheme: Literal["http", "https"] = "http"
    port: int | None = None
    """Where health is not asked on the announced port."""
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=lambda: _NO_HEADERS)
    tls_skip_verify: bool = False
    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    initially: Status = "critical"
    """What counts until Consul has asked for the first time."""

    kind = "http"

    def __post_init__(self) -> None:
        url = urlsplit(self.path)
        is_url = url.scheme in ("http", "https") and bool(url.hostname)
        if not (is_url or self.path.startswith("/")) or not self.path.isascii() or not self.path.isprintable():
            raise BadInput(f"HttpCheck: {quoted(self.path)} is neither a path such as /healthz nor an http(s) URL")
        _require_pace("HttpCheck", self.interval, self.timeout)
        _require_port("HttpCheck", self.port)

    def url(self, address: str, port: int) -> str:
        """What Consul asks: the path at the instance's own address, or ``path`` as it is where it is a whole URL."""
        if not self.path.startswith("/"):
            return self.path
        return f"{self.scheme}://{authority(address, self.port or port)}{self.path}"

    def definition(self, address: str, port: int) -> dict[str, Any]:
        """As ``/v1/agent/service/register`` takes it."""
        return {
            "HTTP": self.url(address, port),
            "Method": self.method,
            "Header": {name: [value] for name, value in self.headers.items()},
            "TLSSkipVerify": self.tls_skip_verify,
            **_pace(self.interval, self.timeout),
        }

    def words(self, address: str, port: int) -> str:
        """One line for people, in the check's notes."""
        return f"HTTP {self.method} {self.url(address, port)} every {_written(self.interval)}"


@dataclass(frozen=True, slots=True)
class TcpCheck:
    """Consul opens a connection."""

    _: KW_ONLY
    port: int | None = None
    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    initially: Status = "critical"

    kind = "tcp"

    def __post_init__(self) -> None:
        _require_pace("TcpCheck", self.interval, self.timeout)
        _require_port("TcpCheck", self.port)

    def definition(self, address: str, port: int) -> dict[str, Any]:
        """As ``/v1/agent/service/register`` takes it."""
        return {"TCP": authority(address, self.port or port), **_pace(self.interval, self.timeout)}

    def words(self, address: str, port: int) -> str:
        """One line for people, in the check's notes."""
        return f"TCP {authority(address, self.port or port)} every {_written(self.interval)}"


@dataclass(frozen=True, slots=True)
class GrpcCheck:
    """Consul asks by gRPC's own health protocol; for the whole server where no service is named."""

    service: str = ""
    _: KW_ONLY
    port: int | None = None
    tls: bool = False
    tls_skip_verify: bool = False
    interval: Seconds = 5.0
    timeout: Seconds = 2.0
    initially: Status = "critical"

    kind = "grpc"

    def __post_init__(self) -> None:
        if not all(letter.isalnum() or letter in "._-/" for letter in self.service):
            raise BadInput(f"GrpcCheck: {quoted(self.service)} is no gRPC service, such as grpc.health.v1.Health")
        _require_pace("GrpcCheck", self.interval, self.timeout)
        _require_port("GrpcCheck", self.port)

    def definition(self, address: str, port: int) -> dict[str, Any]:
        """As ``/v1/agent/service/register`` takes it."""
        return {
            "GRPC": self._target(address, port),
            "GRPCUseTLS": self.tls,
            "TLSSkipVerify": self.tls_skip_verify,
            **_pace(self.interval, self.timeout),
        }

    def words(self, address: str, port: int) -> str:
        """One line for people, in the check's notes."""
        return f"gRPC {self._target(address, port)} every {_written(self.interval)}"

    def _target(self, address: str, port: int) -> str:
        target = authority(address, self.port or port)
        return f"{target}/{self.service}" if self.service else target


@dataclass(frozen=True, slots=True)
class TtlCheck:
    """The application tells Consul, at a third of the TTL; silence for longer than the TTL is critical.

    Without a callable it says no more than that the process lives and its event loop turns.
    """

    ttl: Seconds = 15.0
    health: HealthCallable | None = None

    kind = "ttl"

    def __post_init__(self) -> None:
        seconds(self.ttl, what="TtlCheck: ttl", least=0.5)

    @property
    def initially(self) -> Status:
        """Critical until the first heartbeat."""
        return "critical"

    def definition(self, address: str, port: int) -> dict[str, Any]:
        """As ``/v1/agent/service/register`` takes it."""
        return {"TTL": _written(self.ttl)}

    def words(self, address: str, port: int) -> str:
        """One line for people, in the check's notes."""
        return f"heartbeat within {_written(self.ttl)}"


Check = HttpCheck | TcpCheck | GrpcCheck | TtlCheck


def _written(value: Seconds) -> str:
    return duration(seconds(value, what="check"))


def _pace(interval: Seconds, timeout: Seconds) -> dict[str, str]:
    return {"Interval": _written(interval), "Timeout": _written(timeout)}


def _require_pace(check: str, interval: Seconds, timeout: Seconds) -> None:
    # Consul itself asks no more often than once a second.
    seconds(interval, what=f"{check}: interval", least=1.0)
    seconds(timeout, what=f"{check}: timeout", least=0.001)


def _require_port(check: str, port: int | None) -> None:
    if port is not None and not 1 <= port <= 65535:
        raise BadInput(f"{check}: port = {port} is not from 1 to 65535")
