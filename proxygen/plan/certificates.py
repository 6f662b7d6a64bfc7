"""Which certificate a host is served with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from proxygen.model import ServiceName
from proxygen.plan.types import Certificate, Claim, RouteClaim, Service

AUTO = "auto"


def certificate_for(host: str, wanted: str, certificates: Iterable[Certificate]) -> Certificate | None:
    """The certificate of that name; for ``auto`` the one that holds the host, by its name before by a wildcard."""
    if wanted != AUTO:
        return next((certificate for certificate in certificates if certificate.name == wanted), None)
    names = [host] if host.startswith("*.") else [host, f"*.{host.partition('.')[2]}"]
    for name in names:
        for certificate in certificates:
            if name in certificate.hosts:
                return certificate
    return None


def choose_certificates(
    services: Mapping[ServiceName, Service],
    holders: Mapping[Claim, ServiceName],
    certificates: Iterable[Certificate],
) -> Mapping[str, Certificate]:
    """One certificate per host: that of the oldest service among those that hold a route there and want TLS."""
    known = tuple(certificates)
    chosen: dict[str, tuple[tuple[int, str], Certificate]] = {}
    for claim, name in holders.items():
        service = services[name]
        if not isinstance(claim, RouteClaim) or service.options.tls is None:
            continue
        certificate = certificate_for(claim.host, service.options.tls, known)
        age = (service.registered, service.name)
        if certificate is not None and (claim.host not in chosen or age < chosen[claim.host][0]):
            chosen[claim.host] = (age, certificate)
    return MappingProxyType({host: certificate for host, (_, certificate) in chosen.items()})
