"""A container's entrypoint: run a command, and have it registered in Consul while it runs."""

from __future__ import annotations

import asyncio
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

import click

from proxygen.cli.keys import key_options, tag_texts
from proxygen.cli.lazy import Command
from proxygen.cli.options import settings_options
from proxygen.kit.errors import BadInput
from proxygen.registration import Check, GrpcCheck, Health, HttpCheck, Registration, TcpCheck, TtlCheck
from proxygen.registration.application import DRAIN
from proxygen.registration.checks import duration, seconds
from proxygen.registration.child import Children
from proxygen.registration.entrypoint import ChildCommand as Entrypoint
from proxygen.registration.entrypoint import run_registered
from proxygen.registration.probe import Probe, command_probe, http_probe, tcp_probe
from proxygen.registration.signals import PASSED_ON, read_signal
from proxygen.registration.texts import read_host_and_port, read_pair, read_weights
from proxygen.settings import Settings

R = TypeVar("R")

VARIABLES: Final = "PROXYGEN_REGISTER_"


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The options of the command, as they were given; `_option` declares them."""

    name: str
    port: int
    id: str
    address: str | None
    tag: tuple[str, ...]
    meta: tuple[str, ...]
    weights: str
    tagged_address: tuple[str, ...]
    check_http: tuple[str, ...]
    check_tcp: bool
    check_grpc: tuple[str, ...]
    check_command: str | None
    check_process: bool
    check_tls: bool
    check_interval: str
    check_timeout: str
    check_ttl: str
    deregister_after: str
    local: str | None
    start_timeout: str
    drain: str
    grace: str
    signal_group: bool
    stop_signal: str


def _option(flag: str, help: str, **options: Any) -> Callable[[Callable[..., R]], Callable[..., R]]:
    variable = VARIABLES + flag.removeprefix("--").replace("-", "_").upper()
    default = options.get("default")
    default = f"; default {default}" if isinstance(default, str) and default else ""
    return click.option(flag, help=f"{help} [{variable}{default}]", envvar=variable, **options)


class _MayBeEmpty(click.Option):
    """An option whose empty value means something: a variable that is set and empty is one, and not unset."""

    def value_from_envvar(self, ctx: click.Context) -> Any:
        if isinstance(self.envvar, str) and os.environ.get(self.envvar) == "":
            return ("",)
        return super().value_from_envvar(ctx)


@click.command(
    cls=Command,
    short_help="Run a command, registered in Consul while it runs: a container's entrypoint.",
    examples=[
        "proxygen register --name web --port 8080 --route app.example.com --check-http /healthz -- python3 app.py",
        "PROXYGEN_REGISTER_NAME=web PROXYGEN_REGISTER_PORT=8080 proxygen register -- nginx -g 'daemon off;'",
    ],
    context_settings={"allow_interspersed_args": False},
)
@settings_options("consul", "proxy.tag_prefix")
@_option("--name", "The service's name.", required=True, metavar="NAME")
@_option("--port", "The port to announce.", required=True, type=click.IntRange(1, 65535), metavar="PORT")
@_option("--id", "The instance's id. Default: NAME-HOST-PORT.", default="", metavar="ID")
@_option(
    "--address",
    "The address to announce: an IP address, interface:NAME, a network such as 10.0.0.0/8, env:VARIABLE, or "
    "docker[:NETWORK], this container's own. Default: the one from which Consul is reached, else the first private "
    "one; loopback only where it is written.",
    metavar="ADDRESS",
)
@key_options(variables=VARIABLES)
@_option("--tag", "Another tag, as it stands in Consul. May repeat.", multiple=True, metavar="TAG")
@_option("--meta", "An entry of the service's Meta. May repeat.", multiple=True, metavar="KEY=VALUE")
@_option("--weights", "Consul's weights of a passing and of a warning instance.", default="1,1", metavar="P,W")
@_option("--tagged-address", "A tagged address. May repeat.", multiple=True, metavar="NAME=HOST:PORT")
@_option("--check-http", "Consul asks this path or URL; 2xx is passing. May repeat.", multiple=True, metavar="PATH|URL")
@_option("--check-tcp", "Consul opens a connection to the port.", is_flag=True)
@_option(
    "--check-grpc",
    "Consul asks by gRPC's health protocol; for the whole server without a SERVICE. May repeat.",
    cls=_MayBeEmpty,
    multiple=True,
    is_flag=False,
    flag_value="",
    metavar="[SERVICE]",
)
@_option(
    "--check-command",
    "We run this, without a shell, and tell Consul: 0 is passing, 1 a warning, else critical.",
    metavar="COMMAND",
)
@_option("--check-process", "We tell Consul only that the command runs.", is_flag=True)
@_option("--check-tls", "Ask for health over TLS, whatever the certificate.", is_flag=True)
@_option("--check-interval", "How often Consul asks.", default="5s", metavar="DURATION")
@_option("--check-timeout", "How long an answer may take.", default="2s", metavar="DURATION")
@_option(
    "--check-ttl",
    "How long our silence counts as health, where we tell Consul; we speak three times as often.",
    default="15s",
    metavar="DURATION",
)
@_option(
    "--deregister-after",
    "How long critical until Consul removes an instance that could not say good-bye; at least 1m.",
    default="1m",
    metavar="DURATION",
)
@_option(
    "--local",
    "Where the command listens as seen from here. Default: the announced address and port.",
    metavar="HOST:PORT",
)
@_option(
    "--start-timeout", "How long the command may take to become ready; 0s: for ever.", default="5m", metavar="DURATION"
)
@_option("--drain", "How long proxies have to see that it leaves.", default=duration(DRAIN), metavar="DURATION")
@_option("--grace", "How long the command may take to end before SIGKILL.", default="20s", metavar="DURATION")
@_option(
    "--stop-signal",
    "What asks COMMAND to end, and from others asks us: the image's STOPSIGNAL, such as QUIT, WINCH or RTMIN+3.",
    default="TERM",
    metavar="SIGNAL",
)
@_option("--signal-group", "Signal everything that the command started, not only itself.", is_flag=True)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="-- COMMAND ARGS...")
def register(settings: Settings, command: tuple[str, ...], **options: Any) -> int:
    """Run COMMAND, and have it registered in Consul from when it is ready until it leaves.

    Fit for PID 1 of a container: signals go on to COMMAND, zombies are reaped, nothing goes through a shell, and the
    exit code is COMMAND's (128 and the signal's number where one ended it; 127 or 126 where it cannot be started).

    On SIGTERM, SIGINT, SIGQUIT or the --stop-signal the instance goes into maintenance; after --drain COMMAND gets the
    signal, the --stop-signal for SIGTERM; after --grace it is killed; then the instance is removed. A second signal
    cuts the step short. Give the container's engine the time: docker stop --timeout 30. In a terminal COMMAND is in
    the foreground, as without us: Ctrl-C and Ctrl-Z are its own.

    Without a --check flag we connect to the port ourselves and tell Consul. The command runs on whatever Consul does.
    """
    keys = {name: options.pop(name) for name in list(options) if name.startswith("key__")}
    given = Given(**options)
    return asyncio.run(_run(settings, given, tag_texts(keys, settings.proxy.tag_prefix), command))


async def _run(settings: Settings, given: Given, tags: Sequence[str], argv: tuple[str, ...]) -> int:
    entrypoint = Entrypoint(
        argv=argv,
        start_timeout=seconds(given.start_timeout, what="--start-timeout"),
        grace=seconds(given.grace, what="--grace"),
        signals_group=given.signal_group,
        stop_signal=_stop_signal(given.stop_signal),
    )
    if not _has_check(given) and f"{settings.proxy.tag_prefix}.protocol=udp" in tags:
        raise BadInput("nothing tells whether a udp port is up; write --check-command or --check-process")
    with Children() as children:
        probes = _Probes(given, lambda: registration.announced_address, children)
        registration = Registration(
            name=given.name,
            port=given.port,
            id=given.id,
            address=given.address,
            plain_tags=[*tags, *given.tag],
            tag_prefix=settings.proxy.tag_prefix,
            meta=dict(read_pair(text, "--meta") for text in given.meta),
            weights=read_weights(given.weights, "--weights"),
            tagged_addresses=dict(_tagged(text) for text in given.tagged_address),
            check=list(_checks(given, probes)),
            deregister_after=given.deregister_after,
            drain=given.drain,
            consul=settings.consul,
        )
        # Before the command starts, so that what cannot be announced starts nothing.
        await registration.prepare()
        return await run_registered(registration, entrypoint, children, list(probes.ready()))


def _stop_signal(text: str) -> int:
    number = read_signal(text, "--stop-signal")
    if number not in PASSED_ON:
        raise BadInput(f"--stop-signal {text}: no program can be asked by it to end")
    return number


class _Probes:
    """How we ask the command ourselves: before it is announced, and for what we tell Consul."""

    def __init__(self, given: Given, announced: Callable[[], str], children: Children) -> None:
        self._given = given
        self._timeout = seconds(given.check_timeout, what="--check-timeout", least=0.001)
        self._children = children
        self._announced = announced
        self._local = read_host_and_port(given.local, "--local") if given.local else None

    def _where(self) -> tuple[str, int]:
        """Where the command listens as seen from here: the announced address may change while it runs."""
        return self._local or (self._announced(), self._given.port)

    def port(self) -> Probe:
        return lambda: tcp_probe(*self._where(), timeout=self._timeout)()

    async def _ask(self, check: HttpCheck) -> Health:
        return await http_probe(check.url(*self._where()), timeout=self._timeout)()

    def command(self, text: str) -> Probe:
        try:
            argv = shlex.split(text)
        except ValueError as error:
            raise BadInput(f"--check-command {text!r}: {error}") from error
        if not argv:
            raise BadInput("--check-command is empty")
        return command_probe(self._children, argv, timeout=self._timeout)

    def ready(self) -> Iterator[Probe]:
        """What must be well before the command is announced."""
        given = self._given
        for path in given.check_http:
            check = HttpCheck(path, scheme="https" if given.check_tls else "http")
            yield partial(self._ask, check)
        if given.check_command:
            yield self.command(given.check_command)
        if given.check_tcp or given.check_grpc or not _has_check(given):
            yield self.port()


def _has_check(given: Given) -> bool:
    return bool(given.check_http or given.check_tcp or given.check_grpc or given.check_command or given.check_process)


def _checks(given: Given, probes: _Probes) -> Iterator[Check]:
    # What we have seen answer is passing until Consul finds otherwise; gRPC's health is its own to ask.
    for path in given.check_http:
        yield HttpCheck(
            path,
            scheme="https" if given.check_tls else "http",
            tls_skip_verify=given.check_tls,
            interval=given.check_interval,
            timeout=given.check_timeout,
            initially="passing",
        )
    if given.check_tcp:
        yield TcpCheck(interval=given.check_interval, timeout=given.check_timeout, initially="passing")
    for service in given.check_grpc:
        yield GrpcCheck(
            service,
            tls=given.check_tls,
            tls_skip_verify=given.check_tls,
            interval=given.check_interval,
            timeout=given.check_timeout,
        )
    if given.check_command:
        yield TtlCheck(given.check_ttl, probes.command(given.check_command))
    if given.check_process:
        yield TtlCheck(given.check_ttl)
    if not _has_check(given):
        yield TtlCheck(given.check_ttl, probes.port())


def _tagged(text: str) -> tuple[str, tuple[str, int]]:
    name, target = read_pair(text, "--tagged-address")
    return name, read_host_and_port(target, "--tagged-address")
