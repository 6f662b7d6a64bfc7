"""What a case is: a request, what is behind nginx, and what becomes of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Way = Literal["http", "tls", "tls13", "h2", "h2c"]
"""How the client speaks to nginx: HTTP/1.1, the same over TLS, over TLS 1.3 and no older, HTTP/2 over TLS, HTTP/2 in
plain text with prior knowledge."""

STRANGER: Final = "127.0.0.1"
BALANCER: Final = "127.0.9.1"
"""The addresses that clients come from; proxy.trusted_proxies has the second, where a site has any."""

EVERY_WAY: Final[tuple[Way, ...]] = ("http", "tls", "h2")
FIRST_VERSION: Final[Way] = "http"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A request. ``{host}``, ``{port}`` and ``{scheme}`` stand for what a client of the site writes."""

    method: str = "GET"
    target: str = "/"
    headers: tuple[str, ...] = ()
    """Lines. Host is added where it is missing."""
    body: bytes = b""
    chunked: bool = False
    raw: bytes | None = None
    """The whole request instead, with ``{host}`` and ``{query}`` in it."""
    source: str = STRANGER
    does: str = "ok"
    """What the instance does with it; see `instance`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request. Of headers that are not named, nothing is said."""

    status: int | None = 200
    """None: the connection ended without an answer."""
    times: int | None = 1
    """How many instances saw it; None: as many as there are attempts."""
    line: str = ""
    """Method and target at the instance."""
    reaches: tuple[str, ...] = ()
    """Header lines at the instance: of their names, all that there are."""
    without: tuple[str, ...] = ()
    """Header names that the instance does not see."""
    body: int | None = None
    """Bytes of the body that the instance sees."""
    answer: tuple[str, ...] = ()
    """Header lines of the answer, of their names all that there are; ``*`` stands for anything."""
    bare_of: tuple[str, ...] = ()
    """Header names that the answer has not."""
    says: tuple[str, ...] = ()
    """What stands in the answer's body."""
    complete: bool = True
    """Whether the answer came to its end."""
    others: int | None = None
    """What the next client of the same service gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One row of the page."""

    name: str
    """Its host, and its name as a test."""
    title: str
    """What is sent, in the page's words."""
    sent: Sent
    expected: Outcome
    bare: Outcome | None
    """Of a bare nginx with two instances; None where there is nothing to compare with."""
    old: Outcome | None = None
    """Of proxygen on nginx 1.22, where that cannot do as well."""
    bare_old: Outcome | None = None
    """The same of the bare nginx, where versions differ."""
    bare_conf: str = ""
    """Directives of the bare nginx beside proxy_pass."""
    tags: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    """More tags of the second instance."""
    path: str = ""
    """The route's path."""
    closed: int = 0
    """On how many of the two instances' ports nobody listens."""
    ways: tuple[Way, ...] = EVERY_WAY
    before: int = 0
    """How many equal requests were sent just before."""
    incident: str = ""

    @property
    def host(self) -> str:
        return f"{self.name}.req.example.com"

    def wanted(self, version: tuple[int, int, int]) -> Outcome:
        return self.old if self.old is not None and version < (1, 25, 1) else self.expected

    def wanted_bare(self, version: tuple[int, int, int]) -> Outcome | None:
        return self.bare_old if self.bare_old is not None and version < (1, 25, 1) else self.bare


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """A section of the page."""

    title: str
    text: str
    cases: tuple[Case, ...]
