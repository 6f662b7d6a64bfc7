"""The files that Docker and other programs read."""

from __future__ import annotations

import os
import subprocess
import threading
from ipaddress import IPv4Network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import NetworkConfigError, NetworkError
from proxygen.network.files import (
    SubnetFile,
    hinted_subnet,
    read_subnet_env,
    remove_file,
    write_docker_opts_env,
    write_file,
    write_subnet_env,
)

OWN = SubnetFile(network=IPv4Network("10.99.0.0/16"), subnet=IPv4Network("10.99.3.0/24"), mtu=1450, masquerade=True)


def test_subnet_env_is_flannels_to_the_byte() -> None:
    assert write_subnet_env(OWN) == (
        "FLANNEL_NETWORK=10.99.0.0/16\nFLANNEL_SUBNET=10.99.3.1/24\nFLANNEL_MTU=1450\nFLANNEL_IPMASQ=true\n"
    )


@given(
    subnet=st.integers(0, (1 << 14) - 1).map(lambda n: IPv4Network((0x0A630000 + n * 4, 30))),
    mtu=st.integers(576, 65535),
    masquerade=st.booleans(),
)
def test_what_was_written_is_read_back(subnet: IPv4Network, mtu: int, masquerade: bool) -> None:
    file = SubnetFile(network=OWN.network, subnet=subnet, mtu=mtu, masquerade=masquerade)
    assert read_subnet_env(write_subnet_env(file)) == file


def test_keys_of_another_order_and_of_ipv6_do_not_matter() -> None:
    text = "FLANNEL_MTU=1450\n# a remark\nFLANNEL_IPV6_NETWORK=fd00::/48\nFLANNEL_SUBNET=10.99.3.1/24\n\n"
    assert read_subnet_env(text + "FLANNEL_NETWORK=10.99.0.0/16\n").subnet == OWN.subnet


@pytest.mark.parametrize(
    ("wrong", "right", "key"),
    [
        ("10.99.3.1/24", "10.99.3/24", "FLANNEL_SUBNET"),
        ("10.99.3.1/24", "10.98.3.1/24", "FLANNEL_SUBNET"),
        ("10.99.0.0/16", "", "FLANNEL_NETWORK"),
        ("1450", "²", "FLANNEL_MTU"),
    ],
)
def test_a_file_that_says_nonsense_is_refused_by_its_key(wrong: str, right: str, key: str) -> None:
    with pytest.raises(NetworkConfigError, match=key):
        read_subnet_env(write_subnet_env(OWN).replace(wrong, right))


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe", b"FLANNEL_SUBNET=10.99.3.1/24\n"])
def test_a_file_that_cannot_be_believed_hints_at_nothing(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "subnet.env"
    if content is not None:
        path.write_bytes(content)
    assert hinted_subnet(path) is None


def test_the_hint_is_the_subnet_and_not_the_bridges_address(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    write_file(path, write_subnet_env(OWN))
    assert hinted_subnet(path) == OWN.subnet


def test_docker_opts_env_is_what_mk_docker_opts_makes_of_it() -> None:
    flags = {"MTU": "--mtu=1450", "BIP": "--bip=10.99.3.1/24", "IPMASQ": "--ip-masq=false"}
    assert write_docker_opts_env(flags) == (
        'DOCKER_OPT_BIP="--bip=10.99.3.1/24"\n'
        'DOCKER_OPT_IPMASQ="--ip-masq=false"\n'
        'DOCKER_OPT_MTU="--mtu=1450"\n'
        'DOCKER_OPTS=" --bip=10.99.3.1/24 --ip-masq=false --mtu=1450 "\n'
    )


def test_a_shell_reads_both_files(tmp_path: Path) -> None:
    write_file(tmp_path / "subnet.env", write_subnet_env(OWN))
    write_file(tmp_path / "docker_opts.env", write_docker_opts_env({"BIP": "--bip=10.99.3.1/24"}))
    script = '. ./subnet.env; . ./docker_opts.env; echo "$FLANNEL_SUBNET" $DOCKER_OPTS'
    done = subprocess.run(["sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout == "10.99.3.1/24 --bip=10.99.3.1/24\n"


def test_a_file_is_for_all_to_read_whatever_the_umask(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "subnet.env"
    before = os.umask(0o077)
    try:
        assert write_file(path, "A=1\n")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
    assert [child.name for child in path.parent.iterdir()] == ["subnet.env"]


def test_an_operators_file_stays_private_and_where_its_link_leads(tmp_path: Path) -> None:
    """daemon.json may hold a proxy's password, and may be a link into somebody's configuration."""
    kept, link = tmp_path / "managed.json", tmp_path / "etc" / "daemon.json"
    kept.write_text("{}", encoding="ascii")
    kept.chmod(0o600)
    link.parent.mkdir()
    link.symlink_to(kept)
    write_file(link, '{"debug": true}')
    assert link.is_symlink()
    assert kept.read_text(encoding="ascii") == '{"debug": true}'
    assert kept.stat().st_mode & 0o777 == 0o600


def test_what_is_so_already_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    assert write_file(path, "A=1\n")
    before = path.stat()
    assert not write_file(path, "A=1\n")
    assert path.stat() == before


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    texts = [f"A={digit * 5000}\n" for digit in "12"]
    write_file(path, texts[0])
    stop = threading.Event()

    def rewrite() -> None:
        while not stop.is_set():
            for text in texts:
                write_file(path, text)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = {path.read_text(encoding="ascii") for _ in range(500)}
    finally:
        stop.set()
        writer.join()
    assert seen <= set(texts)


def test_a_file_that_cannot_be_written_is_an_error_with_its_path(tmp_path: Path) -> None:
    blocking = tmp_path / "file"
    blocking.write_text("", encoding="ascii")
    with pytest.raises(NetworkError, match="file/subnet"):
        write_file(blocking / "subnet.env", "A=1\n")


def test_removing_what_is_gone_is_no_error(tmp_path: Path) -> None:
    path = tmp_path / "subnet.env"
    write_file(path, "A=1\n")
    remove_file(path)
    remove_file(path)
    assert not path.exists()
