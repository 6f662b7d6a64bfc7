"""Multi-host networking: the host's agent, and what people ask of it."""

from __future__ import annotations

import click

from proxygen.cli.lazy import LazyCommand, LazyGroup
from proxygen.kit.errors import NetworkError, install_command

_COMMANDS = {
    "init": LazyCommand("proxygen.cli.network_host:init", "Write the config of a new network."),
    "up": LazyCommand("proxygen.cli.network_host:up", "Lease a subnet and carry packets: the host's agent."),
    "status": LazyCommand(
        "proxygen.cli.network_status:status", "Show this host's part of the network, and who else is there."
    ),
    "doctor": LazyCommand(
        "proxygen.cli.network_status:doctor", "Find what keeps containers from each other, with cures."
    ),
    "release": LazyCommand("proxygen.cli.network_host:release", "Give this host's subnet back: it leaves for good."),
    "cleanup": LazyCommand(
        "proxygen.cli.network_host:cleanup", "Remove what was made on this host; ask nothing of Consul."
    ),
    "frr": LazyCommand("proxygen.cli.network_frr:frr", "Show or apply FRR's configuration."),
    "docker": LazyCommand("proxygen.cli.network_docker:docker", "Show what Docker must be told."),
}


class _NetworkGroup(LazyGroup):
    """Its commands need a library that the proxy does without."""

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        try:
            return super().get_command(context, name)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] != "pyroute2":
                raise
            raise NetworkError(f"networking needs pyroute2; run: {install_command('network')}") from error


@click.group(cls=_NetworkGroup, entries=_COMMANDS)
def network() -> None:
    """Let containers on different hosts reach each other, with Consul alone.

    Each host leases a subnet in Consul's KV and carries packets to the others' subnets, by plain routes, VXLAN, FRR or
    AWS. The config, the keys and subnet.env are flannel's.
    """
