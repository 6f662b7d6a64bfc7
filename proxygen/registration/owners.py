"""Whose entry stands under a service id.

An agent tells no owner, and has no compare-and-set. So an entry is taken for ours by what it says:

- ``registrator-host`` in its Meta is that registrator's, and never an application's;
- for a registrator an entry without its mark is another's, unless it names the container's very service, address and
  port, as one does that registrator left, or we under the host's former name;
- another service name is another's, but at our very address and port: who wrote that is gone, as the port is ours now
  (a life on this host that still runs is found by `lives`);
- ours carries a check of our form (``ID:KIND``, notes that end in a digest), or our farewell's maintenance;
- an entry without any check is ours where it names our very address and port: nothing else can be there.

All else is another's: another tool's registration, or a definition in Consul's configuration.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from proxygen.registration.service import CompleteRegistration, HeldByAgent

OWNER: Final = "registrator-host"
"""The Meta key in which a registrator writes whose containers it registers."""
LEAVING: Final = "proxygen: leaving"
"""Reason of the maintenance that precedes a deregistration; the next life under the same id ends it."""

_DIGEST: Final = re.compile(r" \[[0-9a-f]{8}\]\Z")


def endpoint(service: CompleteRegistration) -> tuple[str, str, int]:
    return service.name, service.address, service.port


def held_endpoint(held: HeldByAgent) -> tuple[str, str, int]:
    return place_of(held.service)


def place_of(service: Mapping[str, Any]) -> tuple[str, str, int]:
    """Name, address and port of a service as an agent tells it."""
    return str(service.get("Service", "")), str(service.get("Address", "")), int(service.get("Port") or 0)


def is_leaving(held: HeldByAgent, service_id: str) -> bool:
    """Whether the entry is in the maintenance of a farewell."""
    return held.checks.get(f"_service_maintenance:{service_id}", {}).get("Notes") == LEAVING


def other_owner(service: CompleteRegistration, held: HeldByAgent) -> str | None:
    """Return who holds an id, in words; None where the entry is ours."""
    name, address, port = held_endpoint(held)
    registrator, own = (held.service.get("Meta") or {}).get(OWNER), service.meta.get(OWNER)
    if own is not None and (own == registrator or held_endpoint(held) == endpoint(service)):
        return None
    if registrator is not None:
        return f"a container of the registrator on {registrator} (service {name} at {address}:{port})"
    is_in_our_place = name == service.name or (address, port) == (service.address, service.port)
    if own is None and is_in_our_place and _is_of_our_form(service, held):
        return None
    return f"service {name} at {address}:{port}, which proxygen did not register for service {service.name}"


def _is_of_our_form(service: CompleteRegistration, held: HeldByAgent) -> bool:
    if is_leaving(held, service.id) or any(_is_ours(service.id, id, check) for id, check in held.checks.items()):
        return True
    others = [id for id in held.checks if not id.startswith("_service_maintenance:")]
    return not others and held_endpoint(held) == endpoint(service)


def _is_ours(service_id: str, check_id: str, check: Mapping[str, Any]) -> bool:
    return check_id.startswith(f"{service_id}:") and _DIGEST.search(str(check.get("Notes", ""))) is not None
