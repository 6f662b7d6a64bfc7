"""From a draft to what nginx serves: stage, second gate, publish, reload, proof. What is served is decided before."""

from __future__ import annotations

import asyncio
from hashlib import sha256
from typing import Final

from proxygen import __version__
from proxygen.log import get_logger
from proxygen.nginx.apply import Applied, Applier, Checked, Outcome
from proxygen.nginx.check import Refusal
from proxygen.nginx.conf import ConfSource, OperatorConf
from proxygen.nginx.listens import listens
from proxygen.nginx.publish import (
    Generation,
    Output,
    Staged,
    current,
    discard,
    is_there,
    next_number,
    read_generation,
    stage,
)
from proxygen.nginx.stamp import STAMP_FILE, Stamp, stamp_text
from proxygen.pipeline import Drafted, Pipeline, Timings
from proxygen.plan.types import Plan
from proxygen.render import Rendered
from proxygen.served import FILE as SERVICES_FILE
from proxygen.served import encode_services
from proxygen.settings import Settings

_log = get_logger(__name__)

DIGEST_LENGTH: Final = 16
"""Hexadecimal digits of a rendering's digest that stand in its stamp."""

_REMARKS: Final = 20
"""As many are told: who looks them up in nginx's own words runs ``nginx -t``."""


class Delivery:
    """Delivers with one pipeline, whose nginx and files it uses; build a new one when the pipeline is another."""

    def __init__(self, settings: Settings, output: Output, pipeline: Pipeline) -> None:
        assert pipeline.binary is not None
        self._output: Final = output
        self._pipeline: Final = pipeline
        self._conf: Final = ConfSource(settings.nginx, output.directory, pipeline.binary)
        self._applier: Final = Applier(
            output, pipeline.binary, nginx=settings.nginx, reload=settings.reload, keep=settings.output.keep
        )
        self._test_seconds = 0.0
        self.remarks: tuple[str, ...] = ()
        """What nginx said of the last candidate that it let through, and that nobody is refused for."""

    async def conf(self) -> OperatorConf:
        """Return nginx.conf as it is now. Raise BadInput when it cannot be read."""
        return await asyncio.to_thread(self._conf.read)

    def live_number(self) -> int | None:
        return current(self._output.directory)

    def is_live(self, rendered: Rendered) -> bool:
        """Whether the live generation holds just this."""
        live = self._live()
        return live is not None and live.stamp.digest == self._digest(rendered)

    async def finish_pending(self) -> Applied:
        """A reload that a crash or an absent nginx left undone."""
        live = self._live()
        if live is not None and not self._tells_its_stamp(live):
            # nginx.stamp was changed since: nobody can prove it, and the next generation replaces it.
            return Applied(outcome=Outcome.UNCHANGED, generation=None)
        return await self._applier.finish_pending(await self.conf(), test_seconds=self._test_seconds)

    async def deliver(self, drafted: Drafted, timings: Timings) -> Applied | tuple[Refusal, ...]:
        """Carry a draft through the second gate and to nginx; refusals where the gate refused it.

        Raise CheckRefused where nobody can be blamed, NginxUnavailable and OutputUnusable as `Applier.apply` does.
        """
        digest = self._digest(drafted.rendered)
        stamp = Stamp(generation=next_number(self._output), digest=digest)
        files = {**self._pipeline.files_of(drafted.rendered, stamp), SERVICES_FILE: encode_services(drafted.plan)}
        with timings.of("stage"):
            staged = await asyncio.to_thread(stage, self._output, stamp, files)
        refusals = await self._pass_second_gate(drafted, staged, timings)
        if refusals:
            discard(staged)
            return refusals
        checked = Checked(
            staged=staged, manifest=_manifest(drafted.plan), listens=listens(files), test_seconds=self._test_seconds
        )
        return await self._applier.apply(checked, await self.conf())

    async def _pass_second_gate(self, drafted: Drafted, staged: Staged, timings: Timings) -> tuple[Refusal, ...]:
        try:
            with timings.of("test"):
                refusals, remarks, self._test_seconds = await self._pipeline.trial(drafted, staged.path)
        except BaseException:
            discard(staged)
            raise
        self.remarks = tuple(f"nginx: {remark}" for remark in remarks[:_REMARKS])
        return refusals

    def has(self, number: int) -> bool:
        """Whether a generation is on disk, whole or not. Raise OSError where that cannot be seen."""
        return is_there(self._output.directory, number)

    def served_before(self) -> int | None:
        """Return the generation that nginx was last seen to run beside the live one."""
        return self._applier.served_before(self.live_number())

    async def roll_back(self, number: int | None) -> Applied:
        """Raise OutputUnusable where there is no such generation, NginxUnavailable where nginx cannot be asked."""
        return await self._applier.roll_back(number, await self.conf(), test_seconds=self._test_seconds)

    def _live(self) -> Generation | None:
        number = self.live_number()
        return read_generation(self._output.directory, number) if number is not None else None

    def _digest(self, rendered: Rendered) -> str:
        """Of all that nginx is given: the address at which it tells its stamp belongs to that, the number does not."""
        stamp = self._pipeline.stamp_block(stamp_text(1, "0" * DIGEST_LENGTH))
        return sha256(rendered.digest.encode() + stamp).hexdigest()[:DIGEST_LENGTH]

    def _tells_its_stamp(self, generation: Generation) -> bool:
        """Whether it does so where we would ask today."""
        try:
            written = (generation.path / STAMP_FILE).read_bytes()
        except OSError:
            return False
        return written == self._pipeline.stamp_block(str(generation.stamp))


def _manifest(plan: Plan) -> dict[str, object]:
    """What a later reader wants to know of a generation without reading nginx's language."""
    return {
        "services": [service.name for service in plan.services if service.quarantine is None],
        "quarantined": {quarantine.service: str(quarantine) for quarantine in plan.quarantined},
        "proxygen": __version__,
    }
