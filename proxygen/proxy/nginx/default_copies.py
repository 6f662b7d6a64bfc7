"""Copies of the operator's servers that answer by default, for where nginx reads ours first.

nginx takes the first server of an address for its default, unless one says ``default_server``. Where ours are included
before such a server, a copy of it stands before ours and says so: what it answered it answers still.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Final

from proxygen.proxy.nginx.addresses import Occupied, OperatorServer, addresses, listen
from proxygen.proxy.nginx.conf import OperatorConf, Statement
from proxygen.proxy.nginx.names import as_nginx_keeps
from proxygen.proxy.nginx.tokens import end_of, read_directives

OPERATOR_FILE: Final = "http.d/15-operator.conf"
"""Copies of the operator's own servers: the one file of a generation that may hold a secret."""

_TWICE: Final = re.compile(r'conflicting server name "(?P<name>[^"]*)" on ')


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultCopy:
    """A server block in nginx's language that answers by default in the place of one of the operator's."""

    server: OperatorServer
    listens: tuple[str, ...]
    """Those of our listens for which it does."""
    names: frozenset[str]
    """Its server names as nginx keeps them, "" where it has none."""
    text: str
    """The operator's own words; only where it listens is said anew."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultCopies:
    """What can be copied, and what is said of the rest."""

    copies: tuple[DefaultCopy, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def listens(self) -> frozenset[str]:
        return frozenset(text for each in self.copies for text in each.listens)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Which servers are copied, why, and what makes that unnecessary."""
        return tuple(
            f"a copy of the server at {each.server.place} answers by default on {', '.join(each.listens)}, since"
            f" nginx.conf includes what proxygen writes before that server; the copy is in {OPERATOR_FILE} of"
            f" the generation: write default_server at its listen, or move the include behind it, and no copy is made"
            for each in self.copies
        )

    @property
    def sources(self) -> tuple[Path, ...]:
        """The operator's files from which there are copies."""
        return tuple(sorted({each.server.file for each in self.copies}))

    def explains(self, remark: str) -> bool:
        """Whether nginx remarks that a name stands twice, and it is one of a server that is copied."""
        found = _TWICE.match(remark)
        return found is not None and any(found["name"] in each.names for each in self.copies)

    def refused(self, reason: str) -> DefaultCopies:
        """The same without any copy, since nginx refuses them."""
        said = (_problem(each.server, each.listens, f"nginx refuses the copy: {reason}") for each in self.copies)
        return DefaultCopies(problems=(*self.problems, *said))


def copy_defaults(conf: OperatorConf, held: Occupied, ours: Iterable[str]) -> DefaultCopies:
    """Copy each server that is the first one for a listen of ours, and that nginx reads after ours."""
    firsts: dict[int, list[str]] = defaultdict(list)
    servers: dict[int, OperatorServer] = {}
    for text in ours:
        clash = next(held.overtaken({"http": [listen([text])]}), None)
        if clash is not None:
            servers[id(clash.server)] = clash.server
            firsts[id(clash.server)].append(text)
    copies, problems = [], []
    for key, texts in firsts.items():
        server = servers[key]
        obstacle = _obstacle(conf, server)
        if obstacle:
            problems.append(_problem(server, texts, obstacle))
        else:
            names = frozenset(_names(conf, server))
            text = _copy(conf, server, texts)
            copies.append(DefaultCopy(server=server, listens=tuple(texts), names=names, text=text))
    return DefaultCopies(copies=tuple(copies), problems=tuple(problems))


def _problem(server: OperatorServer, ours: Iterable[str], obstacle: str) -> str:
    return (
        f"nginx.conf includes what proxygen writes before the server at {server.place}, so that it no longer"
        f" answers what nobody serves on {', '.join(ours)} as the first one there, and it cannot be copied,"
        f" since {obstacle}: write default_server at its listen, or move the include behind it"
    )


def _obstacle(conf: OperatorConf, server: OperatorServer) -> str:
    """Why a server cannot stand where ours do; "" where it can."""
    said = list(_statements(conf, server))
    if any(each.file != server.file for each in said if _is_own(each, "listen")):
        return "a file that it includes says where it listens"
    if not _is_utf8(_inside(conf, server)):
        return "it is not UTF-8"
    late = _said_after_ours(conf, "log_format")
    for statement in said:
        directive = statement.directive
        if directive.name == "access_log" and directive.arguments[1:2] and directive.arguments[1] in late:
            return f"the log_format {directive.arguments[1]} stands behind the include"
    return ""


def _statements(conf: OperatorConf, server: OperatorServer) -> Iterator[Statement]:
    """What nginx reads between a server's braces, the files included there too."""
    behind = iter(conf.statements)
    # Up to the block itself.
    any(each is server.statement for each in behind)
    return takewhile(lambda each: each.context[:2] == ("http", "server"), behind)


def _is_own(statement: Statement, name: str) -> bool:
    """Whether it is said of the server, not of a place in it."""
    return statement.directive.name == name and len(statement.context) == 2


def _is_utf8(text: str) -> bool:
    """Files are read as bytes, one for each character; what is rendered is UTF-8."""
    try:
        text.encode("latin-1").decode()
    except UnicodeDecodeError:
        return False
    return True


def _said_after_ours(conf: OperatorConf, name: str) -> frozenset[str]:
    found, is_after = set(), False
    for statement in conf.statements:
        is_after = is_after or (statement.candidate is not None and statement.context == ("http",))
        if is_after and statement.directive.name == name and statement.directive.arguments:
            found.add(statement.directive.arguments[0])
    return frozenset(found)


def _inside(conf: OperatorConf, server: OperatorServer) -> str:
    """The text between a server's braces."""
    assert server.statement is not None
    text = conf.texts[server.file]
    begin, end = end_of(text, server.statement.directive)
    return text[begin : end - 1]


def _copy(conf: OperatorConf, server: OperatorServer, ours: list[str]) -> str:
    text = _inside(conf, server)
    for directive in reversed([each for each in read_directives(text) if each.name == "listen" and not each.context]):
        text = text[: directive.start] + text[end_of(text, directive)[1] :]
    lines = "".join(f"    listen {words} default_server;\n" for words in _listens(server, ours))
    text = text.encode("latin-1").decode()
    why = f"# A copy of the server at {server.place}, which nginx would read too late to answer by default.\n"
    return f"{why}server {{\n{lines}{text}\n}}\n"


def _names(conf: OperatorConf, server: OperatorServer) -> list[str]:
    said = [each.directive.arguments for each in _statements(conf, server) if _is_own(each, "server_name")]
    return [as_nginx_keeps(name) for arguments in said for name in arguments] or [""]


def _listens(server: OperatorServer, ours: list[str]) -> Iterator[str]:
    for text in ours:
        his = next(each for each in server.listens if each.addresses & addresses(text))
        yield " ".join((text, *his.protocols))
