"""Failover as nginx takes it: every method, with and without local instances, through both gates."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar

METHODS = ("round_robin", "least_conn", "ip_hash", "random", "hash:$uri", "hash:header:X-User", "hash:cookie:sid")


def entry(service: str, number: int, *tags: str, status: str = "passing", datacenter: str = "dc1") -> dict[str, Any]:
    """One element of health/service; tags are written without their prefix."""
    return {
        "Node": {"Node": f"node-{number}", "Address": f"127.0.0.{number}", "Datacenter": datacenter},
        "Service": {
            "ID": f"{service}-{number}",
            "Service": service,
            "Port": 9000,
            "Tags": [f"proxygen.{tag}" for tag in tags],
        },
        "Checks": [{"CheckID": "alive", "Status": status}],
    }


def test_both_nginx_take_failover_with_every_method_and_whoever_is_left(
    nginx: NginxServer, make_sidecar: Callable[..., Sidecar], tmp_path: Path
) -> None:
    """With two local instances, with none that serves, with a canary beside them, and with a canary alone."""
    services: dict[str, list[dict[str, Any]]] = {}
    for place, method in enumerate(METHODS):
        for kind, stable, canary in (
            ("both", "passing", None),
            ("down", "critical", None),
            ("canary", "passing", "passing"),
            ("alone", "critical", "passing"),
        ):
            tags = (f"route={kind}{place}.example.com", f"balance={method}", "failover=dc2")
            name = f"{kind}-{place}"
            services[name] = [entry(name, number, *tags, status=stable) for number in (2, 3)]
            if canary is not None:
                services[name].append(entry(name, 4, *tags, "canary=10%", status=canary))
    streams = [
        ("tcp", 20_001, "least_conn", "passing"),
        ("udp", 20_002, "random", "passing"),
        ("tcp", 20_003, "random", "critical"),
    ]
    for protocol, port, method, status in streams:
        tags = (f"protocol={protocol}", f"listen={port}", f"balance={method}", "failover=dc2")
        services[f"stream-{port}"] = [entry(f"stream-{port}", 2, *tags, status=status)]
    others = {name: [entry(name, 5, datacenter="dc2"), entry(name, 6, datacenter="dc2")] for name in services}
    catalog = tmp_path / "catalog.json"
    catalog.write_text(json.dumps({"datacenter": "dc1", "services": services, "elsewhere": {"dc2": others}}))
    sidecar = make_sidecar("127.0.0.1:1", nginx)
    ended = sidecar.command("check", "--catalog", str(catalog))
    assert ended.returncode == 0, ended.stderr
    assert f"{len(services)} services pass, 0 quarantined" in ended.stdout
    assert not ended.stderr
    rendered = sidecar.command("render", "--catalog", str(catalog), "--output", "-").stdout
    lines = [line.strip(" ;") for line in rendered.splitlines() if "server 127.0.0.5:9000" in line]
    assert {line.endswith("backup") for line in lines} == {True, False}
