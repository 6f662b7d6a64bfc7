"""A Consul that streams its answers, as all do since 1.10: built as an ordinary Go module where Go is there."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

from .basics import ROOT, CannotSetUp, cache, run, say, search

MODULE = ROOT / "tests" / "harness" / "consul_streaming"
"""The folder of go.mod and go.sum; go.mod alone names the version."""
PACKAGE = "github.com/hashicorp/consul"
_FOR_THIS_MACHINE = {"GO111MODULE": "on", "GOARCH": "", "GOOS": "", "GOWORK": "off"}
"""Go's variables against a user's own: a module, for this system, in no workspace."""


def provide_consul() -> None:
    """Build it once for this user; where that cannot be, say why its tests are skipped, and on CI fail."""
    binary = place()
    if os.access(binary, os.X_OK):
        return
    try:
        _build(binary)
    except CannotSetUp as error:
        if os.environ.get("CI") == "true":
            raise
        say(f"tests with a Consul that streams will be skipped: {error}")


def place() -> Path:
    return cache() / f"consul-{version()}" / "consul"


def version() -> str:
    match = re.search(rf"^require {PACKAGE} v(\S+)$", (MODULE / "go.mod").read_text(encoding="utf-8"), re.MULTILINE)
    if match is None:
        raise CannotSetUp(f"{MODULE / 'go.mod'} does not require {PACKAGE}")
    return match[1]


def _build(binary: Path) -> None:
    if search("go") is None:
        raise CannotSetUp(f"Consul {version()} is built with Go, which is not on PATH")
    say(f"building Consul {version()} with Go, once, into {binary.parent}; this takes one to five minutes")
    binary.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent) as scratch:
        # Go may write to the module it builds in; ours stays as it is.
        module = Path(shutil.copytree(MODULE, Path(scratch) / "module"))
        built = Path(scratch) / "consul"
        # go.sum has every hash, so that no database of hashes is asked.
        env = {**os.environ, **_FOR_THIS_MACHINE, "GONOSUMDB": f"{PACKAGE},{PACKAGE}/*"}
        run(["go", "build", "-mod=mod", "-ldflags=-s -w", "-o", str(built), PACKAGE], env=env, cwd=module)
        built.replace(binary)
