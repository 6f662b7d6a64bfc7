"""What the pipeline says before it does anything: settings, the order of stages, the state of the checkout."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.harness.pipeline import DEPLOY, PIPELINE, Pipeline, Repository

STAGES = ["test", "lint", "build", "push", "canary", "promote"]
DIGEST = f"sha256:{'a' * 64}"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "repository")
    repository.commit("Begin")
    return repository


@pytest.fixture
def pipeline(repository: Repository, tmp_path: Path) -> Pipeline:
    """All that is needed, and nothing behind it."""
    inventory = tmp_path / "inventory.json"
    inventory.write_text("{}")
    settings = {
        "engine": "podman",
        "registry": "127.0.0.1:1",
        "image": "team/web",
        "base": "127.0.0.1:1/base:1",
        "tests": "true",
        "definition": repository.app,
        "dockerfile": repository.app.parent / "Dockerfile",
        "service": "web",
        "inventory": inventory,
    }
    return Pipeline(repository, settings)


@pytest.mark.parametrize(
    ("name", "value", "wrong"),
    [
        ("engine", "rm -rf", "must be docker or podman"),
        ("registry", "--tls-verify=false", "is no registry"),
        ("registry", "registry.example.com/team", "is no registry"),
        ("image", "Team/Web", "is no image name"),
        ("image", "web:latest", "is no image name"),
        ("base", "--all", "is no image reference"),
        ("service", "web;reboot", "is no service name"),
        ("steps", "5,150", "is not from 0 to 100"),
        ("admin", "file:///etc/passwd", "is not http://HOST:PORT"),
        ("commit", "HEAD", "is no commit"),
        ("inventory", "/nowhere/at/all", "does not exist"),
        ("inconclusive", "maybe", "is no proceed or stop"),
        ("timeout", "soon", "could not convert"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_with_its_value(
    pipeline: Pipeline, name: str, value: str, wrong: str
) -> None:
    pipeline.settings[name] = value
    done = pipeline.run("build")
    assert done.code == 2
    assert f"PIPELINE_{name.upper()}" in done.said
    assert repr(value) in done.said
    assert wrong in done.said


@pytest.mark.parametrize(
    ("stage", "lacking"),
    [("test", "tests"), ("lint", "definition"), ("build", "base"), ("push", "registry"), ("canary", "inventory")],
)
def test_a_stage_says_what_it_lacks(pipeline: Pipeline, stage: str, lacking: str) -> None:
    del pipeline.settings[lacking]
    done = pipeline.run(stage)
    assert done.code == 2
    assert f"the stage {stage} needs PIPELINE_{lacking.upper()}: " in done.said


def test_all_says_what_is_lacking_for_its_last_stage_before_its_first_begins(pipeline: Pipeline) -> None:
    del pipeline.settings["inventory"]
    done = pipeline.run("all")
    assert done.code == 2
    assert "PIPELINE_INVENTORY" in done.said
    assert "== test" not in done.said


def test_a_flag_goes_before_a_variable(pipeline: Pipeline) -> None:
    pipeline.settings["tests"] = "false"
    assert pipeline.run("test").code == 1
    assert pipeline.run("test", "--tests=true").code == 0


def test_a_checkout_with_changes_is_not_shipped(pipeline: Pipeline) -> None:
    (pipeline.repository.directory / "forgotten.py").write_text("")
    done = pipeline.run("test")
    assert done.code == 2
    assert "changes that are in no commit" in done.said
    assert "forgotten.py" in done.said


def test_what_the_pipeline_writes_is_no_change(pipeline: Pipeline) -> None:
    assert pipeline.run("test").code == 0
    assert pipeline.output.is_dir()
    assert pipeline.run("test").code == 0


@pytest.mark.parametrize(
    ("stage", "before"), [("push", "build first"), ("canary", "push first"), ("promote", "canary first")]
)
def test_a_stage_whose_work_is_not_prepared_says_which_comes_before(
    pipeline: Pipeline, stage: str, before: str
) -> None:
    done = pipeline.run(stage)
    assert done.code == 2
    assert f"run the stage {before}" in done.said


def test_an_abort_is_safe_where_there_is_nothing_to_abort(pipeline: Pipeline) -> None:
    done = pipeline.run("abort")
    assert done.code == 0
    assert "nothing to abort" in done.said


def write_state(pipeline: Pipeline, **found: object) -> None:
    state = {"commit": "c" * 40, "base": "", "image_id": "", "image": "", "rollout": "none", "tried": False}
    pipeline.output.mkdir(parents=True, exist_ok=True)
    (pipeline.output / ".gitignore").write_text("*\n")
    (pipeline.output / "state.json").write_text(json.dumps({**state, **found}))


def test_a_commit_waits_while_another_ones_canary_is_on_trial(pipeline: Pipeline) -> None:
    write_state(pipeline, rollout="canary", image=f"127.0.0.1:1/team/web@{DIGEST}")
    done = pipeline.run("test")
    assert done.code == 2
    assert f"the rollout of {'c' * 40} is not at its end" in done.said


def test_a_commit_begins_anew_after_another_ones_end(pipeline: Pipeline) -> None:
    write_state(pipeline, rollout="promoted", image=f"127.0.0.1:1/team/web@{DIGEST}", image_id="x")
    done = pipeline.run("push")
    assert "nothing was built from this commit" in done.said


@pytest.mark.parametrize(
    "found", [{"image": "web:latest"}, {"rollout": "half"}, {"more": 1}, {"image": 7}, {"base": "x@sha256:12"}]
)
def test_a_state_that_is_none_is_refused(pipeline: Pipeline, found: dict[str, object]) -> None:
    write_state(pipeline, **found)
    done = pipeline.run("abort")
    assert done.code == 2
    assert "state.json" in done.said


def test_an_image_of_another_registry_is_not_deployed(pipeline: Pipeline) -> None:
    commit = pipeline.repository.git("rev-parse", "HEAD")
    write_state(pipeline, commit=commit, image_id="built", image=f"elsewhere.example.com/team/web@{DIGEST}")
    done = pipeline.run("canary")
    assert done.code == 2
    assert "which is not 127.0.0.1:1/team/web" in done.said


def test_programs_do_not_get_the_registrys_password(pipeline: Pipeline) -> None:
    show = f"{sys.executable} -c 'import os; print(dict(os.environ))'"
    pipeline.settings |= {"registry_user": "somebody", "registry_password": "open sesame", "tests": show}
    done = pipeline.run("test")
    assert done.code == 0
    assert "PIPELINE_SERVICE" in done.said
    assert "somebody" not in done.said
    assert "open sesame" not in done.said


def test_no_secret_has_a_flag(pipeline: Pipeline) -> None:
    done = pipeline.run("build", "--registry-password=open")
    assert done.code == 2
    assert "unrecognized arguments" in done.said


@pytest.mark.parametrize(
    ("text", "mode", "wrong"),
    [
        ("no colon\n", 0o600, "is not one line USER:PASSWORD"),
        ("user:open sesame\nanother line\n", 0o600, "is not one line USER:PASSWORD"),
        ("user:open sesame\n", 0o602, "can be written by everybody"),
    ],
)
def test_credentials_that_cannot_be_used_are_refused_and_not_quoted(
    pipeline: Pipeline, tmp_path: Path, text: str, mode: int, wrong: str
) -> None:
    file = tmp_path / "credentials"
    file.write_text(text)
    file.chmod(mode)
    pipeline.settings["registry_credentials"] = file
    done = pipeline.run("build")
    assert done.code == 2
    assert wrong in done.said
    assert "sesame" not in done.said


def test_what_a_stage_started_ends_with_it(pipeline: Pipeline, tmp_path: Path) -> None:
    """A build server that aborts sends SIGTERM; nothing may go on without it."""
    told = tmp_path / "pid"
    wait = f"import os, pathlib, time; pathlib.Path({str(told)!r}).write_text(str(os.getpid())); time.sleep(60)"
    child = pipeline.start("test", f'--tests={sys.executable} -c "{wait}"')
    deadline = time.monotonic() + 20
    while not (told.exists() and told.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=20)
    assert child.returncode == 128 + signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


def test_a_program_that_takes_too_long_is_ended(pipeline: Pipeline) -> None:
    done = pipeline.run("test", f"--tests={sys.executable} -c 'import time; time.sleep(60)'", "--timeout=0.5")
    assert done.code == 1
    assert "took longer than 0.5 s" in done.said


def test_the_manual_names_every_setting_and_no_other() -> None:
    page = (DEPLOY.parent / "docs" / "how-to" / "pipeline.md").read_text(encoding="utf-8")
    declared = set(re.findall(r"^    (\w+): .* = field\(", (PIPELINE / "shipping" / "settings.py").read_text(), re.M))
    assert len(declared) > 20
    named = {name.removeprefix("PIPELINE_").lower() for name in re.findall(r"`(PIPELINE_[A-Z_]+)`", page)}
    assert named == declared


def test_jenkins_calls_the_stages_in_their_order_and_does_nothing_else() -> None:
    text = re.sub(r"//.*", "", (DEPLOY / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8"))
    stages, post = text.split("    post {")
    assert re.findall(r"\bsh '([^']*)'", stages) == [f"python3 deploy/pipeline {stage}" for stage in STAGES]
    assert re.findall(r"\bsh '([^']*)'", post) == ["python3 deploy/pipeline abort"]
    # Each stage by its own name, and beside them the group of two and the question.
    assert re.findall(r"\bstage\('(\w+)'\)", stages) == ["check", "test", "lint", *STAGES[2:5], "approve", "promote"]
    assert len(re.findall(r"\bsh\b|\bbat\b|\bpowershell\b", text)) == len(STAGES) + 1
    # Whatever would be logic.
    assert not re.search(r"\b(script|if|for|while|try|catch|def|node|evaluate|load|build job|groovy)\b\s*[({']", text)


def test_jenkins_sets_settings_that_exist() -> None:
    text = (DEPLOY / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8")
    declared = set(re.findall(r"^    (\w+): .* = field\(", (PIPELINE / "shipping" / "settings.py").read_text(), re.M))
    set_there = {name.lower() for name in re.findall(r"PIPELINE_([A-Z_]+) =", text)}
    assert set_there
    assert set_there <= declared


def test_jenkins_gives_credentials_to_the_stages_that_need_them_alone() -> None:
    text = (DEPLOY / "jenkins" / "Jenkinsfile").read_text(encoding="utf-8")
    parts = re.split(r"stage\('(\w+)'\)", text.split("    post {")[0])
    bound = {
        name: re.findall(r"credentials\('(\w+)'\)", body) for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }
    assert {name: found for name, found in bound.items() if found} == {
        "build": ["registry"],
        "push": ["registry"],
        "canary": ["deploy"],
        "promote": ["deploy"],
    }


def test_the_stages_are_the_ones_that_the_command_shows(pipeline: Pipeline) -> None:
    said = pipeline.run("test", "--help").said
    assert re.findall(r"^  (\w+) {2,}[a-z]", said, re.MULTILINE)[: len(STAGES) + 2] == [*STAGES, "abort", "all"]
