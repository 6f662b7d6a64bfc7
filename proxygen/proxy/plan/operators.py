"""Hosts that nginx.conf's own servers answer for, found by their names as nginx finds a server for a request."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import Final

from proxygen.catalog import ServiceName
from proxygen.kit.texts import keep_some
from proxygen.proxy.plan.types import Claim, Listening, OperatorNames, RouteClaim

_NAMED_GROUP: Final = re.compile(r"\(\?<(?![=!])")
_TAIL: Final = re.compile(r"(?<!\\)((?:[a-z0-9-]|\\[.-])*)\$$")
_REPEATED_GROUP: Final = re.compile(r"\)(?:[*+]|\{)")
_QUANTIFIER: Final = re.compile(r"(?<!\\)[*+]|\{\d*,\d*\}")
_MOST_QUANTIFIERS: Final = 2
_TOLD: Final = 3


def answering(host: str, names: OperatorNames, *, is_strangers: bool = False) -> str | None:
    """Return the operator's name whose server gets the requests for a host where ours does not stand; None: none has.

    nginx takes the whole name, else the longest wildcard at the front, else the longest at the end, else the first
    regular expression. ``is_strangers``: a tag says the host, and it is matched only by what cannot take long.
    """
    if host in names.hosts:
        return host
    above = [name for name in _above(host) if name in names.hosts]
    if host.startswith("*.") or above:
        return next(iter(above), None)
    below = (name for name in _below(host) if name in names.hosts)
    patterns = (text for text in names.patterns if not is_strangers or _is_quick(text))
    return next(chain(below, (f"~{text}" for text in patterns if _matches(text, host))), None)


def goes_before(wildcard: str, name: str) -> bool:
    """Tell whether nginx takes a wildcard of ours before a name of the operator's for a host that both hold."""
    if name.startswith("*."):
        return len(wildcard) > len(name)
    return name.startswith("~") or name.endswith(".*")


def overtaken(host: str, names: OperatorNames, *, is_strangers: bool = False) -> Iterator[str]:
    """Yield the operator's names that lose requests to a virtual server of ours for a host: ours goes first."""
    name = answering(host, names, is_strangers=is_strangers)
    if name == host:
        return
    if name is not None:
        yield name
    if host.startswith("*."):
        yield from sorted(name for name in names.hosts if name.endswith(".*"))
        yield from (f"~{text}" for text in names.patterns if _may_match_below(text, host))


def takes_from(name: str) -> str:
    """Say what a host of ours does to a name of the operator's."""
    return (
        f"takes requests from server_name {name} of nginx.conf: nginx picks a whole name before a wildcard, a wildcard"
        " at the front before one at the end, and all of them before a regular expression"
    )


def unreadable(names: OperatorNames) -> tuple[str, ...]:
    """The regular expressions that cannot be read here: they count as matching nothing."""
    return tuple(text for text in names.patterns if _compiled(text) is None)


def _above(host: str) -> Iterator[str]:
    _, *suffix = host.removeprefix("*.").split(".")
    for at in range(len(suffix)):
        yield f"*.{'.'.join(suffix[at:])}"


def _below(host: str) -> Iterator[str]:
    *prefix, _ = host.split(".")
    for end in range(len(prefix), 0, -1):
        yield f"{'.'.join(prefix[:end])}.*"


@lru_cache(maxsize=1024)
def _compiled(text: str) -> re.Pattern[str] | None:
    """nginx's are PCRE, searched for in a host in lower case. What this language has otherwise is not guessed."""
    if "[[:" in text:
        return None
    try:
        return re.compile(_NAMED_GROUP.sub("(?P<", text), re.IGNORECASE | re.ASCII)
    except (re.error, OverflowError, RecursionError):
        return None


def _matches(text: str, host: str) -> bool:
    pattern = _compiled(text)
    return pattern is not None and pattern.search(host) is not None


def _is_quick(text: str) -> bool:
    """Whether no host keeps the search busy, however it was thought out: it goes back at most two times deep."""
    return _REPEATED_GROUP.search(text) is None and len(_QUANTIFIER.findall(text)) <= _MOST_QUANTIFIERS


def _may_match_below(text: str, wildcard: str) -> bool:
    """Whether it may match a name under a wildcard, by the plain text at its end."""
    found = _TAIL.search(text.lower())
    tail, suffix = found[1].replace("\\", "") if found else "", wildcard.removeprefix("*")
    return _compiled(text) is not None and (tail.endswith(suffix) or suffix.endswith(tail))


class Operators:
    """What of the operator's goes behind services' virtual servers. Names are compared once for each host."""

    def __init__(self, listens: Iterable[Listening]) -> None:
        named = [each for each in listens if _has_wide_names(each.names)]
        self._plain: Final = [each.names for each in named if not each.is_tls]
        self._all: Final = [each.names for each in named]
        self._overtaken: Final = lru_cache(65_536)(self._find_overtaken)

    def warnings(
        self, holders: Mapping[Claim, ServiceName], secure: Collection[str]
    ) -> Mapping[ServiceName, tuple[str, ...]]:
        """Say to each service which of the operator's names its hosts go before. ``secure``: with a certificate."""
        if not self._all:
            return {}
        said: dict[ServiceName, dict[str, None]] = {}
        for claim, name in holders.items():
            if isinstance(claim, RouteClaim) and claim.host:
                for text in self._overtaken(claim.host, is_secure=claim.host in secure):
                    said.setdefault(name, {})[text] = None
        return {name: keep_some(sorted(texts), _TOLD, "and so it is with {} more") for name, texts in said.items()}

    def _find_overtaken(self, host: str, *, is_secure: bool) -> tuple[str, ...]:
        names = self._all if is_secure else self._plain
        found = {name for each in names for name in overtaken(host, each, is_strangers=True)}
        return tuple(f"{host} {takes_from(name)}" for name in sorted(found))


def _has_wide_names(names: OperatorNames) -> bool:
    return bool(names.patterns) or any("*" in name for name in names.hosts)
