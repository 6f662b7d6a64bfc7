"""What is odd about the Consul that answers: said once in the log, and shown as a warning for as long as it lasts.

The servers' version is as they told it when watching began.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from proxygen.consul.answers import BACKEND_HEADER, QueryBackend, Reply
from proxygen.consul.decode import HealthEntry
from proxygen.kit.log import get_logger

_log: Final = get_logger(__name__)

OLDEST: Final = (1, 8)
"""The oldest Consul that proxygen is tested with."""

_NO_INDEX: Final = (
    "Consul answers {path} without X-Consul-Index (a proxy in between, or no Consul); it is asked again and again in "
    "place of waiting for changes"
)
_UNKNOWN_BACKEND: Final = (
    "Consul answers {path} with an X-Consul-Query-Backend that proxygen does not know ({said!r}); what it says about "
    "its leader is taken at its word"
)
_OLD: Final = (
    "Consul {version} is older than {oldest}; proxygen is not tested with it and assumes that it works like {oldest}"
)


class Oddities:
    """What the standing questions of one client have met, by what is odd and where."""

    def __init__(self) -> None:
        self._now: dict[tuple[str, str], str] = {}
        self._said: set[str] = set()

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for each kind that lasts."""
        return tuple({kind: text for (kind, _), text in sorted(self._now.items(), reverse=True)}.values())

    def heed(self, path: str, reply: Reply) -> None:
        """Look at an answer to a standing question, which carries an index in every Consul. ``path`` is the question's,
        with the datacenter where it is about another one."""
        self._note("no index", path, reply.index == 0, _NO_INDEX.format(path=path))
        said = {name.lower(): value for name, value in reply.headers.items()}.get(BACKEND_HEADER, "")
        unknown = reply.backend is QueryBackend.UNKNOWN
        self._note("unknown backend", path, unknown, _UNKNOWN_BACKEND.format(path=path, said=said[:40]))

    def heed_servers(self, servers: Iterable[HealthEntry]) -> None:
        """Look at the instances of the servers' own service, whose Meta tells their version since 1.4."""
        versions = [(parsed, text) for text in _versions(servers) if (parsed := _parsed(text))]
        oldest, text = min(versions, default=(OLDEST, ""))
        wanted = ".".join(map(str, OLDEST))
        self._note("old", "servers", oldest < OLDEST, _OLD.format(version=text, oldest=wanted))

    def forget(self, path: str) -> None:
        """Drop a question that is no longer asked."""
        for kind in ("no index", "unknown backend"):
            self._now.pop((kind, path), None)

    def _note(self, kind: str, where: str, is_so: bool, text: str) -> None:
        if not is_so:
            self._now.pop((kind, where), None)
            return
        self._now[kind, where] = text
        if kind not in self._said:
            self._said.add(kind)
            _log.warning("consul is odd", reason=text)


def _versions(servers: Iterable[HealthEntry]) -> Iterable[str]:
    return ((server.service.meta or {}).get("version", "") for server in servers)


def _parsed(text: str) -> tuple[int, ...]:
    """Return major and minor version; nothing where the text is none."""
    parts = text.split(".")[:2]
    return tuple(int(part) for part in parts) if len(parts) == 2 and all(part.isdecimal() for part in parts) else ()
