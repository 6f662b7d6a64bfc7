"""What nginx has not read yet of a candidate, where only servers in upstreams changed since one that it accepted."""

from __future__ import annotations

from typing import Final

from proxygen.rendered import Rendered, RenderedFile, Unit

COMMON: Final = "http.d/00-http.conf"
UPSTREAMS: Final = "http.d/10-upstreams.conf"

_SERVER: Final = "    server "
"""How each line begins that the shipped template prints for a server in an upstream, and no other line does."""


def new_part(passed: tuple[RenderedFile, ...], candidate: Rendered) -> Rendered | None:
    """Return what nginx has not read yet of a candidate, with what all of it shares; None where it must read it all.

    ``passed`` are the files of a candidate that nginx accepted.
    """
    if [(file.path, len(file.units)) for file in passed] != [(file.path, len(file.units)) for file in candidate.files]:
        return None
    changed: list[Unit] = []
    for before, after in zip(passed, candidate.files, strict=True):
        for old, new in zip(before.units, after.units, strict=True):
            if old is new or old.text == new.text:
                continue
            if after.path != UPSTREAMS or _without_servers(old) != _without_servers(new):
                return None
            changed.append(new)
    common = [file for file in candidate.files if file.path == COMMON]
    return Rendered(plan=candidate.plan, files=(*common, RenderedFile(UPSTREAMS, tuple(changed))))


def _without_servers(unit: Unit) -> list[str]:
    return [line for line in unit.text.splitlines() if not line.startswith(_SERVER)]
