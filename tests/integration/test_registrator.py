"""`proxygen registrator` with a real engine and a real Consul: what runs and asks for it is registered, no more."""

from __future__ import annotations

import http.client
import ipaddress
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.containers import PORT, Containers
from tests.harness.engine import Engine
from tests.harness.ports import free_port
from tests.harness.registrator import Registrator

MakeRegistrator = Callable[..., Registrator]

ROOT = Path(__file__).parents[2]
ROUTE = {"proxygen.name": "web", "proxygen.route": "web.example.com"}


@pytest.fixture
def registrator(consul: ConsulAgent, engine: Engine, tmp_path: Path) -> Iterator[MakeRegistrator]:
    """Start registrators with these flags; the host is called here, and everything is looked at each second."""
    started: list[Registrator] = []

    def start(*options: object) -> Registrator:
        flags = ("--registrator-host", "here", "--registrator-resync", "1s", *options)
        started.append(Registrator(consul, engine, tmp_path / f"registrator{len(started)}.log", *flags))
        started[-1].start()
        return started[-1]

    yield start
    for one in started:
        one.kill()


def held(consul: ConsulAgent) -> Any:
    """The services on the agent, by id."""
    return consul.get("/v1/agent/services")


def status(consul: ConsulAgent, service_id: str) -> dict[str, str]:
    """How the checks of a service stand, by the last part of their ids; empty where it has none."""
    checks = consul.get("/v1/agent/checks").values()
    return {
        check["CheckID"].rpartition(":")[2]: check["Status"] for check in checks if check["ServiceID"] == service_id
    }


def wait_held(consul: ConsulAgent, ids: set[str], by: Registrator) -> Any:
    try:
        process.wait_until(lambda: held(consul).keys() == ids, what=f"{ids} on the agent", timeout=60)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; there is {held(consul)}\n{by.said}") from error
    return held(consul)


def wait_status(consul: ConsulAgent, service_id: str, wanted: dict[str, str]) -> None:
    try:
        process.wait_until(lambda: status(consul, service_id) == wanted, what=f"{service_id} {wanted}", timeout=60)
    except TimeoutError as error:
        raise TimeoutError(f"{error}; it is {status(consul, service_id)}") from error


def test_a_labelled_container_is_registered_while_it_runs(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """Announced where its port is published, well once Consul has connected, gone with the container."""
    running = registrator()
    containers.run("w1", labels={**ROUTE, "proxygen.canary": "10%", "proxygen.tag": "v1 eu", "proxygen.meta.team": "x"})
    containers.run("plain")
    service = wait_held(consul, {f"here:w1:{PORT}"}, running)[f"here:w1:{PORT}"]
    assert service["Service"] == "web"
    assert (service["Address"], service["Port"]) == ("127.0.0.1", containers.published("w1"))
    assert service["Tags"] == ["proxygen.route=web.example.com", "proxygen.canary=10%", "v1", "eu"]
    assert service["Meta"] == {"team": "x", "registrator-host": "here"}
    wait_status(consul, f"here:w1:{PORT}", {"tcp": "passing"})
    containers.call("stop", "--time=5", "w1")
    wait_held(consul, set(), running)
    containers.call("start", "w1")
    wait_held(consul, {f"here:w1:{PORT}"}, running)


def test_a_port_that_is_published_for_each_family_is_announced_by_the_one_of_its_address(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """The engine may name the other family first, with another port."""
    containers.run("w1", "--publish=[::]::8080", "--publish=0.0.0.0::8080", labels=ROUTE, publish=False)
    running = registrator()
    service = wait_held(consul, {f"here:w1:{PORT}"}, running)[f"here:w1:{PORT}"]
    (port,) = [line.rpartition(":")[2] for line in containers.call("port", "w1").splitlines() if "0.0.0.0" in line]
    assert service["Port"] == int(port)
    wait_status(consul, f"here:w1:{PORT}", {"tcp": "passing"})


def test_a_host_that_is_renamed_leaves_no_second_entry_of_a_container(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """The registrator starts anew under the host's new name; what stands elsewhere is another registrator's."""
    containers.run("w1", labels=ROUTE)
    before = registrator("--registrator-host", "before")
    wait_held(consul, {f"before:w1:{PORT}"}, before)
    before.kill()
    consul.register("web", id="elsewhere:w9:80", port=9009, meta={"registrator-host": "elsewhere"})
    after = registrator("--registrator-host", "after")
    services = wait_held(consul, {f"after:w1:{PORT}", "elsewhere:w9:80"}, after)
    assert services[f"after:w1:{PORT}"]["Meta"] == {"registrator-host": "after"}
    (line,) = [line for line in after.said.splitlines() if "orphan deregistered" in line]
    assert f"before:w1:{PORT}" in line


def test_a_bad_label_leaves_out_its_own_container_and_is_named(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    containers.run("bad1", labels={**ROUTE, "proxygen.canary": "lots"})
    containers.run("bad2", labels={**ROUTE, "proxygen.rout": "x"})
    containers.run("bad3", labels=ROUTE, publish=False)
    containers.run("good", labels=ROUTE)
    running = registrator()
    wait_held(consul, {f"here:good:{PORT}"}, running)
    process.wait_until(lambda: running.said.count("container skipped") >= 3, what="three warnings", timeout=60)
    for name, reason in (("bad1", "proxygen.canary: "), ("bad2", "proxygen.rout: "), ("bad3", "publishes no port")):
        (line,) = [line for line in running.said.splitlines() if f"{name} (" in line]
        assert reason in line


@pytest.mark.incident("T69")
def test_own_addresses_and_every_port_as_registrator_registers_them(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """SERVICE_* in labels and environment: all ports, settings of one port, tags between commas, ignored ports."""
    labels = {"SERVICE_TAGS": "a,b\\,c", "SERVICE_8080_CHECK_HTTP": "/", "SERVICE_8080_CHECK_INTERVAL": "1s"}
    containers.run(
        "w1",
        *("--env=SERVICE_NAME=shop", "--env=SERVICE_9090_NAME=admin", "--env=SERVICE_REGION=eu"),
        *("--env=SERVICE_PASSWORD=hunter2", f"--env=SERVICE_LONG={'x' * 600}"),
        *("--expose=9090", "--expose=9999", "--env=SERVICE_9999_IGNORE=yes"),
        labels=labels,
        publish=True,
    )
    containers.run("w2", "--env=SERVICE_NAME=theirs", "--env=SERVICE_TAGS=own", publish=True)
    running = registrator("--registrator-announce", "container")
    services = wait_held(consul, {"here:w1:8080", "here:w1:9090"}, running)
    assert "hunter2" not in running.said
    assert {id: service["Service"] for id, service in services.items()} == {
        "here:w1:8080": "shop-8080",
        "here:w1:9090": "admin",
    }
    address = containers.address("w1")
    assert {(one["Address"], one["Port"]) for one in services.values()} == {(address, 8080), (address, 9090)}
    assert services["here:w1:8080"]["Tags"] == ["a", "b,c"]
    assert services["here:w1:9090"]["Meta"] == {"region": "eu", "registrator-host": "here"}
    wait_status(consul, "here:w1:8080", {"http": "passing"})
    wait_status(consul, "here:w1:9090", {"tcp": "passing"})


def test_own_addresses_are_announced_from_when_the_host_has_leased_their_subnet(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator, tmp_path: Path
) -> None:
    """The registrator may start before the network does."""
    subnet_file = tmp_path / "subnet.env"
    containers.run("w1", labels=ROUTE)
    address = containers.address("w1")
    running = registrator("--network-subnet-file", subnet_file)
    service_id = f"here:w1:{PORT}"
    services = wait_held(consul, {service_id}, running)
    assert services[service_id]["Port"] == containers.published("w1")

    bridge = ipaddress.ip_interface(f"{address}/24")
    subnet_file.write_text(f"FLANNEL_NETWORK={bridge.network}\nFLANNEL_SUBNET={bridge}\nFLANNEL_MTU=1500\n")
    process.wait_until(
        lambda: (held(consul)[service_id]["Address"], held(consul)[service_id]["Port"]) == (address, PORT),
        what="the container's own address",
        timeout=60,
    )
    wait_status(consul, service_id, {"tcp": "passing"})


def test_a_containers_own_health_is_told_and_a_paused_one_is_in_maintenance(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    """Podman tells of no health by events, so the engine is asked."""
    running = registrator()
    # A shell's text, and the image has no shell: it never becomes healthy.
    containers.run("w1", "--health-cmd=/nginx -v", "--health-interval=disable", labels=ROUTE)
    containers.run("w2", '--health-cmd=["/nginx", "-v"]', "--health-interval=disable", labels=ROUTE)
    wait_held(consul, {f"here:{name}:{PORT}" for name in ("w1", "w2")}, running)
    containers.call("healthcheck", "run", "w2")
    wait_status(consul, f"here:w2:{PORT}", {"tcp": "passing", "ttl": "passing"})
    wait_status(consul, f"here:w1:{PORT}", {"tcp": "passing", "ttl": "critical"})
    containers.call("pause", "w2")
    maintenance = f"_service_maintenance:here:w2:{PORT}"
    process.wait_until(lambda: maintenance in consul.get("/v1/agent/checks"), what="maintenance", timeout=60)
    containers.call("unpause", "w2")
    wait_status(consul, f"here:w2:{PORT}", {"tcp": "passing", "ttl": "passing"})


def test_registrations_outlive_it_and_the_next_one_removes_only_what_its_own_host_left(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    containers.run("w1", labels=ROUTE)
    containers.run("w2", labels=ROUTE)
    both = {f"here:w1:{PORT}", f"here:w2:{PORT}"}
    first = registrator()
    wait_held(consul, both, first)
    assert first.stop() == 0, first.said
    assert held(consul).keys() == both
    for id, meta in (("there:w9:80", {"registrator-host": "there"}), ("somebodys", {})):
        consul.put("/v1/agent/service/register", {"ID": id, "Name": "web", "Meta": meta})
    containers.call("rm", "--force", "--time=0", "w2")
    second = registrator()
    wait_held(consul, {f"here:w1:{PORT}", "there:w9:80", "somebodys"}, second)
    process.wait_until(lambda: "already registered" in second.said, what="the one that stayed", timeout=60)


def test_events_that_end_are_asked_for_again(
    consul: ConsulAgent, containers: Containers, engine: Engine, registrator: MakeRegistrator
) -> None:
    """The engine's service is killed and comes back; what happened meanwhile is seen, and nothing was taken away."""
    containers.run("w1", labels=ROUTE)
    running = registrator("--registrator-resync", "1h")
    wait_held(consul, {f"here:w1:{PORT}"}, running)
    engine.restart()
    containers.run("w2", labels=ROUTE)
    wait_held(consul, {f"here:w1:{PORT}", f"here:w2:{PORT}"}, running)
    assert "deregistered" not in running.said
    containers.call("rm", "--force", "--time=0", "w1")
    wait_held(consul, {f"here:w2:{PORT}"}, running)


def test_an_application_in_a_container_learns_its_address_from_the_engine(
    containers: Containers, engine: Engine
) -> None:
    """Whatever it calls itself; with the socket in it, and the machine's own Python."""
    program = "from proxygen.registration.address import choose_address; print(choose_address('docker', consul=None))"
    needed = {"/usr", "/lib", "/lib64", sys.prefix, sys.base_prefix, str(ROOT)}
    mounts = [f"--volume={path}:{path}:ro" for path in sorted(needed) if Path(path).exists()]
    output = containers.call(
        *("run", "--rm", "--name=asking", "--hostname=nobody", f"--env=PYTHONPATH={ROOT}", *mounts),
        *(f"--volume={engine.socket}:/engine.sock", "--env=DOCKER_HOST=unix:///engine.sock"),
        *(containers.image, sys.executable, "-c", program + "; import socket; print(socket.gethostname())"),
    )
    address, name = output.split()
    assert name == "nobody"
    assert ipaddress.ip_address(address) in ipaddress.ip_network("10.88.0.0/16")


def test_its_metrics_tell_what_became_of_containers(
    consul: ConsulAgent, containers: Containers, registrator: MakeRegistrator
) -> None:
    containers.run("good", labels=ROUTE)
    containers.run("bad", labels={**ROUTE, "proxygen.canary": "lots"})
    port = free_port()
    running = registrator("--registrator-metrics", f"127.0.0.1:{port}")
    wait_held(consul, {f"here:good:{PORT}"}, running)

    def told() -> str:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
        try:
            connection.request("GET", "/metrics")
            return connection.getresponse().read().decode()
        finally:
            connection.close()

    for line in (
        "proxygen_registrator_engine_connected 1.0",
        'proxygen_registrator_containers{state="registered"} 1.0',
        'proxygen_registrator_containers{state="skipped"} 1.0',
        'proxygen_registrator_services{withdrawn="false"} 1.0',
    ):
        process.wait_until(lambda line=line: line in told().splitlines(), what=line, timeout=60)  # type: ignore[misc]
    containers.call("stop", "--time=5", "good")
    process.wait_until(
        lambda: 'proxygen_registrator_services{withdrawn="false"} 0.0' in told(), what="none", timeout=60
    )
