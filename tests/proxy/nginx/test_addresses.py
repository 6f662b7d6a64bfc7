"""Where nginx listens: what is read is what nginx itself makes of it, seen by its own refusals, starts and reloads."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from proxygen.proxy.apply.held import held_addresses, restart_needed
from proxygen.proxy.nginx.addresses import Address, Occupied, OperatorServer, addresses, listen, occupied
from proxygen.proxy.nginx.master import Master
from tests.harness import process
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.proxy.conftest import ReadConf

SPELLINGS = {
    "80": "0.0.0.0:80",
    "080": "0.0.0.0:80",
    "*:80": "0.0.0.0:80",
    "*": "0.0.0.0:80",
    "0.0.0.0:80": "0.0.0.0:80",
    "0.0.0.0": "0.0.0.0:80",
    "0:80": "0.0.0.0:80",
    "127.0.0.1:80": "127.0.0.1:80",
    "127.0.0.1": "127.0.0.1:80",
    "127.1:80": "127.0.0.1:80",
    "127.0.0.1:8080": "127.0.0.1:8080",
    "8080": "0.0.0.0:8080",
    "[::]:80": "[::]:80",
    "[::]": "[::]:80",
    "[0:0:0:0:0:0:0:0]:80": "[::]:80",
    "[::1]:80": "[::1]:80",
    "[0::0001]:0080": "[::1]:80",
    "[::ffff:127.0.0.1]:80": "[::ffff:127.0.0.1]:80",
    "unix:/tmp/proxygen-no.sock": "unix:/tmp/proxygen-no.sock",
}


@pytest.mark.parametrize(("text", "expected"), SPELLINGS.items())
def test_an_address_is_read_as_nginx_reads_it(text: str, expected: str) -> None:
    (address,) = addresses(text)
    assert str(address) == expected


@pytest.mark.incident("T39")
def test_two_spellings_are_one_exactly_where_nginx_finds_a_second_default(
    any_nginx_binary: NginxBinary, tmp_path: Path
) -> None:
    for one, other in combinations_with_replacement(SPELLINGS, 2):
        text = _servers(f"{one} default_server", f"{other} default_server")
        (tmp_path / "nginx.conf").write_text(_conf(tmp_path, text))
        said = _test(any_nginx_binary, tmp_path)
        assert (addresses(one) == addresses(other)) is ("a duplicate default server" in said), (one, other, said)


def test_a_range_and_a_host_are_several() -> None:
    assert {str(each) for each in addresses("127.0.0.1:8001-8003")} == {
        f"127.0.0.1:{port}" for port in (8001, 8002, 8003)
    }
    assert {str(each) for each in addresses("8001-8002")} == {"0.0.0.0:8001", "0.0.0.0:8002"}
    assert Address("127.0.0.1", 80) in addresses("localhost")


@pytest.mark.parametrize("text", ["", "no.such.host.invalid:80", "0", "65536", "80-70", "[::1", "a:b", "1.2.3.4:"])
def test_what_nginx_does_not_take_is_nowhere(text: str) -> None:
    assert not addresses(text)


def test_options_are_read() -> None:
    assert listen(["80", "ssl", "default_server"]).is_default
    assert listen(["80", "default"]).is_default
    assert (
        listen(["53", "udp"]).addresses
        == listen(["53", "reuseport", "quic"]).addresses
        == {Address("0.0.0.0", 53, True)}
    )
    assert listen(["127.0.0.1:80", "backlog=10"]).is_apart
    assert listen(["127.0.0.1:80", "multipath"]).is_apart
    assert not listen(["127.0.0.1:80", "ssl"]).is_apart
    assert listen(["[::]:80", "ipv6only=off"]).takes_ipv4


# --- the operator's servers


def test_a_server_that_says_nothing_listens_where_nginx_has_it(
    read_conf: ReadConf, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = read_conf("http { server { } }")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert occupied(conf).bound() == {Address("0.0.0.0", 80)}
    monkeypatch.setattr("os.geteuid", lambda: 33)
    assert occupied(conf).bound() == {Address("0.0.0.0", 8000)}


OURS = ("80", "127.0.0.1:8080", "[::]:80")
INCLUDE = "include OUTPUT/current/http.d/*.conf;"


@pytest.mark.incident("T35")
@pytest.mark.parametrize(
    ("text", "defaults", "overtaken"),
    [
        ("", set(), 0),
        (f"server {{ listen 80; }} {INCLUDE}", {"80"}, 0),
        (f"server {{ listen 0.0.0.0; }} {INCLUDE}", {"80"}, 0),
        (f"server {{ listen 81; }} server {{ listen 127.0.0.1:8080; }} {INCLUDE}", {"127.0.0.1:8080"}, 0),
        (f"server {{ listen 127.0.0.1:80; listen [::]; }} {INCLUDE}", {"[::]:80"}, 0),
        (f"{INCLUDE} server {{ listen *:80 default_server; }}", {"80"}, 0),
        (f"{INCLUDE} server {{ listen *:80; }} server {{ listen 80 default_server; }}", {"80"}, 0),
        (f"{INCLUDE} server {{ listen *:80; }} server {{ listen 81; }}", set(), 1),
        (f"server {{ listen 80; }} {INCLUDE} server {{ listen 80; }}", {"80"}, 0),
        ("server { listen 80; } include sites/*.conf;", {"80"}, 0),
    ],
)
def test_who_answers_what_nobody_claims(
    read_conf: ReadConf, etc: Path, text: str, defaults: set[str], overtaken: int
) -> None:
    (etc / "sites").mkdir()
    (etc / "sites/proxygen.conf").write_text(INCLUDE.replace("OUTPUT", str(etc.parent / "output")))
    held = occupied(read_conf(f"http {{ {text} }}"))
    assert held.defaults(OURS) == defaults
    assert len(list(held.overtaken({"http": [listen([each]) for each in OURS]}))) == overtaken


@pytest.mark.parametrize(
    ("theirs", "ours", "narrowed"),
    [
        (["80"], "127.0.0.1:80", True),
        (["80", "127.0.0.1:80"], "127.0.0.1:80", False),
        (["127.0.0.1:80"], "80", False),
        (["80"], "80", False),
        (["80"], "[::1]:80", False),
        (["81"], "127.0.0.1:80", False),
    ],
)
def test_a_narrower_listen_takes_everything_from_a_wider_one(theirs: list[str], ours: str, *, narrowed: bool) -> None:
    assert bool(list(_occupied(*theirs).narrowed({"http": [listen([ours])]}))) is narrowed


def test_ports_are_taken_on_the_address_where_streams_arrive(read_conf: ReadConf) -> None:
    held = occupied(
        read_conf(
            "http { server { listen 127.0.0.1:7000; } }\n"
            "stream { server { listen 10.0.0.1:7001; listen 7002 udp; listen [::]:7003; } }\n"
            "stream { server { listen [::]:7004 ipv6only=off; } }\n"
            "mail { server { listen 7005; } }"
        )
    )
    assert held.ports(None).keys() == {("tcp", 7000), ("tcp", 7001), ("udp", 7002), ("tcp", 7004), ("tcp", 7005)}
    assert held.ports("127.0.0.1").keys() == {("tcp", 7000), ("udp", 7002), ("tcp", 7004), ("tcp", 7005)}
    assert held.ports("::1").keys() == {("tcp", 7003), ("tcp", 7004)}


# --- what the kernel makes of it: nginx is the judge


@pytest.mark.parametrize(
    ("theirs", "ours", "clashes"),
    [
        ("127.0.0.1:PORT", "PORT", False),
        ("PORT", "127.0.0.1:PORT", False),
        ("127.0.0.1:PORT bind", "PORT", True),
        ("127.0.0.1:PORT backlog=10", "PORT", True),
        ("[::]:PORT", "PORT", False),
        ("[::]:PORT ipv6only=off", "PORT", True),
        ("[::]:PORT ipv6only=off", "127.0.0.1:PORT", True),
        ("[::]:PORT ipv6only=off", "[::]:PORT", False),
        ("127.0.0.1:PORT", "127.0.0.2:PORT", False),
    ],
)
def test_a_clash_is_what_nginx_cannot_start_with(
    any_nginx_binary: NginxBinary, make_nginx: Callable[..., NginxServer], theirs: str, ours: str, clashes: bool
) -> None:
    port = str(free_port())
    theirs, ours = theirs.replace("PORT", port), ours.replace("PORT", port)
    held = _occupied(theirs)
    assert bool(list(held.clashes({"http": [listen([ours])]}))) is clashes
    server = make_nginx(any_nginx_binary, http=_servers(theirs, ours))
    if not clashes:
        server.start()
        return
    # It would go on to try for two seconds.
    starting = process.start([*server.command, "-g", "daemon off;"], log=server.directory / "stderr.log")
    try:
        process.wait_until(lambda: "Address already in use" in server.errors(), what="the clash")
    finally:
        process.stop(starting, signal.SIGKILL)


def test_a_thousand_servers_and_ports_are_gone_over_once() -> None:
    """Every trial does so, on the event loop."""
    many = [*(f"127.0.0.{n % 250 + 1}:{80 + n // 250}" for n in range(1_000)), "20000-29999"]
    held = _occupied(*many, context="stream")
    ours = {"stream": [listen([f"127.0.0.1:{port}"]) for port in range(30_000, 30_256)]}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Address, "meets", lambda *_: pytest.fail("of another port"))
        assert list(held.clashes(ours)) == []


def test_another_context_is_a_clash_of_its_own() -> None:
    held = Occupied(servers=(*_occupied("7000").servers, *_occupied("127.0.0.1:7001", context="stream").servers))
    assert [str(clash.address) for clash in held.clashes({"stream": [listen(["127.0.0.1:7000"])]})] == [
        "127.0.0.1:7000"
    ]
    assert [str(clash.address) for clash in held.clashes({"http": [listen(["7001"])]})] == ["0.0.0.0:7001"]


@pytest.mark.incident("T42")
@pytest.mark.parametrize(
    ("before", "after", "needed"),
    [
        (["127.0.0.1:PORT"], ["127.0.0.1:PORT", "PORT"], True),
        (["PORT"], ["127.0.0.1:PORT"], True),
        (["PORT"], ["127.0.0.1:PORT", "PORT"], False),
        (["127.0.0.1:PORT"], ["127.0.0.1:PORT", "127.0.0.2:PORT"], False),
        (["[::1]:PORT"], ["[::1]:PORT", "PORT"], False),
    ],
)
def test_a_restart_is_needed_where_nginx_cannot_take_a_reload(
    any_nginx_binary: NginxBinary,
    make_nginx: Callable[..., NginxServer],
    before: list[str],
    after: list[str],
    needed: bool,
) -> None:
    port = str(free_port())
    before, after = ([each.replace("PORT", port) for each in listens] for listens in (before, after))
    server = make_nginx(any_nginx_binary, http=_servers(*before))
    server.start()
    held = held_addresses(Master(pid=server.pid, own_pid=server.pid))
    assert held == _occupied(*before).bound()
    reason = restart_needed(_occupied(*after), {}, held)
    assert bool(reason) is needed
    server.conf.write_text(server.conf.read_text().replace(_servers(*before), _servers(*after)))
    server.reload()
    said = "Address already in use" if needed else "gracefully shutting down"
    process.wait_until(lambda: said in server.errors(), what=said)
    if needed:
        server.restart()
        assert held_addresses(Master(pid=server.pid, own_pid=server.pid)) == _occupied(*after).bound()


def test_nobody_is_said_to_hold_what_cannot_be_seen() -> None:
    assert held_addresses(Master(pid=2**22 + 1, own_pid=1)) is None


def _occupied(*listens: str, context: str = "http") -> Occupied:
    return Occupied(
        servers=tuple(
            OperatorServer(
                context=context, file=Path("nginx.conf"), line=1, listens=(listen(each.split()),), is_before_ours=True
            )
            for each in listens
        )
    )


def _servers(*listens: str) -> str:
    return "\n".join(f"server {{ listen {each}; server_name n{at}; }}" for at, each in enumerate(listens))


def _conf(directory: Path, servers: str) -> str:
    return f"pid {directory}/pid; error_log stderr; events {{ }} http {{ access_log off; {servers} }}"


def _test(binary: NginxBinary, directory: Path) -> str:
    command = [str(binary.path), "-t", "-p", f"{directory}/", "-c", str(directory / "nginx.conf")]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60).stderr
