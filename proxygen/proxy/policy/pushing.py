"""Whether servers and shares are pushed to nginx, and by which file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from proxygen.kit.templating import Templates
from proxygen.proxy.nginx.binary import Binary
from proxygen.proxy.nginx.conf import OperatorConf
from proxygen.proxy.nginx.lua import NOT_LOADED, missing_lua, obstacle_to_push
from proxygen.proxy.traffic.place import closed_to
from proxygen.settings import Settings

_FILE: Final = "push/document"
_PLAIN: Final = re.compile(r"/[A-Za-z0-9._/-]+")
"""What can stand in a text of Lua."""

_TEMPLATES: Final = (
    "http.conf.j2",
    "server.conf.j2",
    "location.conf.j2",
    "upstream.conf.j2",
    "stamp.conf.j2",
    "lua/balancers.lua",
    "lua/push.lua",
)
_ONCE: Final = re.compile(r"^\s*(init_by_lua|log_by_lua|lua_shared_dict\s+proxygen\s)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushing:
    """How what changes most goes to nginx."""

    document: Path | None
    """The file that nginx's workers read; None where all of it takes a reload."""
    problem: str = ""
    """Why, where the settings would have it pushed."""

    @property
    def is_hindered(self) -> bool:
        """Whether something stands in the way that the operator can change: most nginx have no Lua, which is no
        fault."""
        return bool(self.problem) and self.problem != NOT_LOADED


NOT_PUSHING: Final = Pushing(document=None)


async def find_pushing(settings: Settings, binary: Binary, conf: OperatorConf) -> Pushing:
    """Ask nginx, where the settings want it."""
    if settings.reload.push == "off":
        return NOT_PUSHING
    document = _document(settings)
    problem = (
        obstacle_to_push(conf)
        or _own_templates(settings)
        or _own_fragments(settings)
        or _unreadable(document, conf)
        or await missing_lua(binary, conf, timeout=settings.nginx.check_timeout)
    )
    return Pushing(document=None if problem else document, problem=problem)


def _document(settings: Settings) -> Path:
    return Path(os.path.abspath(settings.output.directory)) / _FILE


def _own_templates(settings: Settings) -> str:
    """A template of the operator's own may say anything, and lacks what pushing needs."""
    if settings.proxy.templates is None:
        return ""
    templates = Templates(settings.proxy.templates)
    own = next((name for name in _TEMPLATES if templates.is_own(name)), None)
    return "" if own is None else f"the template {own} is your own, which holds nothing of a push"


def _own_fragments(settings: Settings) -> str:
    if settings.proxy.snippets is None:
        return ""
    for path in sorted(settings.proxy.snippets.glob("*.conf")):
        try:
            found = _ONCE.search(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found is not None:
            return f"{path}: {found[1].strip()} may stand once, and proxygen needs it"
    return ""


def _unreadable(document: Path, conf: OperatorConf) -> str:
    if _PLAIN.fullmatch(str(document)) is None:
        return f"nginx's Lua is not given {document}: set output.directory to a plain path"
    closed = closed_to(conf.user, document.parent) if os.geteuid() == 0 else None
    if closed is not None:
        return f"nginx's workers ({conf.user or 'nobody'}) cannot pass {closed}: let them"
    return ""
