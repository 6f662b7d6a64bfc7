"""Containers as an engine tells of them, of which only what a registration needs is kept."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from proxygen.catalog import Health
from proxygen.registration.signals import find_signal

Protocol = Literal["tcp", "udp"]

_STOP_TIMEOUT: Final = 10
"""Docker's own default."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Port:
    """A port inside a container, and where it is published on the host."""

    number: int
    protocol: Protocol
    published: tuple[tuple[str, int], ...] = ()
    """Host address and port; the address may be a wildcard."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container, as it was when the engine was asked."""

    id: str
    name: str
    image: str
    """As it was named when the container was made."""
    running: bool
    paused: bool
    health: Health | None
    """By the image's own HEALTHCHECK; None where there is none."""
    labels: Mapping[str, str]
    environment: Mapping[str, str]
    ports: tuple[Port, ...]
    """Exposed by the image, or published; sorted."""
    on_host_network: bool
    networks: Mapping[str, str]
    """Addresses by the network's name."""
    stop_timeout: float
    stop_signal: int
    """What the engine sends to have it end, by the image's STOPSIGNAL or as it was run."""

    @property
    def place(self) -> str:
        """How the container is named to people."""
        return f"{self.name} ({self.id[:12]})"


def decode_container(answer: Mapping[str, Any]) -> Container:
    """Read an answer of ``GET /containers/ID/json``. Raise KeyError, TypeError or ValueError for one that is none."""
    state, config, network = answer["State"], answer["Config"], answer["NetworkSettings"]
    return Container(
        id=answer["Id"],
        name=answer["Name"].removeprefix("/"),
        image=config["Image"],
        # While it restarts, Docker calls it running too.
        running=bool(state["Running"]) and not state.get("Restarting"),
        paused=bool(state.get("Paused")),
        health=_health((state.get("Health") or {}).get("Status")),
        labels=dict(config.get("Labels") or {}),
        environment=dict(entry.partition("=")[::2] for entry in config.get("Env") or ()),
        ports=_ports(config.get("ExposedPorts") or {}, network.get("Ports") or {}),
        on_host_network=answer["HostConfig"].get("NetworkMode") == "host",
        networks={
            name: facts.get("IPAddress") or facts.get("GlobalIPv6Address")
            for name, facts in (network.get("Networks") or {}).items()
            if facts.get("IPAddress") or facts.get("GlobalIPv6Address")
        },
        stop_signal=find_signal(str(config.get("StopSignal") or "TERM")) or signal.SIGTERM,
        stop_timeout=float(_STOP_TIMEOUT if config.get("StopTimeout") is None else config["StopTimeout"]),
    )


def _health(status: str | None) -> Health | None:
    if status in (None, "", "none"):
        return None
    return Health.PASSING if status == "healthy" else Health.CRITICAL


def _ports(exposed: Mapping[str, Any], bindings: Mapping[str, Any]) -> tuple[Port, ...]:
    ports = []
    for text in exposed.keys() | bindings.keys():
        number, _, protocol = text.partition("/")
        published = tuple(
            (binding.get("HostIp") or "0.0.0.0", int(binding["HostPort"]))  # noqa: S104 - what the engine means by ""
            for binding in bindings.get(text) or ()
        )
        # sctp is none that a proxy could speak.
        if protocol in ("tcp", "udp"):
            ports.append(Port(number=int(number), protocol=cast("Protocol", protocol), published=published))
    return tuple(sorted(ports))
