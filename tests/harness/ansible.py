"""Ansible as an operator calls it, with an inventory and a home of the test's own."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PLAYBOOKS: Final = Path(__file__).parents[2] / "deploy" / "ansible"

_RECAP: Final = re.compile(r"^(\S+)\s+: ok=(\d+)\s+changed=(\d+)\s+unreachable=(\d+)\s+failed=(\d+)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """What came of one run of a playbook."""

    code: int
    said: str

    @property
    def changed(self) -> dict[str, int]:
        """Changed tasks by host."""
        return {host: int(changed) for host, _, changed, _, _ in _RECAP.findall(self.said)}


class Ansible:
    """Playbooks of deploy/ansible on the hosts of ``inventory``, which is Ansible's in the form of JSON."""

    def __init__(self, directory: Path, inventory: Mapping[str, object]) -> None:
        self.directory = directory
        self.inventory = directory / "inventory.json"
        directory.mkdir(parents=True, exist_ok=True)
        self.inventory.write_text(json.dumps(inventory), encoding="utf-8")

    def command(self, playbook: str, *options: str, **variables: object) -> list[str]:
        given = self.directory / "variables.json"
        given.write_text(json.dumps(variables), encoding="utf-8")
        program = Path(sys.executable).parent / "ansible-playbook"
        return [
            str(program),
            f"--inventory={self.inventory}",
            f"--extra-vars=@{given}",
            *options,
            str(PLAYBOOKS / playbook),
        ]

    @property
    def environment(self) -> dict[str, str]:
        """Nothing of this machine's own Ansible, and no colours."""
        own = {"HOME": str(self.directory), "ANSIBLE_HOME": f"{self.directory}/.ansible", "ANSIBLE_NOCOLOR": "1"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        return {**kept, **own, "ANSIBLE_LOCALHOST_WARNING": "0", "ANSIBLE_PYTHON_INTERPRETER": "auto_silent"}

    def play(self, playbook: str, *options: str, timeout: float = 900.0, **variables: object) -> Played:
        """Run a playbook to its end, whatever that is."""
        done = subprocess.run(
            self.command(playbook, *options, **variables),
            cwd=PLAYBOOKS,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return Played(code=done.returncode, said=done.stdout)
