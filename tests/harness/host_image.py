"""Images that have this machine's own programs and this checkout by mounts: made in a second, nothing is copied."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Final

from tests.harness.engine import Engine

_BASE: Final = "localhost/proxygen-test-host"
_CHECKOUT: Final = Path(__file__).parents[2]
_MERGED: Final = ("bin", "sbin", "lib", "lib64")
"""Links into /usr, as in any Debian."""


def build(engine: Engine, name: str, lines: str, directory: Path) -> str:
    """Build an image from the lines of a Dockerfile that follow its FROM; `MOUNTS` make it run."""
    if _BASE not in engine.call("images", "--format={{.Repository}}").split():
        _import_base(engine, directory)
    context = directory / name
    context.mkdir()
    (context / "Dockerfile").write_text(f"FROM {_BASE}\n{_ENVIRONMENT}{lines}")
    image = f"localhost/{name}"
    engine.call("build", "--quiet", "--format=docker", "--isolation=chroot", f"--tag={image}", context)
    return image


def _import_base(engine: Engine, directory: Path) -> None:
    archive = directory / "host.tar"
    with tarfile.open(archive, "w") as tar:
        for name in _MERGED:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
        users = b"root:x:0:0::/:/bin/sh\n"
        entry = tarfile.TarInfo("etc/passwd")
        entry.size = len(users)
        tar.addfile(entry, io.BytesIO(users))
    engine.call("import", "--quiet", archive, _BASE)
    archive.unlink()


def _places() -> tuple[str, ...]:
    """What Python, this environment's packages and the checkout need, none of it below another."""
    wanted = {Path("/usr"), *map(Path, (sys.base_prefix, sys.prefix)), _CHECKOUT}
    return tuple(str(path) for path in sorted(wanted) if not wanted & set(path.parents))


MOUNTS: Final = tuple(f"--volume={place}:{place}:ro" for place in _places())
"""Options of ``podman run``, without which there is no program in such an image."""

_ENVIRONMENT: Final = (
    f"ENV PATH={Path(sys.executable).parent}:/usr/bin:/bin PYTHONPATH={_CHECKOUT} PYTHONDONTWRITEBYTECODE=1\n"
)
