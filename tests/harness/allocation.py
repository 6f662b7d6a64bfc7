"""A group of a Nomad job as Nomad's docker driver starts it, by an engine: what a client of Nomad does, without Nomad.

- Each group has a network of its own, here a pod that shares nothing else; each task a container ``TASK-ALLOCATION``.
- ``/alloc`` is the group's, ``/local`` and ``/secrets`` are the task's; templates are written before it starts.
- What says ``prestart`` and stays comes first. A task that ends is started again.
- ``consul {}`` gives a task its token, in a variable.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator, Mapping
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, Final

from tests.harness.node import Node

Job = dict[str, Any]
_LATER: Final = re.compile(r"\$\{([^}]+)\}")
_UNDERSTOOD: Final = {
    *("image", "entrypoint", "pid_mode", "cap_drop", "security_opt", "readonly_rootfs", "pids_limit"),
    *("mount", "healthchecks"),
}
_NANOSECONDS: Final = 10**9


class Allocation:
    """One instance of a job's only group, at an address of the node's own network."""

    def __init__(self, node: Node, job: Job, *, address: IPv4Address, token: str = "") -> None:
        self.node = node
        self.address = address
        self.id = str(uuid.uuid4())
        (self.group,) = job["TaskGroups"]
        self._token = token
        self._known = {"NOMAD_ALLOC_ID": self.id, "attr.unique.network.ip-address": str(node.address)}

    def container(self, task: str) -> str:
        return f"{task}-{self.id}"

    def host_name(self, task: str) -> str:
        return self.node.podman("inspect", "--format={{.Config.Hostname}}", self.container(task))

    def start(self, directory: Path, *, images: Mapping[str, str] | None = None) -> None:
        """Start every task. ``images`` replaces a task's image, as another value of the job's variable would."""
        place = directory / self.id
        for name in ("data", "logs", "tmp"):
            (place / "alloc" / name).mkdir(parents=True)
            (place / "alloc" / name).chmod(0o777)
        self.node.create_pod(self.id, address=self.address)
        for task in sorted(self.group["Tasks"], key=lambda task: task["Lifecycle"] is None):
            image = (images or {}).get(task["Name"], task["Config"]["image"])
            self._start(task, image, place)

    def stop(self) -> None:
        """End every task as its job says, then the network."""
        for task in self.group["Tasks"]:
            if task["Lifecycle"] is None:
                seconds = task["KillTimeout"] // _NANOSECONDS
                self.node.podman("stop", f"--time={seconds}", self.container(task["Name"]))
        self.node.podman("pod", "rm", "--force", "--time=0", self.id)

    def port(self, label: str) -> int:
        (network,) = self.group["Networks"]
        (port,) = (port["To"] for port in network["DynamicPorts"] if port["Label"] == label)
        return int(port)

    def check(self, name: str) -> int:
        """Make a service's check as Consul does; return the status, 0 where nobody answers."""
        ((service, check),) = (
            (service, check)
            for service in self.group["Services"]
            for check in service["Checks"]
            if check["Name"] == name
        )
        return self.node.ask(
            f"http://{self.address}:{self.port(check['PortLabel'] or service['PortLabel'])}{check['Path']}"
        )[0]

    def _start(self, task: Job, image: str, place: Path) -> None:
        config = task["Config"]
        assert config.keys() <= _UNDERSTOOD, f"what does {config.keys() - _UNDERSTOOD} mean to an engine?"
        own = place / task["Name"]
        for name in ("local", "secrets"):
            (own / name).mkdir(parents=True)
        for template in task["Templates"] or ():
            assert template["LeftDelim"] not in template["EmbeddedTmpl"], "nobody renders templates here"
            (own / template["DestPath"]).write_text(template["EmbeddedTmpl"], encoding="utf-8")
        volumes = [f"{place}/alloc:/alloc", f"{own}/local:/local", f"{own}/secrets:/secrets"]
        self.node.podman(
            *("run", "--detach", f"--pod={self.id}", f"--name={self.container(task['Name'])}", "--restart=always"),
            *(f"--volume={volume}" for volume in volumes),
            *(f"--env={name}={value}" for name, value in self._environment(task).items()),
            f"--memory={task['Resources']['MemoryMB']}m",
            f"--stop-signal={task['KillSignal'] or 'SIGTERM'}",
            *self._options(config),
            image,
        )

    def _environment(self, task: Job) -> dict[str, str]:
        given = {name: self._interpolated(value) for name, value in (task["Env"] or {}).items()}
        return given | ({"CONSUL_HTTP_TOKEN": self._token} if task["Consul"] is not None else {})

    def _options(self, config: Job) -> Iterator[str]:
        if "entrypoint" in config:
            yield f"--entrypoint={json.dumps(config['entrypoint'])}"
        if "pid_mode" in config:
            yield f"--pid={self._interpolated(config['pid_mode'])}"
        yield f"--pids-limit={config['pids_limit']}"
        yield from (f"--cap-drop={name}" for name in config["cap_drop"])
        yield from (f"--security-opt={option}" for option in config["security_opt"])
        if config["readonly_rootfs"]:
            # Podman would make /run and /tmp writable, which Docker does not.
            yield from ("--read-only", "--read-only-tmpfs=false")
        for mount in config.get("mount", []):
            assert mount["type"] == "tmpfs"
            yield f"--tmpfs={mount['target']}:mode=1777,size={mount['tmpfs_options'][0]['size']}"
        if any(check["disable"] for check in config["healthchecks"]):
            yield "--no-healthcheck"

    def _interpolated(self, text: str) -> str:
        return _LATER.sub(lambda match: self._known[match[1]], text)
