"""Networks as hosts see them, for tests of what FRR makes of them."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from hypothesis import strategies as st

from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member, Underlay

_FIRST_HOST = int(IPv4Address("192.0.0.0"))


def member(number: int, *, kind: str = "frr-bgp", version: str = "8.4.4", **changes: object) -> Member:
    """The host that came ``number``th: 192.0.0.NUMBER with 10.99.NUMBER.0/24, or further on."""
    one = Member(
        host_id=f"host{number:04}",
        node=f"node{number}",
        subnet=IPv4Network((int(IPv4Address("10.99.0.0")) + 256 * number, 24)),
        public_ip=IPv4Address(_FIRST_HOST + number),
        backend_type=kind,
        backend_data={"Since": 1_800_000_000 + number, "FRR": version},
    )
    return replace(one, **changes)  # type: ignore[arg-type]


def members(count: int, **options: object) -> list[Member]:
    return [member(number, **options) for number in range(1, count + 1)]  # type: ignore[arg-type]


def seen_by(own: Member, everybody: list[Member]) -> Fabric:
    """Return what one of the hosts sees."""
    kind = own.backend_type
    config = parse_config(f'{{"Network": "10.96.0.0/12", "SubnetLen": 24, "Backend": {{"Type": "{kind}"}}}}')
    others = sorted((one for one in everybody if one is not own), key=lambda one: one.subnet)
    return Fabric(config=config, own=own, others=tuple(others))


def underlay(own: Member, *, link: str = "eth0") -> Underlay:
    address = IPv4Interface(f"{own.public_ip}/20")
    return Underlay(link=link, index=2, address=address, mtu=1500, mac="02:00:00:00:00:01")


def _attributes() -> st.SearchStrategy[dict[str, object]]:
    """What a lease may hold where ours has two keys: anything that JSON can say."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
    hostile = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=5), scalars, max_size=2)
    since = st.integers(0, 5) | hostile
    version = st.sampled_from(["8.4.4", "10.1", "10.2.1", "9.0"]) | hostile
    return st.fixed_dictionaries({}, optional={"Since": since, "FRR": version})


@st.composite
def networks(draw: st.DrawFn, *, kind: str, most: int = 70) -> list[Member]:
    """Draw the hosts of a network: of any age, some out of sight, some whose leases say nonsense."""
    count = draw(st.integers(1, most))
    return [
        member(
            number,
            kind=kind,
            backend_data=draw(_attributes()),
            lives=draw(st.booleans()),
            node=draw(st.sampled_from(["", "web", "x\n router bgp 1", "!\nexit"])),
        )
        for number in draw(st.lists(st.integers(1, 2000), min_size=count, max_size=count, unique=True))
    ]
