"""Roles and playbooks are what Ansible's own tools accept, and every variable is declared once on either side."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.harness.ansible import PLAYBOOKS

BIN = Path(sys.executable).parent
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir())
WITHOUT_DEFAULT = {
    "proxygen": {"proxygen_wheel"},
    "proxygen_application": {"proxygen_application_service"},
    "proxygen_token": {"proxygen_token_name", "proxygen_token_rules", "proxygen_token_file"},
}


def run(directory: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run one of the tools, with a home of its own and this environment's other tools on PATH."""
    own = {"HOME": str(directory), "ANSIBLE_HOME": str(directory), "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    environment = {**os.environ, **own, "NO_COLOR": "1"}
    return subprocess.run(
        [str(part) for part in command], cwd=PLAYBOOKS, env=environment, capture_output=True, text=True, timeout=300
    )


def read(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_ansible_lint_has_nothing_to_say(tmp_path: Path) -> None:
    done = run(tmp_path, BIN / "ansible-lint", "--offline", "--strict", "--profile=production", "--format=pep8")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("role", ROLES)
def test_a_variable_has_a_default_and_a_declaration(role: str) -> None:
    """The arguments are checked by Ansible; a default that is not declared would be a knob that nobody finds."""
    directory = PLAYBOOKS / "roles" / role
    declared = read(directory / "meta" / "argument_specs.yml")["argument_specs"]
    defaults = set(read(directory / "defaults" / "main.yml"))
    for options in (entry["options"] for entry in declared.values()):
        assert set(options) == defaults | WITHOUT_DEFAULT[role]
        assert {name for name, option in options.items() if option.get("required")} == WITHOUT_DEFAULT[role]
    assert all((directory / "tasks" / f"{entry}.yml").exists() for entry in declared)


def test_secrets_are_declared_as_such() -> None:
    for role, name in (
        ("proxygen", "proxygen_consul_management_token"),
        ("proxygen_token", "proxygen_token_management"),
    ):
        options = read(PLAYBOOKS / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]["main"]["options"]
        assert options[name]["no_log"] is True


@pytest.mark.slow
def test_the_example_inventory_has_the_groups_that_playbooks_name(tmp_path: Path) -> None:
    done = run(tmp_path, BIN / "ansible-inventory", "--inventory=inventory/hosts.yml", "--list")
    assert {"proxies", "applications"} <= set(json.loads(done.stdout))
