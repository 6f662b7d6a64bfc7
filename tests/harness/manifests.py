"""Kubernetes' manifests as Podman can play them, and what a kubelet would do about the pods that come of it.

What Podman 4.3 lacks is made up for in a copy of the manifest, and nothing else is changed:

- replicas: one, at an address that is chosen beforehand;
- the downward API's ``status.podIP`` and ``status.hostIP``, and ``$(VARIABLE)`` in a value: the values themselves;
- Secrets, whose data it mounts without decoding them: directories with the same files, owner, group and mode;
- ``ports``, which it would publish on the node, where two pods cannot have the same: none;
- probes and ``preStop``, which it leaves to systemd or to nobody: `PlayedPod` asks and runs them as they are written.
"""

from __future__ import annotations

import copy
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

import yaml  # type: ignore[import-untyped]  # ships no types

from tests.harness.node import Node

Document = dict[str, Any]
_VARIABLE: Final = re.compile(r"\$\(([A-Z_]+)\)")
_NOT_PLAYED: Final = ("startupProbe", "livenessProbe", "readinessProbe", "lifecycle", "ports")


def read_manifest(path: Path) -> list[Document]:
    return list(yaml.safe_load_all(path.read_text(encoding="utf-8")))


def find(documents: Sequence[Document], kind: str, name: str) -> Document:
    """Return the one document of this kind and name."""
    (found,) = (doc for doc in documents if doc["kind"] == kind and doc["metadata"]["name"] == name)
    return found


class PlayedPod:
    """The one pod of a Deployment, with its containers by the manifest's names."""

    def __init__(self, node: Node, deployment: Document, *, address: IPv4Address) -> None:
        self.node = node
        self.address = address
        self.name = f"{deployment['metadata']['name']}-pod-0"
        self._deployment = deployment

    def start(self, *configs: Document, secrets: Mapping[str, Mapping[str, str]], directory: Path) -> None:
        """Play it with the ConfigMaps and Secrets that it names; of each Secret, its entries."""
        document = self._playable()
        spec = document["spec"]["template"]["spec"]
        for volume in spec["volumes"]:
            if "secret" in volume:
                told = volume.pop("secret")
                place = directory / self.name / told["secretName"]
                _write_secret(secrets[told["secretName"]], place, mode=told["defaultMode"], group=_group(spec))
                volume["hostPath"] = {"path": str(place), "type": "Directory"}
        file = directory / f"{self.name}.yaml"
        file.write_text(yaml.safe_dump_all([*configs, document]), encoding="utf-8")
        self.node.play(file, address=self.address)

    def container(self, name: str) -> str:
        return f"{self.name}-{name}"

    def log(self, name: str) -> str:
        return self.node.logs(self.container(name))

    def probe(self, name: str, kind: str) -> int:
        """Ask as the kubelet does, from the node; return the status, 0 where nobody answers."""
        container = self._container(name)
        asked = container[f"{kind}Probe"]["httpGet"]
        (port,) = (port["containerPort"] for port in container["ports"] if port["name"] == asked["port"])
        return self.node.ask(f"http://{self.address}:{port}{asked['path']}")[0]

    def run_pre_stop(self, name: str) -> None:
        """Run the hook to its end."""
        command = self._container(name)["lifecycle"]["preStop"]["exec"]["command"]
        try:
            self.node.podman("exec", self.container(name), *command)
        except RuntimeError as error:
            # The hook ends the container that it runs in, and Podman may forget its exit code with it.
            if "exec died event" not in str(error):
                raise

    def remove(self) -> None:
        """End it as the kubelet does after the hooks: SIGTERM, SIGKILL after the grace period, the network last."""
        spec = self._deployment["spec"]["template"]["spec"]
        containers = [self.container(container["name"]) for container in spec["containers"]]
        self.node.podman("stop", f"--time={spec['terminationGracePeriodSeconds']}", *containers)
        self.node.podman("pod", "rm", "--force", self.name)

    def _container(self, name: str) -> Document:
        containers = self._deployment["spec"]["template"]["spec"]["containers"]
        (found,) = (container for container in containers if container["name"] == name)
        return dict(found)

    def _playable(self) -> Document:
        document = copy.deepcopy(self._deployment)
        document["spec"]["replicas"] = 1
        known = {"status.podIP": str(self.address), "status.hostIP": str(self.node.address)}
        for container in document["spec"]["template"]["spec"]["containers"]:
            for key in _NOT_PLAYED:
                container.pop(key, None)
            container["env"] = list(_plain_values(container.get("env", []), known))
        return document


def _group(spec: Document) -> int:
    return int(spec["securityContext"]["fsGroup"])


def _write_secret(entries: Mapping[str, str], place: Path, *, mode: int, group: int) -> None:
    place.mkdir(parents=True)
    for key, value in entries.items():
        (place / key).write_text(value, encoding="utf-8")
        os.chown(place / key, 0, group)
        (place / key).chmod(mode)


def _plain_values(variables: Sequence[Document], known: Mapping[str, str]) -> Iterator[Document]:
    values: dict[str, str] = {}
    for variable in variables:
        if "value" in variable:
            value = _VARIABLE.sub(lambda match: values[match[1]], variable["value"])
        else:
            value = known[variable["valueFrom"]["fieldRef"]["fieldPath"]]
        values[variable["name"]] = value
        yield {"name": variable["name"], "value": value}
