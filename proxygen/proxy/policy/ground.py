"""What a pipeline stands on: settings, nginx and the operator's files, read once and told as values."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from proxygen.kit.disk import Readers, readers_of_all
from proxygen.kit.templating import Block
from proxygen.proxy.nginx.addresses import Occupied, occupied
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.default_copies import OPERATOR_FILE, DefaultCopies, copy_defaults
from proxygen.proxy.plan.types import Policy
from proxygen.proxy.policy.certificate_copies import CertificateCopies
from proxygen.proxy.policy.operator_files import Certificates, read_authorities, read_certificates, read_snippets
from proxygen.proxy.policy.read import own_networks, read_policy
from proxygen.proxy.render.defaults import lines_of_any
from proxygen.proxy.render.inherited import CARRIED
from proxygen.proxy.render.spots import ungated
from proxygen.proxy.render.subrequests import NAMING, unanswered
from proxygen.proxy.render.surroundings import RequestDefaults, Snippets, Surroundings, TrafficLog
from proxygen.proxy.traffic.place import obstacle, place_of
from proxygen.settings import ProxySettings, Settings
from proxygen.tags import IPNetwork
from proxygen.tags.shares import Share


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """All that decides what becomes of a catalog, besides the catalog and what is remembered."""

    policy: Policy
    surroundings: Surroundings
    snippets: Snippets
    certificates: Certificates
    certificate_copies: CertificateCopies | None
    """Where certificates are copied to; None where nginx reads the operator's files."""
    occupied: Occupied
    server_copies: DefaultCopies
    """Copies of the operator's default servers."""
    own: frozenset[IPNetwork]
    """This host's addresses and networks."""
    problems: tuple[str, ...]
    """What could not be used or found out."""
    traffic_problem: str
    """Why nginx does not tell of its traffic, though the settings want it; "" where it does."""

    @property
    def copied(self) -> tuple[str, ...]:
        """Which of the operator's servers are copied, and what makes that unnecessary."""
        return self.server_copies.remarks

    @property
    def readers(self) -> Mapping[str, Readers]:
        """Of the rendered files that not everybody may read."""
        sources = self.server_copies.sources
        return {OPERATOR_FILE: readers_of_all(sources)} if sources else {}


def read_ground(
    settings: Settings,
    binary: Binary | None,
    conf: OperatorConf | None,
    *,
    may_copy: bool = False,
    copies_refused: str = "",
    pushed: bool = False,
) -> Ground:
    """Read the files and look names up: takes its time, so not on an event loop.

    ``binary`` and ``conf`` are None where nginx is not there to ask: what it can do is then not assumed. ``may_copy``:
    this process holds the output directory, where certificates are copied to. ``copies_refused``: why none of the
    operator's servers may be copied; "" where they may. ``pushed``: servers and
    shares are. Raise BadInput where a setting or a file cannot be used.
    """
    proxy, held = settings.proxy, occupied(conf)
    keeper = CertificateCopies(settings.output.directory, may_write=may_copy) if proxy.certificate_copies else None
    certificates = read_certificates(proxy.certificates, keeper)
    copies = _copies(proxy, conf, held)
    if copies_refused:
        copies = copies.refused(copies_refused)
    own, unread = own_networks()
    policy, unknown = read_policy(settings, conf, held, certificates=certificates.usable, own=own)
    snippets = Snippets(files=read_snippets(proxy.snippets))
    traffic_problem = _traffic_problem(settings, conf)
    around = _around(settings, binary, conf, held, copies, tells_traffic=not traffic_problem)
    around = replace(around, pushed=pushed)
    return Ground(
        policy=replace(policy, ungated=ungated(snippets, around)),
        surroundings=around,
        snippets=snippets,
        certificates=certificates,
        certificate_copies=keeper,
        occupied=held,
        server_copies=copies,
        own=own,
        problems=(
            *certificates.problems,
            *unread,
            *unknown,
            *unanswered(_everywhere(conf, snippets), snippets["server.conf"]),
            *copies.problems,
            *_forgeable(proxy, held),
        ),
        traffic_problem=traffic_problem,
    )


def _around(
    settings: Settings,
    binary: Binary | None,
    conf: OperatorConf | None,
    held: Occupied,
    copies: DefaultCopies,
    *,
    tells_traffic: bool,
) -> Surroundings:
    place = place_of(settings)
    traffic = None
    if place is not None and tells_traffic:
        default = binary.access_log if binary and conf and not conf.access_logs else None
        traffic = TrafficLog(
            socket=str(place.socket),
            mark=str(place.mark),
            sample=Share(settings.traffic.basis_points),
            default_log=default,
        )
    around = surroundings(settings.proxy, binary, conf, held, traffic)
    return replace(
        around,
        operator_defaults=around.operator_defaults | copies.listens,
        operator_servers=tuple(Block(each.text) for each in copies.copies),
    )


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


def surroundings(
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
        operator_lines=() if conf is None else tuple(lines_of(conf, "http", CARRIED)),
        operator_stream_lines=() if conf is None else tuple(lines_of(conf, "stream", {"allow", "deny"})),
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


def lines_of(conf: OperatorConf, context: str, names: Collection[str]) -> Iterator[Block]:
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
