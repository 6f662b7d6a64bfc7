"""The second gate: ``nginx -t``, with nginx's own binary, on the operator's configuration around the candidate.

What nginx says of the operator's files without us counts against nobody. The rest is a service's where it is about its
lines, its host, its port or its certificate. What is nobody's is a remark where nginx only warns, and refuses the whole
where it does not.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from proxygen.kit.errors import CheckRefused, RefusedWithoutName
from proxygen.kit.texts import keep_some
from proxygen.proxy.check.blame import Blame
from proxygen.proxy.check.messages import Message, new_messages, read_messages
from proxygen.proxy.check.part import new_part
from proxygen.proxy.check.structure import Refusal
from proxygen.proxy.check.wrapper import check_command, operators_names, write_wrapper
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.process import Completed, run
from proxygen.proxy.render.rendered import Rendered, RenderedFile
from proxygen.settings import NginxSettings

_OUR_VARIABLE: Final = re.compile(r"\$\{?(proxygen_\w+)")

_QUICK: Final = 0.1
"""Seconds in which a whole candidate is read, so that nobody would notice the difference."""

_MOST_REMARKS: Final = 20

_NO_NAME: Final = 'conflicting server name "_" on '
"""Our default server has this name, and so have many of the operators'. No request asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What ``nginx -t`` said of a candidate."""

    refusals: tuple[Refusal, ...]
    remarks: tuple[str, ...]
    """What nginx only warns of and no service is to blame for; it refuses nothing. At most 20, and how many more."""
    said_alone: frozenset[str]
    """What nginx says of the operator's files alone, if it said anything now."""
    seconds: float


class Baseline:
    """What nginx says of the operator's files without anything of ours, asked for when it is first needed."""

    def __init__(self, *, settings: NginxSettings, binary: Binary, conf: OperatorConf) -> None:
        self._settings: Final = settings
        self._binary: Final = binary
        self._conf: Final = conf
        self._accepted: tuple[Message, ...] | None = None

    async def messages(self) -> tuple[Message, ...]:
        """Where nginx refuses the files it is asked again the next time: what is wrong may be outside of them, such as
        a certificate."""
        if self._accepted is not None:
            return self._accepted
        with tempfile.TemporaryDirectory(prefix="proxygen-baseline-") as folder:
            _write(_stand_ins(self._conf), Path(folder))
            completed, messages = await _test(
                Path(folder), settings=self._settings, binary=self._binary, conf=self._conf
            )
        if completed.returncode == 0:
            self._accepted = messages
        return messages


def _stand_ins(conf: OperatorConf) -> dict[str, bytes]:
    """Our variables that the operator's files use: without them nginx would refuse what it accepts with us."""
    names = {name for text in conf.texts.values() for name in _OUR_VARIABLE.findall(text)}
    maps = "".join(f'map "" ${name} {{ default ""; }}\n' for name in sorted(names))
    return {"http.d/00-http.conf": maps.encode()} if maps else {}


class SecondGate:
    """``nginx -t`` for one candidate after the other.

    nginx reads a candidate whole; or, where that takes long and only the inside of some services' upstreams, maps and
    splits changed since the last one that it accepted, those alone. All else was read before, and knows no more of them
    than their names, which are the same. What is refused in part is judged as a whole.
    """

    def __init__(self, *, settings: NginxSettings, binary: Binary, conf: OperatorConf, own_upstreams: bool) -> None:
        """``own_upstreams``: the operator's template prints the upstreams, and perhaps more than we know of."""
        self._settings: Final = settings
        self._binary: Final = binary
        self._conf: Final = conf
        self._whole_only: Final = own_upstreams
        self._baseline: Final = Baseline(settings=settings, binary=binary, conf=conf)
        self._passed: tuple[RenderedFile, ...] = ()
        self._whole: Verdict | None = None
        """The last one on a whole candidate."""

    async def judge(self, rendered: Rendered, staged: Path) -> Verdict:
        """Judge a candidate that lies in ``staged``.

        Raise RefusedWithoutName where nginx refuses it and no service can be blamed, and CheckRefused where it is the
        operator's files that nginx refuses.
        """
        verdict = await self._judge_part(rendered)
        if verdict is None:
            self._whole = None
            verdict = await self._try(rendered, staged)
        if not verdict.refusals:
            self._passed, self._whole = rendered.files, verdict
        return verdict

    async def accepts(self, rendered: Rendered, staged: Path) -> bool:
        """Whether nginx refuses nothing without naming a service. Raise CheckRefused as `judge` does."""
        try:
            await self._try(rendered, staged)
        except RefusedWithoutName:
            return False
        return True

    async def _judge_part(self, rendered: Rendered) -> Verdict | None:
        """Return the verdict on the last whole candidate where it holds for this one too."""
        if self._whole is None or self._whole_only or self._whole.seconds < _QUICK:
            return None
        part = new_part(self._passed, rendered)
        if part is None:
            return None
        with tempfile.TemporaryDirectory(prefix="proxygen-part-") as folder:
            _write(part.contents, Path(folder))
            try:
                verdict = await self._try(part, Path(folder))
            except CheckRefused:
                return None
        # How long a reload may take is told by the whole.
        return None if verdict.refusals else self._whole

    async def _try(self, rendered: Rendered, staged: Path) -> Verdict:
        return await try_candidate(
            rendered,
            staged,
            settings=self._settings,
            binary=self._binary,
            conf=self._conf,
            baseline=self._baseline,
        )


def _write(contents: Mapping[str, bytes], folder: Path) -> None:
    for path, content in contents.items():
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


async def try_candidate(
    rendered: Rendered,
    staged: Path,
    *,
    settings: NginxSettings,
    binary: Binary,
    conf: OperatorConf,
    baseline: Baseline,
) -> Verdict:
    """Test a candidate that lies in ``staged``; raises as `SecondGate.judge` does."""
    completed, said = await _test(staged, settings=settings, binary=binary, conf=conf)
    known = await baseline.messages() if said else ()
    for message in known:
        if message.is_fatal and message in said:
            raise CheckRefused(f"nginx -t refuses the operator's own files, without anything of proxygen's: {message}")
    verdict = _judge(said, known, rendered, conf, seconds=completed.seconds)
    if completed.returncode != 0 and not verdict.refusals:
        fatal = "; ".join(str(message) for message in said if message.is_fatal)
        raise RefusedWithoutName(fatal or completed.output.strip()[-500:] or "no reason given")
    return verdict


async def _test(
    staged: Path, *, settings: NginxSettings, binary: Binary, conf: OperatorConf
) -> tuple[Completed, tuple[Message, ...]]:
    """Run ``nginx -t``. Files of the candidate are named relative to it, the operator's by their own names."""
    scratch = Path(tempfile.mkdtemp(prefix="proxygen-check-"))
    try:
        # In threads: a mirror has many links and directories, and pushes go on meanwhile.
        main = await asyncio.to_thread(write_wrapper, conf, scratch, staged)
        completed = await run(check_command(binary, conf.prefix, main), timeout=settings.check_timeout)
    finally:
        await asyncio.to_thread(shutil.rmtree, scratch, ignore_errors=True)
    output = operators_names(scratch, completed.output)
    return completed, tuple(_relative(message, staged) for message in read_messages(output))


def _judge(
    said: tuple[Message, ...], known: tuple[Message, ...], rendered: Rendered, conf: OperatorConf, *, seconds: float
) -> Verdict:
    blame = Blame(rendered, conf)
    refused = {message: refusal for message in new_messages(said, known) if (refusal := blame.of(message))}
    remarks = dict.fromkeys(
        str(message)
        for message in said
        if message not in refused
        and not message.is_fatal
        and (message in known or not message.text.startswith(_NO_NAME))
    )
    return Verdict(
        refusals=tuple(refused.values()),
        remarks=keep_some(tuple(remarks), _MOST_REMARKS, "and {} more of nginx's warnings"),
        said_alone=frozenset(map(str, known)),
        seconds=seconds,
    )


def _relative(message: Message, staged: Path) -> Message:
    here = f"{staged}/"
    return replace(message, text=message.text.replace(here, ""), file=message.file.removeprefix(here))
