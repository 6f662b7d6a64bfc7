"""Answers of an engine about one container, as small as they can be."""

from __future__ import annotations

from typing import Any

from proxygen.registration.containers import Container, decode_container
from proxygen.registration.described import ContainerDefaults

POLICY = ContainerDefaults(
    tag_prefix="proxygen",
    owner="here",
    address="10.0.0.1",
    announce="auto",
    leased=None,
    network=None,
    unlabelled=False,
    ttl=300.0,
)


def inspected(
    labels: dict[str, str] | None = None,
    *,
    environment: list[str] | None = None,
    exposed: tuple[str, ...] = (),
    published: dict[str, tuple[str, str]] | None = None,
    networks: dict[str, str] | None = None,
    mode: str = "bridge",
    state: dict[str, Any] | None = None,
    image: str = "example.org:5000/team/shop:1.2@sha256:0",
) -> dict[str, Any]:
    """What ``GET /containers/ID/json`` answers."""
    bindings = {port: [{"HostIp": ip, "HostPort": number}] for port, (ip, number) in (published or {}).items()}
    return {
        "Id": "0123456789abcdef",
        "Name": "/w1",
        "State": {"Running": True, "Paused": False, **(state or {})},
        "Config": {
            "Image": image,
            "Labels": labels,
            "Env": environment,
            "ExposedPorts": {port: {} for port in exposed},
        },
        "HostConfig": {"NetworkMode": mode},
        "NetworkSettings": {
            "Ports": bindings | {port: None for port in exposed if port not in bindings},
            "Networks": {name: {"IPAddress": address} for name, address in (networks or {}).items()},
        },
    }


def container(labels: dict[str, str] | None = None, **facts: Any) -> Container:
    return decode_container(inspected(labels, **facts))
