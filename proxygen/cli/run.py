"""The sidecar: everything is put together here."""

from __future__ import annotations

import asyncio
import gc
import resource
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import click

from proxygen import __version__
from proxygen.catalog import Catalog
from proxygen.cli.lazy import Command
from proxygen.cli.options import SettingsSource, configure_log, log_remarks, source_options
from proxygen.cli.supervised import SidecarCondition
from proxygen.consul.acl import probe
from proxygen.consul.client import ConsulClient
from proxygen.consul.watch import CatalogWatch
from proxygen.kit.aio import Latest, retrying, start_eternal
from proxygen.kit.errors import AccessDenied, CatalogUnavailable, NginxUnavailable, ProxygenError, SettingsError
from proxygen.kit.files import watching
from proxygen.kit.log import configure, get_logger
from proxygen.kit.notify import CommandState, Notifier, keep_telling
from proxygen.proxy.admin.meter import Meter
from proxygen.proxy.admin.server import Serving, serving
from proxygen.proxy.admin.sidecar import Recorders, RunningSidecar, TrafficTargets, apply_report
from proxygen.proxy.apply.publish import Output, hold_output
from proxygen.proxy.loop import Reconciler
from proxygen.proxy.news import Reporter
from proxygen.proxy.pipeline import Pipeline, open_pipeline
from proxygen.proxy.record.events import Condition as Lasting
from proxygen.proxy.record.events import EventLog, Topic
from proxygen.proxy.record.journal import Journal
from proxygen.proxy.state.last_good import load_known
from proxygen.proxy.traffic.listener import Listener, listening
from proxygen.proxy.traffic.lost import LostLines
from proxygen.proxy.traffic.place import place_of
from proxygen.proxy.traffic.tally import Tally
from proxygen.settings import Settings, knobs
from proxygen.tags.shares import Share

_log = get_logger(__name__)


@click.command(
    cls=Command,
    examples=["proxygen run", "proxygen run --config /etc/proxygen.toml --log-format json"],
)
@source_options()
def run(source: SettingsSource) -> int:
    """Watch Consul, and keep nginx serving what it says: the sidecar.

    Runs until SIGTERM. A changed file (settings, templates, certificates, snippets) is read again by itself, all of
    them on SIGHUP; settings that cannot be used leave the old ones in force. Exits 0 after a clean stop, 2 when a
    setting cannot be used at the start.
    """
    # At 10,000 services 400,000 objects stay for good, and each change makes 70,000 short-lived ones. Python's defaults
    # go over all of them for cycles at every second change, which takes 0.2 s.
    gc.set_threshold(50_000, 10, 20)
    _raise_file_limit()
    return asyncio.run(_run(source))


def _raise_file_limit() -> None:
    """Let this process open as many files as it may: the soft limit is for programs that still call select()."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def _run(source: SettingsSource) -> int:
    """Run one sidecar after the other, each with newer settings, while nginx goes on serving."""
    reader = _SettingsReader(source)
    wanted: Settings | None = reader.newest
    good: Settings | None = None
    events = EventLog()
    notifier = Notifier.adopt()
    with _listening(source) as calls:
        while wanted is not None:
            directory = wanted.output.directory
            try:
                with hold_output(directory) as output:
                    while wanted is not None and wanted.output.directory == directory:
                        async with _assembled(wanted, output, events) as parts:
                            good = wanted
                            if wanted is reader.newest and not reader.problem:
                                _note_settings(events, "")
                            wanted = await _serve(parts, reader, calls, notifier)
            except ProxygenError as error:
                if good is None or wanted is good:
                    raise
                _log.error("settings not taken, the old ones stay", reason=str(error))
                _note_settings(events, str(error))
                wanted = good
    _log.info("stopped")
    return 0


class _Call(Enum):
    """What the outside tells a running sidecar."""

    STOP = auto()
    HANGUP = auto()
    SETTINGS_CHANGED = auto()


@contextmanager
def _listening(source: SettingsSource) -> Iterator[asyncio.Queue[_Call]]:
    calls: asyncio.Queue[_Call] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number, call in (
        (signal.SIGTERM, _Call.STOP),
        (signal.SIGINT, _Call.STOP),
        (signal.SIGHUP, _Call.HANGUP),
    ):
        loop.add_signal_handler(number, calls.put_nowait, call)
    with ExitStack() as stack:
        if source.file is not None:
            directories = [source.file.absolute().parent]
            stack.enter_context(watching(directories, lambda: calls.put_nowait(_Call.SETTINGS_CHANGED)))
        yield calls


class _SettingsReader:
    """The settings as last read. Settings that could not be used are no news when they are read again."""

    def __init__(self, source: SettingsSource) -> None:
        """Raise SettingsError."""
        self._source = source
        self.newest = source.load()
        """The last ones that could be read."""
        self.problem = ""
        """Why the last reading failed; "" where it did not."""
        log = self.newest.log
        configure(format=log.format, level=log.level, syslog=log.syslog)

    def read(self) -> bool:
        """Read again, and return whether anything is different from the last time, be it a remark."""
        before = (self.newest, self.problem)
        try:
            self.newest, self.problem = self._source.load(), ""
        except SettingsError as error:
            self.problem = str(error)
        return (self.newest, self.problem) != before


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """A sidecar that is put together and does not work yet."""

    settings: Settings
    client: ConsulClient
    watch: CatalogWatch
    reconciler: Reconciler
    events: EventLog
    reporter: Reporter
    journal: Journal
    condition: SidecarCondition
    admin: Serving


@asynccontextmanager
async def _assembled(settings: Settings, output: Output, events: EventLog) -> AsyncIterator[_Parts]:
    """Raise BadInput where the settings, or the files that they name, cannot be used here."""
    configure_log(settings)
    pipeline = await _opened(settings, output)
    catalogs: Latest[Catalog] = Latest()
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(ConsulClient(settings.consul))
        known = load_known(output.directory)
        watch = CatalogWatch(client, tag_prefix=settings.proxy.tag_prefix, into=catalogs, known=known)
        reconciler = Reconciler(
            settings, output, pipeline, catalogs, is_fresh=lambda: watch.freshness() <= settings.admin.fresh
        )
        journal = Journal(output.directory)
        reporter = Reporter(events, journal, reconciler, watch, certificate_warning=settings.proxy.certificate_warning)
        reconciler.subscribe(reporter.heed)
        meter, tally, listener = _measured(stack, settings, pipeline, reconciler, client)
        recorders = Recorders(events=events, journal=journal, meter=meter, tally=tally, listener=listener)
        sidecar = RunningSidecar(settings, reconciler, watch, client, recorders)
        admin = await stack.enter_async_context(serving(sidecar, settings.admin, output.directory))
        stack.enter_context(watching(_directories(settings), reconciler.files_touched))
        yield _Parts(
            settings=settings,
            client=client,
            watch=watch,
            reconciler=reconciler,
            events=events,
            reporter=reporter,
            journal=journal,
            condition=SidecarCondition(sidecar, reconciler),
            admin=admin,
        )


async def _opened(settings: Settings, output: Output) -> Pipeline:
    """Read what of the operator's the settings name, and log what the sidecar starts with. Raise BadInput."""
    try:
        pipeline = await open_pipeline(settings)
    except NginxUnavailable as error:
        raise SettingsError(str(error)) from error
    _log.info(
        "starting",
        version=__version__,
        nginx=".".join(map(str, pipeline.binary.version)) if pipeline.binary else None,
        consul=settings.consul.address,
        output=str(output.directory),
    )
    for problem in pipeline.ground.problems:
        _log.warning("file left out", reason=problem)
    if pipeline.pushing.problem:
        _log.info("nothing is pushed", reason=pipeline.pushing.problem)
    return pipeline


def _measured(
    stack: AsyncExitStack, settings: Settings, pipeline: Pipeline, reconciler: Reconciler, client: ConsulClient
) -> tuple[Meter, Tally, Listener | None]:
    """What counts questions to Consul, passes and nginx's requests."""
    sample = Share(settings.traffic.basis_points)
    meter, tally = Meter(), Tally(TrafficTargets(lambda: reconciler.state.plan), sample=sample)
    client.subscribe(meter.asked_consul)
    reconciler.subscribe(lambda step: meter.passed(apply_report(step)))
    return meter, tally, _listen(stack, settings, pipeline, tally)


def _listen(stack: AsyncExitStack, settings: Settings, pipeline: Pipeline, tally: Tally) -> Listener | None:
    """Hear of nginx's requests until the stack closes. Raise SettingsError where the socket cannot be made."""
    place, conf = place_of(settings), pipeline.conf
    if pipeline.ground.traffic_problem:
        _log.warning("traffic not measured", reason=pipeline.ground.traffic_problem)
    if place is None or not place.is_speakable:
        return None
    lost = LostLines(conf.error_log) if conf is not None and conf.error_log is not None and conf.warns else None
    return stack.enter_context(listening(place, tally, budget=settings.traffic.budget, lost=lost))


async def _serve(
    parts: _Parts, reader: _SettingsReader, calls: asyncio.Queue[_Call], notifier: Notifier
) -> Settings | None:
    """Work until there are other settings to work with, or until told to stop: None."""

    def look() -> CommandState:
        return parts.condition.look(settings_problem=reader.problem)

    async with asyncio.TaskGroup() as group:
        tasks = (
            start_eternal(group, parts.reconciler.run(), name="reconcile"),
            start_eternal(group, parts.reconciler.watch_nginx(), name="watch of nginx"),
            start_eternal(group, parts.watch.run(), name="watch of Consul"),
            start_eternal(group, parts.reporter.run(), name="look after Consul"),
            start_eternal(group, parts.journal.run(), name="journal"),
            start_eternal(group, parts.admin.run(), name="admin connections"),
            start_eternal(group, keep_telling(notifier, look), name="word to systemd"),
            group.create_task(_say_what_is_denied(parts.client), name="probe of the token"),
        )
        wanted = await _other_settings(parts, reader, calls, notifier)
        if wanted is None:
            notifier.stopping()
        for task in tasks:
            task.cancel()
    await parts.reconciler.finish()
    return wanted


async def _other_settings(
    parts: _Parts, reader: _SettingsReader, calls: asyncio.Queue[_Call], notifier: Notifier
) -> Settings | None:
    while (call := await calls.get()) is not _Call.STOP:
        if call is _Call.HANGUP:
            notifier.reloading()
            parts.condition.expect_pass()
        is_news = reader.read()
        if not is_news and call is not _Call.HANGUP:
            continue
        keys = _differences(parts.settings, reader.newest)
        if is_news and (reader.problem or not keys):
            _note_settings(parts.events, reader.problem)
        if reader.problem:
            _log.error("settings refused, the old ones stay", reason=reader.problem)
        elif keys:
            _log.info("settings changed", keys=keys)
            return reader.newest
        elif is_news:
            log_remarks(reader.newest)
        if call is _Call.HANGUP:
            parts.reconciler.files_changed()
    return None


def _note_settings(events: EventLog, problem: str) -> None:
    """Tell why the newest settings are not in force; "" where they are."""
    text = f"the newest settings are refused, and the old ones stay in force: {problem}"
    refused = Lasting(text=text, end="the newest settings are in force", cause=problem)
    events.note(Topic.SETTINGS, {"settings": refused} if problem else {})


def _differences(old: Settings, new: Settings) -> list[str]:
    """Which knobs differ; never their values, which may be secrets."""

    def value(settings: Settings, slice_name: str, name: str) -> object:
        return getattr(getattr(settings, slice_name), name)

    return [knob.key for knob in knobs() if value(old, knob.slice, knob.name) != value(new, knob.slice, knob.name)]


async def _say_what_is_denied(client: ConsulClient) -> None:
    """Ask once at start what the token may read; Consul itself would answer with nothing and no error."""

    async def attempt() -> None:
        try:
            await probe(client)
        except AccessDenied as error:
            _log.error("token lacks a rule", reason=str(error))

    await retrying(CatalogUnavailable, longest=30.0)(attempt)


def _directories(settings: Settings) -> Iterator[Path]:
    proxy = settings.proxy
    for directory in (proxy.templates, proxy.snippets, proxy.certificates, proxy.htpasswd):
        if directory is not None:
            yield directory
    if proxy.upstream_ca is not None:
        yield proxy.upstream_ca.parent
    yield settings.nginx.conf.parent
