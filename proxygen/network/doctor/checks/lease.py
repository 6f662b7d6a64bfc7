"""Consul's side: the keys, this host's lease, and who is who among the hosts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import Final

from proxygen.network.doctor.facts import Facts, LeaseFacts, known
from proxygen.network.doctor.finding import Fault, Unknown, error, warning
from proxygen.network.doctor.registry import check
from proxygen.network.records import Record

_UP: Final = "proxygen network up"
_IDS: Final = "give each host an id of its own: rm /etc/machine-id && systemd-machine-id-setup, or set network.host_id"
_MOVE: Final = "stop the containers, then proxygen network release && proxygen network up"


@check("consul", "Consul answers about the network's keys")
def consul(facts: Facts) -> Iterator[Fault]:
    if isinstance(facts.lease, Unknown):
        yield error(
            f"{facts.lease.reason}; containers keep their routes, but no host can join or leave",
            cure="start Consul's agent on this host, or set CONSUL_HTTP_ADDR and CONSUL_HTTP_TOKEN",
        )


@check("config", "the network has a config, and every key below its prefix can be read")
def config(facts: Facts) -> Iterator[Fault]:
    lease = known(facts.lease)
    prefix = lease.prefix
    if lease.view.config is None:
        yield error(
            lease.view.config_problem,
            cure=f"proxygen network init, for a new network; or write it anew: consul kv put {prefix}/config @FILE",
        )
    for problem in lease.view.problems:
        name = problem.partition(":")[0]
        yield warning(
            f"the key {prefix}/{problem}", cure=f"write it anew, or: consul kv delete {quote(f'{prefix}/{name}')}"
        )


@check("lease", "this host has a subnet of its own, and its agent has kept it confirmed")
def lease(facts: Facts) -> Iterator[Fault]:
    lease = known(facts.lease)
    own, live = lease.own, lease.live
    if own is None and live is None:
        yield error("this host has no subnet", cure=_UP)
        return
    takers = [] if live is None else lease.view.takers(live, but=lease.host_id)
    if takers:
        yield error(
            f"conflict: this host's containers have {live}, but {'; '.join(takers)}",
            cure=f"on the host that can spare its containers: {_MOVE}",
        )
    elif own is None:
        yield error(
            f"the lease of {live}, which this host's containers have, is gone from Consul",
            cure=f"{_UP} (it writes the lease again)",
        )
    else:
        yield from _own_lease(lease, own)


def _own_lease(lease: LeaseFacts, own: Record) -> Iterator[Fault]:
    if lease.view.config is not None and not lease.view.config.offers(own.subnet):
        yield error(
            f"the config does not offer {own.subnet}, which this host has",
            cure=f"put the config back; or {_MOVE}",
        )
    if own.session and own.session != lease.session:
        yield error(
            f"the lease of {own.subnet} is kept by an agent that is not this host's: another host has this host's id",
            cure=f"{_IDS}; if it is the only one, run the doctor with its agent's settings (network.state)",
        )
    elif not own.session:
        yield warning(
            f"no agent of this host keeps the lease of {own.subnet}; {lease.grace:g} s after its end others may get it",
            cure=_UP,
        )
    elif lease.silent is not None and lease.silent > lease.grace:
        yield error(
            f"unconfirmed for {lease.silent:.0f} s: {own.subnet} may have been given to another host",
            cure=f"make Consul reachable from this host, then see that {_UP} runs",
        )
    elif lease.silent is not None and lease.silent > lease.ttl:
        yield warning(
            f"Consul has not confirmed the lease of {own.subnet} for {lease.silent:.0f} s",
            cure=f"make Consul reachable from this host, then see that {_UP} runs",
        )


@check("identity", "no two leases share a host id, a PublicIP or a VtepMAC, and this host's own says where it is")
def identity(facts: Facts) -> Iterator[Fault]:
    lease = known(facts.lease)
    records = list(lease.view.records.values())
    yield from _shared(
        "host id",
        _by(records, lambda one: one.host_id),
        cure=_IDS,
    )
    yield from _shared(
        "PublicIP",
        _by(records, lambda one: str(one.attributes.public_ip or "")),
        cure="give each host an address of its own, or set network.public_ip to the one at which others reach it",
    )
    yield from _shared(
        "VtepMAC",
        _by(records, lambda one: str((one.attributes.backend_data or {}).get("VtepMAC", "")).lower()),
        cure="give each host an id of its own (network.host_id), then restart its agent",
    )
    own = lease.own
    if own is None or isinstance(facts.underlay, Unknown):
        return
    here = facts.underlay.public_ip
    if own.attributes.public_ip not in (None, here):
        yield error(
            f"the lease says that this host is at {own.attributes.public_ip}, and it is at {here}",
            cure=f"restart the agent ({_UP}), with network.public_ip={here}",
        )


def _by(records: list[Record], key: Callable[[Record], str]) -> Mapping[str, list[Record]]:
    grouped: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        grouped[key(record)].append(record)
    return grouped


def _shared(what: str, grouped: Mapping[str, list[Record]], *, cure: str) -> Iterator[Fault]:
    for value, records in sorted(grouped.items()):
        if value and len(records) > 1:
            holders = ", ".join(f"{one.subnet} ({one.attributes.node or one.host_id[:12]})" for one in records)
            yield error(f"{what} {value} is that of {len(records)} leases: {holders}", cure=cure)


@check("members", "every lease is one that packets can be carried to")
def members(facts: Facts) -> Iterator[Fault]:
    view = known(facts.lease).view
    network = facts.config()
    for record in sorted(view.records.values(), key=lambda one: one.subnet):
        attributes = record.attributes
        who = f"{record.subnet} of {record.holder}"
        restart = f"on that host: restart its agent ({_UP})"
        if not record.subnet.subnet_of(network.network):
            yield warning(
                f"{who} lies outside of Network {network.network}", cure="on that host: proxygen network release"
            )
        elif attributes.public_ip is None:
            yield error(f"{who} has no PublicIP", cure=restart)
        elif attributes.public_ip in network.network:
            yield error(
                f"{who} has the PublicIP {attributes.public_ip}, which lies in the containers' own network",
                cure="on that host: set network.interface or network.public_ip to where the other hosts reach it",
            )
        elif attributes.backend_type != network.backend.type:
            yield error(
                f"{who} has the backend {attributes.backend_type or '(none)'}, and not {network.backend.type}",
                cure=restart,
            )
    yield from _overlaps(sorted(view.records.values(), key=lambda one: one.subnet))


def _overlaps(records: list[Record]) -> Iterator[Fault]:
    """Name each lease that lies in another. They come by where they begin: the widest so far is all that counts."""
    widest: Record | None = None
    for record in records:
        if widest is not None and widest.subnet.overlaps(record.subnet):
            yield error(
                f"{record.subnet} of {record.holder} overlaps {widest.subnet} of {widest.holder}",
                cure=f"on one of the two: {_MOVE}",
            )
        if widest is None or record.subnet.broadcast_address > widest.subnet.broadcast_address:
            widest = record
