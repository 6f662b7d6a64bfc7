"""From a container and its labels to the services that it is registered as."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, Literal
from urllib.parse import urlsplit

from proxygen.kit.errors import BadInput, quoted
from proxygen.registration.address import IPAddress
from proxygen.registration.checks import Check, GrpcCheck, HealthCallable, HttpCheck, TcpCheck, TtlCheck
from proxygen.registration.containers import Container, Port
from proxygen.registration.labels import IGNORE, META, TAGGED_ADDRESS, Keys, LabelValue, Wanted, read_labels
from proxygen.registration.owners import OWNER
from proxygen.registration.service import EVEN, META_MOST, Announcement, CompleteRegistration
from proxygen.registration.texts import read_host_and_port, read_port, read_weights
from proxygen.tags import KEYS, IPNetwork

Announce = Literal["auto", "published", "container"]

_DEREGISTER_AFTER: Final = "10m"
"""Longer than an application's own: the registrator takes away what is gone, and a sick container is to stay known."""
_COMPOSE_SERVICE: Final = "com.docker.compose.service"
_METHODS: Final = ("GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE")
"""The first two change nothing at an application that keeps to HTTP (RFC 9110, 9.2.1)."""
_STATUSES: Final = ("passing", "warning", "critical")


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerDefaults:
    """How containers are registered where their labels do not say otherwise."""

    tag_prefix: str
    owner: str
    address: str
    """The host's, where published ports are reached."""
    announce: Announce
    leased: IPv4Network | None
    """The subnet that this host's containers have in the network of all hosts; None where there is none."""
    network: str | None
    """Whose address of a container counts; None where it is to have one only."""
    unlabelled: bool
    """Whether containers without a label are registered too, as registrator does."""
    ttl: float
    """Seconds for which a container's health is believed once we are gone."""
    variables: bool = False
    """Whether variables of registrator's kind count without a label that says so."""
    any_checks: bool = False
    """Whether a label may have Consul's agent ask another address, or by a method that may change something."""
    never: tuple[IPNetwork, ...] = ()
    """Where no label may say that an instance is."""


def describe(
    container: Container,
    policy: ContainerDefaults,
    health: HealthCallable,
    remark: Callable[[str], None] = lambda text: None,
) -> tuple[CompleteRegistration, ...]:
    """Return the services of a running container; none where it does not ask for any.

    ``remark`` is told what was left out of them. Raise BadInput or TagError, and name the label, for a container that
    asks for what cannot be.
    """
    wanted = read_labels(container, prefix=policy.tag_prefix, variables=policy.variables)
    if wanted is None:
        if not policy.unlabelled:
            return ()
        wanted = Wanted(is_registrators=True)
    if _yes(wanted.common, IGNORE):
        return ()
    ports = [port for port in _ports(container, wanted, policy) if not _yes(wanted.of(port)[0], IGNORE)]
    all_of_it = [_Described(container, wanted, port, policy, health) for port in ports]
    ids = Counter(one.stated_id for one in all_of_it)
    services = tuple(
        one.service(is_one_of_many=len(ports) > 1, shares_its_id=ids[one.stated_id] > 1) for one in all_of_it
    )
    for text in dict.fromkeys(wanted.remarks):
        remark(text)
    return services


def _ports(container: Container, wanted: Wanted, policy: ContainerDefaults) -> tuple[Port, ...]:
    """The ports that become services: those that labels name, else the only one, else (registrator) all."""
    named = {key for key, given in wanted.by_port.items() if not _from_registrator(given)}
    if "port" in wanted.common:
        named.add(_stated_port(wanted.common["port"]))
    if named:
        return tuple(_find_port(container, number, protocol) for number, protocol in sorted(named))
    eligible = tuple(port for port in container.ports if _is_eligible(container, port, wanted, policy))
    if wanted.is_registrators or len(eligible) == 1:
        return eligible
    prefix = policy.tag_prefix
    if not eligible:
        raise BadInput(_without_a_port(container, wanted, policy))
    known = ", ".join(f"{port.number}/{port.protocol}" for port in eligible)
    raise BadInput(f"it has several ports, {known}; write {prefix}.port=PORT, or {prefix}.PORT.KEY for each")


def _stated_port(given: LabelValue) -> tuple[int, str]:
    """Return a number, and a protocol where one is written."""
    number, slash, protocol = given.text.partition("/")
    if slash and protocol not in ("tcp", "udp"):
        raise given.refuse(f"{quoted(given.text)} is neither PORT, PORT/tcp nor PORT/udp")
    return read_port(number, given.place), protocol


def _without_a_port(container: Container, wanted: Wanted, policy: ContainerDefaults) -> str:
    """Why no port of a container is announced, and what it takes."""
    stated = wanted.common.get("announce")
    if container.on_host_network:
        return f"it is in the host's network, and its image exposes no port; write {policy.tag_prefix}.port=PORT"
    if (policy.announce if stated is None else stated.text) == "container":
        return f"its image exposes no port; write {policy.tag_prefix}.port=PORT"
    return f"it publishes no port; publish one, or write {policy.tag_prefix}.announce=container"


def _from_registrator(given: dict[str, LabelValue]) -> bool:
    return all(value.place.startswith("SERVICE_") for value in given.values())


def _find_port(container: Container, number: int, protocol: str) -> Port:
    for port in container.ports:
        if port.number == number and protocol in ("", port.protocol):
            return port
    # What an image does not declare may listen all the same.
    return Port(number=number, protocol="udp" if protocol == "udp" else "tcp")


def _is_eligible(container: Container, port: Port, wanted: Wanted, policy: ContainerDefaults) -> bool:
    if container.on_host_network:
        return True
    match _announce(container, wanted.of(port)[0], policy):
        case "container":
            return True
        case "published":
            return bool(port.published)
        case "auto":
            # What is published says what is meant for others, wherever that is reached.
            return bool(port.published) or not any(other.published for other in container.ports)


def _announce(container: Container, keys: Keys, policy: ContainerDefaults) -> Announce:
    """Return what counts for a port; ``auto`` only where the container has an address that other hosts reach."""
    given = keys.get("announce")
    match given.text if given is not None else policy.announce:
        case "published":
            return "published"
        case "container":
            return "container"
        case "auto":
            return "auto" if _leased_addresses(container, keys, policy) else "published"
        case other:
            assert given is not None
            raise given.refuse(f"{quoted(other)} is none of auto, published, container")


def _leased_addresses(container: Container, keys: Keys, policy: ContainerDefaults) -> dict[str, str]:
    """Return the addresses of the container that lie in the host's leased subnet, by the network's name."""
    given = keys.get("network")
    chosen = given.text if given is not None else policy.network
    if policy.leased is None:
        return {}
    return {
        name: address
        for name, address in sorted(container.networks.items())
        if chosen in (None, name) and ipaddress.ip_address(address) in policy.leased
    }


class _Described:
    """One port of one container."""

    def __init__(
        self, container: Container, wanted: Wanted, port: Port, policy: ContainerDefaults, health: HealthCallable
    ) -> None:
        self._container = container
        self._keys, self._own = wanted.of(port)
        self._remarks = wanted.remarks
        self._is_registrators = wanted.is_registrators
        self._port = port
        self._policy = policy
        self._health = health

    @property
    def stated_id(self) -> str | None:
        return self._keys["id"].text if "id" in self._keys else None

    def service(self, *, is_one_of_many: bool, shares_its_id: bool) -> CompleteRegistration:
        address, port = self._target()
        keys, prefix = self._keys, self._policy.tag_prefix
        tags = [f"{prefix}.{key.name}={text}" for key in KEYS if key.name in keys for text in keys[key.name].texts]
        announcement = Announcement(
            name=self._name(is_one_of_many),
            port=port,
            id=self._id(is_shared=shares_its_id),
            plain_tags=[*tags, *(keys["tag"].texts if "tag" in keys else ()), *self._protocol_tag()],
            check=list(self._checks(address)),
            meta={**self._meta(), OWNER: self._policy.owner},
            weights=read_weights(keys["weights"].text, keys["weights"].place) if "weights" in keys else EVEN,
            tagged_addresses={
                key.removeprefix(TAGGED_ADDRESS): read_host_and_port(given.text, given.place)
                for key, given in keys.items()
                if key.startswith(TAGGED_ADDRESS)
            },
            deregister_after=self._text("deregister-after", _DEREGISTER_AFTER),
            tag_prefix=prefix,
        )
        return announcement.service(address)

    def _meta(self) -> dict[str, str]:
        """As many entries as Consul takes beside the owner's mark."""
        meta = {key.removeprefix(META): given.text for key, given in sorted(self._keys.items()) if key.startswith(META)}
        over = list(meta)[META_MOST - 1 :]
        if over:
            self._remarks.append(
                f"{len(over)} entries of Meta are left out, from {over[0]} on: Consul takes {META_MOST}"
            )
        return {key: text for key, text in meta.items() if key not in over}

    def _text(self, key: str, default: str) -> str:
        given = self._keys.get(key)
        return given.text if given is not None else default

    def _name(self, is_one_of_many: bool) -> str:
        name = self._text("name", "") or self._default_name()
        return f"{name}-{self._port.number}" if is_one_of_many and "name" not in self._own else name

    def _default_name(self) -> str:
        if not self._is_registrators and _COMPOSE_SERVICE in self._container.labels:
            return self._container.labels[_COMPOSE_SERVICE]
        return self._container.image.rpartition("/")[2].partition("@")[0].partition(":")[0]

    def _id(self, *, is_shared: bool) -> str:
        """The same after a restart of the container, as registrator writes it. What several ports share goes before."""
        stated = self.stated_id
        if stated is not None and not is_shared:
            return stated
        id = f"{stated or f'{self._policy.owner}:{self._container.name}'}:{self._port.number}"
        return f"{id}:udp" if self._port.protocol == "udp" else id

    def _protocol_tag(self) -> tuple[str, ...]:
        """As registrator tells the protocols of one port apart."""
        return ("udp",) if self._is_registrators and self._port.protocol == "udp" else ()

    def _target(self) -> tuple[str, int]:
        """Address and port where proxies reach it."""
        address = self._keys.get("address")
        if self._container.on_host_network:
            host, port = self._policy.address, self._port.number
        else:
            host, port = self._reached(address is not None)
        if address is None:
            return host, port
        try:
            stated = ipaddress.ip_address(address.text)
        except ValueError:
            raise address.refuse(f"{quoted(address.text)} is no IP address") from None
        if self._is_never(stated):
            raise address.refuse(f"{stated} is none that a container has; its checks would lead Consul's agent there")
        return str(stated), port

    def _is_never(self, address: IPAddress) -> bool:
        if self._policy.any_checks:
            return False
        plain = getattr(address, "ipv4_mapped", None) or address
        is_local = plain.is_loopback and not ipaddress.ip_address(self._policy.address).is_loopback
        return is_local or any(plain in network for network in self._policy.never)

    def _reached(self, is_address_stated: bool) -> tuple[str, int]:
        announce = _announce(self._container, self._keys, self._policy)
        if announce == "published":
            return self._published()
        if is_address_stated:
            return "", self._port.number
        if announce == "auto":
            # Any of them will do. The first by name is where the engine has the container's way out, too.
            return next(iter(_leased_addresses(self._container, self._keys, self._policy).values())), self._port.number
        return self._container_address(), self._port.number

    def _container_address(self) -> str:
        networks, chosen = self._container.networks, self._text("network", self._policy.network or "")
        if chosen:
            if chosen not in networks:
                raise BadInput(f"it has no address in the network {quoted(chosen)}; it has {_listed(networks)}")
            return networks[chosen]
        if not networks:
            raise BadInput("it is in no network, so it has no address")
        if len(networks) != 1:
            label = f"{self._policy.tag_prefix}.network=NAME"
            raise BadInput(f"which of its addresses? It has {_listed(networks)}; write {label}")
        return next(iter(networks.values()))

    def _published(self) -> tuple[str, int]:
        places = [place for place in self._port.published if self._is_reached(place[0])]
        if places:
            host, port = min(places, key=lambda place: self._farness(place[0]))
            return self._policy.address if ipaddress.ip_address(host).is_unspecified else host, port
        how = "only on loopback" if self._port.published else "nowhere"
        prefix = self._policy.tag_prefix
        raise BadInput(f"port {self._port.number} is published {how}; publish it, or write {prefix}.announce=container")

    def _is_reached(self, host: str) -> bool:
        """Not what is published for this host alone: nobody else can use it, unless everything here is this host's."""
        return not ipaddress.ip_address(host).is_loopback or ipaddress.ip_address(self._policy.address).is_loopback

    def _farness(self, host: str) -> int:
        """How far a place is from the host's own address; a wildcard of the other family has another port as a rule."""
        place, own = ipaddress.ip_address(host), ipaddress.ip_address(self._policy.address)
        if place == own:
            return 0
        if not place.is_unspecified:
            return 2
        return 1 if place.version == own.version else 3

    def _checks(self, address: str) -> Iterator[Check]:
        yield from self._asked_by_consul(address)
        # What Consul asks itself outlives us, so our own word is taken only where nothing else tells.
        if self._container.health is not None or not self._is_asked_by_consul():
            yield TtlCheck(self._text("check-ttl", "") or self._policy.ttl, self._health)

    def _asked_by_consul(self, address: str) -> Iterator[Check]:
        interval, timeout = self._text("check-interval", "5s"), self._text("check-timeout", "2s")
        initially, is_tls = self._initially(), _yes(self._keys, "check-tls")
        for path in self._texts("check-http"):
            yield HttpCheck(
                self._asked_url(path, address),
                scheme="https" if is_tls else "http",
                method=self._method(),
                tls_skip_verify=is_tls,
                interval=interval,
                timeout=timeout,
                initially=initially,
            )
        for service in self._texts("check-grpc"):
            yield GrpcCheck(
                service, tls=is_tls, tls_skip_verify=is_tls, interval=interval, timeout=timeout, initially=initially
            )
        if self._is_connected_to():
            yield TcpCheck(interval=interval, timeout=timeout, initially=initially)

    def _asked_url(self, path: str, address: str) -> str:
        """Raise BadInput for a URL that leads elsewhere than to the instance's own address."""
        if path.startswith("/") or self._policy.any_checks:
            return path
        url = urlsplit(path)
        if not url.netloc:
            # It is no URL, and refused as such.
            return path
        if url.netloc.count("@") or url.hostname != address.lower():
            raise self._keys["check-http"].refuse(
                f"{quoted(path)} is not at the instance's own address, {address}; write a path such as /healthz"
                " (the operator may allow more: registrator.checks = any)"
            )
        return path

    def _method(self) -> str:
        given = self._keys.get("check-method")
        if given is None:
            return "GET"
        allowed = _METHODS if self._policy.any_checks else _METHODS[:2]
        if given.text.upper() not in allowed:
            raise given.refuse(f"{quoted(given.text)} is none of {', '.join(allowed)}")
        return given.text.upper()

    def _is_asked_by_consul(self) -> bool:
        return "check-http" in self._keys or "check-grpc" in self._keys or self._is_connected_to()

    def _is_connected_to(self) -> bool:
        if "check-tcp" in self._keys:
            return _yes(self._keys, "check-tcp")
        return self._port.protocol == "tcp" and "check-http" not in self._keys and "check-grpc" not in self._keys

    def _texts(self, key: str) -> tuple[str, ...]:
        return self._keys[key].texts if key in self._keys else ()

    def _initially(self) -> Literal["passing", "warning", "critical"]:
        given = self._keys.get("check-initially")
        for status in _STATUSES:
            if given is not None and given.text == status:
                return status
        if given is not None:
            raise given.refuse(f"{quoted(given.text)} is none of {', '.join(_STATUSES)}")
        return "critical"


def _yes(keys: Keys, key: str) -> bool:
    given = keys.get(key)
    if given is None or given.text == "false":
        return False
    if given.text != "true":
        raise given.refuse(f"{quoted(given.text)} is neither true nor false")
    return True


def _listed(networks: object) -> str:
    items = sorted(networks.items()) if isinstance(networks, dict) else []
    return ", ".join(f"{address} in {name}" for name, address in items) or "none"
