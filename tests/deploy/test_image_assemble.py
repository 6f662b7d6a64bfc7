"""The proof at the end of the image's build: it refuses a root in which a program would not start, or a shell."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import pytest

from tests.harness.tools import unusable

SCRIPT = Path(__file__).parents[2] / "deploy" / "image" / "assemble.py"


@pytest.fixture
def assemble() -> ModuleType:
    if os.getuid() != 0:
        unusable("the proof changes its root, which needs root")
    spec = importlib.util.spec_from_file_location("assemble", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def root(assemble: ModuleType, tmp_path: Path) -> Path:
    """A root with one program of this machine and all that it needs."""
    taken: set[Path] = set()
    assemble._take(Path("/usr/bin/tar"), tmp_path, taken)
    for path in list(assemble._libraries(tmp_path)):
        assemble._take(path, tmp_path, taken)
    assemble._make_directories(tmp_path)
    return tmp_path


def test_a_root_with_all_libraries_is_accepted(assemble: ModuleType, root: Path) -> None:
    assert len(list(assemble._elf_files(root))) > 2
    assemble._prove(root)


def test_a_missing_library_ends_the_build_and_is_named(assemble: ModuleType, root: Path) -> None:
    library = next(path for path in root.rglob("libacl.so*") if path.is_symlink())
    library.unlink()
    with pytest.raises(SystemExit, match=r"/usr/bin/tar: .*libacl\.so"):
        assemble._prove(root)


def test_a_shell_ends_the_build(assemble: ModuleType, root: Path) -> None:
    (root / "usr" / "bin" / "sh").write_text("")
    with pytest.raises(SystemExit, match="a shell came into the image"):
        assemble._prove(root)
