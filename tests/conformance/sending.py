"""Sends a case to a site and says in which way what became of it differs from what was expected."""

from __future__ import annotations

import itertools
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.conformance import frames
from tests.conformance.case import Case, Outcome, Sent, Way
from tests.conformance.instance import Received
from tests.conformance.site import Site
from tests.conformance.wire import NOTHING, Connection, Reply

_NUMBERS: Final = itertools.count()


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What became of one request."""

    reply: Reply
    received: tuple[Received, ...]
    others: int | None


def send(site: Site, case: Case, way: Way, *, ask_others: bool) -> Seen:
    """Send the case's request, after as many equal ones as it wants."""
    for _ in range(case.before):
        exchange(site, case.host, case.sent, way)
    name = unique(case.name)
    reply = exchange(site, case.host, case.sent, way, name=name)
    # Whatever the instance was told to do, it is an ordinary one for the next client.
    others = exchange(site, case.host, Sent(target=case.path or "/"), "http").status if ask_others else None
    return Seen(reply=reply, received=site.record.of(name), others=others)


def unique(stem: str) -> str:
    """A name that no other request of this process has."""
    return f"{stem}.{next(_NUMBERS)}"


def exchange(site: Site, host: str, sent: Sent, way: Way, *, name: str = "") -> Reply:
    """Send one request on a connection of its own and read the answer."""
    query = f"id={name or unique('unnamed')}&do={sent.does}"
    try:
        with site.connect(host, way=way, source=sent.source) as connection:
            if way in {"h2", "h2c"}:
                return frames.exchange(connection, list(_fields(site, host, sent, way, query)), sent.body)
            connection.send(_bytes(site, host, sent, way, query))
            return _read(connection, sent)
    except ssl.SSLError:
        return NOTHING
    except ConnectionError:
        return NOTHING


def _read(connection: Connection, sent: Sent) -> Reply:
    reply = connection.reply(sent.method)
    if reply.status != 101:
        return reply
    # What the instance says when it is no longer silent.
    return Reply(status=101, headers=reply.headers, body=connection.read(4))


def placeholders(site: Site, host: str, way: Way, upstream: str = "") -> Mapping[str, str]:
    """What the texts of a case stand for on this site."""
    secure = way in {"tls", "tls13", "h2"}
    return {
        "host": host,
        "HOST": host.upper(),
        "port": str(site.https if secure else site.http),
        "scheme": "https" if secure else "http",
        "upstream": upstream,
    }


def filled(text: str, values: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: values[match[1]], text)


def _with_query(target: str, query: str) -> str:
    return f"{target}{'&' if '?' in target else '?'}{query}"


def _bytes(site: Site, host: str, sent: Sent, way: Way, query: str) -> bytes:
    if sent.raw is not None:
        return sent.raw.replace(b"{host}", host.encode()).replace(b"{query}", query.encode())
    values = placeholders(site, host, way)
    lines = [f"{sent.method} {_with_query(filled(sent.target, values), query)} HTTP/1.1"]
    headers = [filled(line, values) for line in sent.headers]
    if not any(line.startswith("Host:") for line in headers):
        lines.append(f"Host: {host}")
    lines += headers
    body = sent.body
    if sent.chunked:
        lines.append("Transfer-Encoding: chunked")
        pieces = [body[start : start + 60_000] for start in range(0, len(body), 60_000)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    elif body or sent.method in {"POST", "PUT", "PATCH"}:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def _fields(site: Site, host: str, sent: Sent, way: Way, query: str) -> Iterator[tuple[str, str]]:
    values = placeholders(site, host, way)
    headers = [tuple(filled(line, values).split(": ", 1)) for line in sent.headers]
    authority = next((value for name, value in headers if name == "Host"), host)
    yield ":method", sent.method
    yield ":scheme", values["scheme"]
    yield ":path", _with_query(filled(sent.target, values), query)
    yield ":authority", authority
    for name, value in headers:
        # HTTP/2 has no Connection.
        if name not in {"Host", "Connection"}:
            yield name.lower(), value
    if sent.body:
        yield "content-length", str(len(sent.body))


# --- comparing -------------------------------------------------------------------------------------------------------


def differences(seen: Seen, wanted: Outcome, values: Mapping[str, str]) -> list[str]:
    """Return each thing that is otherwise, in words."""
    return [*_of_answer(seen, wanted, values), *_of_requests(seen, wanted, values)]


def _of_answer(seen: Seen, wanted: Outcome, values: Mapping[str, str]) -> Iterator[str]:
    reply = seen.reply
    if reply.status != wanted.status:
        yield f"answered {reply.status}, not {wanted.status}: {reply.body[:200]!r}"
    if reply.status is not None and reply.complete != wanted.complete:
        yield f"the answer's body is {'whole' if reply.complete else 'broken off'}: {reply.body[:200]!r}"
    if seen.others != wanted.others and wanted.others is not None:
        yield f"the next client got {seen.others}, not {wanted.others}"
    ids = {"request_id": seen.received[0].values("X-Request-ID")[0]} if _has_id(seen) else {"request_id": "no id"}
    for text in wanted.says:
        if filled_where(text, {**values, **ids}) not in reply.body.decode("latin-1"):
            yield f"the body does not say {filled_where(text, {**values, **ids})}: {reply.body[:300]!r}"
    if reply.headers is None or reply.status is None:
        return
    yield from _of_headers("the answer", reply.values, wanted.answer, wanted.bare_of, values)


def _has_id(seen: Seen) -> bool:
    return bool(seen.received and seen.received[0].values("X-Request-ID"))


def filled_where(text: str, values: Mapping[str, str]) -> str:
    """Fill only what is a placeholder: a body may be JSON."""
    return re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), text)


def _of_requests(seen: Seen, wanted: Outcome, values: Mapping[str, str]) -> Iterator[str]:
    if wanted.times is not None and len(seen.received) != wanted.times:
        yield f"{len(seen.received)} instances saw it, not {wanted.times}"
    if wanted.times is None and not seen.received:
        yield "no instance saw it"
    for received in seen.received:
        if wanted.line and received.line != wanted.line:
            yield f"the instance was asked {received.line}, not {wanted.line}"
        if wanted.body is not None and len(received.body) != wanted.body:
            yield f"the instance saw {len(received.body)} bytes, not {wanted.body}"
        yield from _of_headers("the instance", received.values, wanted.reaches, wanted.without, values)


def _of_headers(
    who: str, values_of: object, lines: tuple[str, ...], without: tuple[str, ...], values: Mapping[str, str]
) -> Iterator[str]:
    assert callable(values_of)
    expected: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = filled(line, values).partition(": ")
        expected.setdefault(name, []).append(value)
    for name, wanted in expected.items():
        found = values_of(name)
        if len(found) != len(wanted) or not all(map(_alike, wanted, found)):
            yield f"{who}: {name} is {found}, not {wanted}"
    for name in without:
        if values_of(name):
            yield f"{who}: {name} is {values_of(name)}, and should be missing"


def _alike(wanted: str, found: str) -> bool:
    """Compare; ``*`` stands for anything, ``<id>`` for a request's id of nginx's own."""
    pattern = re.escape(wanted).replace(r"\*", ".*").replace("<id>", "[0-9a-f]{32}")
    return re.fullmatch(pattern, found) is not None
