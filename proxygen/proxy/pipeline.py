"""From a catalog to a candidate that passed both gates; what the sidecar and the one-shot commands share."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxygen.catalog import Catalog, ServiceName
from proxygen.kit.disk import Readers, readers_of_all
from proxygen.kit.errors import BadInput, CheckRefused
from proxygen.kit.templating import Block, Templates
from proxygen.proxy.apply.publish import write_files
from proxygen.proxy.check.structure import Refusal, StructureGate
from proxygen.proxy.check.syntax import SecondGate, Verdict
from proxygen.proxy.guard.losses import Held
from proxygen.proxy.nginx.addresses import Listens, Occupied, occupied
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.nginx.default_copies import OPERATOR_FILE, DefaultCopies, copy_defaults
from proxygen.proxy.nginx.listens import listens
from proxygen.proxy.nginx.stamp import ALTERED_TYPES, STAMP_FILE, Stamp, stamp_text
from proxygen.proxy.plan import Planner
from proxygen.proxy.plan.types import Memory, Plan, Quarantine
from proxygen.proxy.policy.certificate_copies import CertificateCopies
from proxygen.proxy.policy.operator_files import read_authorities, read_certificates, read_snippets
from proxygen.proxy.policy.read import own_networks, read_policy
from proxygen.proxy.render.defaults import lines_of_any
from proxygen.proxy.render.inherited import CARRIED
from proxygen.proxy.render.renderer import SMALLEST_BUCKETS, Rendered, Renderer
from proxygen.proxy.render.subrequests import NAMING, unanswered
from proxygen.proxy.render.surroundings import RequestDefaults, Snippets, Surroundings, TrafficLog
from proxygen.proxy.render.viewing import ungated
from proxygen.proxy.traffic.place import obstacle, place_of
from proxygen.settings import ProxySettings, Settings
from proxygen.tags.shares import Share

MAX_ROUNDS: Final = 50
"""Each round leaves at least one more service out; more than this many refusals at once are a fault of the whole."""


_NO_STAMP: Final = Stamp(generation=1, digest="0" * 16)


@dataclass(slots=True)
class Timings:
    """Seconds by stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, stage: str) -> Iterator[None]:
        started = time.monotonic()
        try:
            yield
        finally:
            self.seconds[stage] = self.seconds.get(stage, 0.0) + time.monotonic() - started


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafted:
    """A rendered plan that the first gate let through."""

    plan: Plan
    rendered: Rendered
    catalog: Catalog
    """What it was planned from: the newest catalog, in which services that are held keep their instances."""
    held: Held | None = None
    left_out: Mapping[ServiceName, Quarantine] = field(default_factory=dict)
    """The services that the gate refused on the way here."""


Judge = Callable[[Plan, Catalog], Held | None]
"""Says what of a plan is held; see `guard.Guard.judge`."""


def _hold_nothing(_plan: Plan, _catalog: Catalog) -> None:
    return None


class Pipeline:
    """Plans, renders and checks with one set of settings and of operator's files.

    Build a new one when any of those changed.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        binary: Binary | None,
        conf: OperatorConf | None,
        may_copy: bool = False,
        copies_refused: str = "",
    ) -> None:
        """``binary`` and ``conf`` are None where nginx is not there to ask: what it can do is then not assumed.
        ``may_copy``: this process holds the output directory, where certificates are copied to. ``copies_refused``:
        why none of the operator's servers may be copied; "" where they may."""
        self.binary: Final = binary
        self.conf: Final = conf
        self.copies: Final = (
            CertificateCopies(settings.output.directory, may_write=may_copy)
            if settings.proxy.certificate_copies
            else None
        )
        self.certificates: Final = read_certificates(settings.proxy.certificates, self.copies)
        self.templates: Final = Templates(settings.proxy.templates)
        self._settings: Final = settings
        self.occupied: Final = occupied(conf)
        self._may_copy: Final = may_copy
        copies = _copies(settings.proxy, conf, self.occupied)
        self._copies: Final = copies.refused(copies_refused) if copies_refused else copies
        self._identity: Final = None if binary is None else _identity(binary.path)
        self._own, unread = own_networks()
        usable = self.certificates.usable
        policy, unknown = read_policy(settings, conf, self.occupied, certificates=usable, own=self._own)
        snippets = Snippets(files=read_snippets(settings.proxy.snippets))
        self.problems: Final = (
            *self.certificates.problems,
            *unread,
            *unknown,
            *unanswered(_everywhere(conf, snippets), snippets["server.conf"]),
            *self._copies.problems,
            *_forgeable(settings.proxy, self.occupied),
        )
        sources = self._copies.sources
        self.readers: Final[Mapping[str, Readers]] = {OPERATOR_FILE: readers_of_all(sources)} if sources else {}
        """Of the rendered files that not everybody may read."""
        self.copied: Final = self._copies.remarks
        """Which of the operator's servers are copied, and what makes that unnecessary."""
        self.traffic_problem: Final = _traffic_problem(settings, conf)
        """Why nginx does not tell of its traffic, though the settings want it; "" where it does."""
        around = self._surroundings()
        self.policy: Final = replace(policy, ungated=ungated(snippets, around))
        self._planner: Final = Planner(self.policy)
        self._held_planner: Final = Planner(self.policy)
        """Plans what is left of a catalog by the guard; a planner of its own, so that both remember what they knew."""
        own = settings.proxy.templates is not None or settings.proxy.snippets is not None
        self._renderer: Final = Renderer(self.templates, around, snippets)
        self._structure: Final = StructureGate(own_templates=own)
        self._second_gate: Final = (
            None
            if binary is None or conf is None
            else SecondGate(
                settings=settings.nginx,
                binary=binary,
                conf=conf,
                own_upstreams=self.templates.is_own("upstream.conf.j2"),
            )
        )

    def _surroundings(self) -> Surroundings:
        place = place_of(self._settings)
        traffic = None
        if place is not None and not self.traffic_problem:
            default = self.binary.access_log if self.binary and self.conf and not self.conf.access_logs else None
            traffic = TrafficLog(
                socket=str(place.socket),
                mark=str(place.mark),
                sample=Share(self._settings.traffic.basis_points),
                default_log=default,
            )
        copies = self._copies
        around = _surroundings(self._settings.proxy, self.binary, self.conf, self.occupied, traffic)
        return replace(
            around,
            operator_defaults=around.operator_defaults | copies.listens,
            operator_servers=tuple(Block(each.text) for each in copies.copies),
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The operator's files and directories of files that decide what is rendered and checked."""
        proxy = self._settings.proxy
        theirs = (proxy.templates, proxy.snippets, proxy.certificates, proxy.htpasswd, proxy.upstream_ca)
        return (*filter(None, theirs), *(self.conf.texts if self.conf is not None else ()))

    def is_outdated(self, conf: OperatorConf) -> bool:
        """Whether nginx's binary or the operator's configuration is another one by now."""
        if self.conf is None or self.binary is None:
            return False
        return conf.fingerprint != self.conf.fingerprint or _identity(self.binary.path) != self._identity

    def has_moved(self) -> bool:
        """Whether this host has other addresses by now. Reads files: not on an event loop."""
        return own_networks()[0] != self._own

    def plan(self, catalog: Catalog, memory: Memory) -> Plan:
        """Plan alone, with nothing quarantined by a gate."""
        return self._planner.plan(catalog, memory, {})

    def draft(
        self,
        catalog: Catalog,
        memory: Memory,
        refused: Mapping[ServiceName, Quarantine],
        timings: Timings | None = None,
        *,
        judge: Judge = _hold_nothing,
    ) -> Drafted:
        """Plan, hold, render and pass the first gate; services that it refuses are quarantined and the rest goes on.

        Raise CheckRefused where a refusal cannot be traced to a service.
        """
        timings = timings or Timings()
        left_out: dict[ServiceName, Quarantine] = {}
        for _ in range(MAX_ROUNDS):
            with timings.of("plan"):
                plan = self._planner.plan(catalog, memory, {**refused, **left_out})
                held = judge(plan, catalog)
                if held is not None:
                    plan = self._held_planner.plan(held.catalog, memory, {**refused, **left_out})
            with timings.of("render"):
                rendered = self._renderer.render(plan)
            with timings.of("check"):
                refusals = self._structure.refusals(rendered)
            if not refusals:
                return Drafted(
                    plan=plan,
                    rendered=rendered,
                    catalog=catalog if held is None else held.catalog,
                    held=held,
                    left_out=left_out,
                )
            left_out |= quarantines(refusals, {**refused, **left_out})
        raise CheckRefused(f"the first gate refused {MAX_ROUNDS} times in a row, last: {refusals[-1]}")

    def stamp_block(self, stamp: str) -> bytes:
        """The virtual server that tells the generation on the private address."""
        listen = self._settings.nginx.stamp
        said = self.conf.http_directives if self.conf is not None else frozenset()
        values = {"listen": listen, "stamp": stamp, "type_lists": sorted(ALTERED_TYPES & said)}
        return self.templates.render("stamp.conf.j2", values).encode()

    def files_of(self, rendered: Rendered, stamp: Stamp = _NO_STAMP) -> dict[str, bytes]:
        """All files of a generation, by their paths in it."""
        return {**rendered.contents, STAMP_FILE: self.stamp_block(stamp_text(stamp.generation, stamp.digest))}

    def listens_of(self, rendered: Rendered) -> Listens:
        """Where nginx would listen with it."""
        return listens(self.files_of(rendered))

    async def trial(self, drafted: Drafted, staged: Path) -> Verdict:
        """Pass the second gate with a candidate that lies in ``staged``; raises as `SecondGate.judge` does, and
        CheckRefused where nginx could not listen beside the operator's servers."""
        assert self._second_gate is not None
        self._require_room(self.listens_of(drafted.rendered))
        verdict = await self._second_gate.judge(drafted.rendered, staged)
        remarks = (each for each in verdict.remarks if each in verdict.said_alone or not self._copies.explains(each))
        return replace(verdict, remarks=tuple(remarks))

    async def accepts(self, drafted: Drafted) -> bool:
        """Try a candidate that is not meant to go live; see `SecondGate.accepts`."""
        assert self._second_gate is not None
        with TemporaryDirectory(prefix="proxygen-candidate-") as folder:
            await asyncio.to_thread(self.write_candidate, drafted, Path(folder))
            return await self._second_gate.accepts(drafted.rendered, Path(folder))

    async def without_refused_copies(self) -> Pipeline:
        """The same without copies of the operator's servers, where those are why nginx takes no candidate at all: each
        service would be refused for them."""
        reason = await self._refusal_without_services() if self._copies.copies else ""
        if not reason:
            return self
        other = await asyncio.to_thread(
            Pipeline,
            self._settings,
            binary=self.binary,
            conf=self.conf,
            may_copy=self._may_copy,
            copies_refused=reason,
        )
        return self if await other._refusal_without_services() else other

    async def _refusal_without_services(self) -> str:
        nothing = Catalog(datacenter="", services={})
        drafted = await asyncio.to_thread(self.draft, nothing, Memory(), {})
        with TemporaryDirectory(prefix="proxygen-candidate-") as folder:
            await asyncio.to_thread(self.write_candidate, drafted, Path(folder))
            try:
                verdict = await self.trial(drafted, Path(folder))
            except CheckRefused as error:
                return str(error)
        return "; ".join(each.reason for each in verdict.refusals)

    def write_candidate(self, drafted: Drafted, folder: Path) -> None:
        """Write what nginx would be given, with a stamp that names no generation."""
        files = {"http.d/": b"", "stream.d/": b"", **self.files_of(drafted.rendered)}
        write_files(folder, files, self.readers)

    def _require_room(self, ours: Listens) -> None:
        """nginx -t sees neither."""
        for clash in self.occupied.narrowed(ours):
            raise CheckRefused(
                f"proxygen would listen on {clash.address}, where the server at {clash.server.place} answers by its"
                f" wider listen, and nginx would never ask that one there again: write the same listen for both"
            )
        for clash in self.occupied.clashes(ours):
            raise CheckRefused(
                f"nginx could not listen on {clash.address} beside what the server at {clash.server.place} listens on,"
                f" and would not start any more: change that listen, or where proxygen listens (proxy.http_listen,"
                f" proxy.https_listen, nginx.stamp)"
            )


async def open_pipeline(settings: Settings) -> Pipeline:
    """Build a pipeline around the nginx that is installed here, for who holds the output directory.

    Raise NginxUnavailable where there is none, BadInput where its configuration cannot be read or does not include the
    generations.
    """
    binary = await inspect_binary(settings.nginx)
    conf = read_operator_conf(settings.nginx, settings.output.directory, binary)
    conf.require_include("http")
    _require_buckets(conf)
    # Names are looked up and files read: a slow DNS server must not stop what else the event loop does.
    pipeline = await asyncio.to_thread(Pipeline, settings, binary=binary, conf=conf, may_copy=True)
    return await pipeline.without_refused_copies()


def _require_buckets(conf: OperatorConf) -> None:
    """Raise BadInput where nginx.conf sets a hash bucket in which a name that the types allow does not fit: that one
    service would have everybody's configuration refused."""
    for statement in conf.statements:
        directive = statement.directive
        least = SMALLEST_BUCKETS.get(directive.name)
        if least is None or statement.context not in (("http",), ("stream",)):
            continue
        size = directive.arguments[0] if directive.arguments else ""
        if not size.isdigit() or int(size) < least:
            raise BadInput(
                f"{statement.file}:{directive.line}: {directive.name} {size} is too small for the longest names that"
                f" services may have; set at least {least}, or remove the line and proxygen sets it"
            )


def _identity(path: Path) -> tuple[int, int, int]:
    """Changes when the file at ``path`` is replaced, as an upgrade does."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_mtime_ns)


def quarantines(
    refusals: tuple[Refusal, ...], known: Mapping[ServiceName, Quarantine]
) -> dict[ServiceName, Quarantine]:
    """Turn refusals into quarantines of the services whose lines they are.

    A service that is refused even in quarantine is withdrawn: its routes are not answered at all. Raise CheckRefused
    where a refusal is nobody's, or only about services that are withdrawn already.
    """
    found: dict[ServiceName, Quarantine] = {}
    for refusal in refusals:
        blamed = [name for name in refusal.services if name not in known or not known[name].withdrawn]
        if not blamed:
            raise CheckRefused(str(refusal))
        for name in blamed:
            found[name] = _quarantine(name, refusal, known.get(name), found.get(name))
    return found


def _quarantine(
    name: ServiceName, refusal: Refusal, before: Quarantine | None, so_far: Quarantine | None
) -> Quarantine:
    place = f"{refusal.file}:{refusal.line}" if refusal.line else refusal.file
    lost = (before.lost if before else frozenset()) | (so_far.lost if so_far else frozenset()) | refusal.claims
    is_new = bool(refusal.claims - (before.lost if before else frozenset()))
    return Quarantine(
        service=name,
        place=so_far.place if so_far else place,
        reason=so_far.reason if so_far else f"{refusal.gate}: {refusal.reason}",
        lost=lost,
        withdrawn=before is not None and not is_new,
    )


# --- what nginx.conf says


_ONCE: Final = frozenset(
    {
        "server_names_hash_bucket_size",
        "server_names_hash_max_size",
        "map_hash_bucket_size",
        "map_hash_max_size",
        "variables_hash_max_size",
        "variables_hash_bucket_size",
    }
)


def _traffic_problem(settings: Settings, conf: OperatorConf | None) -> str:
    place = place_of(settings)
    if place is None:
        return ""
    return obstacle(place, worker=conf.user if conf else None, logs=conf.access_logs if conf else ())


def _forgeable(proxy: ProxySettings, held: Occupied) -> Iterator[str]:
    """Say where a balancer sends the client's address by the PROXY protocol and ours would take it from a header, which
    that balancer passes on as a client wrote it."""
    if not proxy.trusted_proxies:
        return
    https = () if proxy.certificates is None else proxy.https_listen
    for key, texts in (("proxy.http_listen", proxy.http_listen), ("proxy.https_listen", https)):
        for text in texts:
            server = held.speaking("proxy_protocol", text)
            if server is not None:
                yield (
                    f"the server at {server.place} listens on {text} with proxy_protocol, which {key} does not support"
                    f" beside proxy.trusted_proxies: services there take a client's address from X-Forwarded-For, which"
                    f" the client may forge; give {key} an address and port of its own"
                )


def _copies(proxy: ProxySettings, conf: OperatorConf | None, held: Occupied) -> DefaultCopies:
    if conf is None:
        return DefaultCopies()
    # Without certificates nothing of ours listens for HTTPS.
    https = () if proxy.certificates is None else proxy.https_listen
    return copy_defaults(conf, held, (*proxy.http_listen, *https))


def _surroundings(
    proxy: ProxySettings,
    binary: Binary | None,
    conf: OperatorConf | None,
    held: Occupied,
    traffic: TrafficLog | None,
) -> Surroundings:
    return Surroundings(
        traffic=traffic,
        http=proxy.http_listen,
        https=proxy.https_listen,
        stream_address=proxy.stream_address,
        trusted_proxies=proxy.trusted_proxies,
        hsts_max_age=int(proxy.hsts_max_age),
        retry_after=int(proxy.retry_after),
        requests=RequestDefaults(
            body_size=proxy.body_size,
            header_size=proxy.header_size,
            any_header_names=proxy.any_header_names,
            timeout=_milliseconds(proxy.timeout),
            idle_timeout=_milliseconds(proxy.idle_timeout),
            keepalive_timeout=_milliseconds(proxy.keepalive_timeout),
            request_buffering=proxy.request_buffering,
            response_buffering=proxy.response_buffering,
            retries_unsafe=proxy.retries_unsafe,
            accel_headers=proxy.accel_headers,
        ),
        keepalive_min_timeout=binary is not None and binary.keepalive_min_timeout,
        keepalive_by_default=binary is not None and binary.keepalive_by_default,
        http2_directive=binary is not None and binary.http2_directive,
        upstream_ca=read_authorities(proxy.upstream_ca),
        reject_handshake=binary is None or binary.reject_handshake,
        share_from=proxy.share_servers_from,
        operator_directives=frozenset() if conf is None else conf.http_directives & _ONCE,
        operator_lines=() if conf is None else tuple(_lines(conf, "http", CARRIED)),
        operator_stream_lines=() if conf is None else tuple(_lines(conf, "stream", {"allow", "deny"})),
        # What his includes say is read; ours is among them.
        operator_says=frozenset() if conf is None else conf.http_directives - {"include"},
        operator_stream_directives=frozenset() if conf is None else conf.stream_directives & _ONCE,
        operator_defaults=held.defaults((*proxy.http_listen, *proxy.https_listen)),
    )


def _everywhere(conf: OperatorConf | None, snippets: Snippets) -> Iterator[tuple[str, Block]]:
    """What the operator has nginx ask for in all virtual servers, each line after its place."""
    if conf is not None:
        yield from _placed(conf, "http", NAMING)
    yield from (("http.conf", line) for line in lines_of_any(NAMING, snippets["http.conf"]))


def _lines(conf: OperatorConf, context: str, names: Collection[str]) -> Iterator[Block]:
    """What nginx.conf says by some directives for all servers of a context."""
    return (line for _, line in _placed(conf, context, names))


def _placed(conf: OperatorConf, context: str, names: Collection[str]) -> Iterator[tuple[str, Block]]:
    """The same, each line after its place."""
    for statement in conf.statements:
        if statement.context == (context,) and statement.directive.name in names:
            said = map(_as_written, statement.directive.arguments)
            escaped = (word.replace("\\", "\\\\").replace('"', '\\"') for word in said)
            words = " ".join(f'"{word}"' for word in escaped)
            yield f"{statement.file}:{statement.directive.line}", Block(f"{statement.directive.name} {words};")


def _as_written(word: str) -> str:
    """Files are read as bytes, one for each character; what is rendered is UTF-8."""
    try:
        return word.encode("latin-1").decode()
    except UnicodeDecodeError:
        return word


def _milliseconds(seconds: float) -> int:
    return max(1, round(seconds * 1_000))
