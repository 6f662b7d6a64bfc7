"""docs/how-to/harden.md on a real engine: each command with the least rights, under deploy/hardening/seccomp.json."""

from __future__ import annotations

import asyncio
import json
import os
import platform
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent, HostConsul
from tests.harness.engine import Engine
from tests.harness.hardened import SECCOMP, UID, Hardened, fatal_profile
from tests.harness.hosts import Host, Lab
from tests.harness.load import Load, fetch
from tests.harness.ports import free_port

pytestmark = pytest.mark.slow

HOST: Final = "web.example.com"
NO_CAPABILITY: Final = dict.fromkeys(("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), f"{0:016x}")
CAP_NET_ADMIN: Final = 12
FILTERED: Final = {"NoNewPrivs": "1", "Seccomp": "2"}

Run = Callable[..., Hardened]


@pytest.fixture
def run(yard: Engine, proxygen_image: str, tmp_path: Path) -> Iterator[Run]:
    """Start containers by name, command and options; removed at the end."""
    fatal = fatal_profile(tmp_path)
    with ExitStack() as stack:

        def start(name: str, *command: str, profile: Path | str = fatal, options: Sequence[str] = ()) -> Hardened:
            full = f"{name}-{os.getpid()}"
            stack.callback(yard.call, "rm", "--force", "--ignore", "--time=0", full)
            return Hardened(yard, proxygen_image, full, *command, profile=profile, options=options)

        yield start


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of the image's user, with a path that leaves room for a socket."""
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    os.chown(directory, UID, UID)
    yield directory
    shutil.rmtree(directory)


async def test_sidecar_and_nginx_serve_and_reload_without_any_right(run: Run, consul: ConsulAgent, place: Path) -> None:
    """Two containers, one PID namespace, one user: no capability, no call outside the list, and no request is lost."""
    ports = {name: free_port() for name in ("http", "stamp", "admin")}
    for name in ("output", "log", "run"):
        (place / name).mkdir()
        os.chown(place / name, UID, UID)
    shared = (f"--volume={place}/log:/var/log/nginx", f"--volume={place}/run:/run/proxygen")
    nginx = run(
        "nginx",
        "-g",
        "daemon off;",
        options=("--entrypoint=nginx", f"--volume={place}/output:/var/lib/proxygen:ro", *shared),
    )
    variables = {
        "CONSUL_HTTP_ADDR": consul.address,
        "PROXYGEN_PROXY_HTTP_LISTEN": f"127.0.0.1:{ports['http']}",
        "PROXYGEN_NGINX_STAMP": f"127.0.0.1:{ports['stamp']}",
        "PROXYGEN_ADMIN_LISTEN": f"127.0.0.1:{ports['admin']}",
        "PROXYGEN_RELOAD_GAP": "0ms",
    }
    given = tuple(f"--env={name}={value}" for name, value in variables.items())
    sidecar = run(
        "sidecar",
        "run",
        options=(f"--pid=container:{nginx.name}", f"--volume={place}/output:/var/lib/proxygen", *shared, *given),
    )
    with App("web-1") as one, App("web-2") as two:
        consul.register("web", id="web-1", port=one.port, tags=[f"proxygen.route={HOST}"])
        await asyncio.to_thread(sidecar.until_said, "generation applied")
        await until_served(ports["http"])
        load = Load("127.0.0.1", ports["http"], headers={"Host": HOST}, clients=8)
        sending = asyncio.create_task(load.send(1_000_000), name="load")
        for weight in (1, 2, 3):
            tags = [f"proxygen.route={HOST}", f"proxygen.weight={weight}"]
            applied = sidecar.said.count("generation applied")
            consul.register("web", id="web-2", port=two.port, tags=tags)
            await asyncio.to_thread(sidecar.until_said, "generation applied", times=applied + 1)
            await load.until_more(200)
        load.stop()
        tally = await sending
    assert tally.failed == 0, tally.failures
    assert tally.by_instance.keys() == {"web-1", "web-2"}
    assert json.loads(sidecar.execute("proxygen", "status", "--json"))
    sidecar.execute("python3", "-I", "/opt/proxygen/ready.py")
    for status in (*nginx.processes(), *sidecar.processes()):
        assert {name: status[name] for name in (*NO_CAPABILITY, *FILTERED)} == NO_CAPABILITY | FILTERED
        assert status["Uid"].split()[0] == str(UID)
    assert len(nginx.processes()) >= 2
    assert sidecar.stop() == 0
    assert nginx.stop() == 0


async def until_served(port: int) -> None:
    for _ in range(200):
        if (await fetch("127.0.0.1", port, "/", {"Host": HOST}))[0] == 200:
            return
        await asyncio.sleep(0.1)
    raise TimeoutError("nothing is served")


def test_an_entrypoint_registers_and_leaves_without_any_right(run: Run, consul: ConsulAgent) -> None:
    port = free_port()
    application = run(
        *("application", "register", "--name", "web", "--id", "web-1", "--port", str(port), "--address", "127.0.0.1"),
        *(
            "--check-http",
            "/",
            "--drain",
            "1s",
            "--",
            "python3",
            "-I",
            "-m",
            "http.server",
            "--directory=/tmp",
            str(port),
        ),
        options=(f"--env=CONSUL_HTTP_ADDR={consul.address}",),
    )
    process.wait_until(lambda: is_passing(consul, "web"), what="the application, well", timeout=60)
    for status in application.processes():
        assert {name: status[name] for name in (*NO_CAPABILITY, *FILTERED)} == NO_CAPABILITY | FILTERED
    assert len(application.processes()) == 2
    application.stop()
    assert "deregistered" in application.said
    assert consul.get("/v1/agent/services") == {}


def is_passing(consul: ConsulAgent, name: str) -> bool:
    entries = consul.instances(name)
    return bool(entries) and all(check["Status"] == "passing" for entry in entries for check in entry["Checks"])


def test_the_registrator_needs_the_engines_socket_and_nothing_else(run: Run, yard: Engine, consul: ConsulAgent) -> None:
    """The socket's group is enough: no root."""
    group = 4242
    os.chown(yard.socket, 0, group)
    yard.socket.chmod(0o660)
    port = str(free_port())
    # On the host's network, as other sessions' bridges may have the same addresses.
    labels = {"name": "shop", "route": HOST, "port": port}
    given = (f"--label=proxygen.{key}={value}" for key, value in labels.items())
    # The image's own check asks a sidecar, and a container that is not healthy gets no requests.
    options = ("--entrypoint=python3", "--no-healthcheck", *given)
    run("shop", "-I", "-m", "http.server", "--directory=/tmp", "--bind=127.0.0.1", port, options=options)
    registrator = run(
        *("registrator", "registrator", "--registrator-engine=unix:///run/engine.sock"),
        *("--registrator-address=127.0.0.1", "--registrator-host=here"),
        options=(
            f"--volume={yard.socket}:/run/engine.sock",
            f"--group-add={group}",
            f"--env=CONSUL_HTTP_ADDR={consul.address}",
        ),
    )
    try:
        process.wait_until(lambda: is_passing(consul, "shop"), what="the container's service", timeout=120)
    except TimeoutError as error:
        raise TimeoutError(f"{error}\n{registrator.said}\n{consul.instances('shop')}") from error
    for status in registrator.processes():
        assert {name: status[name] for name in (*NO_CAPABILITY, *FILTERED)} == NO_CAPABILITY | FILTERED
        assert status["Uid"].split()[0] == str(UID)
    assert registrator.stop() == 0


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """A host in namespaces with a Consul of its own, which forwards."""
    with Lab(tmp_path / "lab") as lab:
        host = lab.host()
        agent = HostConsul(host, servers=[host])
        try:
            agent.start()
            yield host
        finally:
            agent.remove()


def network(
    run: Run, host: Host, *command: str, capabilities: tuple[str, ...] = ("NET_ADMIN",), name: str = ""
) -> Hardened:
    """`proxygen network` in a container on the host's network: root, with these capabilities alone."""
    state = host.directory / "state"
    state.mkdir(exist_ok=True)
    return run(
        name or command[0],
        *("network", *command),
        options=(
            *(f"--cap-add={name}" for name in capabilities),
            *("--user=0:0", f"--network=ns:/run/netns/{host.name}", f"--volume={state}:/var/lib/proxygen/network"),
            "--tmpfs=/run/proxygen:mode=0755,size=1m",
            *("--env=PROXYGEN_NETWORK_HOST_ID=id-of-host", f"--env=PROXYGEN_NETWORK_INTERFACE={host.LINK}"),
        ),
    )


def test_the_networks_agent_needs_net_admin_and_nothing_else(run: Run, host: Host) -> None:
    made = network(run, host, "init", "--network", "10.99.0.0/16", "--backend", "vxlan", capabilities=())
    assert made.ended() == 0, made.said
    bare = network(run, host, "up", capabilities=(), name="bare")
    bare.until_said("it takes root, or CAP_NET_ADMIN")
    bare.stop()
    agent = network(run, host, "up")
    agent.until_said("data plane carried")
    (status,) = agent.processes()
    assert {name: status[name] for name in FILTERED} == FILTERED
    assert int(status["CapEff"], 16) == 1 << CAP_NET_ADMIN
    assert "vxlan id 1" in host.ip("-details", "link", "show", "type", "vxlan")
    # One check of the doctor's sends raw packets; the others do without.
    for more, verdict in (((), "- duplicate-address  skipped"), (("NET_RAW",), "✓ duplicate-address  checked")):
        doctor = network(run, host, "doctor", capabilities=("NET_ADMIN", *more), name=f"doctor{len(more)}")
        assert doctor.ended() == 0, doctor.said
        assert verdict in doctor.said
        assert "0 errors" in doctor.said
    assert agent.stop() == 0


CALLS: Final = """
import ctypes, errno, json, socket
libc = ctypes.CDLL(None, use_errno=True)
said = {}
for name, number, *arguments in (
    ("getpid", 39), ("ptrace", 101, 0), ("personality", 135, 0xffffffff), ("mount", 165), ("add_key", 248),
    ("keyctl", 250, 0, -3), ("unshare", 272, 0x10000000), ("process_vm_readv", 310), ("bpf", 321),
    ("io_uring_setup", 425), ("clone3", 435),
):
    ctypes.set_errno(0)
    libc.syscall(number, *arguments)
    said[name] = errno.errorcode.get(ctypes.get_errno(), "")
for name, family in (("AF_VSOCK", 40), ("AF_NETLINK", 16), ("AF_INET6", 10)):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        said[name] = ""
    except OSError as error:
        said[name] = errno.errorcode[error.errno]
print(json.dumps(said))
"""
"""Asks for calls by their numbers on x86-64, with arguments that do no harm where they are let through."""


@pytest.mark.skipif(platform.machine() != "x86_64", reason="asks for calls by x86-64's numbers")
def test_what_the_list_does_not_name_is_refused(run: Run) -> None:
    def ask(profile: Path | str, name: str) -> dict[str, str]:
        asking = run(name, "-I", "-c", CALLS, profile=profile, options=("--entrypoint=python3",))
        assert asking.ended() == 0, asking.said
        answers: dict[str, str] = json.loads(asking.said.splitlines()[-1])
        return answers

    # The profile of the tests above does end what asks for more.
    assert run("ended", "-I", "-c", CALLS, options=("--entrypoint=python3",)).ended() == 128 + signal.SIGSYS
    free, kept = ask("unconfined", "free"), ask(SECCOMP, "kept")
    allowed = {"getpid", "AF_NETLINK", "AF_INET6"}
    assert {name for name, error in kept.items() if error == ""} == allowed
    # libc asks for clone3 first; "not there" sends it to clone, whose flags the filter can judge.
    assert kept["clone3"] == "ENOSYS"
    assert {error for name, error in kept.items() if name not in (*allowed, "clone3")} == {"EPERM"}
    # The kernel itself would have let these through, or have found fault with their arguments first.
    for name in ("ptrace", "personality", "keyctl", "add_key", "process_vm_readv", "io_uring_setup"):
        assert free[name] != "EPERM", name
