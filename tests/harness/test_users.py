"""A run of the tests is the same whatever its user has set for other systems."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Final

import pytest

from tests.harness.pipeline import Repository
from tests.harness.users import OF_TESTS, forget_settings

TESTS: Final = Path(__file__).parents[1]
USERS: Final = {
    "ANSIBLE_CONFIG": "/theirs.cfg",
    "CONSUL_HTTP_ADDR": "127.0.0.1:1",
    "CONSUL_HTTP_TOKEN": "theirs",
    "GIT_DIR": "/their/repository/.git",
    "GIT_INDEX_FILE": "/their/repository/.git/index",
    "NGINX": "/usr/sbin/nginx",
    "PROXYGEN_ADMIN_TOKEN": "theirs",
    "PROXYGEN_CONFIG": "/their.toml",
    "PYTEST_ADDOPTS": "-q",
}


def test_no_test_sees_a_users_settings() -> None:
    assert USERS.keys().isdisjoint(os.environ)


def test_a_run_in_a_users_shell_sees_none_of_them() -> None:
    command = [sys.executable, "-m", "pytest", "-n0", "-p", "no:cacheprovider", f"{__file__}::{NAME}"]
    environment = {**os.environ, **USERS}
    done = subprocess.run(command, cwd=TESTS.parent, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout


NAME: Final = test_no_test_sees_a_users_settings.__name__


def test_what_is_no_setting_stays() -> None:
    """The tests' own variables, and how this machine reaches others."""
    kept = {**dict.fromkeys(OF_TESTS, "1"), "GIT_SSL_CAINFO": "/ca.pem", "HTTP_PROXY": "http://proxy.test:3128"}
    environment = {**kept, **USERS, "NO_PROXY": "inside.test"}
    forget_settings(environment)
    direct = "inside.test,127.0.0.1,localhost"
    assert environment == {**kept, "NO_PROXY": direct, "no_proxy": direct}


def test_what_runs_on_this_machine_is_asked_without_a_proxy() -> None:
    assert urllib.request.proxy_bypass("127.0.0.1:8500")
    assert urllib.request.proxy_bypass("localhost:8500")


def test_no_hook_of_the_users_runs_in_a_repository_of_a_test(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """git's own configuration may name hooks for every repository."""
    hook = tmp_path / "hooks" / "pre-commit"
    hook.parent.mkdir()
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    (tmp_path / "gitconfig").write_text(f"[core]\nhooksPath = {hook.parent}\n[commit]\ngpgSign = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    assert Repository(tmp_path / "repository").commit("Start")


def test_every_variable_that_tells_the_tests_something_is_named() -> None:
    """Else it would be taken for a setting, and do nothing."""
    read = re.compile(r'environ(?:\.get\(|\[)"(PROXYGEN_\w+)"|"(PROXYGEN_\w+)" in os\.environ')
    found = {
        name
        for path in TESTS.rglob("*.py")
        for groups in read.findall(path.read_text(encoding="utf-8"))
        for name in filter(None, groups)
    }
    assert found
    assert found <= OF_TESTS
