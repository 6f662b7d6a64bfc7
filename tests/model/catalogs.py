"""Random catalogs of a few services, each of which stands for a kind of trouble or for the lack of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from hypothesis import strategies as st
from hypothesis.vendor.pretty import RepresentationPrinter

from proxygen.catalog import Catalog, Health, Instance, ServiceName
from tests.corpora import hostile_tags, hostile_text
from tests.proxy.plan.catalogs import catalog, instance

BYSTANDERS: Final = {"shop": "10.0.2.", "mail": "10.0.3."}
"""Services that never do anything wrong, and the network of each."""

PORTS: Final = (15432, 15433)
"""What the stream service may ask for."""

MISTYPED: Final = "canary=lots"
"""What an instance states that never served, beside others that do nothing wrong."""

REFUSABLE: Final = ("10.0.4.1:8080", "10.0.5.1:8080", "rival.test", "evil.test")
"""What a gate may be told to dislike; no bystander has any of it."""


_OVERRIDES: Final[tuple[dict[str, str], ...]] = (
    {},
    {"web": '{"canary": "25%"}'},
    {"web": "nonsense"},
    {"shop": "{}"},
)


def host(service: str) -> str:
    return f"{service}.test"


def is_unicode(text: str) -> bool:
    return text.encode("utf-8", "ignore").decode("utf-8") == text


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Told(Catalog):
    """A catalog that is short in a failure's story."""

    def __repr__(self) -> str:
        told = ", ".join(_short(name, found) for name, found in self.services.items())
        return f"Told({told}; overrides {dict(self.overrides)}, index {self.index})"

    def _repr_pretty_(self, printer: RepresentationPrinter, _cycle: bool) -> None:
        printer.text(repr(self))


def _short(name: str, instances: tuple[Instance, ...]) -> str:
    short = [f"{each.address}:{each.port} {each.health} {' '.join(each.tags)}" for each in instances]
    return f"{name}={short}"


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Each service has instances, is known to have none, or was never seen."""
    instances: list[Instance] = []
    empty: list[str] = []

    def some(service: str, network: str, *tags: str) -> None:
        count = draw(st.sampled_from((1, 2, 0, 4, None)))
        if count == 0:
            empty.append(service)
        for number in range(1, (count or 0) + 1):
            health = draw(st.sampled_from((Health.PASSING, Health.PASSING, Health.CRITICAL, Health.MAINTENANCE)))
            weight = draw(st.sampled_from(((), ("weight=5",), ("weight=0",))))
            fields: dict[str, Any] = {"address": f"{network}{number}", "health": health}
            instances.append(instance(service, number, *tags, *weight, **fields))
        if count and draw(st.booleans()):
            # It never was anything else, and never is alone.
            instances.append(instance(service, 9, *tags, MISTYPED, address=f"{network}9"))

    some("web", "10.0.1.", "route=web.test", *draw(st.sampled_from(((), ("canary=10%",), ("sticky=ip",)))))
    for name, network in BYSTANDERS.items():
        some(name, network, f"route={host(name)}")
    # The host of another service's, and one of its own.
    some("rival", "10.0.4.", "route=rival.test", draw(st.sampled_from(("route=web.test", "route=web.test/api"))))
    some("db", "10.0.6.", "protocol=tcp", f"listen={draw(st.sampled_from(PORTS))}")
    if draw(st.booleans()):
        # Consul's answers are JSON, which has no lone surrogates.
        tags = [tag for tag in draw(hostile_tags()) if is_unicode(tag)]
        evil = instance("evil", 1, "route=evil.test", address="10.0.5.1")
        instances.append(
            Instance(
                service=evil.service,
                id=evil.id,
                node=evil.node,
                datacenter=evil.datacenter,
                address=draw(st.just(evil.address) | hostile_text().filter(is_unicode)),
                port=draw(st.sampled_from((8080, 0, -1, 70_000))),
                tags=(*evil.tags, *tags),
            )
        )
    overrides: dict[str, str] = draw(st.sampled_from(_OVERRIDES))
    found = catalog(*instances, overrides=overrides)
    services = {**found.services, **dict.fromkeys(map(ServiceName, empty), ())}
    # An index that falls tells of a store that was wiped.
    index = draw(st.sampled_from((7, 7, 7, 3)))
    return Told(datacenter=found.datacenter, services=services, overrides=found.overrides, index=index)
