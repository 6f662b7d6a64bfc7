"""Hosts of a VPC: the agent against moto's server, and a router that forwards by what the route table there says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from typing import Final

import pytest

from tests.harness import process
from tests.harness.consul import HostConsul
from tests.harness.hosts import Host, Lab, Namespace
from tests.harness.network import NetworkAgent

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_PATIENCE: Final = 180.0
_CLIENT: Final = "import json, sys, boto3; ec2 = boto3.client('ec2'); argument = json.loads(sys.argv[1]);"
_MAKE_VPC: Final = """
vpc = ec2.create_vpc(CidrBlock="192.0.2.0/24")["Vpc"]["VpcId"]
subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="192.0.2.0/24")["Subnet"]["SubnetId"]
for address in argument:
    ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress=address)
"""
_ROUTES: Final = """
owners = {
    one["NetworkInterfaceId"]: one["PrivateIpAddress"]
    for one in ec2.describe_network_interfaces()["NetworkInterfaces"]
}
print(json.dumps({
    route["DestinationCidrBlock"]: owners[route["NetworkInterfaceId"]]
    for table in ec2.describe_route_tables()["RouteTables"]
    for route in table["Routes"] if "NetworkInterfaceId" in route
}))
"""


class Vpc:
    """The cloud's side: its interface for programs, on one of the hosts, and the router that it has."""

    def __init__(self, host: Host, router: Namespace, *, hosts: list[Host]) -> None:
        self._host = host
        self._router = router
        host.start(sys.executable, "-m", "moto.server", "-H", str(host.address), "-p", "5000", log="moto.log")
        process.wait_until(
            lambda: host.succeeds(sys.executable, "-c", _CLIENT + "ec2.describe_vpcs()", "0"),
            what="moto's server",
            timeout=_PATIENCE,
        )
        self._ask(_MAKE_VPC, [str(one.address) for one in hosts])

    def routes(self) -> dict[str, str]:
        """Return by subnet the address of the instance that it is routed to."""
        answer: dict[str, str] = json.loads(self._ask(_ROUTES, None))
        return answer

    def forward(self) -> None:
        """Have the router do what the table says."""
        for subnet, address in self.routes().items():
            self._router.ip("route", "replace", subnet, "via", address)

    def _ask(self, program: str, argument: object) -> str:
        return self._host.run(sys.executable, "-c", _CLIENT + program, json.dumps(argument))


@pytest.fixture
def consul(hosts: list[Host]) -> Iterator[HostConsul]:
    consul = HostConsul(hosts[0], servers=hosts[:1])
    try:
        consul.start()
        yield consul
    finally:
        consul.remove()


def test_containers_reach_each_other_by_the_vpcs_routes(
    lab: Lab,
    hosts: list[Host],
    consul: HostConsul,
    make_agent: Callable[..., NetworkAgent],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "eu-central-1",
        "AWS_ENDPOINT_URL_EC2": f"http://{hosts[0].address}:5000",
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    vpc = Vpc(hosts[0], lab.join(hosts[0].segment), hosts=hosts)
    consul.kv_put("proxygen/network/settled", "new")
    consul.kv_put("proxygen/network/config", json.dumps({"Network": "10.99.0.0/16", "Backend": {"Type": "aws-vpc"}}))
    agents = [make_agent(host, {"consul.address": f"{consul.host.address}:8500"}) for host in hosts]
    for agent in agents:
        agent.start()
    for agent in agents:
        agent.start_docker()
        agent.host.container()

    def wanted() -> dict[str, str]:
        return {str(agent.lease().subnet): str(agent.host.address) for agent in agents}

    process.wait_until(lambda: vpc.routes() == wanted(), what="a route to each host", timeout=_PATIENCE)
    vpc.forward()
    containers = [host.containers[0] for host in hosts]
    for one in containers:
        for other in containers:
            one.until_pings(other.address, timeout=_PATIENCE)
    assert containers[0].ping(containers[1].address, size=1500), "the MTU is the interface's"
    assert not containers[0].ping(containers[1].address, size=1501)

    leaves = agents.pop()
    subnet = str(leaves.lease().subnet)
    assert leaves.stop() == 0
    assert subnet in vpc.routes(), "the end of the agent is not the end of the lease"
    released = leaves.command("release")
    assert released.returncode == 0, released.stderr
    assert vpc.routes() == wanted()
