"""What nginx has not read yet of a candidate, where only the inside of upstreams, maps and splits of some services
changed since one that it accepted."""

from __future__ import annotations

from typing import Final

from proxygen.proxy.render.rendered import Rendered, RenderedFile, Unit

COMMON: Final = "http.d/00-http.conf"
UPSTREAMS: Final = "http.d/10-upstreams.conf"


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
            if after.path != UPSTREAMS or _declared(old) != _declared(new):
                return None
            changed.append(new)
    common = [file for file in candidate.files if file.path == COMMON]
    return Rendered(plan=candidate.plan, files=(*common, RenderedFile(UPSTREAMS, tuple(changed))))


def _declared(unit: Unit) -> list[str]:
    """The lines outside of all blocks: each begins something that others may refer to by its name."""
    return [line for line in unit.text.splitlines() if line[:1] not in (" ", "}")]
