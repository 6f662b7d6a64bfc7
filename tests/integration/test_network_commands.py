"""Every command of `proxygen network` in a host's life, once: one host, one Consul, no container."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.hosts import Lab
from tests.harness.network import NetworkAgent

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def host_consul(lab: Lab) -> Iterator[HostConsul]:
    host = lab.host()
    agent = HostConsul(host, servers=[host])
    try:
        agent.start()
        yield agent
    finally:
        agent.remove()


def test_a_host_lives_by_the_commands_from_init_to_cleanup(
    host_consul: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    agent = make_agent(host_consul.host)

    def says(*command: str, code: int = 0) -> str:
        done = agent.command(*command)
        assert done.returncode == code, (command, done.stdout, done.stderr)
        return done.stdout + done.stderr

    says("init", "--network", "10.99.0.0/16", "--backend", "host-gw")
    agent.start()
    subnet = agent.lease().subnet
    process.wait_until(lambda: agent.command("status").returncode == 0, what="an agent that is no longer starting")
    assert str(subnet) in says("status")
    assert "0 errors" in says("doctor"), "no container yet, which is a warning"
    assert str(agent.lease().bridge) in says("docker", "render")
    assert agent.stop() == 0
    for command in ("render", "apply"):
        assert "host-gw" in says("frr", command, code=2), "FRR has no part in this network"
    assert f"released: {subnet}" in says("release")
    says("cleanup")
    assert not agent.subnet_file.exists()
    assert host_consul.get("/v1/kv/proxygen/network/subnets/?keys") is None
