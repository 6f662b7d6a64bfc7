"""The VPC's own routers carry packets: each host has a route to its subnet in the VPC's route tables.

In each table every instance makes one route, to its own subnet by its own interface. On the instance nothing changes.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import IPv4Network
from typing import Any, Final

from proxygen.kit.errors import NetworkError, install_command
from proxygen.network import config as configured
from proxygen.network.backends.aws_routes import (
    Ec2Call,
    RouteStep,
    VpcTable,
    plan_leaving,
    plan_table,
    read_table,
)
from proxygen.network.config import NetworkConfig
from proxygen.network.fabric import Fabric, Underlay
from proxygen.network.records import Attributes

LOOK_EVERY: Final = 60.0
"""Seconds. EC2 throttles an account as a whole, so a hundred hosts must not ask it at each resync."""
_AFTER_FAILURE: Final = 15.0
_ATTEMPTS: Final = 4
_GONE: Final = "InvalidRoute.NotFound"
_FORBIDDEN: Final = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface:
    """The host's elastic network interface."""

    id: str
    subnet: str
    vpc: str
    checks: bool
    """Whether AWS drops what is not from or to the instance's own address, so all of its containers' packets."""


class AwsVpcBackend:
    """A host's own routes in AWS. Of others' only the dead ones of hosts that left for good are ever touched."""

    def __init__(self, underlay: Underlay, config: NetworkConfig, *, node: str, holds: Callable[[], bool]) -> None:
        """``holds`` tells whether Consul confirms this host's lease at the moment."""
        assert isinstance(config.backend, configured.AwsVpc)
        written = config.backend.route_table_ids
        self._tables = (written,) if isinstance(written, str) else tuple(dict.fromkeys(written))
        self._network = config.network
        self._underlay = underlay
        self._node = node
        self._holds = holds
        self._client: Any = None
        self._seen: tuple[IPv4Network, tuple[str, ...], float] | None = None

    @property
    def mtu(self) -> int:
        """The underlay's: the VPC routes packets as they are."""
        return self._underlay.mtu

    async def prepare(self) -> Attributes:
        """Find the interface and the tables: what is missing is told before there is a lease."""
        await asyncio.to_thread(self._look)
        return Attributes(node=self._node, public_ip=self._underlay.public_ip, backend_type=configured.AwsVpc.type)

    async def carry(self, fabric: Fabric) -> tuple[str, ...]:
        """Bring this host's routes to its lease. AWS is asked when that is another one, and from time to time.

        Other hosts' leases are no reason: their routes are theirs to make.
        """
        if self._seen is not None:
            subnet, problems, until = self._seen
            if subnet == fabric.own.subnet and time.monotonic() < until:
                return problems
        self._seen = None
        problems, failed = await asyncio.to_thread(self._carry, fabric)
        pause = _AFTER_FAILURE if failed else LOOK_EVERY
        self._seen = (fabric.own.subnet, problems, time.monotonic() + pause * random.uniform(0.75, 1.25))
        return problems

    async def stirred(self) -> None:
        """Never: only the next round sees a change."""
        # AWS tells nobody of changed routes.
        await asyncio.Event().wait()

    async def withdraw(self) -> None:
        """Remove this host's own entries of the route tables, no other host's."""
        self._seen = None
        await asyncio.to_thread(self._withdraw)

    # --- in a thread

    def _carry(self, fabric: Fabric) -> tuple[tuple[str, ...], bool]:
        """Return the problems, and whether a change failed or waits, so that it must be tried again soon."""
        cloud, interface, tables, problems = self._look()
        failed = cloud.allow_forwarding(interface) if interface.checks else ""
        failures = [failed] if failed else []
        waits = False
        for table in tables:
            plan = plan_table(table, fabric, interface.id, holds=self._holds())
            problems += plan.problems
            waits = waits or plan.waits
            failures += cloud.take(plan.steps, interface)
        return (*failures, *problems), waits or bool(failures)

    def _withdraw(self) -> None:
        cloud, interface, tables, _ = self._look()
        failures = []
        for table in tables:
            failures += cloud.take(plan_leaving(table, self._network, interface.id), interface)
        if failures:
            raise NetworkError("; ".join(failures))

    def _look(self) -> tuple[_Cloud, Interface, list[VpcTable], list[str]]:
        if find_spec("boto3") is None:
            raise NetworkError(f"the backend aws-vpc needs boto3; run: {install_command('aws')}")
        try:
            self._client = self._client or connect()
            cloud = _Cloud(self._client)
            interface = cloud.interface(self._underlay)
            tables, problems = cloud.tables(self._tables, interface)
        except _aws_errors() as error:
            raise NetworkError(f"AWS cannot be asked: {_explain(error)}") from error
        return cloud, interface, tables, problems


def find_interface(underlay: Underlay) -> Interface:
    """Return the host's interface as AWS knows it, and change nothing. It blocks. Raise NetworkError."""
    if find_spec("boto3") is None:
        raise NetworkError(f"AWS cannot be asked without boto3; run: {install_command('aws')}")
    try:
        return _Cloud(connect()).interface(underlay)
    except _aws_errors() as error:
        raise NetworkError(f"AWS cannot be asked: {_explain(error)}") from error


def connect() -> Any:
    """Return boto3's client for EC2 in this instance's region, with the credentials that AWS's tools find."""
    import boto3
    import botocore.session
    from botocore.config import Config

    session = botocore.session.get_session()
    region = session.get_config_variable("region") or _ask_region(session)
    if not region:
        raise NetworkError(
            "the AWS region is not known: the instance's metadata service does not answer (to a container it does so "
            "with a hop limit of 2), and AWS_DEFAULT_REGION is not set"
        )
    retries = {"mode": "standard", "total_max_attempts": _ATTEMPTS}
    config = Config(retries=retries, connect_timeout=3, read_timeout=10)
    return boto3.Session(botocore_session=session).client("ec2", region_name=region, config=config)


def _only(found: list[Any], underlay: Underlay) -> Any:
    # Another VPC of the account may have the same address; the MAC is this link's alone.
    exact = [one for one in found if str(one.get("MacAddress", "")).lower() == underlay.mac.lower()]
    chosen = exact if len(exact) == 1 else found
    if len(chosen) != 1:
        known = f"{len(found) or 'no'} network interfaces with this host's address {underlay.address.ip}"
        raise NetworkError(f"AWS knows {known} in this region")
    return chosen[0]


def _ask_region(session: Any) -> str:
    from botocore.utils import InstanceMetadataRegionFetcher, resolve_imds_endpoint_mode

    class RegionFetcher(InstanceMetadataRegionFetcher):  # type: ignore[misc]
        """Asks for the region itself: botocore cuts it out of the zone's name, which is wrong in local zones."""

        _URL_PATH = "latest/meta-data/placement/region"

        def _get_region(self) -> str:
            token = self._fetch_metadata_token()
            return str(self._get_request(self._URL_PATH, self._default_retry, token=token).text).strip()

    names = ("ec2_metadata_service_endpoint", "ec2_metadata_v1_disabled")
    config = {name: session.get_config_variable(name) for name in names}
    config["ec2_metadata_service_endpoint_mode"] = resolve_imds_endpoint_mode(session)
    fetcher = RegionFetcher(timeout=2, num_attempts=2, user_agent=session.user_agent(), config=config)
    return fetcher.retrieve_region() or ""


def _aws_errors() -> tuple[type[Exception], ...]:
    from botocore.exceptions import BotoCoreError, ClientError

    return BotoCoreError, ClientError


class _Cloud:
    """EC2's calls, in the words of this module."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def interface(self, underlay: Underlay) -> Interface:
        address = str(underlay.address.ip)
        found = self._all("describe_network_interfaces", "NetworkInterfaces", "addresses.private-ip-address", [address])
        one = _only(found, underlay)
        return Interface(
            id=one["NetworkInterfaceId"],
            subnet=one["SubnetId"],
            vpc=one["VpcId"],
            checks=bool(one.get("SourceDestCheck", True)),
        )

    def tables(self, ids: tuple[str, ...], interface: Interface) -> tuple[list[VpcTable], list[str]]:
        """Return the tables that were asked for, or else the one that the interface's subnet goes by."""
        if ids:
            # A filter passes over those that are gone; asked by their ids, one of them would spoil all.
            tables = self._tables("route-table-id", list(ids))
            missing = sorted(set(ids) - {table.id for table in tables})
            return tables, [f"{id}: there is no such route table in this region" for id in missing]
        tables = self._tables("association.subnet-id", [interface.subnet])
        if not tables:
            tables = self._tables("vpc-id", [interface.vpc], ("association.main", ["true"]))
        return tables, [] if tables else [f"no route table found for {interface.subnet} of {interface.vpc}"]

    def allow_forwarding(self, interface: Interface) -> str:
        try:
            self._client.modify_network_interface_attribute(
                NetworkInterfaceId=interface.id, SourceDestCheck={"Value": False}
            )
        except _aws_errors() as error:
            return (
                f"{interface.id}: its source/destination check drops all packets of containers, and cannot be switched "
                f"off: {_explain(error)}"
            )
        return ""

    def take(self, steps: Iterable[RouteStep], interface: Interface) -> list[str]:
        """Take steps, each for itself; return why those failed that did."""
        said = (self._take(step, interface) for step in steps)
        return [failure for failure in said if failure]

    def _take(self, step: RouteStep, interface: Interface) -> str:
        named = {"RouteTableId": step.table, "DestinationCidrBlock": str(step.destination)}
        try:
            match step.verb:
                case Ec2Call.CREATE:
                    self._client.create_route(**named, NetworkInterfaceId=interface.id)
                case Ec2Call.REPLACE:
                    self._client.replace_route(**named, NetworkInterfaceId=interface.id)
                case Ec2Call.DELETE:
                    self._client.delete_route(**named)
        except _aws_errors() as error:
            if step.verb is Ec2Call.DELETE and _code(error) == _GONE:
                return ""
            return f"{step.table}: {step.verb.value} {step.destination}: {_explain(error)}"
        return ""

    def _tables(self, name: str, values: list[str], *more: tuple[str, list[str]]) -> list[VpcTable]:
        found = self._all("describe_route_tables", "RouteTables", name, values, *more)
        return sorted(map(read_table, found), key=lambda table: table.id)

    def _all(self, call: str, key: str, name: str, values: list[str], *more: tuple[str, list[str]]) -> list[Any]:
        filters = [{"Name": name, "Values": values} for name, values in ((name, values), *more)]
        pages = self._client.get_paginator(call).paginate(Filters=filters)
        return [one for page in pages for one in page[key]]


def _code(error: Exception) -> str:
    return str(getattr(error, "response", {}).get("Error", {}).get("Code", ""))


def _explain(error: Exception) -> str:
    """Say what to do where that is known, and else what AWS says."""
    operation = getattr(error, "operation_name", "")
    match _code(error):
        case "RouteLimitExceeded":
            return (
                "the table is full; remove routes, or have the quota 'Routes per route table' raised "
                "(L-93826ACB in Service Quotas)"
            )
        case code if code in _FORBIDDEN:
            return f"the instance's role may not do it; allow ec2:{operation}"
        case _:
            message = getattr(error, "response", {}).get("Error", {}).get("Message", "") or str(error)
            return " ".join(message.split())
