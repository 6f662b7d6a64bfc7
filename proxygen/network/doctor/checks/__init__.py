"""All checks, in the order in which a person would go through them: what stands higher may be why the rest fails."""

from __future__ import annotations

from typing import Final

from proxygen.network.doctor.checks import beside, kernel, lease, paths
from proxygen.network.doctor.registry import Check

CHECKS: Final[tuple[Check, ...]] = (
    lease.consul,
    lease.config,
    lease.lease,
    lease.identity,
    lease.members,
    kernel.underlay,
    kernel.overlap,
    kernel.module,
    kernel.device,
    kernel.mtu,
    kernel.forwarding,
    kernel.rp_filter,
    kernel.one_owner,
    kernel.data_plane,
    kernel.stale,
    paths.duplicate_address,
    paths.firewall,
    paths.backend_port,
    paths.reach,
    beside.docker,
    beside.networkd,
    beside.network_manager,
    beside.frr,
    beside.aws_source_dest,
)
