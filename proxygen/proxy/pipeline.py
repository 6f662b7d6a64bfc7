"""One set of settings, of nginx and of operator's files, and what drafts and checks by them."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

from proxygen.catalog import Catalog
from proxygen.kit.errors import BadInput, CheckRefused
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.publish import write_files
from proxygen.proxy.check.gates import Candidate, Checked, Gates, RefusedCandidate, RefusedLines
from proxygen.proxy.check.structure import StructureGate
from proxygen.proxy.check.syntax import SecondGate
from proxygen.proxy.draft import Draft, Drafter
from proxygen.proxy.nginx.binary import Binary, inspect_binary
from proxygen.proxy.nginx.conf import OperatorConf, read_operator_conf
from proxygen.proxy.nginx.listens import listens
from proxygen.proxy.nginx.stamp import ALTERED_TYPES, STAMP_FILE, Stamp, stamp_text
from proxygen.proxy.plan.types import Memory
from proxygen.proxy.policy.ground import read_ground
from proxygen.proxy.policy.pushing import NOT_PUSHING, Pushing, find_pushing
from proxygen.proxy.policy.read import own_networks
from proxygen.proxy.render.renderer import SMALLEST_BUCKETS, Rendered, Renderer
from proxygen.settings import Settings

_NO_STAMP: Final = Stamp(generation=1, digest="0" * 16)


class Pipeline:
    """Drafts and checks with one set of settings and of operator's files.

    Build a new one when any of those changed.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        binary: Binary | None,
        conf: OperatorConf | None,
        may_copy: bool = False,
        copies_refused: str = "",
        pushing: Pushing = NOT_PUSHING,
    ) -> None:
        """Parameters as in `read_ground`."""
        self.binary: Final = binary
        self.conf: Final = conf
        self.ground: Final = read_ground(
            settings,
            binary,
            conf,
            may_copy=may_copy,
            copies_refused=copies_refused,
            pushed=pushing.document is not None,
        )
        self.pushing: Final = pushing
        self.templates: Final = Templates(settings.proxy.templates)
        self._settings: Final = settings
        self._may_copy: Final = may_copy
        self._identity: Final = None if binary is None else _identity(binary.path)
        renderer = Renderer(self.templates, self.ground.surroundings, self.ground.snippets)
        self.drafter: Final = Drafter(self.ground.policy, renderer)
        own = settings.proxy.templates is not None or settings.proxy.snippets is not None
        self.gates: Final = Gates(
            StructureGate(own_templates=own), self._syntax(), self.ground.occupied, self.ground.server_copies
        )

    def _syntax(self) -> SecondGate | None:
        if self.binary is None or self.conf is None:
            return None
        own_upstreams = self.templates.is_own("upstream.conf.j2")
        return SecondGate(
            settings=self._settings.nginx, binary=self.binary, conf=self.conf, own_upstreams=own_upstreams
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The operator's files and directories of files that decide what is rendered and checked."""
        proxy = self._settings.proxy
        theirs = (proxy.templates, proxy.snippets, proxy.certificates, proxy.htpasswd, proxy.upstream_ca)
        return (*filter(None, theirs), *(self.conf.texts if self.conf is not None else ()))

    def is_outdated(self, conf: OperatorConf) -> bool:
        """Whether nginx's binary or the operator's configuration is another one by now."""
        if self.conf is None or self.binary is None:
            return False
        return conf.fingerprint != self.conf.fingerprint or _identity(self.binary.path) != self._identity

    def has_moved(self) -> bool:
        """Whether this host has other addresses by now. Reads files: not on an event loop."""
        return own_networks()[0] != self.ground.own

    def stamp_block(self, stamp: str) -> bytes:
        """The virtual server that tells the generation on the private address."""
        listen = self._settings.nginx.stamp
        said = self.conf.http_directives if self.conf is not None else frozenset()
        values = {
            "listen": listen,
            "stamp": stamp,
            "type_lists": sorted(ALTERED_TYPES & said),
            "pushed": str(self.pushing.document or ""),
        }
        return self.templates.render("stamp.conf.j2", values).encode()

    def files_of(self, rendered: Rendered, stamp: Stamp = _NO_STAMP) -> dict[str, bytes]:
        """All files of a generation, by their paths in it."""
        return {**rendered.contents, STAMP_FILE: self.stamp_block(stamp_text(stamp.generation, stamp.digest))}

    def candidate(self, rendered: Rendered, path: Path, stamp: Stamp = _NO_STAMP) -> Candidate:
        """A rendering whose files lie in ``path``."""
        return Candidate(rendered=rendered, stamp=stamp, path=path, listens=listens(self.files_of(rendered, stamp)))

    def write_candidate(self, rendered: Rendered, path: Path) -> Candidate:
        """Write what nginx would be given, with a stamp that names no generation."""
        write_files(path, {"http.d/": b"", "stream.d/": b"", **self.files_of(rendered)}, self.ground.readers)
        return self.candidate(rendered, path)

    async def try_out(self, draft: Draft) -> Checked | RefusedCandidate:
        """Pass the second gate with what is not meant to go live; raises as `Gates.syntax` does."""
        with TemporaryDirectory(prefix="proxygen-candidate-") as folder:
            candidate = await asyncio.to_thread(self.write_candidate, draft.rendered, Path(folder))
            return await self.gates.syntax(candidate)

    async def accepts(self, draft: Draft) -> bool:
        """Whether no gate refuses it without naming a service. Raise CheckRefused as `Gates.syntax` does."""
        with TemporaryDirectory(prefix="proxygen-candidate-") as folder:
            await asyncio.to_thread(self.write_candidate, draft.rendered, Path(folder))
            return await self.gates.accepts(draft.rendered, Path(folder))

    async def without_refused_copies(self) -> Pipeline:
        """The same without copies of the operator's servers, where those are why nginx takes no candidate at all: each
        service would be refused for them."""
        reason = await self._refusal_without_services() if self.ground.server_copies.copies else ""
        if not reason:
            return self
        other = await asyncio.to_thread(
            Pipeline,
            self._settings,
            binary=self.binary,
            conf=self.conf,
            may_copy=self._may_copy,
            copies_refused=reason,
            pushing=self.pushing,
        )
        return self if await other._refusal_without_services() else other

    async def _refusal_without_services(self) -> str:
        nothing = Catalog(datacenter="", services={})
        draft = await asyncio.to_thread(self.drafter.draft, nothing, Memory(), {})
        try:
            verdict = await self.try_out(draft)
        except CheckRefused as error:
            return str(error)
        if isinstance(verdict, RefusedLines):
            return "; ".join(each.reason for each in verdict.refusals)
        return str(verdict) if isinstance(verdict, RefusedCandidate) else ""


async def open_pipeline(settings: Settings) -> Pipeline:
    """Build a pipeline around the nginx that is installed here, for who holds the output directory.

    Raise NginxUnavailable where there is none, BadInput where its configuration cannot be read or does not include the
    generations.
    """
    binary = await inspect_binary(settings.nginx)
    conf = read_operator_conf(settings.nginx, settings.output.directory, binary)
    conf.require_include("http")
    _require_buckets(conf)
    # Names are looked up and files read: a slow DNS server must not stop what else the event loop does.
    pushing = await find_pushing(settings, binary, conf)
    pipeline = await asyncio.to_thread(Pipeline, settings, binary=binary, conf=conf, may_copy=True, pushing=pushing)
    return await pipeline.without_refused_copies()


def _require_buckets(conf: OperatorConf) -> None:
    """Raise BadInput where nginx.conf sets a hash bucket in which a name that the types allow does not fit: that one
    service would have everybody's configuration refused."""
    for statement in conf.statements:
        directive = statement.directive
        least = SMALLEST_BUCKETS.get(directive.name)
        if least is None or statement.context not in (("http",), ("stream",)):
            continue
        size = directive.arguments[0] if directive.arguments else ""
        if not size.isdigit() or int(size) < least:
            raise BadInput(
                f"{statement.file}:{directive.line}: {directive.name} {size} is too small for the longest names that"
                f" services may have; set at least {least}, or remove the line and proxygen sets it"
            )


def _identity(path: Path) -> tuple[int, int, int]:
    """Changes when the file at ``path`` is replaced, as an upgrade does."""
    try:
        status = path.stat()
    except OSError:
        return (0, 0, 0)
    return (status.st_dev, status.st_ino, status.st_mtime_ns)
