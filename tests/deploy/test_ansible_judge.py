"""How the role judges a canary: laws of the filter that Ansible calls."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

FILTERS = Path(__file__).parents[2] / "deploy/ansible/roles/proxygen_application/filter_plugins"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, FILTERS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # A dataclass looks its module up by name.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


canary = load("proxygen_canary")
instances = load("proxygen_instances")


def report(
    tried: tuple[float, float],
    stable: tuple[float, float],
    *,
    retried: float = 0,
    backed_up: float = 0,
    state: str = "serving",
) -> dict[str, Any]:
    """What one sidecar says; requests and errors of either side."""

    def variant(name: str, figures: tuple[float, float], state: str, **helped: float) -> dict[str, Any]:
        traffic = {"requests": figures[0], "errors": figures[1], "retried": 0, "backed_up": 0, **helped}
        return {"name": name, "effective": 5000, "instances": [{"id": name, "state": state}], "traffic": traffic}

    return {
        "state": "served",
        "variants": [
            variant("stable", stable, "serving"),
            variant("canary", tried, state, retried=retried, backed_up=backed_up),
        ],
    }


def outcome(*reports: dict[str, Any], **limits: float) -> str:
    return str(canary.proxygen_canary_verdict(reports, **limits)["outcome"])


@pytest.mark.parametrize(
    ("reports", "expected"),
    [
        pytest.param([report((100, 0), (1000, 0))], "good", id="none fails"),
        pytest.param([report((100, 50), (1000, 0))], "worse", id="half fail"),
        pytest.param([report((100, 50), (1000, 500))], "good", id="half fail on either side: it is not the canary"),
        pytest.param([report((0, 0), (1000, 0))], "inconclusive", id="no data is no failure"),
        pytest.param([report((10, 0), (1000, 0))], "inconclusive", id="too few to tell"),
        pytest.param([report((10, 10), (1000, 0))], "worse", id="few, and all fail"),
        pytest.param([report((100, 1), (1000, 0))], "good", id="one in a hundred may be chance"),
        pytest.param([report((100, 0), (1000, 0), retried=60)], "worse", id="others had to step in"),
        pytest.param([report((100, 0), (1000, 0), retried=1, backed_up=90)], "worse", id="stable answered for it"),
        pytest.param([report((300, 0), (900, 0), retried=3, backed_up=3)], "good", id="the same three, counted once"),
        pytest.param([report((100, 0), (9, 0), state="unhealthy")], "worse", id="nobody of the canary serves"),
        pytest.param([report((15, 0), (9, 0)), report((15, 0), (9, 0))], "good", id="two sidecars know more than one"),
        pytest.param([report((100, 0), (9, 0)), {"variants": []}], "worse", id="one sidecar does not have it"),
        pytest.param([{**report((100, 0), (9, 0)), "state": "quarantined"}], "worse", id="quarantined"),
    ],
)
def test_a_verdict(reports: list[dict[str, Any]], expected: str) -> None:
    assert outcome(*reports) == expected


def test_no_traffic_at_all_is_told_as_it_is() -> None:
    silent = report((0, 0), (0, 0))
    for variant in silent["variants"]:
        variant["traffic"] = None
    verdict = canary.proxygen_canary_verdict([silent], minimum_requests=20)
    assert verdict["outcome"] == "inconclusive"
    assert "0 of 0 requests" in verdict["reason"]
    assert "at least 20" in verdict["reason"]


@given(st.integers(1, 10_000), st.floats(0, 1), st.integers(2, 50))
def test_the_same_rate_seen_more_often_is_surer(requests: int, rate: float, times: int) -> None:
    few = canary.Figures(requests, requests * rate)
    many = canary.Figures(requests * times, requests * rate * times)
    assert 0 <= few.least_rate <= many.least_rate + 1e-9
    assert many.least_rate <= rate + 1e-9


@given(st.integers(0, 100_000), st.floats(0, 1))
def test_a_canary_that_fails_as_stable_does_is_never_worse(requests: int, rate: float) -> None:
    same = (requests, requests * rate)
    assert outcome(report(same, same), margin=0.001) != "worse"


def test_shares_count_when_every_sidecar_has_them() -> None:
    late = report((0, 0), (0, 0))
    late["variants"][1]["effective"] = 500
    assert canary.proxygen_canary_asked([report((0, 0), (0, 0)), late]) == 5
    assert canary.proxygen_canary_asked([report((0, 0), (0, 0)), {}]) == 0


def test_an_instance_of_another_version_has_another_id() -> None:
    def ids(image: str, numbers: int = 2, variant: str = "stable") -> list[str]:
        made = instances.proxygen_instances("web", "host", numbers, 8080, 1, [image, {"A": 1}, []], variant=variant)
        return [item["id"] for item in made]

    assert ids("web:1") == ids("web:1")
    assert len({*ids("web:1"), *ids("web:2"), *ids("web:2", variant="canary")}) == 6


def test_instances_on_one_network_have_ports_of_their_own() -> None:
    stable = instances.proxygen_instances("web", "host", 3, 8080, 1, [])
    tried = instances.proxygen_instances("web", "host", 2, 8080, 1, [], first=3, variant="canary")
    assert [item["port"] for item in (*stable, *tried)] == [8080, 8081, 8082, 8083, 8084]
    assert [item["name"] for item in (*stable, *tried)] == ["web-0", "web-1", "web-2", "web-canary-0", "web-canary-1"]


def found(*, image: str = "sha256:aa", id: str = "web-h-0-1", running: bool = True) -> dict[str, Any]:
    container = {
        "Image": image,
        "State": {"Running": running},
        "Config": {"Env": ["A=1", f"PROXYGEN_REGISTER_ID={id}"]},
    }
    instance = {"name": "web-0", "id": "web-h-0-1", "variant": "stable"}
    return {"proxygen_application_instance": instance, "exists": True, "container": container}


@pytest.mark.parametrize(
    ("answer", "differs"),
    [
        pytest.param(found(), False, id="as asked"),
        pytest.param(found(image="aa"), False, id="as asked, the digest without its sort"),
        pytest.param(found(image="sha256:bb"), True, id="the tag has moved"),
        pytest.param(found(id="web-h-0-2"), True, id="other settings"),
        pytest.param(found(running=False), True, id="stopped"),
        pytest.param({**found(), "exists": False, "container": None}, True, id="gone"),
    ],
)
def test_what_is_not_of_this_version(answer: dict[str, Any], differs: bool) -> None:
    assert instances.proxygen_differing([answer], [{"Id": "sha256:aa"}]) == ["stable"] * differs
    assert instances.proxygen_differing([answer], []) == ["stable"]
