"""How a real Consul is reached: tokens of every strength, a rotated token file, a unix socket, TLS."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from pydantic import SecretStr

from proxygen.consul.access import ConsulAccess
from proxygen.consul.acl import probe
from proxygen.consul.client import ConsulClient
from proxygen.consul.kv import delete_override, read_override, write_override
from proxygen.consul.single import SingleRequests
from proxygen.consul.snapshot import fetch_catalog
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, ConflictingWrite, ConsulUnreachable
from proxygen.registration.agent import Agent
from proxygen.settings import ConsulSettings
from tests.consul.certificates import SERVER_NAME, make_certificates
from tests.consul.watching import ROUTE, ids, watching
from tests.harness import process
from tests.harness.consul import ConsulAgent
from tests.harness.ports import free_port
from tests.harness.tools import Consul

SERVICES = 'service_prefix "" { policy = "read" }'
NODES = 'node_prefix "" { policy = "read" }'
KEYS = 'key_prefix "proxygen/canary/" { policy = "read" }'


@dataclass(frozen=True, slots=True)
class Guarded:
    """An agent that denies by default, with one routed service."""

    agent: ConsulAgent

    def token(self, *rules: str) -> str:
        name = f"p{uuid.uuid4().hex}"
        self.agent.put("/v1/acl/policy", {"Name": name, "Rules": "\n".join(rules)})
        token = self.agent.put("/v1/acl/token", {"Description": name, "Policies": [{"Name": name}]})
        return str(token["SecretID"])

    def revoke(self, secret: str) -> None:
        accessor = self.agent.request("GET", "/v1/acl/token/self", token=secret)["AccessorID"]
        self.agent.request("DELETE", f"/v1/acl/token/{accessor}")

    def settings(self, secret: str | None = None, **knobs: object) -> ConsulSettings:
        token = SecretStr(secret) if secret else None
        return ConsulSettings(address=self.agent.address, token=token, **knobs)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def guarded(which_consul: Consul, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    config = {"acl": {"enabled": True, "default_policy": "deny"}}
    agent = ConsulAgent(tmp_path_factory.mktemp("guarded"), config=config)
    agent.start()
    try:
        agent.token = agent.put("/v1/acl/bootstrap")["SecretID"]
        agent.put("/v1/agent/token/agent", {"Token": agent.token})
        process.wait_until(lambda: agent.get("/v1/catalog/nodes"), what="the agent's node")
        agent.register("web", id="web-1", port=8001, tags=[ROUTE])
        process.wait_until(lambda: agent.instances("web"), what="the service")
        yield Guarded(agent)
    finally:
        agent.stop()


@pytest.mark.parametrize(
    ("rules", "missing"),
    [
        ((NODES, KEYS), "service_prefix"),
        ((SERVICES, KEYS), "node_prefix"),
        ((SERVICES, NODES), 'key_prefix "proxygen/canary/"'),
    ],
    ids=["services", "nodes", "keys"],
)
async def test_a_weak_token_is_told_which_rule_is_missing(
    guarded: Guarded, rules: tuple[str, ...], missing: str
) -> None:
    """Consul answers most of these with 200 and nothing; the probe names the rule."""
    token = await asyncio.to_thread(guarded.token, *rules)
    async with ConsulClient(guarded.settings(token)) as client:
        with pytest.raises(AccessDenied) as refusal:
            await probe(client)
    assert missing in str(refusal.value)
    assert token not in str(refusal.value)


async def test_no_token_and_an_unknown_token_are_told_apart(guarded: Guarded) -> None:
    async with ConsulClient(guarded.settings()) as client:
        with pytest.raises(AccessDenied, match="service_prefix"):
            await probe(client)
    unknown = str(uuid.uuid4())
    async with ConsulClient(guarded.settings(unknown)) as client:
        with pytest.raises(AccessDenied, match="unknown to Consul") as refusal:
            await probe(client)
        assert unknown not in str(refusal.value)
        assert unknown not in repr(client.settings)


async def test_the_least_token_is_enough(guarded: Guarded) -> None:
    """The three rules of the documentation let the watch and the probe through."""
    token = await asyncio.to_thread(guarded.token, SERVICES, NODES, KEYS)
    async with watching(guarded.settings(token)) as one:
        await probe(one.client)
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])


async def test_a_weak_token_never_gives_a_catalog(guarded: Guarded) -> None:
    """Services whose instances are hidden are not services without instances."""
    token = await asyncio.to_thread(guarded.token, SERVICES, KEYS)
    async with watching(guarded.settings(token)) as one:
        assert await one.nothing_comes(1.0)
        assert "node_prefix" in (one.watch.problem or "")
        with pytest.raises(AccessDenied):
            await fetch_catalog(one.client, tag_prefix="proxygen")


async def test_a_token_that_is_weakened_keeps_the_catalog(guarded: Guarded) -> None:
    """A policy that loses a rule while the watch runs empties nothing."""
    policy = {"Name": f"p{uuid.uuid4().hex}", "Rules": "\n".join((SERVICES, NODES, KEYS))}

    def give() -> tuple[str, str]:
        answer = guarded.agent.put("/v1/acl/policy", policy)
        token = guarded.agent.put("/v1/acl/token", {"Policies": [{"Name": policy["Name"]}]})
        return str(answer["ID"]), str(token["SecretID"])

    policy_id, token = await asyncio.to_thread(give)
    async with watching(guarded.settings(token, wait=1.0)) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
        await one.nothing_comes(0.2)
        weaker = policy | {"ID": policy_id, "Rules": KEYS}
        await asyncio.to_thread(guarded.agent.put, f"/v1/acl/policy/{policy_id}", weaker)
        assert await one.nothing_comes(4.0)
        assert "service_prefix" in (one.watch.problem or "")


@pytest.mark.faults
async def test_a_rotated_token_file_is_read_again(guarded: Guarded, tmp_path: Path) -> None:
    """The old token is revoked, the file holds a new one: the watch goes on without a restart."""
    file = tmp_path / "token"
    old = await asyncio.to_thread(guarded.token, SERVICES, NODES, KEYS)
    file.write_text(f"{old}\n")
    async with watching(guarded.settings(token_file=file, wait=1.0)) as one:
        await one.until(lambda catalog: "web-1" in ids(catalog, "web"))
        new = await asyncio.to_thread(guarded.token, SERVICES, NODES, KEYS)
        await asyncio.to_thread(guarded.revoke, old)
        await asyncio.sleep(1.5)
        file.write_text(f"{new}\n")
        await asyncio.to_thread(guarded.agent.register, "web", id="web-2", port=8002, tags=[ROUTE])
        await one.until(lambda catalog: "web-2" in ids(catalog, "web"), within=10.0)
        await asyncio.to_thread(guarded.agent.deregister, "web-2")


async def test_our_token_wins_over_the_environment(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    """py-consul reads CONSUL_HTTP_TOKEN over its argument; our settings decide."""
    monkeypatch.setenv("CONSUL_HTTP_TOKEN", str(uuid.uuid4()))
    monkeypatch.setenv("CONSUL_HTTP_ADDR", "127.0.0.1:1")
    token = await asyncio.to_thread(guarded.token, SERVICES, NODES, KEYS)
    async with ConsulClient(guarded.settings(token)) as client:
        await probe(client)
        _, item = await client.kv.get("proxygen/canary/none")
        assert item is None


async def test_overrides_are_written_check_and_set(consul: ConsulAgent) -> None:
    """Who read an older text can neither overwrite nor delete the newer one."""
    async with ConsulClient(ConsulSettings(address=consul.address)) as client:
        assert await read_override(client, "web") is None
        await write_override(client, "web", '{"canary": "5%"}', index=0)
        with pytest.raises(ConflictingWrite):
            await write_override(client, "web", '{"canary": "9%"}', index=0)
        read = await read_override(client, "web")
        assert read is not None
        assert read.value == '{"canary": "5%"}'
        await write_override(client, "web", '{"canary": "7%"}', index=read.index)
        with pytest.raises(ConflictingWrite):
            await delete_override(client, "web", index=read.index)
        newest = await read_override(client, "web")
        assert newest is not None
        await delete_override(client, "web", index=newest.index)
        assert await read_override(client, "web") is None


async def test_a_write_without_the_rule_names_it(guarded: Guarded) -> None:
    token = await asyncio.to_thread(guarded.token, SERVICES, NODES, KEYS)
    async with ConsulClient(guarded.settings(token)) as client:
        with pytest.raises(AccessDenied, match=r'key_prefix "proxygen/canary/" \{ policy = "write" \}'):
            await write_override(client, "web", "{}", index=0)


async def test_a_unix_socket(make_consul: Callable[..., ConsulAgent], short_directory: Path) -> None:
    socket = short_directory / "consul.sock"
    agent = make_consul(config={"addresses": {"http": f"127.0.0.1 unix://{socket}"}})
    agent.start()
    agent.register("web", id="web-1", port=8001, tags=[ROUTE])
    settings = ConsulSettings(address=f"unix://{socket}")
    async with watching(settings) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
    assert "web-1" in await _services(settings)


async def test_tls_with_a_client_certificate(make_consul: Callable[..., ConsulAgent], tmp_path: Path) -> None:
    """The server is verified, by another name where one is set, and asks for our certificate."""
    files = make_certificates(tmp_path, with_address=False)
    port = free_port()
    agent = make_consul(
        config={
            "ports": {"https": port},
            "ca_file": str(files.ca),
            "cert_file": str(files.server),
            "key_file": str(files.server_key),
            "verify_incoming_https": True,
        }
    )
    agent.start()
    agent.register("web", id="web-1", port=8001, tags=[ROUTE])
    right = ConsulSettings(
        address=f"https://127.0.0.1:{port}",
        ca_cert=files.ca,
        client_cert=files.client,
        client_key=files.client_key,
        tls_server_name=SERVER_NAME,
    )
    async with watching(right) as one:
        await one.until(lambda catalog: ids(catalog, "web") == ["web-1"])
    for wrong in (
        right.model_copy(update={"ca_cert": None}),
        right.model_copy(update={"tls_server_name": None}),
        right.model_copy(update={"client_cert": None, "client_key": None}),
        right.model_copy(update={"address": f"http://127.0.0.1:{port}"}),
    ):
        async with ConsulClient(wrong) as client:
            with pytest.raises(CatalogUnavailable, match=r"127\.0\.0\.1"):
                await fetch_catalog(client, tag_prefix="proxygen")
        with pytest.raises(CatalogUnavailable, match=r"127\.0\.0\.1"):
            await _services(wrong)
    unverified = right.model_copy(update={"ca_cert": None, "tls_server_name": None, "ssl_verify": False})
    async with ConsulClient(unverified) as client:
        assert ids(await fetch_catalog(client, tag_prefix="proxygen"), "web") == ["web-1"]
    assert "web-1" in await _services(right)
    assert "web-1" in await _services(unverified)


async def test_an_agent_that_denies_is_asked_with_a_token(guarded: Guarded) -> None:
    token = await asyncio.to_thread(guarded.token, SERVICES)
    assert "web-1" in await _services(guarded.settings(token))
    unknown = str(uuid.uuid4())
    with pytest.raises(AccessDenied) as refusal:
        await _services(guarded.settings(unknown))
    assert unknown not in str(refusal.value)


async def _services(settings: ConsulSettings) -> Mapping[str, object]:
    """What an application that registers itself sees of its agent."""
    return await Agent(SingleRequests(ConsulAccess.of(settings))).services()


async def test_nothing_listens() -> None:
    async with ConsulClient(ConsulSettings(address=f"127.0.0.1:{free_port()}")) as client:
        with pytest.raises(ConsulUnreachable, match=r"Connect call failed|refused"):
            await fetch_catalog(client, tag_prefix="proxygen")
