"""What it costs Consul when many hosts lease subnets at the same moment: ``python -m tests.bench.leasing [HOSTS]``.

The hosts are simulated in one process, each with a session, a memory and a lease of its own; Consul is real. So the
time is mostly this process's; the requests are what a fleet of that size would send.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Final

import structlog

from proxygen.network.session import Terms
from tests.bench.options import add_consul
from tests.harness.consul import ConsulAgent
from tests.network.crowd import Crowd, lease_at_once

HOSTS: Final = 1000
CONFIG: Final = '{"Network": "10.0.0.0/12", "Backend": {"Type": "host-gw"}}'
"""Of 4,095 subnets."""
PATIENT: Final = Terms(ttl=600)
"""So that nobody renews before the last one is served; in production that is what each host goes on with."""


def measure(hosts: int, directory: Path) -> Crowd:
    """Start a Consul, let so many hosts ask at once, and make sure that no two have got the same."""
    consul = ConsulAgent(directory / "consul")
    consul.start()
    try:
        crowd = asyncio.run(lease_at_once(consul, hosts, CONFIG, directory, terms=PATIENT))
    finally:
        consul.stop()
    assert len(crowd.subnets) == hosts
    assert not any(one.overlaps(other) for one, other in pairwise(sorted(crowd.subnets)))
    return crowd


def tell(crowd: Crowd) -> str:
    hosts, terms = len(crowd.subnets), Terms()
    return (
        f"{hosts} hosts at once: every one has a subnet of its own after {crowd.seconds:.1f} s, "
        f"{crowd.requests / hosts:.2f} requests to Consul per host; "
        f"from then on {2 * 60 / terms.rhythm:.0f} per host and minute"
    )


def main() -> None:
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    parser = argparse.ArgumentParser(prog="python -m tests.bench.leasing")
    parser.add_argument("hosts", type=int, nargs="?", default=HOSTS, help=f"default {HOSTS}")
    add_consul(parser)
    hosts = parser.parse_args().hosts
    with tempfile.TemporaryDirectory(prefix="leases-") as directory:
        print(tell(measure(hosts, Path(directory))))


if __name__ == "__main__":
    main()
