"""AWS is asked whether it lets containers' packets pass, where they meet its network. Against moto's server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Interface
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from moto.server import ThreadedMotoServer

from proxygen.kit.errors import NetworkError
from proxygen.network.config import parse_config
from proxygen.network.doctor.aws import read_aws
from proxygen.network.doctor.facts import LeaseFacts
from proxygen.network.doctor.finding import Skipped
from proxygen.network.fabric import Underlay
from tests.network.doctor.well import LEASE, UNDERLAY, view

ON_AWS = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "aws-vpc"}}')
SETTINGS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "eu-central-1",
    "AWS_EC2_METADATA_DISABLED": "true",
    "NO_PROXY": "*",
}


@pytest.fixture
def ec2(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    files = {name: str(tmp_path / "none") for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE")}
    for name, value in {**SETTINGS, **files, "AWS_ENDPOINT_URL_EC2": f"http://{host}:{port}"}.items():
        monkeypatch.setenv(name, value)
    yield boto3.client("ec2", config=Config(proxies={}))
    server.stop()
    assert server._server is not None
    server._server.server_close()


def lease(config: Any = ON_AWS) -> LeaseFacts:
    return replace(LEASE, view=view(config=config))


def underlay(address: str, mac: str) -> Underlay:
    return replace(UNDERLAY, address=IPv4Interface(address), mac=mac)


async def test_the_check_is_on_until_it_is_switched_off(ec2: Any) -> None:
    vpc = ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
    subnet = ec2.create_subnet(VpcId=vpc, CidrBlock="172.31.0.0/24")["Subnet"]["SubnetId"]
    made = ec2.create_network_interface(SubnetId=subnet, PrivateIpAddress="172.31.0.7")["NetworkInterface"]
    here = underlay("172.31.0.7/24", made["MacAddress"])

    found = await read_aws(lease(), here)
    assert (found.interface, found.source_dest_check) == (made["NetworkInterfaceId"], True)

    ec2.modify_network_interface_attribute(NetworkInterfaceId=found.interface, SourceDestCheck={"Value": False})
    assert not (await read_aws(lease(), here)).source_dest_check


async def test_a_host_that_aws_does_not_know_is_not_judged(ec2: Any) -> None:
    with pytest.raises(NetworkError, match="no network interfaces"):
        await read_aws(lease(), underlay("172.31.0.9/24", "02:00:00:00:00:09"))


@pytest.mark.parametrize("backend", ["vxlan", "wireguard", "alloc"])
async def test_what_is_wrapped_is_nobodys_business(backend: str) -> None:
    wrapped = parse_config(f'{{"Network": "10.99.0.0/16", "Backend": {{"Type": "{backend}"}}}}')
    with pytest.raises(Skipped):
        await read_aws(lease(wrapped), UNDERLAY)
