from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.network.config import parse_config
from proxygen.network.fabric import Fabric, Member
from proxygen.network.records import Attributes, KeyEntry, View, read_view, subnet_key, write_value
from proxygen.network.watch import Caution, ViewGuard, config_problems

PREFIX: Final = "proxygen/network"
CONFIG_TEXT: Final = '{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}'
CONFIG: Final = parse_config(CONFIG_TEXT)
HOLD: Final = 300.0
OWN: Final = Member(
    host_id="own",
    node="own",
    subnet=IPv4Network("10.99.1.0/24"),
    public_ip=IPv4Address("192.0.2.1"),
    backend_type="host-gw",
)


def lease(number: int, *, host: str = "", session: str = "alive", address: str | None = None) -> KeyEntry:
    attributes = Attributes(
        node=f"node{number}",
        public_ip=IPv4Address(address or f"192.0.2.{number}"),
        backend_type="host-gw",
        backend_data=None,
    )
    return KeyEntry(
        key=f"{PREFIX}/{subnet_key(subnet(number))}",
        value=write_value(host or ("own" if number == 1 else f"host{number}"), attributes, 1),
        session=session,
        modify_index=number,
    )


def subnet(number: int) -> IPv4Network:
    return IPv4Network(f"10.99.{number}.0/24")


def view(*entries: KeyEntry, config: str | None = CONFIG_TEXT) -> View:
    found = list(entries)
    if config is not None:
        found.append(KeyEntry(key=f"{PREFIX}/config", value=config.encode(), create_index=1, modify_index=1))
    return read_view(PREFIX, found)


def hosts(*numbers: int) -> list[KeyEntry]:
    return [lease(number) for number in numbers]


class Story:
    """A guard that is shown one view after the other."""

    def __init__(self, *, loss: float = 0.5, hold: float = HOLD) -> None:
        self.guard = ViewGuard(Caution(loss=loss, hold=hold))
        self.fabric: Fabric | None = None
        self.now = 1000.0

    def see(self, seen: View, *, after: float = 0.0) -> list[int]:
        """Return the third numbers of the subnets that have routes then."""
        self.now += after
        self.fabric = self.guard.judge(seen, CONFIG, OWN, self.now)
        return [member.subnet.network_address.packed[2] for member in self.fabric.others]


def test_a_host_that_gives_its_lease_back_is_withdrawn_at_once() -> None:
    story = Story()
    assert story.see(view(*hosts(1, 2, 3))) == [2, 3]
    assert story.see(view(*hosts(1, 3))) == [3]
    assert story.see(view(*hosts(1))) == []


def test_a_host_that_does_not_answer_keeps_its_routes() -> None:
    """Only the record's end withdraws; a lock that is gone is not it."""
    story = Story()
    story.see(view(*hosts(1, 2, 3)))
    assert story.see(view(lease(1), lease(2, session=""), lease(3, session="")), after=10_000) == [2, 3]
    assert story.fabric is not None
    assert [member.lives for member in story.fabric.others] == [False, False]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(view(lease(1)), id="nothing but this host"),
        pytest.param(view(*hosts(1, 2)), id="more than the part that may go"),
    ],
)
def test_a_loss_that_looks_like_consuls_is_held_until_it_has_lasted(seen: View) -> None:
    story = Story()
    story.see(view(*hosts(1, 2, 3, 4, 5, 6)))
    assert story.see(seen) == [2, 3, 4, 5, 6]
    assert story.fabric is not None
    assert any("held" in problem for problem in story.fabric.problems)
    assert story.see(seen, after=HOLD - 1) == [2, 3, 4, 5, 6]
    assert story.guard.pause(story.now) == pytest.approx(1.0)
    still_there = [record.subnet.network_address.packed[2] for record in seen.records.values()]
    assert story.see(seen, after=1) == [number for number in sorted(still_there) if number != 1]


@pytest.mark.parametrize(
    "seen",
    [
        pytest.param(view(config=None), id="no key at all, as after a 404"),
        pytest.param(view(lease(1), lease(2), config=None), id="some, and not the config"),
        pytest.param(view(), id="nothing but the config"),
        pytest.param(view(lease(2)), id="some, and not this host's own"),
    ],
)
def test_while_the_config_or_the_own_lease_is_gone_nobody_is_withdrawn_however_long_that_lasts(seen: View) -> None:
    """Consul's data was lost at night: no host can write its lease again before somebody writes the config."""
    story = Story()
    story.see(view(*hosts(1, 2, 3, 4, 5, 6)))
    story.see(view(lease(1), lease(2)))
    assert story.see(seen, after=HOLD - 1) == [2, 3, 4, 5, 6]
    assert story.see(seen, after=100 * HOLD) == [2, 3, 4, 5, 6]
    with_config = view(*hosts(1, 2, 3))
    assert story.see(with_config) == [2, 3, 4, 5, 6]
    assert story.see(with_config, after=HOLD - 1) == [2, 3, 4, 5, 6]
    assert story.see(with_config, after=1) == [2, 3]


def test_hosts_that_come_back_in_time_are_not_missed_and_the_others_are_still_held() -> None:
    """After a loss of data hosts write their leases again, one after the other."""
    story = Story()
    story.see(view(*hosts(1, 2, 3, 4, 5)))
    assert story.see(view(config=None)) == [2, 3, 4, 5]
    assert story.see(view(*hosts(1, 2, 3, 4)), after=20) == [2, 3, 4, 5]
    assert story.see(view(*hosts(1, 2, 3, 4, 5)), after=20) == [2, 3, 4, 5]
    assert story.guard.pause(story.now) is None


def test_the_hold_counts_only_while_consul_answers() -> None:
    story = Story()
    story.see(view(*hosts(1, 2, 3, 4)))
    story.see(view(lease(1)))
    story.guard.interrupted()
    assert story.see(view(lease(1)), after=HOLD * 10) == [2, 3, 4]
    assert story.see(view(lease(1)), after=HOLD) == []


def test_a_subnet_that_another_host_has_now_is_carried_to_that_host() -> None:
    story = Story()
    story.see(view(*hosts(1, 2, 3, 4)))
    story.see(view(lease(1)))
    story.see(view(lease(1), lease(2, host="other", address="192.0.2.99")))
    assert story.fabric is not None
    assert [str(member.public_ip) for member in story.fabric.others] == ["192.0.2.99", "192.0.2.3", "192.0.2.4"]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(b"\xff{", id="no JSON"),
        pytest.param(b'{"HostID": "host2", "PublicIP": "10.99.7.7", "BackendType": "host-gw"}', id="inside Network"),
        pytest.param(b'{"HostID": "host2", "BackendType": "host-gw"}', id="no address"),
        pytest.param(b'{"HostID": "host2", "PublicIP": "192.0.2.2", "BackendType": "udp"}', id="another backend"),
    ],
)
def test_a_lease_that_can_be_read_no_more_keeps_what_it_had(value: bytes) -> None:
    story = Story()
    story.see(view(*hosts(1, 2, 3)))
    bad = KeyEntry(key=f"{PREFIX}/{subnet_key(subnet(2))}", value=value, session="alive", modify_index=9)
    assert story.see(view(lease(1), bad, lease(3)), after=HOLD * 2) == [2, 3]
    assert story.fabric is not None
    assert any("10.99.2.0" in problem for problem in story.fabric.problems)


def test_a_lease_that_nobody_could_ever_read_has_no_route_and_takes_none_from_others() -> None:
    stranger = KeyEntry(key=f"{PREFIX}/{subnet_key(subnet(2))}", value=b"mine", modify_index=2)
    assert Story().see(view(lease(1), stranger, lease(3))) == [3]


def test_no_hold_holds_nothing() -> None:
    story = Story(hold=0)
    story.see(view(*hosts(1, 2, 3, 4)))
    assert story.see(view(config=None)) == []


_numbers = st.sets(st.integers(2, 12))


@given(looks=st.lists(st.tuples(_numbers, st.booleans(), st.floats(0, HOLD / 4)), min_size=1, max_size=12))
def test_whoever_is_in_consul_has_routes_and_nobody_is_held_for_longer_than_the_hold(
    looks: Sequence[tuple[set[int], bool, float]],
) -> None:
    story, last_seen = Story(), dict[int, float]()
    for numbers, with_config, after in looks:
        carried = story.see(view(*hosts(1, *sorted(numbers)), config=CONFIG_TEXT if with_config else None), after=after)
        last_seen |= dict.fromkeys(numbers, story.now)
        assert numbers <= set(carried)
        # It is missing since the look after the last one that had it.
        assert all(number in last_seen for number in carried)
    end = view(*hosts(1, *sorted(looks[-1][0])))
    story.see(end)
    assert story.see(end, after=HOLD) == sorted(looks[-1][0])


@given(numbers=_numbers)
def test_what_stays_as_it_is_is_never_held(numbers: set[int]) -> None:
    story, seen = Story(), view(*hosts(1, *sorted(numbers)))
    first = story.see(seen)
    assert story.see(seen, after=1) == first == sorted(numbers)
    assert story.fabric is not None
    assert story.fabric.problems == ()


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "there is no config"),
        ("{", "cannot be read"),
        ('{"Network": "10.98.0.0/16", "Backend": {"Type": "host-gw"}}', "Network was changed"),
        ('{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan"}}', "Backend was changed"),
        ('{"Network": "10.99.0.0/16", "Backend": {"Type": "udp"}}', "'udp' is none of"),
    ],
)
def test_another_config_is_reported_and_does_not_touch_the_data_plane(config: str | None, said: str) -> None:
    story = Story()
    story.see(view(*hosts(1, 2, 3)))
    assert story.see(view(*hosts(1, 2, 3), config=config), after=HOLD * 2) == [2, 3]
    assert story.fabric is not None
    assert story.fabric.config == CONFIG
    assert any(said in problem for problem in story.fabric.problems)


def test_other_options_of_the_same_backend_are_called_that() -> None:
    """It said that the backend was changed from vxlan to vxlan."""
    before = parse_config('{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan"}}')
    after = '{"Network": "10.99.0.0/16", "Backend": {"Type": "vxlan", "Port": 4789}}'
    (said,) = config_problems(view(config=after), before)
    assert said == "Options of vxlan were changed, which counts once the agent of each host is started again"


def test_more_subnets_to_choose_from_are_no_problem() -> None:
    text = '{"Network": "10.99.0.0/16", "SubnetMin": "10.99.64.0", "Backend": {"Type": "host-gw"}}'
    assert config_problems(view(config=text), CONFIG) == []
