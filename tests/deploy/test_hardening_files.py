"""deploy/hardening/ as files: what the profile allows is less than what engines allow by themselves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness.hardened import SECCOMP
from tests.harness.tools import missing

ENGINES_OWN: Final = Path("/usr/share/containers/seccomp.json")


@pytest.fixture(scope="module")
def rules() -> list[dict[str, Any]]:
    profile = json.loads(SECCOMP.read_text(encoding="utf-8"))
    assert (profile["defaultAction"], profile["defaultErrnoRet"]) == ("SCMP_ACT_ERRNO", 1)
    syscalls: list[dict[str, Any]] = profile["syscalls"]
    return syscalls


def allowed(rules: list[dict[str, Any]]) -> list[str]:
    return [name for rule in rules if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]]


def test_the_profile_allows_nothing_that_the_engine_would_not(rules: list[dict[str, Any]]) -> None:
    """Without a capability, as containers here run; and little more than half of it."""
    if not ENGINES_OWN.exists():
        missing("the engine's own seccomp profile (golang-github-containers-common, which podman brings)")
    own = json.loads(ENGINES_OWN.read_text(encoding="utf-8"))["syscalls"]
    without_capability = set(allowed([rule for rule in own if not rule.get("includes", {}).get("caps")]))
    assert set(allowed(rules)) <= without_capability
    assert len(set(allowed(rules))) < 0.6 * len(without_capability)


def test_containerd_reads_the_profile_as_docker_does(rules: list[dict[str, Any]]) -> None:
    """containerd, which Kubernetes uses, passes over Docker's `includes`, `excludes` and `archMap`.

    A rule with such a condition would hold without it.
    """
    assert json.loads(SECCOMP.read_text(encoding="utf-8")).keys() == {"defaultAction", "defaultErrnoRet", "syscalls"}
    known = {"comment", "names", "action", "args", "errnoRet"}
    assert all(rule.keys() <= known for rule in rules)


def test_no_call_is_named_twice_but_for_its_arguments(rules: list[dict[str, Any]]) -> None:
    names = [name for rule in rules for name in rule["names"] if "args" not in rule]
    assert sorted(names) == sorted(set(names))
    assert "socket" not in names
    assert "clone" not in names


@pytest.mark.parametrize(
    "name",
    [
        "ptrace",
        "mount",
        "keyctl",
        "bpf",
        "unshare",
        "setns",
        "io_uring_setup",
        "userfaultfd",
        "process_vm_writev",
        "mknod",
    ],
)
def test_what_helps_an_intruder_is_not_named(rules: list[dict[str, Any]], name: str) -> None:
    assert name not in allowed(rules)
