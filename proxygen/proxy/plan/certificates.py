"""Which certificate a host is served with."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from types import MappingProxyType

from proxygen.catalog import ServiceName
from proxygen.kit.texts import name_some
from proxygen.proxy.plan.copies import wider
from proxygen.proxy.plan.types import Certificate, CertificateIndex, Claim, RouteClaim, Service
from proxygen.tags import AUTO

_Rank = tuple[bool, bool, int, ServiceName]


def is_for(certificate: Certificate, host: str) -> bool:
    """Whether it names the host, or a wildcard of one label does."""
    return any(name in certificate.hosts for name in _names(host))


def certificate_for(host: str, wanted: str, known: CertificateIndex) -> Certificate | None:
    """The certificate of that name; for ``auto`` one that holds the host, by its name before by a wildcard."""
    if wanted != AUTO:
        return known.by_name.get(wanted)
    return next((known.by_host[name] for name in _names(host) if name in known.by_host), None)


def _names(host: str) -> tuple[str, ...]:
    return (host,) if host.startswith("*.") else (host, f"*.{host.partition('.')[2]}")


def choose_certificates(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    known: CertificateIndex,
) -> Mapping[str, Certificate]:
    """One certificate per host, of those that services with a route there want: one that names the host, then that of
    the service at its root, then that of the oldest service.

    So nobody takes HTTPS away from a host by claiming a path of it with a certificate for another, nor from a host that
    a wildcard serves.
    """
    best: dict[str, tuple[_Rank, Certificate]] = {}
    for claim, name in holders.items():
        service, wanted = services[name], services[name].options.tls
        if not isinstance(claim, RouteClaim) or wanted is None:
            continue
        certificate = certificate_for(claim.host, wanted, known)
        if certificate is None:
            continue
        is_for_others = wanted != AUTO and not is_for(certificate, claim.host)
        rank = (is_for_others, claim.path != "/", service.registered, service.name)
        if claim.host not in best or rank < best[claim.host][0]:
            best[claim.host] = (rank, certificate)
    chosen = {host: certificate for host, (_, certificate) in best.items()}
    for host, ((is_for_others, is_path, *_), _) in best.items():
        if is_for_others and is_path:
            above = (best[each][1] for each in wider(host) if each in best)
            chosen[host] = next((each for each in above if is_for(each, host)), chosen[host])
    return MappingProxyType(chosen)


def without_effect(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    chosen: Mapping[str, Certificate],
) -> Mapping[ServiceName, tuple[str, ...]]:
    """Say to each service under which of its hosts another certificate is served than the one that it names."""
    lost: dict[ServiceName, set[str]] = defaultdict(set)
    for claim, name in holders.items():
        wanted = services[name].options.tls
        if not isinstance(claim, RouteClaim) or wanted in (None, AUTO):
            continue
        if claim.host in chosen and chosen[claim.host].name != wanted:
            lost[name].add(claim.host or "any host")
    return {
        name: (
            f"tls={services[name].options.tls} has no effect under {name_some(sorted(hosts))}: a host has one"
            " certificate; one that names the host goes first, then that of the service at its root, then the oldest"
            " service's",
        )
        for name, hosts in lost.items()
    }
