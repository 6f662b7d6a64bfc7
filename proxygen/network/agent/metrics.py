"""The agent's metrics, read from its status at each scrape. No label has values without bound."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from proxygen.kit.metrics import Family, Reading, one
from proxygen.network.agent.status import AgentStatus, HostState
from proxygen.network.choice import Standing

if TYPE_CHECKING:
    from proxygen.consul.client import Statistics

# fmt: off

INFO: Final = Family("proxygen_network_info", "gauge", "1; which version runs, and how packets cross hosts.", ("version", "backend"))
STATE: Final = Family("proxygen_network_state", "gauge", "1 for the state that the agent is in: starting, ready, degraded.", ("state",))
LEASE: Final = Family("proxygen_network_lease", "gauge", "1 for the standing that the host's lease has: waiting, held, unconfirmed, expired, conflict.", ("standing",))
MEMBERS: Final = Family("proxygen_network_members", "gauge", "Other hosts in the network, by whether their leases are renewed.", ("lives",))
PROBLEMS: Final = Family("proxygen_network_problems", "gauge", "Problems that `proxygen network status` names.")
MTU: Final = Family("proxygen_network_mtu_bytes", "gauge", "Largest packet that containers may send.")
CARRIED: Final = Family("proxygen_network_carried_timestamp_seconds", "gauge", "When the data plane was last looked over, in seconds since 1970.")
CARRY_SECONDS: Final = Family("proxygen_network_carry_seconds", "gauge", "How long the last look over the data plane took.")
CARRIES: Final = Family("proxygen_network_carries", "counter", "Looks over the data plane, by how they ended: done, failed.", ("outcome",))
CONSUL_ANSWERED: Final = Family("proxygen_network_consul_answered_timestamp_seconds", "gauge", "When Consul last told the network's keys, in seconds since 1970.")
CONSUL_REQUESTS: Final = Family("proxygen_network_consul_requests", "counter", "Requests to Consul, by how they ended: answered, failed.", ("outcome",))

# fmt: on

FAMILIES: Final = (
    INFO,
    STATE,
    LEASE,
    MEMBERS,
    PROBLEMS,
    MTU,
    CARRIED,
    CARRY_SECONDS,
    CARRIES,
    CONSUL_ANSWERED,
    CONSUL_REQUESTS,
)

_STATES: Final = (HostState.STARTING, HostState.READY, HostState.DEGRADED)


def readings(status: AgentStatus, consul: Statistics) -> Iterator[Reading]:
    """What the agent knows of itself now; a reading that it does not have yet is left out, not 0."""
    yield Reading(INFO, {(status.version, status.backend): 1})
    yield Reading(STATE, {(state.value,): status.state is state for state in _STATES})
    yield Reading(LEASE, {(standing.value,): status.standing == standing.value for standing in Standing})
    lives = sum(member.lives for member in status.members)
    yield Reading(MEMBERS, {("true",): lives, ("false",): len(status.members) - lives})
    yield one(PROBLEMS, len(status.problems))
    if status.mtu:
        yield one(MTU, status.mtu)
    if status.carried is not None:
        yield one(CARRIED, status.carried.at)
        yield one(CARRY_SECONDS, status.carried.seconds)
        yield Reading(CARRIES, {("done",): status.carried.done, ("failed",): status.carried.failed})
    if status.consul_answered is not None:
        yield one(CONSUL_ANSWERED, status.consul_answered)
    yield Reading(CONSUL_REQUESTS, {("answered",): consul.requests - consul.failures, ("failed",): consul.failures})
