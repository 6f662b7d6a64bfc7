"""The policies `application` and `registrator` of deploy/acl/ on a real Consul that denies by default."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.containers import PORT, Containers
from tests.harness.engine import Engine
from tests.harness.entrypoint import Entrypoint
from tests.harness.ports import free_port
from tests.harness.registrator import Registrator
from tests.harness.tools import Consul
from tests.integration.acl import denying_consul, policy, token

APPLICATION, REGISTRATOR = policy("application"), policy("registrator")
ROUTE = {"proxygen.name": "web", "proxygen.route": "web.example.com"}

Start = Callable[..., Entrypoint]


@pytest.fixture(scope="module")
def guarded(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with denying_consul(tmp_path_factory.mktemp("guarded")) as agent:
        yield agent


@pytest.fixture
def start(guarded: ConsulAgent, tmp_path: Path) -> Iterator[Start]:
    """Start `proxygen register` with a token in a file, and what it registers; flags are added."""
    started: list[Entrypoint] = []

    def start(rules: list[str], *options: object) -> Entrypoint:
        file = tmp_path / f"token{len(started)}"
        file.write_text(token(guarded, rules))
        port = free_port()
        own = ("--name", "web", "--id", "web-1", "--port", port, "--address", "127.0.0.1", "--drain", "500ms", *options)
        command = ("--", sys.executable, "-m", "tests.harness.instance", "web-1", port)
        variables = {"CONSUL_HTTP_TOKEN_FILE": str(file)}
        started.append(Entrypoint(guarded, tmp_path / f"log{len(started)}", (*own, *command), variables))
        return started[-1]

    yield start
    for one in started:
        one.kill()
    for service_id in guarded.get("/v1/agent/services"):
        guarded.deregister(service_id)
    process.wait_until(lambda: not guarded.instances("web"), what="a catalog without it")


def statuses(agent: ConsulAgent) -> dict[str, str]:
    """How the service's own checks stand in the catalog, which is what proxies read; empty while it is not there."""
    entries: list[Any] = agent.instances("web")
    return {check["CheckID"]: check["Status"] for entry in entries for check in entry["Checks"] if check["ServiceID"]}


def test_an_application_lives_its_whole_life_with_its_policy(guarded: ConsulAgent, start: Start) -> None:
    """Registered, found by proxies, kept alive; started again with other checks and tags, then drained and gone."""
    first = start(APPLICATION, "--check-process", "--check-http", "/")
    passing = {"web-1:ttl": "passing", "web-1:http": "passing"}
    process.wait_until(lambda: statuses(guarded) == passing, what="both checks well", timeout=30)
    # Killed as by a lost host: nobody deregisters, and the next life has to mend what it finds.
    first.kill()
    second = start(APPLICATION, "--check-http", "/", "--canary", "10%")
    process.wait_until(lambda: statuses(guarded) == {"web-1:http": "passing"}, what="one check less", timeout=30)
    # An agent may tell the catalog of a service and of its checks one after the other.
    process.wait_until(
        lambda: "proxygen.canary=10%" in guarded.instances("web")[0]["Service"]["Tags"], what="the new tags"
    )
    assert second.stop() == 0
    assert "leaving" in second.said
    process.wait_until(lambda: not guarded.instances("web"), what="a catalog without it")
    for said in (first.said, second.said):
        assert "warning" not in said


def revoke(agent: ConsulAgent, secret: str) -> None:
    known = agent.request("GET", "/v1/acl/token/self", token=secret)
    agent.request("DELETE", f"/v1/acl/token/{known['AccessorID']}")


def test_a_token_that_is_rotated_and_revoked_leaves_nothing_in_the_catalog(
    guarded: ConsulAgent, start: Start, tmp_path: Path
) -> None:
    """The agent tells the catalog with the token that wrote an entry, so each new one writes it again."""
    running = start(APPLICATION, "--check-process", "--check-ttl", "3s")
    process.wait_until(lambda: statuses(guarded) == {"web-1:ttl": "passing"}, what="it to be well", timeout=30)
    file = tmp_path / "token0"
    before = file.read_text()
    file.write_text(token(guarded, APPLICATION))
    process.wait_until(lambda: running.said.count("registered") == 2, what="another registration", timeout=30)
    revoke(guarded, before)
    assert running.stop() == 0
    process.wait_until(lambda: not guarded.instances("web"), what="a catalog without it")


def test_a_start_with_another_token_takes_the_entry_of_a_revoked_one_over(
    guarded: ConsulAgent, start: Start, tmp_path: Path
) -> None:
    """As after a kill, where each life has a token of its own: no life can tell what the agent wrote an entry with."""
    port = free_port()
    first = start(APPLICATION, "--check-process", "--port", port)
    process.wait_until(lambda: statuses(guarded) == {"web-1:ttl": "passing"}, what="it to be well", timeout=30)
    first.kill()
    revoke(guarded, (tmp_path / "token0").read_text())
    second = start(APPLICATION, "--check-process", "--port", port)
    second.until_said("registered")
    assert second.stop() == 0
    process.wait_until(lambda: not guarded.instances("web"), what="a catalog without it")


@pytest.mark.parametrize(
    "rules",
    [[], ['service "web" { policy = "read" }'], [rule.replace('"web"', '"shop"') for rule in APPLICATION]],
    ids=["nothing", "read", "another service"],
)
def test_less_than_an_applications_policy_registers_nothing_and_names_the_rule(
    guarded: ConsulAgent, start: Start, rules: list[str]
) -> None:
    running = start(rules, "--check-process")
    running.until_said("registration cannot be kept up")
    assert 'service "NAME" { policy = "write" }' in running.said
    assert not guarded.instances("web")


def test_an_applications_token_takes_no_other_service_away(guarded: ConsulAgent) -> None:
    guarded.register("shop", id="shop-1", port=9001)
    secret = token(guarded, APPLICATION)
    with pytest.raises(RuntimeError, match="403"):
        guarded.request("PUT", "/v1/agent/service/deregister/shop-1", token=secret)
    with pytest.raises(RuntimeError, match="403"):
        guarded.request("PUT", "/v1/kv/proxygen/canary/web", b"{}", token=secret)
    guarded.deregister("shop-1")


def registrator(agent: ConsulAgent, engine: Engine, directory: Path, rules: list[str]) -> Registrator:
    file = directory / "token"
    file.write_text(token(agent, rules))
    flags = ("--registrator-host", "here", "--registrator-resync", "1s", "--consul-token-file", file)
    return Registrator(agent, engine, directory / "registrator.log", *flags)


def test_the_registrator_registers_and_sweeps_with_its_policy(
    guarded: ConsulAgent, engine: Engine, containers: Containers, tmp_path: Path
) -> None:
    # What an earlier life of this host's registrator left of a container that is gone.
    guarded.register("old", id="here:old:1", port=9001, meta={"registrator-host": "here"})
    containers.run("w1", labels=ROUTE)
    running = registrator(guarded, engine, tmp_path, REGISTRATOR)
    running.start()
    try:
        for what, ids in (("the container's service alone", {f"here:w1:{PORT}"}), ("nothing", set())):
            process.wait_until(lambda: guarded.get("/v1/agent/services").keys() == ids, what=what, timeout=60)  # noqa: B023
            process.wait_until(lambda: bool(guarded.instances("web")) == bool(ids), what=f"{what} in the catalog")  # noqa: B023
            containers.call("rm", "--force", "--time=0", "--ignore", "w1")
        assert "warning" not in running.said
    finally:
        running.kill()


def test_what_an_earlier_life_left_goes_though_its_token_is_revoked(
    guarded: ConsulAgent, engine: Engine, tmp_path: Path
) -> None:
    """The agent forgot it, and the catalog had it for ever."""
    earlier = token(guarded, REGISTRATOR)
    check = {"CheckID": "here:old:1:tcp", "TCP": "127.0.0.1:1", "Interval": "1h", "Status": "passing"}
    body = {"Name": "old", "ID": "here:old:1", "Port": 1, "Meta": {"registrator-host": "here"}, "Checks": [check]}
    guarded.request("PUT", "/v1/agent/service/register", body, token=earlier)
    process.wait_until(lambda: guarded.instances("old"), what="it in the catalog")
    revoke(guarded, earlier)
    running = registrator(guarded, engine, tmp_path, REGISTRATOR)
    running.start()
    try:
        process.wait_until(lambda: "orphan deregistered" in running.said, what="the sweep", timeout=60)
        process.wait_until(lambda: not guarded.instances("old"), what="a catalog without it", timeout=30)
    finally:
        running.kill()


@pytest.mark.parametrize(
    "rules", [[], [rule.replace("write", "read") for rule in REGISTRATOR]], ids=["nothing", "read"]
)
def test_less_than_the_registrators_policy_registers_nothing_and_names_the_rule(
    guarded: ConsulAgent, engine: Engine, containers: Containers, tmp_path: Path, rules: list[str]
) -> None:
    containers.run("w1", labels=ROUTE)
    running = registrator(guarded, engine, tmp_path, rules)
    running.start()
    try:
        process.wait_until(lambda: "registration cannot be kept up" in running.said, what="a warning", timeout=60)
        assert 'service "NAME" { policy = "write" }' in running.said
        assert guarded.get("/v1/agent/services") == {}
    finally:
        running.kill()
