"""What is announced in an address's place, decided without a kernel; and one that a variable or an engine tells."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from structlog.testing import capture_logs

from proxygen.kit.errors import BadInput
from proxygen.registration.address import InterfaceAddress
from proxygen.registration.following import FollowedAddress, successor

pytestmark = pytest.mark.incident("T68")

START = "eth0 10.0.0.5, docker0 172.17.0.1"


def addresses(text: str) -> tuple[InterfaceAddress, ...]:
    pairs = (item.split() for item in text.split(", ") if item)
    return tuple(InterfaceAddress(name, ip_address(address)) for name, address in pairs)


@pytest.mark.parametrize(
    ("found", "before", "after"),
    [
        (START, "10.0.0.5", "10.0.0.5"),
        ("eth0 10.0.0.6, docker0 172.17.0.1", "10.0.0.5", "10.0.0.6"),
        ("eth0 10.0.0.6, eth0 10.0.0.5", "10.0.0.5", "10.0.0.5"),
        ("docker0 172.17.0.1", "10.0.0.5", None),
        ("", "10.0.0.5", None),
        ("docker0 172.17.0.1, wlan0 10.9.0.7", "10.0.0.5", "10.9.0.7"),
        ("virbr0 10.1.0.1, wlan0 10.9.0.7", "10.9.0.7", "10.9.0.7"),
        ("wlan0 10.9.0.7, eth0 10.0.0.6", "10.9.0.7", "10.0.0.6"),
        ("docker0 172.18.0.1, eth0 10.0.0.5", "10.0.0.5", "10.0.0.5"),
    ],
    ids=[
        "as it was",
        "another on its interface",
        "a second one beside it",
        "what was there all along is no successor",
        "nothing",
        "a new one on another interface",
        "it stays while it is there",
        "back on its own interface",
        "others do not matter",
    ],
)
def test_the_successor_of_an_address(found: str, before: str, after: str | None) -> None:
    start = frozenset(addresses(START))
    chosen = successor(addresses(found), before, start=start, home={"eth0"})
    assert chosen == (None if after is None else ip_address(after))


def test_a_variable_that_a_program_sets_anew_is_read_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that says nothing that could be announced changes nothing, and is told once."""
    monkeypatch.setenv("POD_IP", "10.0.0.5")
    with capture_logs() as logs:
        followed = FollowedAddress("env:POD_IP", consul=None)
        assert not followed.look()
        monkeypatch.setenv("POD_IP", "10.0.0.6")
        assert followed.look()
        monkeypatch.delenv("POD_IP")
        assert not followed.look()
        assert not followed.look()
        monkeypatch.setenv("POD_IP", "10.0.0.6")
        assert not followed.look()
    assert followed.current == "10.0.0.6"
    assert [line["event"] for line in logs] == [
        "address changed",
        "no address now, the last one stays announced",
        "address is back",
    ]
    assert (logs[0]["before"], logs[0]["after"]) == ("10.0.0.5", "10.0.0.6")


def test_an_engine_is_asked_again_and_may_be_away(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: list[str | Exception] = ["10.88.0.2", "10.88.0.3", BadInput("no engine"), RuntimeError("?"), "10.88.0.4"]

    def own_address(_network: str | None) -> str:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("proxygen.registration.docker.own_address", own_address)
    followed = FollowedAddress("docker:net", consul=None)
    announced = [(followed.look(), followed.current) for _ in range(4)]
    assert announced == [(True, "10.88.0.3"), (False, "10.88.0.3"), (False, "10.88.0.3"), (True, "10.88.0.4")]
