"""The second gate: ``nginx -t``, with nginx's own binary, on the operator's configuration around the candidate."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.errors import CheckRefused
from proxygen.nginx.binary import Binary
from proxygen.nginx.check import Refusal
from proxygen.nginx.conf import OperatorConf
from proxygen.nginx.part import new_part
from proxygen.nginx.process import Completed, run
from proxygen.nginx.wrapper import check_command, operators_names, write_wrapper
from proxygen.plan.types import RouteClaim
from proxygen.rendered import Rendered, RenderedFile
from proxygen.settings import NginxSettings

# With `-e stderr` nginx writes its messages as it writes its log, without it as "nginx: [emerg] …".
_MESSAGE: Final = re.compile(
    r"^(?:nginx:|\d{4}/\d\d/\d\d [\d:]{8}) \[(?P<level>emerg|alert|crit|error|warn)\] (?:\d+#\d+: )?(?P<text>.*)$",
    re.MULTILINE,
)
_PLACE: Final = re.compile(r" in (?P<file>/\S+):(?P<line>\d+)$")
_CONFLICT: Final = re.compile(r'^conflicting server name "(?P<name>[^"]*)" on ')
_BIND: Final = re.compile(r"bind\(\) to \S*?:(?P<port>\d+) failed[^|]*")

_QUICK: Final = 0.1
"""Seconds in which a whole candidate is read, so that nobody would notice the difference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What ``nginx -t`` said of a candidate."""

    refusals: tuple[Refusal, ...]
    remarks: tuple[str, ...]
    """Warnings about the operator's own files; they refuse nothing."""
    seconds: float


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
        self._passed: tuple[RenderedFile, ...] = ()
        self._whole: Verdict | None = None
        """The last one on a whole candidate."""

    async def judge(self, rendered: Rendered, staged: Path) -> Verdict:
        """Judge a candidate that lies in ``staged``. Raise CheckRefused where it fails and no service can be blamed."""
        verdict = await self._judge_part(rendered)
        if verdict is None:
            self._whole = None
            verdict = await self._try(rendered, staged)
        if not verdict.refusals:
            self._passed, self._whole = rendered.files, verdict
        return verdict

    async def _judge_part(self, rendered: Rendered) -> Verdict | None:
        """Return the verdict on the last whole candidate where it holds for this one too."""
        if self._whole is None or self._whole_only or self._whole.seconds < _QUICK:
            return None
        part = new_part(self._passed, rendered)
        if part is None:
            return None
        with tempfile.TemporaryDirectory(prefix="proxygen-part-") as folder:
            _write(part, Path(folder))
            try:
                verdict = await self._try(part, Path(folder))
            except CheckRefused:
                return None
        # How long a reload may take is told by the whole.
        return None if verdict.refusals else self._whole

    async def _try(self, rendered: Rendered, staged: Path) -> Verdict:
        return await try_candidate(rendered, staged, settings=self._settings, binary=self._binary, conf=self._conf)


def _write(part: Rendered, folder: Path) -> None:
    for path, content in part.contents.items():
        file = folder / path
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(content)


async def try_candidate(
    rendered: Rendered, staged: Path, *, settings: NginxSettings, binary: Binary, conf: OperatorConf
) -> Verdict:
    """Test a candidate that lies in ``staged``. Raise CheckRefused where it fails and no service can be blamed."""
    with tempfile.TemporaryDirectory(prefix="proxygen-check-") as folder:
        scratch = Path(folder)
        main = write_wrapper(conf, scratch, staged)
        completed = await run(check_command(settings, binary, conf, main), timeout=settings.check_timeout)
        return _read(completed, rendered, staged, scratch)


def blame_log(lines: Iterable[str], rendered: Rendered) -> tuple[Refusal, ...]:
    """Find the services that nginx's error log blames for a reload that it refused, such as by a taken port."""
    found = []
    for line in lines:
        for bind in _BIND.finditer(line):
            refusal = _about_port(int(bind["port"]), bind[0], rendered)
            if refusal is not None and refusal not in found:
                found.append(refusal)
    return tuple(found)


def _read(completed: Completed, rendered: Rendered, staged: Path, scratch: Path) -> Verdict:
    refusals, remarks, blameless = [], [], []
    for match in _MESSAGE.finditer(completed.output):
        level, text = match["level"], match["text"]
        refusal = _trace(text, rendered, staged)
        if refusal is not None and refusal.services:
            refusals.append(refusal)
        elif refusal is not None or level == "emerg":
            blameless.append(operators_names(scratch, text.replace(f"{staged}/", "")))
        else:
            remarks.append(operators_names(scratch, text))
    if blameless or (completed.returncode != 0 and not refusals):
        reason = "; ".join(blameless) or operators_names(scratch, completed.output.strip()[-500:]) or "no reason given"
        raise CheckRefused(f"nginx -t refused the candidate: {reason}")
    return Verdict(refusals=tuple(refusals), remarks=tuple(remarks), seconds=completed.seconds)


def _trace(text: str, rendered: Rendered, staged: Path) -> Refusal | None:
    """Whose lines a message is about; None where it is not about the candidate."""
    if (place := _PLACE.search(text)) and place["file"].startswith(f"{staged}/"):
        file, line = place["file"].removeprefix(f"{staged}/"), int(place["line"])
        return Refusal(
            gate="nginx -t",
            file=file,
            line=line,
            services=rendered.owners_at(file, line),
            reason=text[: place.start()],
        )
    if conflict := _CONFLICT.match(text):
        return _about_host(conflict["name"], text, rendered)
    if bind := _BIND.search(text):
        return _about_port(int(bind["port"]), text, rendered)
    return _about_certificate(text, rendered)


def _about_host(name: str, text: str, rendered: Rendered) -> Refusal | None:
    """nginx names no line for a host that stands in two virtual servers: the operator's own and ours."""
    for server in rendered.plan.servers:
        if server.host == name:
            # Not those whose route for a wider host is only answered here too.
            owners = [item.service for item in server.locations if item.service.claims_host(name)]
            return Refusal(
                gate="nginx -t",
                file="http.d/20-servers.conf",
                line=0,
                services=tuple(sorted({service.name for service in owners})),
                reason=f"{text}; nginx.conf serves this host itself",
                claims=frozenset(
                    claim
                    for service in owners
                    for claim in service.claims
                    if isinstance(claim, RouteClaim) and claim.host == name
                ),
            )
    return None


def _about_certificate(text: str, rendered: Rendered) -> Refusal | None:
    """nginx names the file, not the line that names it."""
    for server in rendered.plan.servers:
        certificate = server.certificate
        if certificate is not None and (f'"{certificate.certificate}"' in text or f'"{certificate.key}"' in text):
            owners = {item.service.name for item in server.locations if item.service.options.tls is not None}
            return Refusal(
                gate="nginx -t", file="http.d/20-servers.conf", line=0, services=tuple(sorted(owners)), reason=text
            )
    return None


def _about_port(port: int, text: str, rendered: Rendered) -> Refusal | None:
    refused = {
        claim: stream.service.name for stream in rendered.plan.streams for claim in stream.claims if claim.port == port
    }
    if not refused:
        return None
    return Refusal(
        gate="nginx",
        file="stream.d/streams.conf",
        line=0,
        services=tuple(sorted(set(refused.values()))),
        reason=text,
        claims=frozenset(refused),
    )
