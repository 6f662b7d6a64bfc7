"""Commands that read and write a real Consul."""

from __future__ import annotations

import asyncio
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from proxygen.consul import kv
from proxygen.consul.catalog_file import read_catalog_file
from tests.harness import warm
from tests.harness.consul import ConsulAgent


def proxygen(consul: ConsulAgent, *arguments: str) -> subprocess.CompletedProcess[str]:
    return warm.run([*arguments, "--consul-address", consul.address], timeout=60)


def override(consul: ConsulAgent) -> Any:
    return consul.get("/v1/kv/proxygen/canary/web?raw")


def register_with_everything(consul: ConsulAgent) -> None:
    consul.put(
        "/v1/agent/service/register",
        {
            "ID": "web-1",
            "Name": "web",
            "Address": "127.0.0.7",
            "Port": 8080,
            "Tags": ["v1", "proxygen.route=app.example.com"],
            "Meta": {"team": "a", "proxygen-timeout": "5s"},
            "Weights": {"Passing": 7, "Warning": 3},
            "EnableTagOverride": True,
            "TaggedAddresses": {"wan": {"Address": "192.0.2.1", "Port": 80}},
            "Checks": [
                {"CheckID": "ttl", "Name": "ttl", "TTL": "24h", "Status": "passing"},
                {"CheckID": "late", "Name": "late", "TTL": "24h", "Status": "warning"},
            ],
        },
    )
    consul.put("/v1/agent/check/update/ttl", {"Status": "passing", "Output": "as I left it"})


def test_setting_a_tag_changes_the_tags_alone(consul: ConsulAgent) -> None:
    """Checks with their status and output, Meta, weights, addresses and the tag override flag survive."""
    register_with_everything(consul)
    service, checks = consul.get("/v1/agent/service/web-1"), consul.get("/v1/agent/checks")
    ended = proxygen(consul, "tags", "set", "web-1", "canary=25%", "route=b.example.com")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.splitlines() == [
        *("- proxygen.route=app.example.com", "+ proxygen.route=b.example.com"),
        "+ proxygen.canary=25%",
    ]
    changed = consul.get("/v1/agent/service/web-1")
    assert changed.pop("Tags") == ["v1", "proxygen.route=b.example.com", "proxygen.canary=25%"]
    service.pop("Tags")
    for body in (service, changed):
        body.pop("ContentHash")
    assert changed == service
    assert consul.get("/v1/agent/checks") == checks
    (entry,) = consul.instances("web")
    assert {check["CheckID"]: check["Status"] for check in entry["Checks"] if check["ServiceID"]} == {
        "ttl": "passing",
        "late": "warning",
    }


def test_setting_what_is_so_already_wakes_nobody(consul: ConsulAgent) -> None:
    register_with_everything(consul)
    index = consul.instances("web")[0]["Service"]["ModifyIndex"]
    ended = proxygen(consul, "tags", "set", "web-1", "route=app.example.com")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "unchanged\n")
    assert consul.instances("web")[0]["Service"]["ModifyIndex"] == index


def test_tags_that_would_not_be_valid_are_not_sent(consul: ConsulAgent) -> None:
    register_with_everything(consul)
    before = consul.get("/v1/agent/service/web-1")
    for assignment in ("canary=101%", "listen=5432", "route=evil;}"):
        ended = proxygen(consul, "tags", "set", "web-1", assignment)
        assert ended.returncode == 1
        assert "nothing was sent" in ended.stderr
    assert consul.get("/v1/agent/service/web-1") == before


def test_a_service_that_the_agent_does_not_have_is_named(consul: ConsulAgent) -> None:
    ended = proxygen(consul, "tags", "set", "nope", "weight=1")
    assert ended.returncode == 2
    assert "'nope'" in ended.stderr


@pytest.mark.parametrize("service_id", ["a/b", "a b", "ä%2F"])
def test_any_id_is_reached(consul: ConsulAgent, service_id: str) -> None:
    consul.register("web", id=service_id, port=80, status="passing")
    assert proxygen(consul, "tags", "set", service_id, "weight=3").returncode == 0
    (entry,) = consul.instances("web")
    assert entry["Service"]["ID"] == service_id
    assert entry["Service"]["Tags"] == ["proxygen.weight=3"]
    assert len(entry["Checks"]) == 2


def test_the_lever_is_set_promoted_and_aborted_beside_what_others_set(consul: ConsulAgent) -> None:
    consul.register("web", port=1, tags=["proxygen.route=a.example.com", "proxygen.canary=5%"])
    consul.register("web", port=2, tags=["proxygen.variant=blue:10%"])
    ended = proxygen(consul, "canary", "set", "web", "12.5")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "web canary: 5% (tags) -> 12.5%\n", "")
    assert override(consul) == {"canary": "12.5%"}
    assert proxygen(consul, "canary", "set", "web", "20%", "--variant", "blue").stdout.endswith("10% (tags) -> 20%\n")
    assert override(consul) == {"blue": "20%", "canary": "12.5%"}
    assert proxygen(consul, "canary", "abort", "web").stdout == "web canary: 12.5% -> 0%\n"
    assert override(consul) == {"blue": "20%", "canary": "0%"}
    promoted = proxygen(consul, "canary", "promote", "web")
    assert promoted.stdout.splitlines() == ["web blue: 20% -> 0%", "web canary: 0% -> 100%"]
    assert override(consul) == {"blue": "0%", "canary": "100%"}
    shown = [line.split() for line in proxygen(consul, "canary", "show", "web").stdout.splitlines()]
    assert shown[1:] == [["blue", "0%", "10%", "0%"], ["canary", "100%", "5%", "100%"]]


def test_a_share_that_is_so_already_writes_nothing(consul: ConsulAgent) -> None:
    consul.register("web", port=1)
    consul.kv_put("proxygen/canary/web", '{"canary": 10}')
    assert "unchanged" in proxygen(consul, "canary", "set", "web", "10%").stdout
    assert override(consul) == {"canary": 10}


def test_a_reset_gives_the_shares_back_to_the_tags(consul: ConsulAgent) -> None:
    consul.register("web", port=80, tags=["proxygen.route=a.example.com", "proxygen.canary=5%"])
    consul.kv_put("proxygen/canary/web", '{"canary": "30%"}')
    assert proxygen(consul, "canary", "reset", "web").stdout == "web canary: 30% -> 5% (tags)\n"
    assert override(consul) is None
    ended = proxygen(consul, "canary", "reset", "web")
    assert (ended.returncode, ended.stdout) == (0, "web: there is no proxygen/canary/web (unchanged)\n")


def test_a_variant_that_nobody_has_is_told(consul: ConsulAgent) -> None:
    consul.register("web", port=1)
    ended = proxygen(consul, "canary", "set", "web", "10%")
    assert ended.returncode == 0
    assert "no instance of web" in ended.stderr


def test_a_broken_override_is_told_and_replaced(consul: ConsulAgent) -> None:
    consul.register("web", port=1)
    consul.kv_put("proxygen/canary/web", "10%")
    shown = proxygen(consul, "canary", "show", "web")
    assert "ignored" in shown.stderr
    assert proxygen(consul, "canary", "set", "web", "10%").returncode == 0
    assert override(consul) == {"canary": "10%"}


@pytest.mark.incident("T61")
@pytest.mark.parametrize("arguments", [["set", "wbe", "5%"], ["promote", "wbe"], ["abort", "wbe"]])
def test_a_service_that_is_not_there_is_refused_and_leaves_no_key(consul: ConsulAgent, arguments: list[str]) -> None:
    ended = proxygen(consul, "canary", *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "no instance of the service 'wbe' is registered" in ended.stderr
    assert "--force" in ended.stderr
    assert consul.get("/v1/kv/?keys") == []
    assert proxygen(consul, "canary", *arguments, "--force").returncode == 0
    assert consul.get("/v1/kv/?keys") == ["proxygen/canary/wbe"]


@pytest.mark.incident("T61")
def test_no_canary_that_could_serve_is_promoted_and_none_that_is_unknown_aborted(consul: ConsulAgent) -> None:
    consul.register("web", id="stable", port=1, tags=["proxygen.route=a.example.com"])
    for arguments, reason in (
        (["promote", "web"], "no healthy instance of 'web' belongs to the variant canary"),
        (["abort", "web"], "has no variant canary"),
        (["abort", "web", "--variant", "blue"], "has no variant blue"),
    ):
        ended = proxygen(consul, "canary", *arguments)
        assert (ended.returncode, ended.stdout, reason in ended.stderr) == (1, "", True), ended.stderr
    consul.register("web", id="sick", port=2, tags=["proxygen.canary=5%"], status="critical")
    ended = proxygen(consul, "canary", "promote", "web")
    assert (ended.returncode, "no healthy instance" in ended.stderr) == (1, True)
    assert override(consul) is None
    assert proxygen(consul, "canary", "abort", "web").returncode == 0
    assert proxygen(consul, "canary", "promote", "web", "--force").returncode == 0
    assert override(consul) == {"canary": "100%"}


def test_two_operators_cannot_overwrite_each_other_unseen(
    consul: ConsulAgent, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between our read and our write another write happens: ours is refused with code 1."""
    from proxygen.cli import run_command_line
    from proxygen.proxy.rollout import steering

    consul.register("web", port=1)
    consul.kv_put("proxygen/canary/web", '{"canary": "1%"}')

    async def read_then_lose_the_race(client: Any, service: str) -> kv.Override | None:
        read = await kv.read_override(client, service)
        await asyncio.to_thread(consul.kv_put, "proxygen/canary/web", '{"canary": "2%"}')
        return read

    monkeypatch.setattr(steering, "read_override", read_then_lose_the_race)
    assert run_command_line(["canary", "set", "web", "50%", "--consul-address", consul.address]) == 1
    assert "somebody else" in capsys.readouterr().err
    assert override(consul) == {"canary": "2%"}


@pytest.mark.parametrize("arguments", [["set", "web", "101%"], ["set", "web", "5%", "--variant", "stable"], ["set"]])
def test_a_share_out_of_range_is_code_2(consul: ConsulAgent, arguments: list[str]) -> None:
    assert proxygen(consul, "canary", *arguments).returncode == 2
    assert override(consul) is None


def test_a_snapshot_reads_back(consul: ConsulAgent, tmp_path: Path) -> None:
    consul.register("web", port=80, tags=["proxygen.route=a.example.com"], status="warning")
    consul.register("quiet", port=81)
    consul.kv_put("proxygen/canary/web", '{"canary": "1%"}')
    file = tmp_path / "snapshot.json"
    ended = proxygen(consul, "snapshot", "-o", str(file))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    catalog = read_catalog_file(file.read_bytes())
    assert list(catalog.services) == ["web"]
    assert list(catalog.overrides) == ["web"]
    printed = json.loads(proxygen(consul, "snapshot").stdout)
    assert printed["services"] == json.loads(file.read_text(encoding="utf-8"))["services"]
    assert proxygen(consul, "snapshot", "-o", str(tmp_path / "no" / "where")).returncode == 2


def test_lint_says_what_would_clash_with_what_consul_holds(consul: ConsulAgent, tmp_path: Path) -> None:
    register_with_everything(consul)
    file = tmp_path / "cart.json"
    for route, code, said in (
        ("app.example.com", 1, "cart: would not get app.example.com/: service web holds it"),
        ("cart.example.com", 0, "cart: valid"),
    ):
        file.write_text(json.dumps({"service": {"name": "cart", "tags": [f"proxygen.route={route}"]}}))
        ended = proxygen(consul, "tags", "lint", "--against-consul", str(file))
        assert (ended.returncode, ended.stderr) == (code, "")
        assert said in ended.stdout.splitlines()


def test_lint_against_a_consul_that_does_not_answer_ends_with_3(tmp_path: Path) -> None:
    file = tmp_path / "cart.json"
    file.write_text(json.dumps(["proxygen.route=app.example.com"]))
    ended = warm.run(["tags", "lint", "--against-consul", file, "--consul-address", "127.0.0.1:9"], timeout=60)
    assert ended.returncode == 3
