"""Which tests a newcomer's run has, and what it says of the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.cli.test_frame import EVERY

ROOT: Final = Path(__file__).parents[1]

INI: Final = """
[pytest]
addopts = -m "not bench" --dist load --no-loadscope-reorder -p xdist -p tests.harness.selection
markers =
    whole(reason): .
    slow: .
    faults: .
    incident(number): .
    second_consul: .
    bench: .
"""

TESTS: Final = """
import pytest

@pytest.fixture(scope="module")
def shared():
    with open("made", "a") as made:
        made.write("x")

@pytest.mark.parametrize("number", [1, pytest.param(2, marks=pytest.mark.whole("a second nginx"))])
def test_each(number): pass

@pytest.mark.slow
def test_slow(): pass

@pytest.mark.incident("T1")
def test_incident(): pass

@pytest.mark.bench
def test_bench(): raise AssertionError

@pytest.mark.parametrize("number", range(6))
def test_shared(shared, number): pass

@pytest.mark.xdist_group("red")
def test_red(): assert False
"""


def run(directory: Path, *arguments: str, tests: str = TESTS) -> tuple[str, str]:
    """Return the last line, which has the counts, and all of what pytest said about those tests."""
    (directory / "integration").mkdir()
    (directory / "pytest.ini").write_text(INI)
    (directory / "integration" / "test_it.py").write_text(tests)
    command = [sys.executable, "-m", "pytest", "-q", *arguments]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    return done.stdout.splitlines()[-1], done.stdout + done.stderr


@pytest.mark.parametrize("workers", ["0", "2"])
def test_the_plain_run_says_what_it_left_out(tmp_path: Path, workers: str) -> None:
    last, said = run(tmp_path, "-n", workers)
    assert "1 failed, 7 passed" in last, said
    assert "3 tests (1 a second nginx, 1 slow, 1 fault scenarios)" in said
    assert "FAILED integration/test_it.py::test_red -" in said, "an id that a person can run again"
    assert (tmp_path / "made").read_text() == "x", "what a module shares is made in one worker"


def test_all_is_everything_but_benches(tmp_path: Path) -> None:
    last, said = run(tmp_path, "--all")
    assert "1 failed, 10 passed" in last, said
    assert "left out" not in said


@pytest.mark.parametrize(
    ("named", "passed"),
    [
        (["integration/test_it.py", "--deselect", "integration/test_it.py::test_red"], 10),
        (["-k", "slow or incident"], 2),
        (["-m", "slow"], 1),
        (["--faults"], 1),
    ],
)
def test_what_is_named_runs(tmp_path: Path, named: list[str], passed: int) -> None:
    last, said = run(tmp_path, *named)
    assert last.startswith(f"{passed} passed"), said
    assert "left out" not in said


def test_what_is_named_runs_without_workers(tmp_path: Path) -> None:
    """`tests/run FILE` answers at once, though tests/run asks for workers."""
    _, said = run(tmp_path, "-n", "auto", "-v", "integration/test_it.py::test_slow")
    assert "[gw0]" not in said, said
    assert "bringing up nodes" not in said
    assert "1 passed" in said


# --- what is in it ---------------------------------------------------------------------------------------------------

_CLI: Final = "integration/test_cli_consul.py"
_COMMANDS: Final = "integration/test_commands.py"
_GATE: Final = "integration/test_reload_refusals.py"
_LEVER: Final = f"{_COMMANDS}::test_the_canary_lever_is_seen_in_the_measured_split"
_NETWORK: Final = "integration/test_network_commands.py::test_a_host_lives_by_the_commands_from_init_to_cleanup"
_SERVED: Final = "integration/test_sidecar.py::test_a_registered_service_is_served_and_a_deregistered_one_is_not"

SHOWN: Final[Mapping[str, str]] = {
    "run": _SERVED,
    "render": f"{_COMMANDS}::test_render_never_writes_into_the_live_output",
    "check": f"{_COMMANDS}::test_check_names_what_is_quarantined",
    "diff": f"{_COMMANDS}::test_diff_shows_what_a_release_would_change",
    "snapshot": f"{_COMMANDS}::test_a_snapshot_renders_to_the_live_bytes_without_consul_or_sidecar",
    "status": f"{_COMMANDS}::test_status_shows_what_is_served_and_what_is_not",
    "top": "integration/test_top.py::test_in_a_pipe_it_prints_one_look",
    "history": f"{_COMMANDS}::test_history_lists_the_generations_newest_first",
    "rollback": f"{_COMMANDS}::test_a_rollback_to_any_generation",
    "release-hold": f"{_COMMANDS}::test_a_rollback_holds_new_plans_until_it_is_released",
    "canary set": f"{_COMMANDS}::test_the_canary_lever_is_seen_in_the_measured_split",
    "canary show": f"{_CLI}::test_the_lever_is_set_promoted_and_aborted_beside_what_others_set",
    "canary promote": _LEVER,
    "canary abort": _LEVER,
    "canary reset": f"{_CLI}::test_a_reset_gives_the_shares_back_to_the_tags",
    "demo": "integration/test_demo.py::test_the_demo_measures_its_split_and_removes_itself",
    "register": "integration/test_registration_command.py"
    "::test_a_command_is_announced_when_it_answers_and_gone_when_it_has_ended",
    "registrator": "integration/test_registrator_events.py::test_the_command_registers_what_runs_and_leaves_nothing",
    "tags build": "cli/test_tags.py::test_every_key_has_a_flag_whose_documented_example_builds",
    "tags lint": f"{_CLI}::test_lint_says_what_would_clash_with_what_consul_holds",
    "tags set": f"{_COMMANDS}::test_tags_set_on_a_live_registration_reach_nginx",
    "network init": _NETWORK,
    "network up": _NETWORK,
    "network status": _NETWORK,
    "network doctor": _NETWORK,
    "network release": _NETWORK,
    "network cleanup": _NETWORK,
    "network frr apply": _NETWORK,
    "network frr render": _NETWORK,
    "network docker render": _NETWORK,
    # Stages, by the names that the program times them by.
    "plan": f"{_COMMANDS}::test_check_names_what_is_quarantined",
    "stage": _SERVED,
    "test": f"{_GATE}::test_a_missing_working_directory_never_reaches_nginx",
    "drain": _SERVED,
    "publish": _SERVED,
    "push": "integration/test_push.py::test_servers_weights_and_health_need_no_reload_and_the_files_follow",
    "reload": f"{_GATE}::test_a_snippet_that_the_master_refuses_in_silence_is_rolled_back",
    "prove": f"{_GATE}::test_a_candidate_that_ends_every_worker_is_rolled_back_and_not_tried_again",
    "restore": f"{_GATE}::test_a_snippet_that_the_master_refuses_in_silence_is_rolled_back",
}
"""A plain test for each command and each stage."""

_NEITHER: Final = {"tags build"}
"""Commands that speak to nobody."""

_STAGE: Final = re.compile(r"(?:timings\.of|\.timed)\(\"(\w+)\"\)")
_COLLECT: Final = """
import json, sys
import pytest

class Seen:
    def pytest_collection_finish(self, session):
        self.found = {item.nodeid: item.fixturenames for item in session.items}

seen = Seen()
code = pytest.main(["--plain", "--collect-only", "-qq", *sys.argv[1:]], plugins=[seen])
print("\\n" + json.dumps(seen.found))
sys.exit(code)
"""


def stages() -> set[str]:
    return {stage for path in (ROOT / "proxygen").rglob("*.py") for stage in _STAGE.findall(path.read_text())}


def test_every_command_and_every_stage_is_shown() -> None:
    """A new one needs a test in the plain run."""
    assert set(SHOWN) == {name for name, _ in EVERY} | stages()


@pytest.fixture(scope="module")
def plain() -> dict[str, list[str]]:
    """The plain selection of the files that are named above: its tests, each with its fixtures."""
    files = sorted({f"tests/{node.partition('::')[0]}" for node in SHOWN.values()})
    command = [sys.executable, "-c", _COLLECT, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=True)
    found: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("shown", SHOWN)
def test_what_shows_it_is_plain_and_has_real_parts(plain: dict[str, list[str]], shown: str) -> None:
    node = f"tests/{SHOWN[shown]}"
    tests = {name: set(fixtures) for name, fixtures in plain.items() if name == node or name.startswith(f"{node}[")}
    assert tests, f"{node} is not in the plain run"
    if shown not in _NEITHER:
        assert all(fixtures & _REAL for fixtures in tests.values()), tests


_REAL: Final = {"consul_session", "make_consul", "site_consul", "host_consul", "environment", "beside"}
"""Fixtures that start a Consul, or a program that starts one."""
