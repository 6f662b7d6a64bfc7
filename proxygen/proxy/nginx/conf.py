"""The operator's nginx.conf with everything it includes: what it says, and what is read again at each check."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Final

from proxygen.kit.errors import BadInput
from proxygen.proxy.nginx import globbing
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.tokens import Directive, Unreadable, read_directives
from proxygen.settings import NginxSettings

# nginx has no limit of its own: a file that includes itself ends with too many open files.
_DEEPEST: Final = 32
_OURS: Final = {"http": "http.d", "stream": "stream.d"}

MAP_SIZES: Final = ("map_hash_bucket_size 512", "map_hash_max_size 4096")
"""What an operator says before a map of his own: what is rendered otherwise."""
_MAP_SIZE_NAMES: Final = frozenset(line.partition(" ")[0] for line in MAP_SIZES)


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A directive in the place where nginx reads it."""

    directive: Directive
    file: Path
    context: tuple[str, ...]
    """Names of all blocks around it, those of the including files too."""
    matches: tuple[Path, ...] = ()
    """For an include: the operator's files that it reads."""
    candidate: str | None = None
    """For an include of the live generation: the rest of its path, such as ``http.d/*.conf``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorConf:
    """What the operator's own files say. The files of the live generation are no part of it."""

    path: Path
    output: Path
    prefix: Path
    pid_path: Path
    error_log: Path | None
    """None where it is not a file: standard error, syslog, memory."""
    working_directory: Path | None
    user: str | None
    """The workers' user, where it is named."""
    warns: bool
    """Whether the error log holds the warnings of requests."""
    access_logs: tuple[str, ...]
    """Where ``http`` itself logs to: paths, ``syslog:…``, or ``off``."""
    worker_shutdown_timeout: str | None
    """As written, such as ``30s``; None where old workers may drain for ever."""
    http_directives: frozenset[str]
    """Names that stand directly in ``http``; most of them must not be said twice."""
    stream_directives: frozenset[str]
    includes: frozenset[str]
    """The contexts, ``http`` and ``stream``, that include the live generation where it belongs."""
    statements: tuple[Statement, ...]
    texts: dict[Path, str]
    """Every file read, by absolute path."""
    fingerprint: str
    """Changes when any of the files does, or when one comes or goes."""

    def require_include(self, context: str) -> None:
        """Raise BadInput with the line to add unless nginx reads the live generation in ``context``."""
        if context not in self.includes:
            line = f"include {self.output}/current/{_OURS[context]}/*.conf;"
            raise BadInput(
                f"{self.path} does not include what proxygen writes; add this line inside {context} {{ … }}: {line}"
            )
        if context == "http":
            self._refuse_settled_sizes()

    def _refuse_settled_sizes(self) -> None:
        if (late := self._size_after_include()) is not None:
            name = late.directive.name
            raise BadInput(
                f"{late.file}:{late.directive.line}: {name} stands after {self.path} includes what proxygen writes, and"
                f" with the first map in there nginx settles how long names may be; move the line before that include"
            )
        if self._maps_before_sizes():
            raise BadInput(
                f"{self.path} has a map before it includes what proxygen writes, and with its first map nginx settles "
                f"how long names may be; add these lines before that map: {' '.join(f'{line};' for line in MAP_SIZES)}"
            )

    def _size_after_include(self) -> Statement | None:
        """A size of the operator's that comes too late: nginx takes it for a second one. Those of other hashes may
        stand anywhere."""
        is_included = False
        for statement in self.statements:
            if statement.context != ("http",):
                continue
            is_included = is_included or statement.candidate is not None
            if is_included and statement.directive.name in _MAP_SIZE_NAMES:
                return statement
        return None

    def _maps_before_sizes(self) -> bool:
        """Whether ours would come too late: nginx takes the directive that follows a map for a second one."""
        if self.http_directives >= _MAP_SIZE_NAMES:
            return False
        for statement in self.statements:
            if statement.context == ("http",) and statement.candidate is not None:
                return False
            if statement.context == ("http",) and statement.directive.name == "map":
                return True
        return False


def read_operator_conf(settings: NginxSettings, output: Path, binary: Binary) -> OperatorConf:
    """Read nginx.conf and its includes. Raise BadInput when one cannot be read."""
    path = Path(os.path.abspath(settings.conf))
    reader = _Reader(path, Path(os.path.abspath(output)))
    statements = tuple(reader.read(path, (), 0))
    main = {statement.directive.name: statement for statement in reversed(statements) if not statement.context}
    digest = sha256()
    for file, text in sorted(reader.texts.items()):
        digest.update(f"{file}\0{len(text)}\0{text}".encode())
    pid = _argument(main, "pid")
    directory = _argument(main, "working_directory")
    return OperatorConf(
        path=path,
        output=reader.output,
        prefix=binary.prefix,
        pid_path=settings.pid or (binary.prefix / pid if pid else binary.pid_path),
        error_log=settings.error_log or _error_log(main, binary),
        working_directory=binary.prefix / directory if directory else None,
        user=_argument(main, "user"),
        warns=_warns(main) and not any(item.directive.name == "error_log" and item.context for item in statements),
        access_logs=tuple(
            item.directive.arguments[0]
            for item in statements
            if item.directive.name == "access_log" and item.context == ("http",) and item.directive.arguments
        ),
        worker_shutdown_timeout=_argument(main, "worker_shutdown_timeout"),
        http_directives=frozenset(item.directive.name for item in statements if item.context == ("http",)),
        stream_directives=frozenset(item.directive.name for item in statements if item.context == ("stream",)),
        includes=frozenset(
            context
            for item in statements
            for context, folder in _OURS.items()
            if item.context == (context,) and item.candidate in {f"{folder}/*.conf", f"{folder}/*"}
        ),
        statements=statements,
        texts=reader.texts,
        fingerprint=digest.hexdigest(),
    )


class ConfSource:
    """Reads the operator's files again only when one of them changed, came or went."""

    def __init__(self, settings: NginxSettings, output: Path, binary: Binary) -> None:
        self._settings: Final = settings
        self._output: Final = output
        self.binary: Final = binary
        self._known: tuple[OperatorConf, _Marks] | None = None

    def read(self) -> OperatorConf:
        """Raise BadInput when a file cannot be read."""
        if self._known is not None and _marks(self._known[0]) == self._known[1]:
            return self._known[0]
        conf = read_operator_conf(self._settings, self._output, self.binary)
        self._known = (conf, _marks(conf))
        return conf


_Marks = tuple[object, ...]


def _marks(conf: OperatorConf) -> _Marks:
    """What is different when a file is, or when a pattern finds another one; no file is opened."""
    patterns = {
        os.path.abspath(conf.path.parent / in_the_file_system(item.directive.arguments[0]))
        for item in conf.statements
        if item.directive.name == "include" and item.candidate is None and item.directive.arguments
    }
    found = tuple((pattern, globbing.find(os.fsencode(pattern))) for pattern in sorted(patterns))
    return (found, tuple(_mark(path) for path in conf.texts))


def _mark(path: Path) -> tuple[object, ...]:
    try:
        status = os.stat(path)
    except OSError:
        return (path,)
    return (path, status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _argument(main: dict[str, Statement], name: str) -> str | None:
    statement = main.get(name)
    return statement.directive.arguments[0] if statement and statement.directive.arguments else None


def _error_log(main: dict[str, Statement], binary: Binary) -> Path | None:
    name = _argument(main, "error_log")
    if name is None:
        return binary.error_log
    return None if name == "stderr" or name.startswith(("syslog:", "memory:")) else binary.prefix / name


def _warns(main: dict[str, Statement]) -> bool:
    statement = main.get("error_log")
    return statement is not None and statement.directive.arguments[1:2] in (
        ("warn",),
        ("notice",),
        ("info",),
        ("debug",),
    )


class _Reader:
    """Follows includes as nginx does: relative to the directory of the main file, whoever includes."""

    def __init__(self, main: Path, output: Path) -> None:
        self.output = output
        self.texts: dict[Path, str] = {}
        self._base = main.parent
        self._real_output = os.path.realpath(output)

    def read(self, path: Path, context: tuple[str, ...], depth: int) -> Iterator[Statement]:
        if depth > _DEEPEST:
            raise BadInput(f"{path} is included {_DEEPEST} files deep; does it include itself?")
        text = self._text(path)
        try:
            directives = list(read_directives(text))
        except Unreadable as error:
            raise BadInput(f"{path}:{error.line} is not nginx syntax: {error}") from error
        for directive in directives:
            around = context + directive.context
            if directive.name != "include" or len(directive.arguments) != 1:
                yield Statement(directive=directive, file=path, context=around)
                continue
            pattern = os.path.abspath(self._base / in_the_file_system(directive.arguments[0]))
            candidate = self._within_current(pattern)
            matches = () if candidate else self._matches(pattern, f"{path}:{directive.line}")
            yield Statement(directive=directive, file=path, context=around, matches=matches, candidate=candidate)
            for match in matches:
                yield from self.read(match, around, depth + 1)

    def _text(self, path: Path) -> str:
        if path not in self.texts:
            try:
                # nginx reads bytes; latin-1 keeps each of them, and one character per byte. A comment ends at a line
                # feed alone, so a carriage return must stay what it is.
                self.texts[path] = path.read_bytes().decode("latin-1")
            except OSError as error:
                raise BadInput(
                    f"nginx's {path} cannot be read: {error.strerror}; see nginx.conf (--nginx-conf)"
                ) from error
        return self.texts[path]

    def _within_current(self, pattern: str) -> str | None:
        """Return what follows OUTPUT/current/ in an include's path, where it leads there."""
        head, separator, rest = pattern.partition("/current/")
        while separator:
            if os.path.realpath(head) == self._real_output:
                return rest
            middle, separator, rest = rest.partition("/current/")
            head = f"{head}/current/{middle}"
        return None

    def _matches(self, pattern: str, place: str) -> tuple[Path, ...]:
        encoded = os.fsencode(pattern)
        if not globbing.has_magic(encoded):
            if not os.path.exists(pattern):
                raise BadInput(f"{place} includes {pattern}, which does not exist")
            return (Path(pattern),)
        return tuple(Path(os.fsdecode(match)) for match in globbing.find(encoded))


def in_the_file_system(text: str) -> str:
    """A path in a file's text, which has one character per byte, as Python names it."""
    return os.fsdecode(text.encode("latin-1"))


def in_a_text(path: str) -> str:
    """The inverse of `in_the_file_system`."""
    return os.fsencode(path).decode("latin-1")
