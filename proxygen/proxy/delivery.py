"""From a draft to what nginx serves: stage, second gate, publish, reload, proof. What is served is decided before."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

from proxygen import __version__
from proxygen.kit.errors import OutputUnusable
from proxygen.kit.log import get_logger
from proxygen.kit.timings import Timings
from proxygen.proxy.apply.apply import Applied, Applier
from proxygen.proxy.apply.outcome import Outcome, WayToNginx
from proxygen.proxy.apply.publish import (
    Generation,
    Output,
    current,
    discard,
    every_generation,
    is_there,
    narrow,
    next_number,
    read_generation,
    require_generation,
    stage,
)
from proxygen.proxy.apply.push.document import Entry, encode_document, entries_between
from proxygen.proxy.apply.push.publisher import Publisher
from proxygen.proxy.apply.push.push import Pusher
from proxygen.proxy.check.gates import Candidate, Checked, RefusedCandidate
from proxygen.proxy.draft import Draft
from proxygen.proxy.nginx.conf import ConfSource, OperatorConf
from proxygen.proxy.nginx.default_copies import OPERATOR_FILE
from proxygen.proxy.nginx.stamp import STAMP_FILE, Stamp, read_stamp, stamp_text
from proxygen.proxy.pipeline import Pipeline
from proxygen.proxy.plan.types import Plan
from proxygen.proxy.record.live_plans import FILE as SERVICES_FILE
from proxygen.proxy.record.live_plans import encode_services
from proxygen.proxy.render.renderer import Rendered
from proxygen.settings import Settings

_log = get_logger(__name__)

_CERTIFICATES: Final = "certificates"
"""In the manifest: the fingerprints of those that the generation names."""

DIGEST_LENGTH: Final = 16
"""Hexadecimal digits of a rendering's digest that stand in its stamp."""


@dataclass(frozen=True, slots=True)
class Served:
    """What nginx was seen to serve."""

    stamp: Stamp
    draft: Draft
    by: WayToNginx = WayToNginx.RELOAD


class Delivery:
    """Delivers with one pipeline, whose nginx and files it uses; build a new one when the pipeline is another."""

    def __init__(
        self,
        settings: Settings,
        output: Output,
        pipeline: Pipeline,
        *,
        again: Callable[[], None],
        published: Callable[[Draft, int], Awaitable[None]],
        taken_back: Callable[[Applied], None],
    ) -> None:
        """``again`` has the newest catalog gone over once more; ``published`` is called with what was pushed
        before, once the files say it, and ``taken_back`` where it was refused then."""
        assert pipeline.binary is not None
        self._again: Final = again
        self._told_published: Final = published
        self._tell_taken_back: Final = taken_back
        self._stamp_address: Final = settings.nginx.stamp
        document = pipeline.pushing.document
        self._pusher: Final = None if document is None else Pusher(document, settings.nginx.stamp, pipeline.binary)
        self._publisher: Final = Publisher(
            self._publish_pushed, within=settings.reload.publish_within, longest_pause=settings.reload.retry_max
        )
        self._served: Served | None = None
        """None where this delivery did not see it, or nginx may serve something else by now."""
        self._published: Served | None = None
        """What the files say of the same structure."""
        self._one_push_at_a_time: Final = asyncio.Lock()
        self._is_suspicious = False
        """What was pushed was refused then: until something passes the second gate, nothing is given to nginx that did
        not."""
        self._last_pushed = 0
        """The number of the last push, which may never be published."""
        self._output: Final = output
        self.pipeline: Final = pipeline
        self._conf: Final = ConfSource(settings.nginx, output.directory, pipeline.binary)
        self._applier: Final = Applier(
            output, pipeline.binary, nginx=settings.nginx, reload=settings.reload, keep=settings.output.keep
        )
        self._test_seconds = 0.0
        self._has_judged = False
        self._has_narrowed = False
        self.remarks: tuple[str, ...] = ()
        """What nginx warned of, of the last candidate that passed; see `Verdict`."""

    def go_on_from(self, other: Delivery) -> None:
        """Take over what another one saw nginx serve, whose files nginx reads as it reads ours."""
        self._served, self._published = other._served, other._published
        self._last_pushed, self._is_suspicious = other._last_pushed, other._is_suspicious

    async def conf(self) -> OperatorConf:
        """Return nginx.conf as it is now. Raise BadInput when it cannot be read."""
        return await asyncio.to_thread(self._conf.read)

    async def is_crowded(self) -> bool:
        """Whether old workers leave little room for another reload."""
        return self._applier.is_crowded(await self.conf())

    def live_number(self) -> int | None:
        return current(self._output.directory)

    def is_live(self, rendered: Rendered) -> bool:
        """Whether nginx was given just this, by the live generation or by a push since."""
        if self._served is not None and self._publisher.is_behind:
            return self._served.stamp.digest == self._digest(rendered)
        live = self._live()
        return live is not None and live.stamp.digest == self._digest(rendered)

    async def finish_pending(self) -> Applied:
        """A reload that a crash or an absent nginx left undone."""
        if self._publisher.is_behind:
            if self._served is not None and await read_stamp(self._stamp_address) == self._served.stamp:
                return Applied(outcome=Outcome.UNCHANGED, generation=self._served.stamp.generation)
            # nginx reads its files anew, which are behind: once they are live, what is newer follows.
            await self._forget_pushed()
            self._again()
        live = self._live()
        if live is not None and not self._tells_its_stamp(live):
            # nginx.stamp was changed since: nobody can prove it, and the next generation replaces it.
            return Applied(outcome=Outcome.UNCHANGED, generation=None)
        return await self._applier.finish_pending(await self.conf(), test_seconds=self._test_seconds)

    async def check_live(self, draft: Draft, timings: Timings) -> RefusedCandidate | None:
        """Have a draft that is live judged where this pipeline has judged nothing yet: by files of the operator's that
        may be others since, and by which nginx would start. Raises as `Gates.syntax` does."""
        live = self._live()
        if self._has_judged or live is None:
            return None
        checked = await self._pass_syntax(self.pipeline.candidate(draft.rendered, live.path, live.stamp), timings)
        return checked if isinstance(checked, RefusedCandidate) else None

    async def check(self, draft: Draft, timings: Timings) -> Checked | RefusedCandidate:
        """Stage a draft and carry it through the second gate.

        Raise CheckRefused as `Gates.syntax` does, OutputUnusable where it cannot be written.
        """
        return await self._stage_and_check(draft, self._next_stamp(draft), timings)

    def discard(self, checked: Checked) -> None:
        """Remove what passed and will not be published."""
        discard(checked.path)

    def _next_stamp(self, draft: Draft) -> Stamp:
        number = max(next_number(self._output), self._last_pushed + 1)
        return Stamp(generation=number, digest=self._digest(draft.rendered))

    async def _stage_and_check(self, draft: Draft, stamp: Stamp, timings: Timings) -> Checked | RefusedCandidate:
        files = {**self.pipeline.files_of(draft.rendered, stamp), SERVICES_FILE: encode_services(draft.plan)}
        with timings.of("stage"):
            path = await asyncio.to_thread(stage, self._output, stamp, files, self.pipeline.ground.readers)
        try:
            checked = await self._pass_syntax(self.pipeline.candidate(draft.rendered, path, stamp), timings)
        except BaseException:
            discard(path)
            raise
        if isinstance(checked, RefusedCandidate):
            discard(path)
        return checked

    async def _pass_syntax(self, candidate: Candidate, timings: Timings) -> Checked | RefusedCandidate:
        with timings.of("test"):
            checked = await self.pipeline.gates.syntax(candidate)
        if isinstance(checked, Checked):
            self._test_seconds = checked.test_seconds
            self._has_judged, self._is_suspicious, self.remarks = True, False, checked.remarks
        return checked

    async def deliver(self, checked: Checked, draft: Draft) -> Applied:
        """Make a candidate live. Raise NginxUnavailable and OutputUnusable as `Applier.apply` does."""
        # What nginx serves now is where a way back leads to.
        await self._publisher.flush()
        self._served = None
        applied = await self._applier.apply(checked, await self.conf(), _manifest(draft.plan))
        if applied.outcome is Outcome.APPLIED:
            self._served = self._published = Served(checked.stamp, draft)
            await asyncio.to_thread(self._forget_copies)
        return applied

    def note_served(self, draft: Draft) -> None:
        """Take note that nginx was seen to serve the live generation, which holds this draft."""
        live = self._live()
        if self._publisher.is_behind or live is None or (self._served is not None and self._served.stamp == live.stamp):
            return
        if live.stamp.digest == self._digest(draft.rendered):
            self._served = self._published = Served(live.stamp, draft)

    # --- without a reload

    @property
    def pushed(self) -> Stamp | None:
        """What nginx serves by a push; None where it serves what it read from the files."""
        return self._served.stamp if self._served is not None and self._served.by is WayToNginx.PUSH else None

    def pushable(self, draft: Draft) -> tuple[Entry, ...] | None:
        """Return what of a draft is to be pushed; None where it takes a reload."""
        if self._pusher is None or self._served is None or self._is_suspicious:
            return None
        return entries_between(self._served.draft.rendered, draft.rendered)

    async def push(self, draft: Draft, entries: tuple[Entry, ...], timings: Timings) -> Applied | None:
        """Push, and have the files follow. Return None where nginx does not take it: then it takes a reload.

        What was begun is carried to its end though the caller is cancelled: the files have to say what nginx serves.
        """
        with timings.of("push"):
            pushed = await asyncio.shield(self._push(self._served, draft, entries))
        if pushed is None:
            return None
        return Applied(outcome=Outcome.APPLIED, generation=pushed.generation, by=WayToNginx.PUSH)

    async def _push(self, before: Served | None, draft: Draft, entries: tuple[Entry, ...]) -> Stamp | None:
        async with self._one_push_at_a_time:
            if self._served is not before:
                # What was pushed before was taken back meanwhile.
                return None
            after = Served(self._next_stamp(draft), draft, WayToNginx.PUSH)
            self._last_pushed = after.stamp.generation
            if reason := await self._turn_to(after, entries):
                _log.warning("not pushed, nginx is reloaded", reason=reason)
                return None
            self._publisher.put(after)
        return after.stamp

    async def _turn_to(self, after: Served, entries: tuple[Entry, ...]) -> str:
        """Have nginx serve something else by a push. Return why it does not, after which it is unknown what it serves;
        "" where it does."""
        assert self._pusher is not None
        assert self._served is not None
        conf = await self.conf()
        reason = "cut short"
        try:
            document = encode_document(self._served.stamp, after.stamp, entries)
            reason = await self._pusher.push(document, after.stamp, conf)
        except OSError as error:
            reason = str(error)
        finally:
            self._served = None if reason else after
        return reason

    async def _publish_pushed(self, pushed: Served) -> None:
        """Carry what was pushed through the second gate and publish it; where that refuses it, take it back."""
        checked = await self._stage_and_check(pushed.draft, pushed.stamp, Timings())
        if isinstance(checked, RefusedCandidate):
            async with self._one_push_at_a_time:
                await self._take_back(checked)
            self._again()
            return
        await self._applier.publish_pushed(checked, _manifest(pushed.draft.plan))
        self._published = pushed
        await self._told_published(pushed.draft, pushed.stamp.generation)

    async def _take_back(self, refused: RefusedCandidate) -> None:
        """Push what the files say, and publish nothing that was pushed since: it may be refused just as well."""
        self._is_suspicious = True
        self._publisher.forget()
        served, published = self._served, self._published
        if served is None or published is None:
            return
        entries = entries_between(served.draft.rendered, published.draft.rendered)
        reason = "it takes a reload" if entries is None else await self._turn_to(published, entries)
        if reason:
            _log.error("what is refused was not taken back", refused=str(refused), reason=reason)
            return
        self._tell_taken_back(
            Applied(
                outcome=Outcome.ROLLED_BACK,
                generation=published.stamp.generation,
                refused=served.stamp.generation,
                reason=str(refused),
                by=WayToNginx.PUSH,
            )
        )

    async def _forget_pushed(self) -> None:
        await self._publisher.stop()
        self._served = None

    async def flush(self) -> None:
        """Have the files say what was pushed, at once; where they cannot, what comes next takes a reload."""
        async with self._one_push_at_a_time:
            # One that is under way belongs to it.
            pass
        if not await self._publisher.flush():
            self._served = None

    async def is_as_seen(self) -> bool:
        """Whether nginx serves what it was seen to serve; true where that is not known, as after a no."""
        async with self._one_push_at_a_time:
            served = self._served
            if self._pusher is None or served is None:
                return True
            if await read_stamp(self._stamp_address) == served.stamp or self._served is not served:
                return True
            if not self._publisher.is_behind:
                self._served = None
            return False

    def _forget_copies(self) -> None:
        """Delete copies of certificates that neither a generation on disk names nor one made of these files could."""
        ground = self.pipeline.ground
        if ground.certificate_copies is None:
            return
        in_force = {each.fingerprint for each in ground.certificates.usable}
        # One that cannot be read may name any of them; they are looked through again after the next change.
        with suppress(OSError, OutputUnusable):
            named = {name for each in every_generation(self._output.directory) for name in _named_by(each)}
            ground.certificate_copies.collect(in_force | named)

    def require(self, number: int) -> None:
        """Raise OutputUnusable where there is no such generation."""
        require_generation(self._output.directory, number)

    def has(self, number: int) -> bool:
        """Whether a generation is on disk, whole or not. Raise OSError where that cannot be seen."""
        return is_there(self._output.directory, number)

    def served_before(self) -> int | None:
        """Return the generation that nginx was last seen to run beside the live one."""
        return self._applier.served_before(self.live_number())

    async def roll_back(self, number: int | None) -> Applied:
        """Raise OutputUnusable where there is no such generation, NginxUnavailable where nginx cannot be asked."""
        await self._publisher.flush()
        self._served = None
        return await self._applier.roll_back(number, await self.conf(), test_seconds=self._test_seconds)

    async def narrow_copies(self) -> None:
        """Let nobody read a copy of the operator's servers in any generation who may not read his files by now."""
        readers = self.pipeline.ground.readers.get(OPERATOR_FILE)
        if readers is not None and not self._has_narrowed:
            await asyncio.to_thread(narrow, self._output, OPERATOR_FILE, readers)
        self._has_narrowed = True

    def _live(self) -> Generation | None:
        number = self.live_number()
        return read_generation(self._output.directory, number) if number is not None else None

    def _digest(self, rendered: Rendered) -> str:
        """Of all that nginx is given: the address at which it tells its stamp belongs to that, the number does not."""
        stamp = self.pipeline.stamp_block(stamp_text(1, "0" * DIGEST_LENGTH))
        return sha256(rendered.digest.encode() + stamp).hexdigest()[:DIGEST_LENGTH]

    def _tells_its_stamp(self, generation: Generation) -> bool:
        """Whether it does so where we would ask today."""
        try:
            written = (generation.path / STAMP_FILE).read_bytes()
        except OSError:
            return False
        return written == self.pipeline.stamp_block(str(generation.stamp))


def _named_by(generation: Generation) -> tuple[str, ...]:
    """The fingerprints of the certificates that a generation has nginx read."""
    return tuple(generation.manifest.get(_CERTIFICATES, ()))


def _manifest(plan: Plan) -> dict[str, object]:
    """What a later reader wants to know of a generation without reading nginx's language."""
    return {
        "services": [service.name for service in plan.services if service.quarantine is None],
        "quarantined": {quarantine.service: str(quarantine) for quarantine in plan.quarantined},
        _CERTIFICATES: sorted({server.certificate.fingerprint for server in plan.servers if server.certificate}),
        "proxygen": __version__,
    }
