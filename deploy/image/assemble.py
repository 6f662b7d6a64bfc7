"""Put together the image's root file system from what Debian's packages brought into the stage that runs this.

What is named below comes in, and each library that a program or a Python extension among it needs. The end is a proof:
the dynamic loader, run inside the new root, finds every library of every ELF file. There is no shell, no package
manager, and no file that everybody may write but /tmp.
"""

from __future__ import annotations

import compileall
import os
import py_compile
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

UID: Final = 101
"""As in nginx's unprivileged image, so that either can read what the other writes."""

PACKAGES: Final = (
    "python3-minimal",
    "python3.*-minimal",
    "libpython3-stdlib",
    "libpython3.*-minimal",
    "libpython3.*-stdlib",
)
"""Taken whole, but for `LEFT_OUT`."""
PROGRAMS: Final = ("nginx", "nft", "iptables", "iptables-restore", "ip6tables")
"""The first for the second gate and to serve, the others for `proxygen network`."""
DIRECTORIES: Final = ("/usr/lib/nginx/modules", "/opt/proxygen")
FILES: Final = ("/etc/ssl/certs/ca-certificates.crt", "/etc/os-release", "/etc/mime.types", "/etc/nginx/mime.types")

LEFT_OUT: Final = (
    "/usr/share/doc/",
    "/usr/share/man/",
    "/usr/share/lintian/",
    "/usr/share/binfmts/",
    "/usr/share/python3/",
)
LICENCE: Final = "copyright"
"""The one file of a package's documents that stays."""

_SCRIPTS: Final = (b"#!/bin/sh", b"#! /bin/sh", b"#!/bin/bash")


def main(root: Path) -> None:
    taken: set[Path] = set()
    for path in _wanted():
        _take(path, root, taken)
    for path in list(_libraries(root)):
        _take(path, root, taken)
    _make_directories(root)
    _write_own(root)
    _list_packages(root, taken)
    _compile(root)
    _prove(root)


def _wanted() -> Iterator[Path]:
    for package in _installed(PACKAGES):
        yield from _files_of(package)
    for program in PROGRAMS:
        found = shutil.which(program)
        if found is None:
            raise SystemExit(f"{program} is not installed in this stage")
        yield Path(found)
    for name in FILES:
        if Path(name).exists():
            yield Path(name)
    for name in DIRECTORIES:
        yield from (path for path in Path(name).rglob("*") if path.is_symlink() or path.is_file())
    # iptables loads what a rule names by itself; conntrack's and others' for IPv6 come along.
    for package in _installed(("libxtables12", "iptables")):
        yield from (path for path in _files_of(package) if path.parent.name == "xtables")
    # Names of users and hosts: the C library loads these by name, and no program says that it needs them.
    for package in _installed(("libc6",)):
        yield from (
            path for path in _files_of(package) if path.name.startswith(("libnss_dns", "libnss_files", "libresolv"))
        )


def _installed(patterns: Iterable[str]) -> list[str]:
    asked = _say(
        "dpkg-query", "--show", "--showformat", "${db:Status-Abbrev} ${binary:Package}\n", *patterns, fails=True
    )
    return [name for status, name in (line.split() for line in asked.splitlines()) if status == "ii"]


def _files_of(package: str) -> Iterator[Path]:
    for line in _say("dpkg-query", "--listfiles", package).splitlines():
        path = Path(line)
        is_document = line.startswith(LEFT_OUT) and path.name != LICENCE
        if not is_document and (path.is_symlink() or path.is_file()) and not _needs_shell(path):
            yield path


def _needs_shell(path: Path) -> bool:
    if path.is_symlink():
        return False
    with path.open("rb") as file:
        return file.read(16).startswith(_SCRIPTS)


def _take(path: Path, root: Path, taken: set[Path]) -> None:
    """Copy a file, and each link on the way to it, under the names that they have here."""
    # Debian's /bin, /lib and /sbin are links: their target is what counts.
    path = Path(os.path.realpath(path.parent)) / path.name
    if path in taken:
        return
    taken.add(path)
    target = root / path.relative_to("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(path, target, follow_symlinks=False)
    if path.is_symlink():
        towards = path.parent / os.readlink(path)
        if towards.is_file():
            _take(towards, root, taken)


def _elf_files(root: Path) -> Iterator[Path]:
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            with path.open("rb") as file:
                if file.read(4) == b"\x7fELF":
                    yield Path("/") / path.relative_to(root)


def _loader() -> Path:
    return next(
        Path(name) for pattern in ("lib64/ld-*.so*", "lib/ld-*.so*") for name in map(str, Path("/").glob(pattern))
    )


def _libraries(root: Path) -> Iterator[Path]:
    """The libraries that the ELF files need, as this stage's own loader finds them, and the loader."""
    yield _loader()
    for path in _elf_files(root):
        for line in _say(str(_loader()), "--list", str(path), fails=True).splitlines():
            _name, arrow, place = line.strip().partition(" => ")
            if arrow and place.startswith("/"):
                yield Path(place.split(" (")[0])


def _write_own(root: Path) -> None:
    """Write the files that no package brings: users, nginx's configuration, the check of health."""
    here = Path(__file__).parent
    for name, text in {
        "etc/passwd": f"root:x:0:0::/:/nonexistent\nproxygen:x:{UID}:{UID}::/var/lib/proxygen:/nonexistent\n",
        "etc/group": f"root:x:0:\nproxygen:x:{UID}:\n",
        "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
        "etc/nginx/nginx.conf": (here / "nginx.conf").read_text(encoding="utf-8"),
        "etc/nginx/modules-enabled/stream.conf": _load_stream(root),
        "opt/proxygen/ready.py": (here / "ready.py").read_text(encoding="utf-8"),
        "opt/proxygen/hold.py": (here / "hold.py").read_text(encoding="utf-8"),
    }.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text, encoding="utf-8")


def _make_directories(root: Path) -> None:
    """Make the links of the merged /usr, and what is there to be written or mounted over."""
    for link in ("bin", "sbin", "lib", "lib64"):
        if Path("/", link).is_symlink() and not (root / link).exists():
            (root / "usr" / link).mkdir(parents=True, exist_ok=True)
            (root / link).symlink_to(f"usr/{link}")
    for name, mode in (("tmp", 0o1777), ("run", 0o755), ("var/lib/proxygen", 0o755), ("var/log/nginx", 0o755)):
        (root / name).mkdir(parents=True, exist_ok=True)
        (root / name).chmod(mode)
        if name.startswith("var/"):
            os.chown(root / name, UID, UID)
    (root / "var/run").symlink_to("../run")


def _load_stream(root: Path) -> str:
    """The line that loads nginx's stream module, where it is a file of its own and not compiled in."""
    module = "usr/lib/nginx/modules/ngx_stream_module.so"
    return f"load_module /{module};\n" if (root / module).exists() else "# The stream module is compiled in.\n"


def _list_packages(root: Path, taken: set[Path]) -> None:
    """Leave Debian's own entry for each package that a file came from: scanners look for them in this directory."""
    owners: dict[str, None] = {}
    outside = [str(path) for path in sorted(taken) if not path.is_relative_to("/opt")]
    for start in range(0, len(outside), 500):
        # A file of the merged /usr may stand under its old name in dpkg's books.
        batch = [name for path in outside[start : start + 500] for name in (path, path.removeprefix("/usr"))]
        for line in _say("dpkg-query", "--search", *batch, fails=True).splitlines():
            packages, colon, _ = line.partition(": ")
            if colon and not packages.startswith("diversion"):
                owners.update(dict.fromkeys(packages.split(", ")))
    status = root / "var/lib/dpkg/status.d"
    status.mkdir(parents=True)
    for package in owners:
        name = package.partition(":")[0]
        (status / name).write_text(_say("dpkg-query", "--status", package), encoding="utf-8")
        licence = Path("/usr/share/doc", name, LICENCE)
        if licence.is_file() and not licence.is_symlink():
            copy = root / licence.relative_to("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(licence, copy)


def _compile(root: Path) -> None:
    """Compile the standard library: a read-only file system would have it compiled at each start."""
    for library in root.glob("usr/lib/python3*"):
        compileall.compile_dir(
            library,
            quiet=2,
            stripdir=str(root),
            prependdir="/",
            invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH,
        )


def _prove(root: Path) -> None:
    """Ask the loader inside the new root for the libraries of each ELF file; end the build where one is missing."""
    broken = []
    for path in _elf_files(root):
        asked = subprocess.run(
            ["chroot", root, str(_loader()), "--list", str(path)], capture_output=True, text=True, check=False
        )
        said = asked.stdout + asked.stderr
        if "not found" in said or (asked.returncode and "statically linked" not in said and not _is_loader(path)):
            broken.append(f"{path}: {said.strip()}")
    if broken:
        raise SystemExit("libraries are missing from the image:\n" + "\n".join(broken))
    if any((root / place / "sh").exists() for place in ("bin", "usr/bin")):
        raise SystemExit("a shell came into the image")


def _is_loader(path: Path) -> bool:
    return os.path.realpath(path) == os.path.realpath(_loader())


def _say(*argv: str, fails: bool = False) -> str:
    """What a program prints. With ``fails`` it may end with an error: it says that of what it did not find."""
    asked = subprocess.run(argv, capture_output=True, text=True, check=False)
    if asked.returncode and not fails:
        raise SystemExit(f"{' '.join(argv)}: {asked.stderr.strip()}")
    return asked.stdout


if __name__ == "__main__":
    main(Path(sys.argv[1]))
