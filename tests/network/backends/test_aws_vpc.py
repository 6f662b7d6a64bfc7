"""The VPC's routes, against moto's server, and against botocore's Stubber for what moto gets wrong."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.stub import ANY, Stubber
from moto.server import ThreadedMotoServer

from proxygen.kit.errors import NetworkError
from proxygen.network.backends import aws_vpc
from proxygen.network.backends.aws_vpc import AwsVpcBackend, connect
from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member, Underlay

REGION = "eu-central-1"
OWN = "10.99.2.0/24"


@pytest.fixture(scope="module")
def moto() -> Iterator[Any]:
    """A client of the server, for the test's own wishes."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield boto3.client(
        "ec2",
        endpoint_url=f"http://{host}:{port}",
        region_name=REGION,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(proxies={}),
    )
    server.stop()
    assert server._server is not None
    server._server.server_close()


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of this machine's own AWS configuration counts, and nobody but the test is asked."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "NO_PROXY": "*",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)


class Cloud:
    """A VPC with a main route table, two subnets, and hosts as network interfaces of the first."""

    def __init__(self, ec2: Any) -> None:
        self.ec2 = ec2
        self.vpc = self.ec2.create_vpc(CidrBlock="172.31.0.0/16")["Vpc"]["VpcId"]
        self.subnet, self.far_subnet = (
            self.ec2.create_subnet(VpcId=self.vpc, CidrBlock=block)["Subnet"]["SubnetId"]
            for block in ("172.31.0.0/24", "172.31.1.0/24")
        )
        filters = [{"Name": "vpc-id", "Values": [self.vpc]}]
        self.main = self.ec2.describe_route_tables(Filters=filters)["RouteTables"][0]["RouteTableId"]

    def table(self, *, of: str = "") -> str:
        table: str = self.ec2.create_route_table(VpcId=self.vpc)["RouteTable"]["RouteTableId"]
        if of:
            self.ec2.associate_route_table(RouteTableId=table, SubnetId=of)
        return table

    def interface(self, number: int, *, subnet: str = "") -> dict[str, Any]:
        created: dict[str, Any] = self.ec2.create_network_interface(
            SubnetId=subnet or self.subnet, PrivateIpAddress=f"172.31.0.{number}"
        )["NetworkInterface"]
        return created

    def route(self, table: str, destination: str, interface: str) -> None:
        self.ec2.create_route(RouteTableId=table, DestinationCidrBlock=destination, NetworkInterfaceId=interface)

    def routes(self, table: str) -> dict[str, str]:
        """Where routes lead by their destination, but for the VPC's own."""
        found = self.ec2.describe_route_tables(RouteTableIds=[table])["RouteTables"][0]["Routes"]
        return {one["DestinationCidrBlock"]: one["NetworkInterfaceId"] for one in found if "NetworkInterfaceId" in one}


@pytest.fixture
def cloud(moto: Any, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    address = moto.meta.endpoint_url
    urllib.request.urlopen(urllib.request.Request(f"{address}/moto-api/reset", method="POST"), timeout=30).close()  # noqa: S310
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", address)
    return Cloud(moto)


def underlay(number: int = 2, *, mac: str = "02:00:00:00:00:01") -> Underlay:
    address = IPv4Interface(f"172.31.0.{number}/24")
    return Underlay(link="ens5", index=2, address=address, mtu=9001, mac=mac)


def config(*tables: str) -> Any:
    backend = {"Type": "aws-vpc", **({"RouteTableID": tables[0] if len(tables) == 1 else tables} if tables else {})}
    return parse_config(json.dumps({"Network": "10.99.0.0/16", "Backend": backend}))


def backend(number: int = 2, *, tables: tuple[str, ...] = (), mac: str = "02:00:00:00:00:01") -> AwsVpcBackend:
    return AwsVpcBackend(underlay(number, mac=mac), config(*tables), node=f"node{number}", holds=lambda: True)


def fabric(*others: int, own: str = OWN) -> Fabric:
    def member(subnet: str, number: int) -> Member:
        return Member(
            host_id=f"{number:02}",
            node=f"node{number}",
            subnet=IPv4Network(subnet),
            public_ip=IPv4Address(f"172.31.0.{number}"),
            backend_type="aws-vpc",
        )

    return Fabric(
        config=config(),
        own=member(own, 2),
        others=tuple(member(f"10.99.{number}.0/24", number) for number in sorted(others)),
    )


# --- against moto


async def test_a_hosts_route_is_created_kept_and_withdrawn(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    host = backend()
    published = await host.prepare()
    assert (published.backend_type, published.public_ip, host.mtu) == ("aws-vpc", IPv4Address("172.31.0.2"), 9001)
    assert cloud.routes(cloud.main) == {}, "before there is a lease there is no route"
    assert await host.carry(fabric()) == ()
    assert cloud.routes(cloud.main) == {OWN: eni}
    assert await backend().carry(fabric()) == (), "an agent that starts again finds it so"
    await host.withdraw()
    assert cloud.routes(cloud.main) == {}
    await host.withdraw()


async def test_an_agent_that_carried_nothing_withdraws_what_the_one_before_made(cloud: Cloud) -> None:
    own, other = cloud.interface(2)["NetworkInterfaceId"], cloud.interface(3)["NetworkInterfaceId"]
    kept = {"10.99.3.0/24": other, "10.98.0.0/24": own, "0.0.0.0/0": other}
    for destination, interface in {**kept, OWN: own, "10.99.200.0/24": own}.items():
        cloud.route(cloud.main, destination, interface)
    await backend().withdraw()
    assert cloud.routes(cloud.main) == kept


async def test_the_route_of_the_host_before_is_replaced_and_no_other_touched(cloud: Cloud) -> None:
    own, other = cloud.interface(2)["NetworkInterfaceId"], cloud.interface(3)["NetworkInterfaceId"]
    for destination in (OWN, "10.99.3.0/24", "10.98.0.0/24"):
        cloud.route(cloud.main, destination, other)
    calls: list[str] = []
    host = backend()
    await host.prepare()
    host._client.meta.events.register("before-call.ec2", lambda model, **_: calls.append(model.name))
    assert await host.carry(fabric(3)) == ()
    assert cloud.routes(cloud.main) == {OWN: own, "10.99.3.0/24": other, "10.98.0.0/24": other}
    assert [call for call in calls if call.endswith("Route")] == ["ReplaceRoute"]


async def test_another_lease_moves_the_route_at_once(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    host = backend()
    await host.carry(fabric())
    assert await host.carry(fabric(own="10.99.5.0/24")) == ()
    assert cloud.routes(cloud.main) == {"10.99.5.0/24": eni}


async def test_the_source_and_destination_check_is_switched_off(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    await backend().carry(fabric())
    described = cloud.ec2.describe_network_interfaces(NetworkInterfaceIds=[eni])["NetworkInterfaces"][0]
    assert described["SourceDestCheck"] is False


async def test_a_subnets_own_table_is_used_before_the_main_one(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    near, _ = cloud.table(of=cloud.subnet), cloud.table(of=cloud.far_subnet)
    assert await backend().carry(fabric()) == ()
    assert (cloud.routes(near), cloud.routes(cloud.main)) == ({OWN: eni}, {})


async def test_all_tables_of_the_config_are_used_and_no_other(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    own, far, other = cloud.table(of=cloud.subnet), cloud.table(of=cloud.far_subnet), cloud.table()
    assert await backend(tables=(far, other)).carry(fabric()) == ()
    assert [cloud.routes(one) for one in (own, far, other)] == [{}, {OWN: eni}, {OWN: eni}]


async def test_a_table_that_is_gone_is_told_and_the_others_are_served(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    (problem,) = await backend(tables=("rtb-0000000000000000f", cloud.main)).carry(fabric())
    assert problem.startswith("rtb-0000000000000000f:")
    assert cloud.routes(cloud.main) == {OWN: eni}


async def test_a_hundred_tables_are_read_page_by_page(cloud: Cloud) -> None:
    eni = cloud.interface(2)["NetworkInterfaceId"]
    tables = tuple(cloud.table() for _ in range(110))
    assert await backend(tables=tables).carry(fabric()) == ()
    assert cloud.routes(tables[-1]) == {OWN: eni}


async def test_members_whose_route_is_missing_are_told(cloud: Cloud) -> None:
    cloud.interface(2)
    (problem,) = await backend().carry(fabric(7))
    assert problem.startswith(f"{cloud.main}: no route that works to node7")


async def test_aws_is_not_asked_at_each_resync(cloud: Cloud) -> None:
    """EC2 throttles a whole account: a hundred hosts must not ask every ten seconds."""
    cloud.interface(2)
    host = backend()
    problems = await host.carry(fabric(7))
    calls: list[str] = []
    host._client.meta.events.register("before-call.ec2", lambda model, **_: calls.append(model.name))
    assert await host.carry(fabric(7)) == problems
    assert calls == []


async def test_the_links_mac_decides_between_vpcs_with_the_same_addresses(cloud: Cloud) -> None:
    cloud.interface(2)
    there = cloud.interface(2)
    with pytest.raises(NetworkError, match=r"knows 2 network interfaces .* 172\.31\.0\.2"):
        await backend().prepare()
    await backend(mac=there["MacAddress"].upper()).carry(fabric())
    assert cloud.routes(cloud.main) == {OWN: there["NetworkInterfaceId"]}


async def test_a_host_that_is_no_instance_here_is_told_so(cloud: Cloud) -> None:
    with pytest.raises(NetworkError, match=r"knows no network interfaces .* 172\.31\.0\.2 in this region"):
        await backend().prepare()


async def test_throttled_calls_are_repeated(cloud: Cloud) -> None:
    cloud.interface(2)
    host = backend()
    await host.prepare()
    refused: list[str] = []

    def refuse_first(request: Any, **_: object) -> AWSResponse | None:
        if refused:
            return None
        refused.append(request.url)
        body = b"<Response><Errors><Error><Code>RequestLimitExceeded</Code></Error></Errors></Response>"
        answer = AWSResponse(request.url, 503, {}, BytesIO(body))
        answer._content = body
        return answer

    host._client.meta.events.register("before-send.ec2", refuse_first)
    assert await host.carry(fabric()) == ()
    assert len(refused) == 1


# --- the region, credentials, the library


class Metadata(BaseHTTPRequestHandler):
    """An instance's metadata service, version 2: nothing without a token."""

    def do_PUT(self) -> None:
        self._answer("token" if self.path == "/latest/api/token" else "")

    def do_GET(self) -> None:
        allowed = self.headers["x-aws-ec2-metadata-token"] == "token"
        found = self.path == "/latest/meta-data/placement/region"
        self._answer("us-west-2\n" if allowed and found else "")

    def _answer(self, text: str) -> None:
        self.send_response(200 if text else 401)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextmanager
def metadata_service() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_the_region_is_asked_of_the_instance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    with metadata_service() as address:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
        assert connect().meta.region_name == "us-west-2"


def test_a_region_that_is_set_asks_nobody() -> None:
    assert connect().meta.region_name == REGION


async def test_without_a_region_it_is_said_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(NetworkError, match="AWS_DEFAULT_REGION"):
        await backend().prepare()


async def test_without_credentials_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    with pytest.raises(NetworkError, match="AWS cannot be asked: Unable to locate credentials"):
        await backend().prepare()


async def test_a_cloud_that_does_not_answer_is_an_error_and_no_empty_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_EC2", "http://127.0.0.1:1")
    monkeypatch.setattr(aws_vpc, "_ATTEMPTS", 1)
    with pytest.raises(NetworkError, match="AWS cannot be asked: Could not connect"):
        await backend().prepare()


async def test_without_boto3_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(NetworkError, match=r"pip install '\.\[aws\]'"):
        await backend().prepare()


def test_the_backend_is_imported_without_boto3() -> None:
    code = "import sys, proxygen.network.backends.aws_vpc; print('boto3' in sys.modules, 'botocore' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False False\n"


# --- what moto gets wrong


Stub = Callable[..., Stubber]


@pytest.fixture
def stubbed(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stub]:
    """Answers to the first two questions; the test adds what follows, and all of it must have been asked."""
    client = connect()
    stubber = Stubber(client)
    monkeypatch.setattr(aws_vpc, "connect", lambda: client)

    def begin(*routes: dict[str, str], checks: bool = False) -> Stubber:
        eni = {"NetworkInterfaceId": "eni-2", "SubnetId": "subnet-1", "VpcId": "vpc-1", "SourceDestCheck": checks}
        stubber.add_response("describe_network_interfaces", {"NetworkInterfaces": [eni]}, {"Filters": ANY})
        table = {"RouteTableId": "rtb-1", "Routes": [{"Origin": "CreateRoute", **route} for route in routes]}
        stubber.add_response("describe_route_tables", {"RouteTables": [table]}, {"Filters": ANY})
        return stubber

    with stubber:
        yield begin
        stubber.assert_no_pending_responses()


def dead(destination: str) -> dict[str, str]:
    return {"DestinationCidrBlock": destination, "NetworkInterfaceId": "eni-gone", "State": "blackhole"}


def living(destination: str) -> dict[str, str]:
    return {"DestinationCidrBlock": destination, "NetworkInterfaceId": "eni-2", "State": "active"}


async def test_a_route_that_somebody_made_meanwhile_is_told_and_never_overwritten_unseen(stubbed: Stub) -> None:
    """AWS refuses to create what is there; moto overwrites it."""
    stubbed().add_client_error("create_route", "RouteAlreadyExists", "The route already exists.")
    assert await backend().carry(fabric()) == (f"rtb-1: CreateRoute {OWN}: The route already exists.",)


async def test_a_full_table_is_told_with_the_quota_to_raise(stubbed: Stub) -> None:
    stubbed().add_client_error("create_route", "RouteLimitExceeded", "The limit has been reached.")
    (problem,) = await backend().carry(fabric())
    assert "Routes per route table" in problem
    assert "L-93826ACB" in problem


async def test_a_missing_permission_is_told_by_its_name(stubbed: Stub) -> None:
    stubber = stubbed(dead(OWN), checks=True)
    stubber.add_client_error("modify_network_interface_attribute", "UnauthorizedOperation")
    stubber.add_client_error("replace_route", "UnauthorizedOperation")
    check, route = await backend().carry(fabric())
    assert "source/destination check" in check
    assert "ec2:ModifyNetworkInterfaceAttribute" in check
    assert "ec2:ReplaceRoute" in route


async def test_a_permission_to_look_that_is_missing_stops_the_backend() -> None:
    client = connect()
    with Stubber(client) as stubber:
        stubber.add_client_error("describe_network_interfaces", "UnauthorizedOperation")
        host = backend()
        host._client = client
        with pytest.raises(NetworkError, match="allow ec2:DescribeNetworkInterfaces"):
            await host.prepare()


async def test_dead_routes_of_hosts_that_left_are_removed_and_it_may_be_somebody_else_who_does(stubbed: Stub) -> None:
    """moto knows no dead routes."""
    stubber = stubbed(living(OWN), dead("10.99.7.0/24"), dead("10.99.8.0/24"), dead("10.98.7.0/24"))
    stubber.add_response("delete_route", {}, {"RouteTableId": "rtb-1", "DestinationCidrBlock": "10.99.7.0/24"})
    stubber.add_client_error("delete_route", "InvalidRoute.NotFound")
    assert await backend().carry(fabric()) == ()


async def test_a_failure_in_one_step_does_not_stop_the_others(stubbed: Stub) -> None:
    stubber = stubbed(dead("10.99.7.0/24"))
    stubber.add_client_error("create_route", "InternalError", "An internal\nerror")
    stubber.add_response("delete_route", {}, {"RouteTableId": "rtb-1", "DestinationCidrBlock": "10.99.7.0/24"})
    assert await backend().carry(fabric()) == (f"rtb-1: CreateRoute {OWN}: An internal error",)


async def test_what_could_not_be_withdrawn_is_an_error(stubbed: Stub) -> None:
    stubbed(living(OWN)).add_client_error("delete_route", "UnauthorizedOperation")
    with pytest.raises(NetworkError, match="allow ec2:DeleteRoute"):
        await backend().withdraw()
