"""The policies of deploy/acl/ on a real Consul that denies by default: enough, and nothing to spare.

`application` and `registrator` are tried in test_acl_registration.py.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import SecretStr

from proxygen import cli
from proxygen.consul.client import ConsulClient
from proxygen.kit.errors import AccessDenied
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.rollout.steering import Steering
from proxygen.settings import ConsulSettings
from proxygen.tags.shares import Share
from tests.harness import process
from tests.harness.app import App
from tests.harness.consul import ConsulAgent, HostConsul
from tests.harness.hosts import Lab
from tests.harness.load import fetch
from tests.harness.network import NetworkAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.harness.tools import Consul
from tests.integration.acl import DENYING, POLICIES, denying_consul, policy, take_over, token, without

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "acl-policy.md"
SIDECAR, STEERING, OPERATOR, TEAM, DEPLOY, NETWORK = map(
    policy, ("sidecar", "sidecar-steering", "operator", "team-canary", "deploy-job", "network")
)
ROUTE = "proxygen.route=web.example.com"
INSTANCE = "web-1"

Proxygen = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def guarded(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ConsulAgent]:
    with denying_consul(tmp_path_factory.mktemp("guarded")) as agent:
        yield agent


@pytest.fixture
def app(guarded: ConsulAgent) -> Iterator[App]:
    """One instance of the service web, its route included."""
    with App(INSTANCE) as app:
        guarded.register("web", id=INSTANCE, port=app.port, tags=[ROUTE, "proxygen.canary=10%"])
        process.wait_until(lambda: guarded.instances("web"), what="the service")
        yield app
        guarded.deregister(INSTANCE)


@pytest.fixture
def proxygen(
    guarded: ConsulAgent, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Proxygen:
    """Run a command line in this process, with a token that may do what the rules say."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONSUL_HTTP_ADDR", guarded.address)

    def run(rules: Sequence[str], *arguments: str) -> subprocess.CompletedProcess[str]:
        monkeypatch.setenv("CONSUL_HTTP_TOKEN", token(guarded, rules))
        capsys.readouterr()
        code = cli.run_command_line(arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def test_the_page_shows_the_files() -> None:
    shown = re.findall(r"`deploy/acl/(\S+?)\.hcl`:\n\n```hcl\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert dict(shown) == {file.stem: file.read_text(encoding="utf-8") for file in POLICIES.iterdir()}
    assert len(shown) == PAGE.read_text(encoding="utf-8").count("```hcl")


async def test_the_sidecar_serves_with_its_policy(
    guarded: ConsulAgent,
    app: App,
    any_nginx: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    tmp_path: Path,
) -> None:
    file = tmp_path / "consul.token"
    file.write_text(await asyncio.to_thread(token, guarded, SIDECAR))
    sidecar = make_sidecar(guarded, any_nginx, consul__token_file=str(file))
    sidecar.start()
    assert await fetch("127.0.0.1", sidecar.http, "/", {"Host": "web.example.com"}) == (200, INSTANCE)
    assert not [event for event in sidecar.events() if event.get("level") in ("warning", "error")]


@pytest.mark.parametrize("rules", [SIDECAR, STEERING], ids=["reading", "steering"])
async def test_the_sidecar_steers_with_the_policy_for_it_and_else_names_the_rule(
    guarded: ConsulAgent, app: App, rules: list[str]
) -> None:
    settings = ConsulSettings(address=guarded.address, token=SecretStr(await asyncio.to_thread(token, guarded, rules)))
    async with ConsulClient(settings) as client:
        steering = Steering(client)
        lever = await steering.read("web", Policy())
        assert lever.in_tags == {"canary": 1000}
        for shares in ({"canary": Share(700)}, None):
            if rules == STEERING:
                lever = await steering.move(lever, shares)
                assert lever.index == (await steering.read("web", Policy())).index
            else:
                (missing,) = set(STEERING) - set(rules)
                with pytest.raises(AccessDenied, match=re.escape(missing)):
                    await steering.move(replace(lever, index=7), shares)


@pytest.mark.parametrize("rules", without(STEERING))
async def test_the_policy_for_steering_has_no_rule_to_spare(guarded: ConsulAgent, app: App, rules: list[str]) -> None:
    settings = ConsulSettings(address=guarded.address, token=SecretStr(await asyncio.to_thread(token, guarded, rules)))
    async with ConsulClient(settings) as client:
        with pytest.raises(AccessDenied):
            await Steering(client).read("web", Policy())


def test_the_one_shot_commands_read_with_the_sidecars_policy(app: App, proxygen: Proxygen) -> None:
    done = proxygen(SIDECAR, "snapshot")
    assert done.returncode == 0, done.stderr
    assert ROUTE in done.stdout


@pytest.mark.parametrize("rules", without(SIDECAR))
def test_the_sidecars_policy_has_no_rule_to_spare(app: App, proxygen: Proxygen, rules: list[str]) -> None:
    done = proxygen(rules, "render")
    (missing,) = set(SIDECAR) - set(rules)
    assert done.returncode == 3
    assert missing.split(" {")[0] in done.stderr


@pytest.mark.parametrize("rules", [OPERATOR, TEAM], ids=["operator", "team"])
def test_operators_move_a_canary_with_their_policy(app: App, proxygen: Proxygen, rules: list[str]) -> None:
    for arguments in (("set", "web", "20%"), ("promote", "web"), ("abort", "web"), ("show", "web")):
        done = proxygen(rules, "canary", *arguments)
        assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].split() == ["canary", "0%", "10%", "0%"]


@pytest.mark.parametrize("rules", without(OPERATOR) + without(TEAM))
def test_the_operators_policies_have_no_rule_to_spare(app: App, proxygen: Proxygen, rules: list[str]) -> None:
    assert proxygen(rules, "canary", "set", "web", "20%").returncode == 3


def test_a_deploy_job_sets_tags_with_its_policy(guarded: ConsulAgent, app: App, proxygen: Proxygen) -> None:
    done = proxygen(DEPLOY, "tags", "set", INSTANCE, "canary=25%")
    assert done.returncode == 0, done.stderr
    assert "proxygen.canary=25%" in guarded.get(f"/v1/agent/service/{INSTANCE}")["Tags"]


def test_the_deploy_jobs_policy_is_for_its_own_service(guarded: ConsulAgent, app: App, proxygen: Proxygen) -> None:
    others = [rule.replace('"web"', '"shop"') for rule in DEPLOY]
    assert proxygen(others, "tags", "set", INSTANCE, "canary=30%").returncode == 3
    assert "proxygen.canary=30%" not in guarded.get(f"/v1/agent/service/{INSTANCE}")["Tags"]


@pytest.fixture(scope="module")
def denying_host(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostConsul]:
    """A host whose Consul denies by default."""
    with Lab(tmp_path_factory.mktemp("lab")) as lab:
        host = lab.host()
        agent = HostConsul(host, servers=[host], config=DENYING)
        try:
            agent.start()
            take_over(agent)
            yield agent
        finally:
            agent.remove()


@pytest.fixture
def guarded_host(denying_host: HostConsul) -> Iterator[HostConsul]:
    """That host, without a network."""
    yield denying_host
    for session in denying_host.get("/v1/session/list"):
        denying_host.put(f"/v1/session/destroy/{session['ID']}")
    denying_host.kv_delete("proxygen/", recurse=True)
    shutil.rmtree(denying_host.host.directory / "network", ignore_errors=True)


def host_agent(consul: HostConsul, make: Callable[..., NetworkAgent], rules: Sequence[str]) -> NetworkAgent:
    return make(consul.host, {"consul.token": token(consul, rules)})


def test_a_host_comes_by_its_subnet_and_leaves_with_its_policy(
    guarded_host: HostConsul, make_agent: Callable[..., NetworkAgent]
) -> None:
    agent = host_agent(guarded_host, make_agent, NETWORK)
    made = agent.command("init", "--network", "10.99.0.0/16", "--backend", "host-gw")
    assert made.returncode == 0, made.stderr
    agent.start()
    agent.lease()
    process.wait_until(lambda: (agent.status() or {}).get("standing") == "held", what="a lease that is held")
    agent.stop()
    left = agent.command("release")
    assert left.returncode == 0, left.stderr


@pytest.mark.parametrize("rules", without(NETWORK))
def test_a_hosts_policy_has_no_rule_to_spare(
    guarded_host: HostConsul, make_agent: Callable[..., NetworkAgent], rules: list[str]
) -> None:
    guarded_host.kv_put("proxygen/network/settled", "new")
    guarded_host.kv_put("proxygen/network/config", '{"Network": "10.99.0.0/16", "Backend": {"Type": "host-gw"}}')
    agent = host_agent(guarded_host, make_agent, rules)
    agent.start()
    (missing,) = set(NETWORK) - set(rules)
    process.wait_until(lambda: missing.split(" {")[0].replace('"', '\\"') in agent.tail(), what=missing, timeout=60)
    assert not agent.subnet_file.exists()
