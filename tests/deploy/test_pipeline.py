"""From a commit to production, on the real parts: git, a registry with TLS and passwords, two engines, Ansible, Consul,
nginx and the sidecar.

One engine builds, the other is production's: what runs there came out of the registry.
"""

from __future__ import annotations

import asyncio
import json
import re
import shlex
import shutil
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.consul.certificates import make_certificates
from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.engine import Engine, own_engine
from tests.harness.load import Load, Tally
from tests.harness.nginx import NginxServer
from tests.harness.pipeline import Pipeline, Repository
from tests.harness.ports import free_ports
from tests.harness.registry import Registry
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary

pytestmark = pytest.mark.slow

HOST = "web.example.com"
IMAGE = "team/web"
BILL = "sbom.cdx.json"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    directory = tmp_path_factory.mktemp("registry")
    made = make_certificates(directory)
    registry = Registry(directory, ca=made.ca, certificate=made.server, key=made.server_key)
    registry.start()
    yield registry
    registry.stop()


@pytest.fixture(scope="module")
def base(yard: Engine, registry: Registry, proxygen_image: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The application's base image in the registry, by tag."""
    scratch = tmp_path_factory.mktemp("base")
    certificates = scratch / "certificates"
    certificates.mkdir()
    shutil.copyfile(registry.ca, certificates / "ca.crt")
    name = f"{registry.address}/proxygen:stable"
    login = f"--creds={registry.user}:{registry.password}"
    yard.call("push", "--quiet", f"--cert-dir={certificates}", login, proxygen_image, f"docker://{name}", timeout=300)
    return name


@pytest.fixture(scope="module")
def production(registry: Registry) -> Iterator[Engine]:
    """The engine of the host on which the application runs; it trusts the registry's certificate."""
    with own_engine(driver="overlay", trusted=registry.ca) as engine:
        yield engine


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repository")


@pytest.fixture
def make_pipeline(
    yard: Engine, registry: Registry, base: str, repository: Repository, tmp_path: Path
) -> Callable[..., Pipeline]:
    """Make the pipeline of the repository; keywords are further settings."""
    definition = tmp_path / "service.json"
    service = {"name": "web", "port": 8080, "address": "127.0.0.1", "tags": [f"proxygen.route={HOST}"]}
    definition.write_text(json.dumps({"service": service}))

    def make(**settings: object) -> Pipeline:
        given = {
            "tests": f"{sys.executable} -m unittest test_app",
            "definition": definition,
            "proxygen": f"{sys.executable} -m proxygen",
            "engine": shlex.join(["podman", *yard.options]),
            "registry": registry.address,
            "registry_ca": registry.ca,
            "registry_credentials": registry.credentials(tmp_path / "credentials"),
            "image": IMAGE,
            "dockerfile": "deploy/example/Dockerfile",
            "base": base,
            "build_options": "--isolation=chroot --network=host",
            **settings,
        }
        given = {name: value for name, value in given.items() if value is not None}
        return Pipeline(repository, given, yard.environment)

    return make


def state(pipeline: Pipeline) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((pipeline.output / "state.json").read_text())
    return found


def do(pipeline: Pipeline, *stages: str) -> str:
    """Run stages that must succeed; return what they said."""
    said = ""
    for stage in stages:
        done = pipeline.run(stage, timeout=600)
        assert done.code == 0, done.said
        said += done.said
    return said


def test_the_registry_has_what_was_built_of_the_commit_by_a_pinned_base(
    make_pipeline: Callable[..., Pipeline], repository: Repository, registry: Registry, yard: Engine
) -> None:
    commit = repository.commit("Begin")
    pipeline = make_pipeline()
    said = do(pipeline, "test", "lint", "build")
    built = state(pipeline)
    assert built["base"] == f"{registry.address}/proxygen@{registry.digest('proxygen', 'stable')}"
    labels = json.loads(yard.call("image", "inspect", built["image_id"]))[0]["Labels"]
    assert labels["org.opencontainers.image.revision"] == commit
    assert labels["org.opencontainers.image.base.name"] == f"{registry.address}/proxygen:stable"
    assert labels["org.opencontainers.image.base.digest"] == registry.digest("proxygen", "stable")
    bill = json.loads((pipeline.output / BILL).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    assert any(component["name"] == "aiohttp" for component in bill["components"])

    said += do(pipeline, "push")
    pushed = state(pipeline)["image"]
    assert commit[:12] in registry.tags(IMAGE)
    assert pushed == f"{registry.address}/{IMAGE}@{registry.digest(IMAGE, commit[:12])}"

    # Again, as a build server does after a stage that failed for other reasons: the same comes of it.
    said += do(pipeline, "build", "push")
    assert state(pipeline) == {**built, "image": pushed}
    see_that_no_secret_was_told(pipeline, registry, said)


def see_that_no_secret_was_told(pipeline: Pipeline, registry: Registry, said: str) -> None:
    """Neither in the log, which holds every command line, nor in what is kept, nor left behind in a file."""
    kept = "".join(path.read_text(errors="replace") for path in pipeline.output.iterdir())
    assert registry.password in Path(str(pipeline.settings["registry_credentials"])).read_text()
    assert registry.password not in said + kept
    assert "podman" in said
    assert not list(Path(tempfile.gettempdir()).glob("pipeline-*"))


@pytest.mark.parametrize("wrong", ["none", "another password"])
def test_nothing_is_pushed_without_the_right_credentials(
    make_pipeline: Callable[..., Pipeline], repository: Repository, registry: Registry, wrong: str, tmp_path: Path
) -> None:
    (repository.directory / "README").write_text(f"{wrong}\n")
    commit = repository.commit("Begin")
    pipeline = make_pipeline()
    do(pipeline, "build")
    credentials = tmp_path / "wrong"
    credentials.write_text("pipeline:guessed\n")
    credentials.chmod(0o600)
    # Not what the machine's own user is logged in to.
    elsewhere = {"REGISTRY_AUTH_FILE": str(tmp_path / "nobody.json")}
    (tmp_path / "nobody.json").write_text("{}")
    stranger = make_pipeline(registry_credentials=None if wrong == "none" else credentials)
    stranger = Pipeline(repository, stranger.settings, {**stranger.environment, **elsewhere})
    done = stranger.run("push")
    assert done.code == 1
    assert "again in" not in done.said, "what the registry refused is not tried again"
    assert commit[:12] not in registry.tags(IMAGE)
    assert state(pipeline)["image"] == ""


def test_it_is_the_same_with_dockers_command_and_credentials_in_variables(
    make_pipeline: Callable[..., Pipeline], repository: Repository, registry: Registry, yard: Engine, tmp_path: Path
) -> None:
    """Podman under Docker's name stands in for Docker, which takes certificates from the system, not by an option."""
    (repository.directory / "README").write_text("variables\n")
    commit = repository.commit("Begin")
    docker = tmp_path / "docker"
    docker.write_text(f"#!{sys.executable}\nimport os, sys\nos.execvp('podman', ['podman', *sys.argv[1:]])\n")
    docker.chmod(0o755)
    given = {"registry_user": registry.user, "registry_password": registry.password, "registry_ca": None}
    engine = shlex.join([str(docker), *yard.options])
    pipeline = make_pipeline(registry_credentials=None, engine=engine, **given)
    trusting = {**pipeline.environment, "SSL_CERT_FILE": str(registry.ca)}
    pipeline = Pipeline(repository, pipeline.settings, trusting)
    said = do(pipeline, "build", "push")
    assert commit[:12] in registry.tags(IMAGE)
    assert state(pipeline)["image"].endswith(f"@{registry.digest(IMAGE, commit[:12])}")
    assert "--cert-dir" not in said
    assert registry.password not in said


def test_a_registry_that_comes_back_is_pushed_to_again(
    make_pipeline: Callable[..., Pipeline], repository: Repository, registry: Registry
) -> None:
    (repository.directory / "README").write_text("restart\n")
    commit = repository.commit("Begin")
    pipeline = make_pipeline()
    do(pipeline, "build")
    registry.stop()
    child = pipeline.start("push")
    try:
        assert child.stdout is not None
        assert any(b"again in" in line for line in child.stdout)
    finally:
        registry.start()
        said, _ = child.communicate(timeout=120)
    assert child.returncode == 0, said
    assert commit[:12] in registry.tags(IMAGE)


def test_a_definition_that_production_would_quarantine_is_stopped(
    make_pipeline: Callable[..., Pipeline],
    repository: Repository,
    consul: ConsulAgent,
    any_nginx_binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    make_sidecar: Callable[..., Sidecar],
    tmp_path: Path,
) -> None:
    consul.register("shop", port=9001, tags=["proxygen.route=shop.example.com"])
    nginx = make_nginx(any_nginx_binary)
    sidecar = make_sidecar(consul, nginx)
    snapshot = tmp_path / "snapshot.json"
    assert sidecar.command("snapshot", "--output", str(snapshot)).returncode == 0
    repository.commit("Begin")
    pipeline = make_pipeline(snapshot=snapshot)
    pipeline = Pipeline(repository, pipeline.settings, {"PROXYGEN_CONFIG": str(sidecar.config)})
    said = do(pipeline, "lint")
    assert "2 services pass" in said

    # Fine by itself: only beside production's nginx does it turn out that nobody has such a certificate.
    definition = Path(str(pipeline.settings["definition"]))
    service = {"name": "web", "port": 8080, "tags": [f"proxygen.route={HOST}", "proxygen.tls=nobodys"]}
    definition.write_text(json.dumps({"service": service}))
    done = pipeline.run("lint")
    assert done.code == 1
    assert "quarantined service web" in done.said

    service["tags"] = [f"proxygen.route={HOST}", "proxygen.stiky=cookie"]
    definition.write_text(json.dumps({"service": service}))
    done = pipeline.run("lint")
    assert done.code == 1
    assert "did you mean sticky?" in done.said


class Clients:
    """Somebody who uses the application all the time."""

    def __init__(self, port: int) -> None:
        self._load = Load("127.0.0.1", port, headers={"Host": HOST}, clients=2, pause=0.02)
        self._thread = threading.Thread(target=lambda: asyncio.run(self._load.send_for(900)), name="clients")

    def __enter__(self) -> Tally:
        self._thread.start()
        return self._load.tally

    def __exit__(self, *_: object) -> None:
        self._load.stop()
        self._thread.join(30)


def consecutive_ports(count: int) -> int:
    """Return the first of so many free ports in a row."""
    while True:
        ports = free_ports(count)
        if ports[-1] - ports[0] == count - 1:
            return ports[0]


def write_inventory(path: Path, production: Engine, consul: ConsulAgent, sidecar: Sidecar) -> Path:
    own = {
        "ansible_connection": "local",
        "ansible_python_interpreter": sys.executable,
        "proxygen_application_docker_host": production.url,
        "proxygen_application_instances": 2,
        "proxygen_application_port": consecutive_ports(3),
        "proxygen_application_routes": [HOST],
        "proxygen_application_consul": consul.address,
        "proxygen_application_environment": {"PROXYGEN_REGISTER_ADDRESS": "127.0.0.1"},
        "proxygen_application_instance_variables": {"APP_NAME": "id"},
        "proxygen_application_step_seconds": 6,
        "proxygen_application_check_seconds": 2,
        "proxygen_application_stop_timeout": 30,
        "proxygen_application_admin": f"http://127.0.0.1:{sidecar.admin}",
        "proxygen_application_command": [sys.executable, "-m", "proxygen"],
        "proxygen_application_command_environment": {"CONSUL_HTTP_ADDR": consul.address},
    }
    path.write_text(json.dumps({"applications": {"hosts": {"localhost": own}}}))
    return path


def running(production: Engine) -> dict[str, tuple[str, str]]:
    """Return by container its commit and the digest that it was started of."""
    found = {}
    for name in production.call("ps", "--format", "{{.Names}}").split():
        container = json.loads(production.call("container", "inspect", name))[0]
        image = json.loads(production.call("image", "inspect", container["Image"]))[0]
        found[name] = (image["Labels"]["org.opencontainers.image.revision"], container["ImageName"].rpartition("@")[2])
    return found


def versions(sidecar: Sidecar) -> set[str]:
    """Return whose instances the sidecar sends requests to."""
    report = sidecar.request("/api/v1/services/web")[1]
    return {
        instance["id"]
        for variant in report.get("variants", ())
        for instance in variant["instances"]
        if instance["state"] == "serving"
    }


def test_commits_reach_production_through_a_canary_and_a_broken_one_does_not(
    make_pipeline: Callable[..., Pipeline],
    repository: Repository,
    registry: Registry,
    production: Engine,
    consul: ConsulAgent,
    any_sidecar: Sidecar,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    sidecar = any_sidecar
    sidecar.start()
    pipeline = make_pipeline(
        service="web",
        ansible=Path(sys.executable).with_name("ansible-playbook"),
        inventory=write_inventory(tmp_path / "inventory.json", production, consul, sidecar),
        steps="30%",
        admin=f"http://127.0.0.1:{sidecar.admin}",
    )

    # A: the first. Nothing runs that a canary could be compared with.
    first = repository.commit("Begin")
    said = do(pipeline, "all")
    assert running(production) == dict.fromkeys(["web-0", "web-1"], (first, registry.digest(IMAGE, first[:12])))
    process.wait_until(lambda: len(versions(sidecar)) == 2, what="both instances served")

    with Clients(sidecar.http) as tally:
        # B: a canary of it serves beside A, and then everything.
        repository.replace("ok\\n", "fine\\n")
        second = repository.commit("Say it is fine")
        said += do(pipeline, "test", "lint", "build", "push", "canary")
        assert running(production)["web-canary-0"] == (second, registry.digest(IMAGE, second[:12]))
        assert running(production)["web-0"][0] == first
        share = tally.share(lambda name: "canary" in name)
        assert share > 0
        assert state(pipeline)["rollout"] == "canary"

        told = do(pipeline, "promote")
        assert re.search(r"good: .* failed on the canary", told)
        new = dict.fromkeys(["web-0", "web-1"], (second, registry.digest(IMAGE, second[:12])))
        assert running(production) == new
        # Once more: nothing is left to do, and nobody is asked.
        again = do(pipeline, "canary", "promote", "abort")
        assert "ansible-playbook" not in again
        assert running(production) == new

        # C: its tests are content, but it hangs up on everybody. Stable stands in for it, so clients see nothing of it.
        repository.replace("async def answer(request: web.Request) -> web.Response:\n", HANGS_UP)
        third = repository.commit("Hang up")
        done = pipeline.run("all", timeout=600)
        assert done.code == 1, done.said
        assert "aborted: the version before serves on" in done.said
        assert registry.digest(IMAGE, third[:12])
        assert state(pipeline)["rollout"] == "aborted"
        assert running(production) == new

        # Nothing of it is left that the next commit would meet.
        assert "nothing to abort" in do(pipeline, "abort")
        before = tally.ok
        process.wait_until(lambda: tally.ok > before + 20, what="more answers")
    assert tally.failures == {}, tally
    assert tally.ok > 500
    record_property("pipeline_requests", tally.ok)
    record_property("pipeline_canary_share_over_all", round(share, 4))
    see_that_no_secret_was_told(pipeline, registry, said + done.said)


HANGS_UP = """\
async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
"""
