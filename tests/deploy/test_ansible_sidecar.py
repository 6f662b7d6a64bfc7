"""The role proxygen on a host that systemd runs, over ssh, beside a real Consul that denies by default."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.harness import process
from tests.harness.ansible import Ansible, Played
from tests.harness.load import fetch
from tests.harness.systemd_host import SystemdHost
from tests.harness.tools import missing

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TOKEN = "/etc/credstore/proxygen.consul.token"
THEIRS = "# a line of the operator's own"
SITE = "hello.example.com"
CONNECTION = "connection"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A host with nginx and Consul, and Ansible that reaches it by a key of this test."""

    host: SystemdHost
    ansible: Ansible
    wheel: Path
    management: str
    """The token that may do everything."""

    def play(self, *options: str, playbook: str = "sidecar.yml", **variables: object) -> Played:
        known = {"proxygen_wheel": str(self.wheel), "proxygen_consul_management_token": self.management}
        played = self.ansible.play(playbook, *options, **{**known, **variables})
        assert self.management not in played.said
        return played

    def consul(self, *arguments: str, token: str, check: bool = True) -> str:
        return self.host.run("consul", *arguments, environment={"CONSUL_HTTP_TOKEN": token}, check=check)

    def token(self) -> str:
        return self.host.read(TOKEN)

    def answers(self) -> int:
        return asyncio.run(fetch(self.host.address, 80, "/", {"Host": SITE}))[0]


@pytest.fixture(scope="module")
def directory() -> Iterator[Path]:
    """Short, as ssh makes sockets in it."""
    path = Path(tempfile.mkdtemp(prefix="pg-"))
    yield path
    # ssh removes its socket when it likes.
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture(scope="module")
def wheel(directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=120)
    return next(directory.glob("*.whl"))


@pytest.fixture(scope="module")
def make_target(make_host: Callable[..., SystemdHost], directory: Path, wheel: Path) -> Iterator[Callable[[], Target]]:
    if shutil.which("ssh") is None:
        missing("ssh (Debian's openssh-client)")
    made: list[Target] = []

    def make() -> Target:
        host = make_host()
        management = guard_consul(host)
        register(host, management)
        host.run("sed", "-i", f"s/^http {{/http {{\\n    {THEIRS}/", "/etc/nginx/nginx.conf")
        own = directory / str(len(made))
        own.mkdir()
        ansible = Ansible(own, inventory(host, own))
        made.append(Target(host=host, ansible=ansible, wheel=wheel, management=management))
        return made[-1]

    yield make
    for target in made:
        # The connection that Ansible keeps for its next task.
        path = target.ansible.directory / CONNECTION
        subprocess.run(["ssh", "-o", f"ControlPath={path}", "-O", "exit", target.host.address], check=False)


@pytest.fixture(scope="module")
def target(make_target: Callable[[], Target]) -> Target:
    return make_target()


@pytest.fixture
def fresh(target: Target, make_target: Callable[[], Target]) -> Target:
    """One on which the role was not run yet: the target itself, where this test comes first."""
    return target if "No such file" in target.host.run("ls", "/opt/proxygen", check=False) else make_target()


@pytest.fixture(scope="module")
def installed(target: Target) -> Target:
    """The target on which the role was run."""
    played = target.play()
    assert played.code == 0, played.said[-6000:]
    return target


def guard_consul(host: SystemdHost) -> str:
    """Start Consul with ACLs that deny by default; return the token that may do everything."""
    host.install_consul()
    host.write("/etc/consul/acl.json", json.dumps({"acl": {"enabled": True, "default_policy": "deny"}}))
    host.systemctl("start", "consul")
    said: list[str] = []

    def taken_over() -> bool:
        said[:] = re.findall(r"SecretID:\s+(\S+)", host.run("consul", "acl", "bootstrap", check=False))
        return bool(said)

    process.wait_until(taken_over, what="Consul's ACLs", timeout=60.0)
    own = {"CONSUL_HTTP_TOKEN": said[0]}
    host.run("consul", "acl", "set-agent-token", "agent", said[0], environment=own)
    nodes = ("consul", "catalog", "nodes")
    process.wait_until(lambda: host.name in host.run(*nodes, environment=own, check=False), what="its node", timeout=60)
    return said[0]


def register(host: SystemdHost, token: str) -> None:
    """Have something to serve."""
    host.run("systemd-run", "--unit=hello", "python3", "-m", "http.server", "--bind", "127.0.0.1", "9001")
    service = {"name": "hello", "address": "127.0.0.1", "port": 9001, "tags": [f"proxygen.route={SITE}"]}
    host.write("/root/hello.json", json.dumps({"service": service}))
    host.run("consul", "services", "register", "/root/hello.json", environment={"CONSUL_HTTP_TOKEN": token})


def inventory(host: SystemdHost, directory: Path) -> dict[str, object]:
    """Make a key for this test alone, and know the host by its own."""
    private, known = Ed25519PrivateKey.generate(), directory / "known_hosts"
    key = directory / "key"
    key.touch(mode=0o600)
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
    host.write("/root/.ssh/authorized_keys", f"{public}\n", mode=0o600)
    known.write_text(f"{host.address} {host.read('/etc/ssh/ssh_host_ed25519_key.pub')}\n")
    options = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o ControlMaster=auto -o ControlPersist=60s"
    variables = {
        "ansible_host": host.address,
        "ansible_user": "root",
        "ansible_ssh_private_key_file": str(key),
        "ansible_ssh_args": options,
        "ansible_control_path": str(directory / CONNECTION),
        "ansible_pipelining": True,
    }
    hosts = {"hosts": {"proxy": variables}}
    return {"all": {"children": {"proxies": hosts, "applications": hosts}}}


def test_what_nginx_refuses_is_taken_back(fresh: Target) -> None:
    target = fresh
    before = target.host.read("/etc/nginx/nginx.conf")
    played = target.play("--start-at-task=Read nginx.conf", proxygen_output="/nonsense; and more")
    assert played.code == 2
    assert "nginx.conf is as it was; nginx refused it" in played.said
    assert "/nonsense" in played.said
    assert target.host.read("/etc/nginx/nginx.conf") == before
    target.host.run("nginx", "-t")


def test_a_dry_run_changes_nothing(fresh: Target) -> None:
    target = fresh
    played = target.play("--check")
    assert played.code == 0, played.said[-4000:]
    assert "No such file" in target.host.run("ls", "/opt/proxygen", TOKEN, check=False)
    assert "proxygen" not in target.host.read("/etc/nginx/nginx.conf")


def test_the_sidecar_serves_a_request_and_a_second_run_changes_nothing(installed: Target) -> None:
    assert installed.answers() == 200
    assert installed.host.is_active("proxygen")
    again = installed.play()
    assert (again.code, again.changed) == (0, {"proxy": 0}), again.said[-6000:]
    assert installed.host.show("proxygen", "NRestarts") == "0"


def test_the_operators_file_stays_his(installed: Target) -> None:
    lines = installed.host.read("/etc/nginx/nginx.conf")
    theirs = re.sub(r"(?s)# BEGIN proxygen: (\w+)\n.*?# END proxygen: \1\n?", "", lines)
    assert THEIRS in theirs
    assert "proxygen" not in theirs
    assert lines.count("/var/lib/proxygen/current/http.d/*.conf;") == 1
    assert lines.count("/var/lib/proxygen/current/stream.d/*.conf;") == 1


def test_the_token_may_read_and_nothing_else(installed: Target) -> None:
    token = installed.token()
    assert installed.host.run("stat", "--format=%a %U", TOKEN) == "400 root"
    assert "hello" in installed.consul("catalog", "services", token=token)
    for command in (
        ("kv", "put", "proxygen/canary/hello", '{"canary": "1%"}'),
        ("services", "deregister", "-id=hello"),
        ("acl", "token", "list"),
    ):
        assert "Permission denied" in installed.consul(*command, token=token, check=False)
    rules = installed.consul("acl", "policy", "read", "-name=proxygen-sidecar", token=installed.management)
    assert (ROOT / "deploy/acl/sidecar.hcl").read_text().strip() in rules
    assert re.search(
        r"Policies:\n.*proxygen-sidecar\n?$", installed.consul("acl", "token", "read", "-self", token=token)
    )


def test_a_token_that_was_revoked_is_replaced(installed: Target) -> None:
    revoked = installed.token()
    accessor = re.findall(r"AccessorID:\s+(\S+)", installed.consul("acl", "token", "read", "-self", token=revoked))
    installed.consul("acl", "token", "delete", f"-id={accessor[0]}", token=installed.management)
    played = installed.play()
    assert played.code == 0, played.said[-4000:]
    assert installed.token() != revoked
    assert installed.answers() == 200
    assert installed.token() not in played.said


def test_an_applications_tokens_are_for_its_service_alone(installed: Target) -> None:
    played = installed.play(playbook="application-tokens.yml", service="shop")
    assert played.code == 0, played.said[-4000:]
    own, lever = (f"/etc/proxygen/{kind}/shop.token" for kind in ("applications", "canaries"))
    # The containers' user, which the host does not know.
    assert installed.host.run("stat", "--format=%a %u", own) == "400 101"
    assert installed.host.run("stat", "--format=%a %u", lever) == "400 0"
    tokens = [installed.host.read(path) for path in (own, lever)]
    register, move = ("services", "register", "-name"), ("kv", "put")
    for token, allowed, refused in (
        (tokens[0], (*register, "shop"), (*register, "hello")),
        (tokens[1], (*move, "proxygen/canary/shop", "{}"), (*move, "proxygen/canary/hello", "{}")),
    ):
        installed.consul(*allowed, token=token)
        assert "Permission denied" in installed.consul(*refused, token=token, check=False)
    again = installed.play(playbook="application-tokens.yml", service="shop")
    assert (again.code, again.changed) == (0, {"proxy": 0})
    assert not any(token in played.said + again.said for token in tokens)
