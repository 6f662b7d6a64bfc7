"""WireGuard, planned; and the host's key. Its link itself is made in tests/integration, where the kernel has it."""

from __future__ import annotations

import stat
from base64 import b64encode
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pyroute2.netlink.generic.wireguard import AsyncWireGuard, wgmsg

from proxygen.kit.errors import NetworkConfigError, NetworkError
from proxygen.network.backends.wireguard import WireGuardBackend, plan_peers
from proxygen.network.config import WireGuard
from proxygen.network.fabric import Member
from proxygen.network.kernel.netlink import Kernel
from proxygen.network.kernel.wireguard import Peer, check_key, keep_keys, peer_request, peers_between, read_messages
from tests.network.backends.fabrics import UNDERLAY, fabric, member


def key(number: int) -> str:
    return b64encode(bytes([number]) * 32).decode()


def host(number: int, *, of: object = None) -> Member:
    return member(number, kind="wireguard", data={"PublicKey": key(number) if of is None else of})


def peer(number: int, *, ip: str = "") -> Peer:
    whose = member(number)
    address = IPv4Address(ip) if ip else whose.public_ip
    return Peer(key=key(number), host=address, port=51820, subnets=frozenset({whose.subnet}))


def test_each_member_is_a_peer_with_its_subnet_and_no_other() -> None:
    """WireGuard drops what a peer sends from any other address."""
    peers, problems = plan_peers(
        fabric(host(2), host(3), kind="wireguard"), UNDERLAY, WireGuard(), own_key=key(1), shared_key=""
    )
    assert not problems
    assert set(peers) == {peer(2), peer(3)}


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ("", "is no key"),
        ("not base64!", "it is not base64"),
        (b64encode(b"short").decode(), "32 bytes"),
        (key(0), "32 bytes"),
        (5, "it is no text"),
        (key(1), "is this host's"),
        (key(3), "is also that of another host"),
    ],
    ids=str,
)
def test_a_bad_key_is_a_problem_of_its_member_alone(told: object, said: str) -> None:
    """Two with one key are a problem of both: who holds the private half cannot be told."""
    peers, problems = plan_peers(
        fabric(host(2, of=told), host(3), host(4), kind="wireguard"),
        UNDERLAY,
        WireGuard(),
        own_key=key(1),
        shared_key="",
    )
    assert peer(4) in peers
    assert "host2" not in {whose.node for whose in peers.values()}
    assert any("(host2)" in problem and said in problem for problem in problems)


def test_peers_are_set_when_they_differ_and_removed_first() -> None:
    """A subnet that moves between peers must not be taken from its new one."""
    actual = [peer(2), peer(3, ip="192.0.2.99"), peer(4)]
    assert peers_between(actual, [peer(2), peer(3), peer(5)]) == ([key(4)], [peer(3), peer(5)])
    assert peers_between([peer(2)], [peer(2)]) == ([], [])


def test_a_peer_comes_back_from_the_kernel_as_it_went() -> None:
    """Through netlink's own encoding: otherwise each pass would set every peer again."""
    sent = Peer(
        key=key(2),
        host=IPv4Address("192.0.2.2"),
        port=51820,
        subnets=frozenset({member(2).subnet, member(3).subnet}),
        keepalive=25,
        shared_key=key(9),
    )
    message = wgmsg()
    message["attrs"] += [["WGDEVICE_A_PUBLIC_KEY", key(1)], ["WGDEVICE_A_LISTEN_PORT", 51820]]
    AsyncWireGuard._wg_set_peer(AsyncWireGuard.__new__(AsyncWireGuard), message, peer_request(sent))
    message.encode()
    received = wgmsg(message.data)
    received.decode()
    state = read_messages([received])
    assert (state.key, state.port, state.peers) == (key(1), 51820, {sent})


def test_the_private_key_stays_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    """The same after a restart: other hosts know its public half."""
    path = tmp_path / "state" / "wireguard.key"
    keys = keep_keys(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    assert keep_keys(path) == keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert check_key(keys.public) == keys.public
    assert keys.private not in repr(keys)


def test_the_public_key_is_wireguards(tmp_path: Path) -> None:
    """RFC 7748's own example: Alice's."""
    path = tmp_path / "key"
    private = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a")
    public = bytes.fromhex("8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a")
    path.write_bytes(b64encode(private))
    assert keep_keys(path).public == b64encode(public).decode()


def test_a_spoilt_key_is_not_replaced_in_silence(tmp_path: Path) -> None:
    """Other hosts would lose this one without a word."""
    path = tmp_path / "key"
    path.write_text("nonsense")
    with pytest.raises(NetworkError, match="holds no key"):
        keep_keys(path)
    assert path.read_text() == "nonsense"


def test_a_bad_shared_key_is_refused_and_not_shown(tmp_path: Path) -> None:
    """It is a secret, even where it has a typing error."""
    with pytest.raises(NetworkConfigError, match="PSK") as caught:
        WireGuardBackend(Kernel(), UNDERLAY, WireGuard(psk="s3cret"), node="one", key_file=tmp_path / "key")
    assert "s3cret" not in str(caught.value)
