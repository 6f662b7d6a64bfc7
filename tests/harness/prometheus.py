"""A real Prometheus with the alert rules that are shipped, and what the shipped dashboard asks it."""

from __future__ import annotations

import json
import re
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from tests.harness import process
from tests.harness.ports import free_port

MONITORING: Final = Path(__file__).parents[2] / "deploy" / "monitoring"
RULES: Final = MONITORING / "alerts.yml"

_OPENER: Final = urllib.request.build_opener(urllib.request.ProxyHandler({}))
_SILENT: Final = ("kept_instances", "== 0", "changes(", 'class="5xx"', "proxygen_network_", "proxygen_registrator_")


class Prometheus:
    """A server that scrapes one sidecar five times a second and watches the alert rules."""

    def __init__(self, binary: Path, directory: Path, *, scraped: int) -> None:
        """``scraped`` is the sidecar's admin port."""
        self.port: Final = free_port()
        configuration = {
            "global": {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "proxygen", "static_configs": [{"targets": [f"127.0.0.1:{scraped}"]}]}],
        }
        # JSON is YAML.
        (directory / "prometheus.yml").write_text(json.dumps(configuration))
        self._process: Final = process.start(
            [
                binary,
                f"--config.file={directory / 'prometheus.yml'}",
                f"--storage.tsdb.path={directory / 'data'}",
                f"--web.listen-address=127.0.0.1:{self.port}",
            ],
            log=directory / "prometheus.log",
            cwd=directory,
        )

    def get(self, path: str, **parameters: str) -> Any:
        url = f"http://127.0.0.1:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with _OPENER.open(url, timeout=10) as answer:
            body = json.loads(answer.read())
        assert body["status"] == "success", body
        return body["data"]

    def is_scraping(self) -> bool:
        """Whether the newest look at the sidecar came to an end; on a busy machine one may take too long."""
        (target,) = self.get("targets")["activeTargets"]
        return (target["health"], target["lastError"]) == ("up", "")

    def query(self, expression: str) -> list[Any]:
        result: list[Any] = self.get("query", query=expression)["result"]
        return result

    def number(self, expression: str) -> float | None:
        """The value of what has one; None where nothing has."""
        found = self.query(expression)
        return float(found[0]["value"][1]) if found else None

    def alerts(self) -> set[str]:
        """The names of those that fire, or will where it stays so."""
        return {alert["labels"]["alertname"] for alert in self.get("alerts")["alerts"]}

    def stop(self) -> None:
        process.stop(self._process)


def expressions() -> list[str]:
    """What the dashboard's panels ask, with its variables filled in."""
    text = (MONITORING / "grafana.json").read_text()
    found = [json.loads(f'"{match}"') for match in re.findall(r'"expr": "((?:[^"\\]|\\.)*)"', text)]
    filled = {"$job": "proxygen", "$instance": ".*", "$__rate_interval": "30s"}
    for variable, text in filled.items():
        found = [expression.replace(variable, text) for expression in found]
    return found


def is_silent(expression: str) -> bool:
    """Tell whether a panel has nothing to say of a sidecar by itself where nothing is held or fails and every service
    has an instance."""
    return any(word in expression for word in _SILENT)
