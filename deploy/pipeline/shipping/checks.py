"""The stages test and lint: what can be known before anything is built."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shipping.credentials import plain_environment
from shipping.errors import Misuse
from shipping.programs import run, say
from shipping.settings import Settings


def test(settings: Settings) -> None:
    """Run the application's own tests."""
    if settings.tests is None:
        raise Misuse("the stage test needs PIPELINE_TESTS: the command that tests the application")
    run(settings.tests, timeout=settings.timeout, environment=plain_environment(), directory=settings.context)


def lint(settings: Settings) -> None:
    """Lint the service definition, and try it inside a snapshot of production where there is one."""
    if settings.definition is None:
        raise Misuse("the stage lint needs PIPELINE_DEFINITION: the service definition in JSON")
    environment = plain_environment()
    command = [*settings.proxygen, "tags", "lint", str(settings.definition)]
    run(command, timeout=settings.timeout, environment=environment)
    if settings.snapshot is None:
        say("no PIPELINE_SNAPSHOT: the definition is not tried against production")
        return
    settings.output.mkdir(parents=True, exist_ok=True)
    catalog = settings.output / "catalog.json"
    found = _with_newcomer(_read(settings.snapshot), _read(settings.definition))
    catalog.write_text(json.dumps(found, indent=2), encoding="utf-8")
    run([*settings.proxygen, "check", "--catalog", str(catalog)], timeout=settings.timeout, environment=environment)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Misuse(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise Misuse(f"{path} is no JSON object")
    return found


def _with_newcomer(snapshot: Mapping[str, Any], definition: Mapping[str, Any]) -> dict[str, Any]:
    """Return the snapshot with one more instance: the definition's, healthy, and the youngest of all."""
    service = definition.get("service", definition)
    try:
        name = service["name"]
        services = dict(snapshot["services"])
        indexes = [entry["Service"].get("CreateIndex", 0) for entries in services.values() for entry in entries]
        instance = {
            "ID": f"{name}-pipeline",
            "Service": name,
            "Address": service.get("address") or "127.0.0.1",
            "Port": service["port"],
            "Tags": list(service.get("tags", [])),
            "Meta": dict(service.get("meta", {})),
            "Weights": {"Passing": 1, "Warning": 1},
            "CreateIndex": max(indexes, default=0) + 1,
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise Misuse(f"the definition or the snapshot lacks or misuses {error}") from error
    node = {"Node": "pipeline", "Address": "127.0.0.1", "Datacenter": snapshot.get("datacenter", "dc1")}
    services[name] = [*services.get(name, []), {"Node": node, "Service": instance, "Checks": []}]
    return {**snapshot, "services": services}
