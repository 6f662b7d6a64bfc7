"""A nginx.conf that is the operator's own with a candidate in place of the live generation, for ``nginx -t``.

A test run of nginx creates the pid file it is told of, so the wrapper's is its own. nginx looks for included and
other relative files beside its main file, so the wrapper stands in a mirror of the operator's directory: links to
everything, real copies only of the files that must say something else. Copies keep their line numbers.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf, Statement, in_a_text, in_the_file_system
from proxygen.proxy.nginx.tokens import quote

_MIRROR: Final = "operator"


def write_wrapper(conf: OperatorConf, scratch: Path, candidate: Path) -> Path:
    """Write the wrapper into the empty directory ``scratch``; return the path of its main file.

    ``candidate`` holds ``http.d`` and ``stream.d``. Raise BadInput when the operator's files do not include what
    the candidate holds.
    """
    conf.require_include("http")
    if any((candidate / "stream.d").glob("*.conf")):
        conf.require_include("stream")
    root = scratch / _MIRROR
    rewritten = _rewritten(conf)
    mirrored = _mirrored(conf, rewritten)
    for directory in sorted(mirrored):
        _mirror(directory, root, skip=rewritten | mirrored)
    edits = _Edits(root, candidate, scratch / "nginx.pid", mirrored)
    for path in rewritten:
        copy = _inside(root, path)
        text = edits.apply(conf, path)
        copy.write_bytes(text.encode("latin-1"))
    return _inside(root, conf.path)


def check_command(binary: Binary, prefix: Path, main: Path) -> tuple[str, ...]:
    """Return the command that tests the conf ``main`` as the running nginx would read it."""
    # nginx joins its prefix and a path without looking: the slash must be there.
    quiet = ("-e", "stderr") if binary.log_to_stderr_flag else ()
    return (str(binary.path), "-t", *quiet, "-p", f"{prefix}/", "-c", str(main))


def operators_names(scratch: Path, message: str) -> str:
    """Return nginx's message with the operator's own paths in place of the wrapper's."""
    return message.replace(str(scratch / _MIRROR), "")


def _rewritten(conf: OperatorConf) -> frozenset[Path]:
    """The files that must say something else: the main one, those that name the pid file or the live generation."""
    changed = {conf.path}
    changed |= {item.file for item in conf.statements if _is_pid(item) or item.candidate is not None}
    while True:
        # An include by absolute path leads out of the mirror; whoever includes a copy so must be a copy too.
        more = {
            item.file
            for item in conf.statements
            if changed.intersection(item.matches) and item.directive.arguments[0].startswith("/")
        }
        if more <= changed:
            return frozenset(changed)
        changed |= more


def _mirrored(conf: OperatorConf, rewritten: Iterable[Path]) -> frozenset[Path]:
    """The directories that become real ones in the mirror."""
    base = conf.path.parent
    mirrored = {base}
    for path in rewritten:
        mirrored |= {path.parent, *path.parent.parents} - set(base.parents)
        if not path.is_relative_to(base):
            mirrored |= set(path.parents)
    if any(".." in argument.split("/") for item in conf.statements for argument in item.directive.arguments):
        mirrored |= set(base.parents)
    return frozenset(mirrored)


def _mirror(directory: Path, root: Path, *, skip: frozenset[Path]) -> None:
    target = _inside(root, directory)
    target.mkdir(parents=True, exist_ok=True)
    for entry in _entries(directory):
        if entry not in skip:
            _inside(root, entry).symlink_to(entry)


def _entries(directory: Path) -> Iterator[Path]:
    try:
        yield from directory.iterdir()
    except PermissionError:
        # A directory that may be passed through but not listed: nobody can glob it, and what is in it is not relative.
        return


def _inside(root: Path, path: Path) -> Path:
    return root / path.relative_to("/")


def _is_pid(statement: Statement) -> bool:
    return statement.directive.name == "pid" and not statement.context


class _Edits:
    """Replaces arguments in place, so that every line stays the line it was."""

    def __init__(self, root: Path, candidate: Path, pid: Path, mirrored: frozenset[Path]) -> None:
        self._root = root
        self._candidate = candidate
        self._pid = pid
        self._mirrored = mirrored

    def apply(self, conf: OperatorConf, path: Path) -> str:
        text = conf.texts[path]
        # A file that is included twice has its statements twice, with the same spans.
        spans = {item.directive.span: item for item in conf.statements if item.file == path}
        for (start, end), item in sorted(spans.items(), reverse=True):
            replacement = self._replacement(item)
            if replacement is not None:
                text = text[:start] + quote(in_a_text(replacement)) + text[end:]
        if path == conf.path and not any(_is_pid(item) for item in conf.statements):
            text = f"pid {quote(in_a_text(str(self._pid)))}; {text}"
        return text

    def _replacement(self, item: Statement) -> str | None:
        if _is_pid(item):
            return str(self._pid)
        if item.candidate is not None:
            return str(self._candidate / item.candidate)
        if item.directive.name != "include" or not item.directive.arguments[0].startswith("/"):
            return None
        pattern = os.path.abspath(in_the_file_system(item.directive.arguments[0]))
        reaches_a_copy = any(match.parent in self._mirrored for match in item.matches)
        return str(_inside(self._root, Path(pattern))) if reaches_a_copy else None
