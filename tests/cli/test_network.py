"""The commands of the network where there is neither Consul nor an agent; with both: tests/integration."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import Proxygen
from tests.harness.ports import free_port


@pytest.fixture
def nobody() -> str:
    """An address at which no Consul is."""
    return f"127.0.0.1:{free_port()}"


@pytest.fixture
def here(tmp_path: Path) -> tuple[str, ...]:
    """Flags that keep a command away from this machine's own files."""
    return (
        *("--network-host-id", "test", "--network-state", str(tmp_path / "state")),
        *("--network-subnet-file", str(tmp_path / "subnet.env")),
        *("--network-docker-file", str(tmp_path / "docker_opts.env")),
    )


def test_without_its_library_networking_says_what_to_install() -> None:
    program = (
        "import sys; sys.modules['pyroute2'] = None; from proxygen.cli import run_command_line; "
        "sys.exit(run_command_line(['network', 'status']))"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install '.[network]'" in ended.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--network is missing"),
        (("--network", "10.99.0.0/29"), "too small"),
        (("--network", "everything"), "no IPv4 network"),
        (("--network", "10.99.0.0/16", "--backend", "udp"), "'udp' is none of"),
        (("--network", "10.99.0.0/16", "--option", "VNI=0"), "VNI"),
        (("--network", "10.99.0.0/16", "--option", "Speed=fast"), "Speed"),
        (("--network", "10.99.0.0/16", "--option", "VNI"), "KEY=VALUE"),
        (("--network", "10.99.0.0/16", "--subnet-min", "10.98.1.0"), "not in Network"),
        (("--network", "10.99.0.0/16", "config.json"), "either FILE or flags"),
        (("config.json",), "config.json"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_before_consul_is_asked(
    arguments: tuple[str, ...], said: str, proxygen: Proxygen, nobody: str
) -> None:
    ended = proxygen("network", "init", "--consul-address", nobody, *arguments)
    assert ended.code == 2
    assert said in ended.err


def test_a_consul_that_does_not_answer_is_code_3_and_changes_nothing(
    proxygen: Proxygen, nobody: str, here: tuple[str, ...], tmp_path: Path
) -> None:
    env = tmp_path / "subnet.env"
    env.write_text("FLANNEL_SUBNET=10.99.3.1/24\n")
    consul = ("--consul-address", nobody)
    for command in (
        ("init", "--network", "10.99.0.0/16", *consul),
        ("status", *consul, *here),
        ("release", *consul, *here),
    ):
        ended = proxygen("network", *command)
        assert ended.code == 3, command
    assert env.exists()


def test_the_status_is_json_also_where_there_is_nothing(proxygen: Proxygen, nobody: str, here: tuple[str, ...]) -> None:
    ended = proxygen("network", "status", "--json", "--consul-address", nobody, *here)
    body = json.loads(ended.out)
    assert ended.code == 3
    assert (body["agent"], body["network"]) == (None, None)
    assert nobody in body["problem"]


@pytest.mark.parametrize("identity", ["", "10.99.3.0-24", "a/b", "-x", "x" * 65])
def test_an_identity_that_cannot_be_a_key_is_refused(
    identity: str, proxygen: Proxygen, nobody: str, here: tuple[str, ...]
) -> None:
    flags = (*here, "--network-host-id", identity) if identity else here
    ended = proxygen("network", "release", "--consul-address", nobody, *flags)
    assert ended.code == (2 if identity else 3)


def subnet_env(path: Path, subnet: str) -> None:
    path.write_text(f"FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET={subnet}\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n")


def test_dockers_options_follow_from_subnet_env(proxygen: Proxygen, here: tuple[str, ...], tmp_path: Path) -> None:
    subnet_env(tmp_path / "subnet.env", "10.99.3.1/24")
    ended = proxygen("network", "docker", "render", *here, "--docker-version", "28.2.0", "--network-docker-pools")
    assert ended.code == 0
    assert json.loads(ended.out) == {
        "bip": "10.99.3.1/25",
        "mtu": 1450,
        "ip-masq": False,
        "default-address-pools": [{"base": "10.99.3.128/25", "size": 28}],
        "default-network-opts": {"bridge": {"com.docker.network.driver.mtu": "1450"}},
        "allow-direct-routing": True,
    }


def test_an_operators_own_option_is_not_overwritten(proxygen: Proxygen, here: tuple[str, ...], tmp_path: Path) -> None:
    subnet_env(tmp_path / "subnet.env", "10.99.3.1/24")
    daemon = tmp_path / "daemon.json"
    text = '{"bip": "172.31.0.1/16", "log-driver": "journald"}'
    daemon.write_text(text)
    flags = ("--output", str(daemon), "--docker-version", "27.0.0")
    ended = proxygen("network", "docker", "render", *here, *flags)
    assert ended.code == 2
    assert "'log-driver' of yours" in ended.err
    assert daemon.read_text() == text
    ended = proxygen("network", "docker", "render", *here, "--merge", str(daemon), *flags)
    assert ended.code == 2
    assert "--merge is gone: print the options" in ended.err
    assert daemon.read_text() == text


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [(None, 1, "proxygen network up"), ("FLANNEL_SUBNET=10.99.3.1/24\n", 2, "FLANNEL_NETWORK")],
)
def test_without_a_subnet_there_is_nothing_to_tell_docker(
    text: str | None, code: int, said: str, proxygen: Proxygen, here: tuple[str, ...], tmp_path: Path
) -> None:
    if text is not None:
        (tmp_path / "subnet.env").write_text(text)
    ended = proxygen("network", "docker", "render", *here, "--docker-version", "27.0.0")
    assert ended.code == code
    assert said in ended.err
