"""A Consul that denies by default, and tokens for the policies of deploy/acl/."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final, TypeVar

import pytest

from tests.harness import process
from tests.harness.consul import ConsulAgent

POLICIES: Final = Path(__file__).parents[2] / "deploy" / "acl"
DENYING: Final = {"acl": {"enabled": True, "default_policy": "deny"}}

A = TypeVar("A", bound=ConsulAgent)


def policy(name: str) -> list[str]:
    """The rules of a policy, one on each line of its file; what is a comment is left out."""
    lines = (POLICIES / f"{name}.hcl").read_text(encoding="utf-8").splitlines()
    rules = [line for line in lines if not line.startswith("#")]
    assert rules
    assert all(re.fullmatch(r'\w+ "[^"]*" \{ policy = "\w+" \}', rule) for rule in rules), rules
    return rules


def take_over(agent: ConsulAgent) -> None:
    """Get the token that may do everything."""
    agent.token = agent.put("/v1/acl/bootstrap")["SecretID"]
    agent.put("/v1/agent/token/agent", {"Token": agent.token})
    process.wait_until(lambda: agent.get("/v1/catalog/nodes"), what="the agent's node")


@contextmanager
def denying_consul(directory: Path) -> Iterator[ConsulAgent]:
    """An agent of which we hold the token that may do everything."""
    with taken_over(ConsulAgent(directory, config=DENYING)) as agent:
        yield agent


@contextmanager
def taken_over(agent: A) -> Iterator[A]:
    """The agent at work, with the token that may do everything."""
    agent.start()
    try:
        take_over(agent)
        yield agent
    finally:
        agent.stop()


def token(agent: ConsulAgent, rules: Sequence[str]) -> str:
    """A token that may do what the rules say; without any it may do nothing."""
    name = f"p{uuid.uuid4().hex}"
    agent.put("/v1/acl/policy", {"Name": name, "Rules": "\n".join(rules)})
    return str(agent.put("/v1/acl/token", {"Policies": [{"Name": name}]})["SecretID"])


def without(rules: Sequence[str]) -> list[object]:
    """Return the rules with one of them taken away, for each of them."""
    return [pytest.param([rule for rule in rules if rule != gone], id=gone.split(" {")[0]) for gone in rules]
