"""The agent: everything about one host's part of the network, put together and kept going."""

from __future__ import annotations

import asyncio
import time
from ipaddress import IPv4Network
from typing import TYPE_CHECKING, Final, NoReturn

import msgspec

from proxygen.kit.aio import start_eternal
from proxygen.kit.errors import CatalogUnavailable, NetworkConfigError
from proxygen.kit.log import get_logger
from proxygen.network.agent.backends import is_same_plane, make_backend, must_be_left
from proxygen.network.agent.begin import identify, name_of, store_of, terms_of, wish_of
from proxygen.network.agent.forwarding import report_strict_filter
from proxygen.network.agent.handover import Handover
from proxygen.network.agent.known import KnownNetwork, keep_known, recall_known
from proxygen.network.agent.place import StateDirectory
from proxygen.network.agent.plane import DataPlane
from proxygen.network.agent.report import Parts, report
from proxygen.network.agent.start import Waiting, find_config, find_overlap
from proxygen.network.agent.status import BEAT, AgentStatus, write_status
from proxygen.network.choice import Standing
from proxygen.network.collect import Collector
from proxygen.network.config import NetworkConfig
from proxygen.network.docker import installed_docker
from proxygen.network.fabric import Backend, Fabric, Member, Underlay
from proxygen.network.files import hinted_subnet
from proxygen.network.firewall import FirewallNeeds, open_passage
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.lease import SubnetLease
from proxygen.network.memory import Predecessor, read_boot_id
from proxygen.network.records import Attributes
from proxygen.network.watch import Caution, FabricWatch, ViewGuard
from proxygen.settings import NetworkSettings

if TYPE_CHECKING:
    from proxygen.consul.client import ConsulClient

_log: Final = get_logger(__name__)

_LOOK: Final = 0.5
"""Seconds between two looks whether the status on disk is still true."""


class HostAgent:
    """`run` is its life, until cancelled; `close` comes after. The data plane outlives both."""

    def __init__(self, settings: NetworkSettings, client: ConsulClient) -> None:
        """Raise NetworkConfigError for an identity that cannot be used."""
        self._settings = settings
        self._terms = terms_of(settings)
        self._store = store_of(settings, client)
        self._directory = StateDirectory(path=settings.state)
        self._boot = read_boot_id()
        self._memory = self._directory.memory()
        self._known = recall_known(self._directory.known, boot=self._boot)
        self._parts = Parts(host_id=identify(settings), node=name_of(settings))
        self._attributes = Attributes(node=self._parts.node)
        self._wish = wish_of(settings)
        self._waiting = Waiting()

    async def run(self) -> NoReturn:
        """Find a subnet, keep it, and keep the data plane. Raise NetworkConfigError where that cannot be begun.

        Consul's absence, and whatever the kernel refuses for now, are waited out.
        """
        async with Kernel() as kernel, asyncio.TaskGroup() as group:
            start_eternal(group, self._report(), name="status of the agent")
            start_eternal(group, self._live(kernel), name="this host's part of the network")
        raise AssertionError("its tasks end with an error only")

    def status(self) -> AgentStatus:
        """Return what is so now; any thread may call it."""
        return report(self._parts, waits_for=self._waiting.reason)

    @property
    def is_handed_on(self) -> bool:
        """Whether Docker can be started: the host has its subnet, and the files say so."""
        return self._parts.handover is not None and self._parts.handover.done

    async def close(self) -> None:
        """Say that the agent is gone, so that the next one need not wait. Lease and data plane stay."""
        if self._parts.lease is not None:
            try:
                await self._parts.lease.close()
            except CatalogUnavailable as error:
                _log.warning("end not told to Consul", reason=str(error))

    async def _live(self, kernel: Kernel) -> None:
        parts, past = self._parts, self._recall()
        config = parts.config = await find_config(self._store, past.live, self._known, self._waiting)
        overlap = await self._find_overlap(kernel, config, past.live or past.hint)
        if overlap is not None and past.live is None:
            # docker0 may have the subnet of a lease that nothing on this host's disk tells of any more.
            overlap = await self._find_overlap(kernel, config, await self._find_leased())
        if overlap is not None and past.live is None:
            # Once containers have addresses, to leave them alone would make nothing better.
            raise overlap
        await self._waiting.until_possible(lambda: self._leave_other_backend(kernel, config))
        plane = parts.plane = self._open_plane(kernel, config)
        await self._waiting.until_possible(plane.prepare)
        assert plane.underlay is not None
        report_strict_filter(plane.underlay.link)
        parts.handover = Handover(self._settings, await installed_docker())
        lease = parts.lease = SubnetLease(
            self._store, parts.host_id, self._attributes, memory=self._memory, terms=self._terms
        )
        _log.info("agent started", host=parts.host_id, network=str(config.network), backend=config.backend.type)
        async with asyncio.TaskGroup() as group:
            start_eternal(group, lease.keep(), name="lease")
            collector = Collector(self._store, lambda: lease.session, terms=self._terms)
            start_eternal(group, collector.run(), name="collector of leases")
            if past.live is None:
                await lease.held()
            watch = self._open_watch(config)
            start_eternal(group, watch.run(), name="watch of the network's keys")
            start_eternal(group, self._hand_on(parts.handover, config, plane, lease), name="handover of the subnet")
            start_eternal(group, plane.run(), name="data plane")

    # --- how it starts

    def _recall(self) -> Predecessor:
        """Return what the agent before remembered. Without that, ``subnet.env`` may hint at the subnet."""
        past = self._memory.recall(self._parts.host_id)
        hint = hinted_subnet(self._settings.subnet_file)
        if past.hint is not None or hint is None:
            return past
        hinted = Predecessor(hint=hint)
        try:
            # The lease is found by what the memory says.
            self._memory.keep(self._parts.host_id, hinted)
        except OSError as error:
            _log.warning("hint not taken", file=str(self._settings.subnet_file), reason=str(error))
        return hinted

    async def _find_leased(self) -> IPv4Network | None:
        """Return the subnet that Consul has for this host. Raise CatalogUnavailable."""
        records = (await self._store.look()).records_of(self._parts.host_id)
        return records[0].subnet if records else None

    async def _leave_other_backend(self, kernel: Kernel, config: NetworkConfig) -> None:
        """Remove what the agent before made for a backend that is not the network's any more."""
        past = self._known.config if self._known is not None else None
        if past is not None and must_be_left(past.backend, config.backend):
            _log.warning("backend changed", was=past.backend.type, now=config.backend.type)
            underlay = await kernel.find_underlay(self._wish)
            await self._make_backend(kernel, past, underlay).withdraw()

    def _open_plane(self, kernel: Kernel, config: NetworkConfig) -> DataPlane:
        return DataPlane(
            lambda: kernel.find_underlay(self._wish),
            lambda underlay: self._make_backend(kernel, config, underlay),
            lambda fabric: self._look_beside(kernel, fabric),
            resync=self._settings.resync,
            announce=self._announce,
        )

    def _open_watch(self, config: NetworkConfig) -> FabricWatch:
        """Return the watch, and believe until its first look what the agent before did."""
        known = self._known.members if self._known is not None and is_same_plane(self._known.config, config) else ()
        guard = ViewGuard(Caution(loss=self._settings.loss, hold=self._settings.hold), known)
        watch = self._parts.watch = FabricWatch(self._store, config, self._own, guard=guard, tell=self._believe)
        if known:
            self._believe(Fabric(config=config, own=self._own(), others=known))
        return watch

    def _make_backend(self, kernel: Kernel, config: NetworkConfig, underlay: Underlay) -> Backend:
        return make_backend(
            config,
            underlay,
            kernel,
            self._settings,
            node=self._parts.node,
            host_id=self._parts.host_id,
            holds=self._holds,
        )

    def _holds(self) -> bool:
        return self._parts.lease is not None and self._parts.lease.status.standing is Standing.HELD

    # --- what goes from part to part

    def _own(self) -> Member:
        """Return this host as it would like others to see it."""
        parts, attributes = self._parts, self._attributes
        subnet = parts.lease.status.subnet if parts.lease is not None else None
        assert subnet is not None
        assert attributes.public_ip is not None
        return Member(
            host_id=parts.host_id,
            node=parts.node,
            subnet=subnet,
            public_ip=attributes.public_ip,
            backend_type=attributes.backend_type,
            backend_data=attributes.backend_data or {},
        )

    def _announce(self, prepared: Attributes, underlay: Underlay) -> None:
        """Take in what others must know of this host."""
        assert self._parts.config is not None
        self._attributes = Attributes(
            node=self._parts.node,
            public_ip=underlay.public_ip,
            backend_type=self._parts.config.backend.type,
            backend_data=prepared.backend_data,
        )
        if self._parts.lease is not None:
            self._parts.lease.announce(self._attributes)
        if self._parts.watch is not None:
            self._parts.watch.judge_again()

    def _believe(self, fabric: Fabric) -> None:
        """Have the data plane brought to a fabric, which the next agent knows by then."""
        assert self._parts.plane is not None
        before = self._parts.plane.fabrics.peek()
        if fabric == before:
            return
        _tell_difference(before, fabric)
        known = KnownNetwork(config=fabric.config, members=fabric.others)
        if before is None or before.others != fabric.others:
            try:
                keep_known(self._directory.known, known, boot=self._boot)
            except OSError as error:
                _log.warning("network not remembered", reason=str(error))
        self._parts.plane.fabrics.put(fabric)

    async def _look_beside(self, kernel: Kernel, fabric: Fabric) -> tuple[str, ...]:
        """Let containers' packets pass, and see whether anybody else uses their network."""
        overlap = await self._find_overlap(kernel, fabric.config, fabric.own.subnet)
        passage = FirewallNeeds(
            network=fabric.config.network,
            subnet=fabric.own.subnet,
            masquerade=self._settings.masquerade,
            forward=self._settings.forward_rules,
        )
        return (*([] if overlap is None else [str(overlap)]), *await open_passage(passage))

    async def _find_overlap(
        self, kernel: Kernel, config: NetworkConfig, own: IPv4Network | None
    ) -> NetworkConfigError | None:
        subnets = () if own is None else (own,)
        return await find_overlap(kernel, config, subnets, take_over=self._settings.take_over)

    async def _hand_on(self, handover: Handover, config: NetworkConfig, plane: DataPlane, lease: SubnetLease) -> None:
        while True:
            status = lease.status
            if status.subnet is not None and status.standing is not Standing.CONFLICT:
                handover.write(config.network, status.subnet, plane.mtu)
            await lease.moved()

    async def _report(self) -> None:
        written: AgentStatus | None = None
        due, problem = 0.0, ""
        while True:
            status = self.status()
            # By the clock that nobody sets.
            if written is None or _differ(written, status) or time.monotonic() >= due:
                try:
                    write_status(self._directory.status, status)
                    written, due, problem = status, time.monotonic() + BEAT, ""
                except OSError as error:
                    if str(error) != problem:
                        _log.warning("status not written", reason=str(error))
                    problem = str(error)
            await asyncio.sleep(_LOOK)


def _differ(one: AgentStatus, other: AgentStatus) -> bool:
    return msgspec.structs.replace(one, at=0, consul_answered=None) != msgspec.structs.replace(
        other, at=0, consul_answered=None
    )


def _tell_difference(before: Fabric | None, after: Fabric) -> None:
    """Log who came, who went and what is wrong, once."""
    was = {member.subnet: member for member in before.others} if before is not None else {}
    now = {member.subnet: member for member in after.others}
    if joined := now.keys() - was.keys():
        _log.info("hosts joined", hosts=len(joined), subnets=_some(joined))
    if left := was.keys() - now.keys():
        _log.info("hosts left", hosts=len(left), subnets=_some(left))
    for problem in sorted(set(after.problems) - set(before.problems if before is not None else ())):
        _log.warning("network problem", reason=problem)


def _some(subnets: set[IPv4Network]) -> str:
    return ", ".join(map(str, sorted(subnets)[:5]))
