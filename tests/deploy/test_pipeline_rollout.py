"""What the pipeline makes of a playbook that fails, is cut off, or did well: real Ansible, and a playbook of two tasks.

The playbook that really rolls is tried in test_pipeline.py.
"""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.pipeline import DEPLOY, Pipeline, Repository
from tests.harness.sidecar import Sidecar

pytestmark = pytest.mark.slow

ROLE = Path("roles", "proxygen_application", "filter_plugins")
IMAGE = f"127.0.0.1:1/team/web@sha256:{'a' * 64}"

# Notes each call, then does what the inventory says of its stage.
PLAYBOOK = """\
- hosts: applications
  gather_facts: false
  tasks:
    - ansible.builtin.command:
        argv: [tee, --append, "{{ calls }}"]
        stdin: "{{ stage }} {{ service }} {{ image }} {{ steps | default('none') }} {{ more | default('') }}"
    - ansible.builtin.command:
        argv: "{{ does[stage] | default(['true']) }}"
"""


class Rollout:
    """A pipeline whose commit is pushed, and what its playbook was called with."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.repository = Repository(directory / "repository")
        self.commit = self.repository.commit("Begin")
        self.playbook = directory / "ansible" / "application.yml"
        # The judge's file stands where the role has it.
        (self.playbook.parent / ROLE.parent).mkdir(parents=True)
        (self.playbook.parent / ROLE).symlink_to(DEPLOY / "ansible" / ROLE)
        self.playbook.write_text(PLAYBOOK)
        self.inventory = directory / "inventory.json"
        settings = {
            "registry": "127.0.0.1:1",
            "image": "team/web",
            "service": "web",
            "inventory": self.inventory,
            "playbook": self.playbook,
            "ansible": Path(sys.executable).with_name("ansible-playbook"),
        }
        environment = {"HOME": str(directory), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_LOCALHOST_WARNING": "0"}
        self.pipeline = Pipeline(self.repository, settings, environment)
        self.does()
        self.write_state()

    def does(self, **commands: list[str]) -> None:
        """Have a stage's playbook run a command."""
        local = {
            "ansible_connection": "local",
            "ansible_python_interpreter": sys.executable,
            "calls": str(self._directory / "calls"),
            "does": commands,
        }
        self.inventory.write_text(json.dumps({"applications": {"hosts": {"localhost": local}}}))

    def write_state(self, **found: object) -> None:
        self.pipeline.output.mkdir(parents=True, exist_ok=True)
        (self.pipeline.output / ".gitignore").write_text("*\n")
        state = {"commit": self.commit, "image_id": "built", "image": IMAGE, "rollout": "none", **found}
        (self.pipeline.output / "state.json").write_text(json.dumps(state))

    @property
    def state(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.pipeline.output / "state.json").read_text())
        return found

    @property
    def calls(self) -> list[str]:
        file = self._directory / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def stages(self) -> list[str]:
        return [call.split()[0] for call in self.calls]


@pytest.fixture
def rollout(tmp_path: Path) -> Rollout:
    return Rollout(tmp_path)


def test_the_playbook_is_told_what_and_which_stage(rollout: Rollout, tmp_path: Path) -> None:
    more = tmp_path / "more.yml"
    more.write_text("more: '{{ 1 + 1 }}'\n")
    rollout.pipeline.settings |= {"steps": "5%, 12.5,50", "variables": more}
    done = rollout.pipeline.run("canary")
    assert done.code == 0, done.said
    assert rollout.pipeline.run("promote").code == 0
    assert rollout.calls == [f"canary web {IMAGE} 5,12.5,50 2", f"promote web {IMAGE} 5,12.5,50 2"]
    assert rollout.state["rollout"] == "promoted"


def test_a_canary_that_fails_is_aborted_and_the_exit_code_says_so(rollout: Rollout) -> None:
    rollout.does(canary=["false"])
    done = rollout.pipeline.run("canary")
    assert done.code == 1
    assert "aborted: the version before serves on" in done.said
    assert rollout.stages == ["canary", "abort"]
    assert rollout.state["rollout"] == "aborted"
    # It may be tried once more.
    rollout.does()
    assert rollout.pipeline.run("canary").code == 0
    assert rollout.state["rollout"] == "canary"


def test_an_abort_that_fails_is_said_and_can_be_tried_again(rollout: Rollout) -> None:
    rollout.does(canary=["false"], abort=["false"])
    done = rollout.pipeline.run("canary")
    assert done.code == 1
    assert "the abort failed as well, look at the canary yourself" in done.said
    assert "serves on" not in done.said
    rollout.does()
    assert rollout.pipeline.run("abort").code == 0
    assert rollout.stages == ["canary", "abort", "abort"]
    assert rollout.state["rollout"] == "aborted"


def test_a_canary_stage_that_was_cut_off_is_known_to_the_abort(rollout: Rollout) -> None:
    rollout.does(canary=["sleep", "60"])
    child = rollout.pipeline.start("canary")
    process.wait_until(lambda: rollout.stages == ["canary"], what="the playbook under way", timeout=60)
    child.send_signal(signal.SIGTERM)
    said, _ = child.communicate(timeout=60)
    assert child.returncode == 143, said
    assert rollout.state["rollout"] == "starting"
    assert rollout.pipeline.run("abort").code == 0
    assert rollout.stages == ["canary", "abort"]


def test_a_promotion_that_fails_is_not_undone_and_goes_on_where_it_is_called_again(rollout: Rollout) -> None:
    rollout.write_state(rollout="canary")
    rollout.does(promote=["false"])
    assert rollout.pipeline.run("promote").code == 1
    assert rollout.stages == ["promote"]
    assert rollout.state["rollout"] == "promoting"
    rollout.does()
    assert rollout.pipeline.run("promote").code == 0
    assert rollout.state["rollout"] == "promoted"


def test_what_is_promoted_is_not_aborted(rollout: Rollout) -> None:
    rollout.write_state(rollout="promoted")
    done = rollout.pipeline.run("abort")
    assert done.code == 0
    assert "nothing to abort" in done.said
    assert rollout.stages == []


@pytest.fixture
def sidecar(consul: ConsulAgent, any_sidecar: Sidecar) -> Sidecar:
    """Serves a stable instance and a canary, of which nobody asks anything."""
    consul.register("web", id="stable", port=9001, tags=["proxygen.route=/"])
    consul.register("web", id="canary", port=9002, tags=["proxygen.route=/", "proxygen.canary=10%"])
    any_sidecar.start()
    return any_sidecar


@pytest.mark.parametrize(
    ("inconclusive", "code", "stages"), [("proceed", 0, ["canary", "promote"]), ("stop", 1, ["canary", "abort"])]
)
def test_figures_that_say_nothing_stop_a_promotion_where_they_shall(
    rollout: Rollout, sidecar: Sidecar, inconclusive: str, code: int, stages: list[str]
) -> None:
    rollout.pipeline.settings |= {
        "admin": f"http://127.0.0.1:{sidecar.admin}",
        "patience": "3",
        "inconclusive": inconclusive,
    }
    assert rollout.pipeline.run("canary").code == 0
    assert rollout.state["tried"] is True
    done = rollout.pipeline.run("promote")
    assert done.code == code, done.said
    assert "inconclusive: " in done.said
    assert rollout.stages == stages


def test_a_canary_that_is_gone_by_the_time_of_its_promotion_is_not_promoted(
    rollout: Rollout, sidecar: Sidecar, consul: ConsulAgent
) -> None:
    rollout.pipeline.settings |= {"admin": f"http://127.0.0.1:{sidecar.admin}"}
    assert rollout.pipeline.run("canary").code == 0
    consul.deregister("canary")
    process.wait_until(
        lambda: "canary" not in json.dumps(sidecar.request("/api/v1/services/web")[1]), what="the canary gone"
    )
    done = rollout.pipeline.run("promote")
    assert done.code == 1
    assert "no instance of the canary serves" in done.said
    assert rollout.stages == ["canary", "abort"]


def test_without_a_canary_there_is_nothing_to_look_at(rollout: Rollout, sidecar: Sidecar, consul: ConsulAgent) -> None:
    """As with the first version of all: the playbook had nothing to compare with, and started none."""
    consul.deregister("canary")
    process.wait_until(
        lambda: "canary" not in json.dumps(sidecar.request("/api/v1/services/web")[1]), what="the canary gone"
    )
    rollout.pipeline.settings |= {"admin": f"http://127.0.0.1:{sidecar.admin}"}
    assert rollout.pipeline.run("canary").code == 0
    assert rollout.state["tried"] is False
    done = rollout.pipeline.run("promote")
    assert done.code == 0, done.said


def test_a_sidecar_that_does_not_answer_knows_nothing_good(rollout: Rollout) -> None:
    rollout.pipeline.settings |= {"admin": "http://127.0.0.1:9", "patience": "1", "inconclusive": "stop"}
    rollout.write_state(rollout="canary", tried=True)
    done = rollout.pipeline.run("promote")
    assert done.code == 1
    assert "a sidecar does not answer" in done.said
    assert rollout.stages == ["abort"]
