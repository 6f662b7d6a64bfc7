"""One attempt: how a catalog becomes what nginx serves, as one sentence. Start reading here; `loop.py` says when.

The sidecar's stages (`stages.py`) end in a reload that is proven; those of the one-shot commands (`cli/oneshot.py`) end
before.
"""

from __future__ import annotations

from typing import Final, Protocol, TypeVar

from proxygen.kit.errors import CheckRefused
from proxygen.proxy.check.gates import RefusedCandidate
from proxygen.proxy.draft import Draft

MAX_ROUNDS: Final = 50
"""Each round leaves at least one more service out; more than this many refusals in a row are a fault of the whole."""

_Passed = TypeVar("_Passed")
_Result = TypeVar("_Result")


class Stages(Protocol[_Passed, _Result]):
    """What a catalog goes through."""

    async def draft(self) -> Draft:
        """plan, guard, render: without those that are left out by now."""

    async def check(self, draft: Draft) -> _Passed | RefusedCandidate:
        """structure, syntax."""

    async def deliver(self, draft: Draft, passed: _Passed) -> _Result | RefusedCandidate:
        """publish, reload, prove."""

    async def leave_out(self, draft: Draft, refused: RefusedCandidate) -> None:
        """Leave somebody out of the next draft. Raise CheckRefused where nobody is at fault."""

    async def record(self, draft: Draft, result: _Result) -> _Result:
        """Remember what came of it."""


async def attempt(stages: Stages[_Passed, _Result]) -> _Result:
    """Carry a catalog through its stages, without those that are refused on the way: the rest goes on.

    Raise CheckRefused where a refusal is nobody's, or where there is no end of them.
    """
    refused: RefusedCandidate | None = None
    for _ in range(MAX_ROUNDS):
        draft = await stages.draft()
        checked = await stages.check(draft)
        result = checked if isinstance(checked, RefusedCandidate) else await stages.deliver(draft, checked)
        if not isinstance(result, RefusedCandidate):
            return await stages.record(draft, result)
        refused = result
        await stages.leave_out(draft, refused)
    raise CheckRefused(f"{MAX_ROUNDS} candidates were refused in a row, the last since: {refused}")
