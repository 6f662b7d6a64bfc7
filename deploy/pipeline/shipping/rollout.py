"""The stages canary, promote and abort: the Ansible playbook rolls, we say how far and remember it.

The state is written before the playbook is called: whoever comes after a kill knows that something may run.
"""

from __future__ import annotations

import json
from dataclasses import replace

from shipping import figures
from shipping import state as states
from shipping.credentials import access
from shipping.errors import Failure, Misuse
from shipping.images import state_file
from shipping.programs import run, say
from shipping.settings import Settings
from shipping.state import Rollout, State


def canary(settings: Settings, state: State) -> State:
    """Have the version tried beside the old one. Where it fails, the old one has everything again."""
    if not state.image:
        raise Misuse("nothing was pushed of this commit: run the stage push first")
    if not state.image.startswith(f"{settings.registry}/{settings.image}@"):
        raise Misuse(f"{state.image} was pushed, which is not {settings.registry}/{settings.image}")
    if state.rollout is Rollout.PROMOTED:
        say(f"  {state.image} is in production already")
        return state
    started = _remember(settings, replace(state, rollout=Rollout.STARTING))
    try:
        _play(settings, started, "canary")
    except Failure as failure:
        _back_out(settings, started, failure)
    return replace(started, rollout=Rollout.CANARY, tried=figures.is_tried(settings))


def promote(settings: Settings, state: State) -> State:
    """Replace the old version by the one on trial, unless its figures have turned."""
    if state.rollout is Rollout.PROMOTED:
        say(f"  {state.image} is in production already")
        return state
    if state.rollout not in (Rollout.CANARY, Rollout.PROMOTING):
        raise Misuse(
            f"there is no canary of this commit to promote (it is {state.rollout}): run the stage canary first"
        )
    if state.rollout is Rollout.CANARY and state.tried:
        try:
            figures.look(settings)
        except Failure as failure:
            _back_out(settings, state, failure)
    begun = _remember(settings, replace(state, rollout=Rollout.PROMOTING))
    # What was replaced stays: going back through a second version that is half there would be one more change.
    _play(settings, begun, "promote")
    return replace(begun, rollout=Rollout.PROMOTED)


def abort(settings: Settings, state: State) -> State:
    """Take the canary away, if one may be there. Safe at any time: what is promoted stays."""
    if not state.rollout.is_open:
        say(f"  nothing to abort: the rollout of this commit is {state.rollout}")
        return state
    if state.rollout is Rollout.PROMOTING:
        say("  the promotion had begun: what was replaced keeps the new version; ship the old commit to go back")
    _play(settings, state, "abort")
    return replace(state, rollout=Rollout.ABORTED)


def _back_out(settings: Settings, state: State, failure: Failure) -> None:
    """Abort and raise the failure that made us; if that fails too, say that a person is needed."""
    say(f"{failure}\naborting")
    try:
        _remember(settings, abort(settings, state))
    except Failure as second:
        raise Failure(f"{failure}\nand the abort failed as well, look at the canary yourself: {second}") from second
    raise Failure(f"{failure}\naborted: the version before serves on") from failure


def _remember(settings: Settings, state: State) -> State:
    states.write(state_file(settings), state)
    return state


def _play(settings: Settings, state: State, stage: str) -> None:
    """Call the playbook. Variables go through a file: nothing of them is a word of a command."""
    variables = settings.output / f"{stage}.json"
    variables.write_text(json.dumps(_variables(settings, state, stage), indent=2) + "\n", encoding="utf-8")
    given = [settings.variables, variables] if settings.variables else [variables]
    extra = [f"--extra-vars=@{path.resolve()}" for path in given]
    command = [*settings.ansible, f"--inventory={settings.inventory}", *extra, str(settings.playbook)]
    # Where hosts are this machine itself, their pulls need the registry's credentials.
    with access(settings) as way:
        run(command, timeout=settings.timeout, environment=way.environment, directory=settings.playbook.parent)


def _variables(settings: Settings, state: State, stage: str) -> dict[str, object]:
    optional = {
        "steps": ",".join(settings.steps) if settings.steps else None,
        "proxygen_application_margin": settings.margin,
        "proxygen_application_minimum_requests": settings.minimum_requests,
        "proxygen_application_inconclusive": settings.inconclusive,
    }
    needed = {"service": settings.service, "image": state.image, "stage": stage}
    return needed | {name: value for name, value in optional.items() if value is not None}
