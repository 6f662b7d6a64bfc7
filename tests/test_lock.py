"""requirements.lock is what pyproject.toml asks for, on every Python that it promises, and comes from nowhere by name.

None of this asks a registry; `tests/run --renew` does.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path

import pytest
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy._setup import PYTHONS, environment, locking

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
GROUPS = PROJECT["dependency-groups"]
EXTRAS = PROJECT["project"]["optional-dependencies"]
_ENTRY = re.compile(
    r"^([a-z0-9-]+)==(\S+)(?: ; (.*?))? \\\n((?: {4}--hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)", re.MULTILINE
)
_VIA = re.compile(r"^    # +(?:via )?(\S.*)$", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pin:
    """One package of the lock."""

    name: str
    version: str
    marker: Marker | None
    hashes: frozenset[str]
    via: frozenset[str]

    def applies(self, python: str) -> bool:
        return self.marker is None or self.marker.evaluate(on(python))


def on(python: str) -> dict[str, str]:
    """What markers are judged by: a machine like this one with that Python."""
    return {**default_environment(), "python_version": python, "python_full_version": f"{python}.9", "extra": ""}  # type: ignore[dict-item]


def read(path: Path) -> list[Pin]:
    text = path.read_text(encoding="utf-8")
    entries = list(_ENTRY.finditer(text))
    ends = [*(entry.start() for entry in entries[1:]), len(text)]
    return [
        Pin(
            name=entry[1],
            version=entry[2],
            marker=Marker(entry[3]) if entry[3] else None,
            hashes=frozenset(re.findall(r"[0-9a-f]{64}", entry[4])),
            via=frozenset(_VIA.findall(text[entry.end() : end])) - {"via"},
        )
        for entry, end in zip(entries, ends, strict=True)
    ]


LOCK = read(environment.LOCK)


def asked(requirements: Iterable[object]) -> Iterator[Requirement]:
    """The requirements of a table; those of a group that it includes are the group's own."""
    return (Requirement(each) for each in requirements if isinstance(each, str))


EVERYTHING = [
    *asked(PROJECT["project"]["dependencies"]),
    *asked(PROJECT["build-system"]["requires"]),
    *(requirement for table in (EXTRAS, GROUPS) for each in table.values() for requirement in asked(each)),
]


def pinned(name: str, python: str) -> Pin | None:
    found = [pin for pin in LOCK if pin.name == canonicalize_name(name) and pin.applies(python)]
    assert len(found) <= 1, f"{name} has several versions on Python {python}"
    return found[0] if found else None


def test_the_lock_has_the_pythons_that_are_promised() -> None:
    promised = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["project"]["classifiers"]))
    assert tuple(promised) == PYTHONS


def test_every_group_is_locked() -> None:
    assert set(environment.GROUPS) == set(GROUPS)


@pytest.mark.parametrize("python", PYTHONS)
def test_what_the_project_asks_for_is_locked(python: str) -> None:
    """Where pyproject.toml was changed and the lock was not, `tests/run --renew` brings it in step."""
    for requirement in EVERYTHING:
        pin = pinned(requirement.name, python)
        assert pin, f"{requirement} is not in the lock"
        assert requirement.specifier.contains(pin.version), f"{requirement}, but the lock has {pin.version}"


def needs(package: Distribution) -> list[Requirement]:
    """What an installed package needs here, its extras left aside."""
    here = {**default_environment(), "extra": ""}
    requirements = map(Requirement, package.requires or ())
    return [each for each in requirements if each.marker is None or each.marker.evaluate(here)]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def installed() -> list[Distribution]:
    """The packages of this environment that are there as the lock has them."""
    here = default_environment()["python_version"]
    found = [(package, pinned(package.name, here)) for package in distributions()]
    return [package for package, pin in found if pin and pin.version == package.version]


def test_what_the_locked_packages_need_is_locked(installed: list[Distribution]) -> None:
    assert len(installed) > 30
    for package in installed:
        for need in needs(package):
            pin = pinned(need.name, default_environment()["python_version"])
            assert pin, f"{package.name} needs {need}, which is not in the lock"
            assert need.specifier.contains(pin.version, prereleases=True), f"{package.name} needs {need}"


def test_nothing_is_locked_that_nobody_asks_for() -> None:
    names = {pin.name for pin in LOCK}
    own = {canonicalize_name(requirement.name) for requirement in EVERYTHING}
    for pin in LOCK:
        assert pin.via, pin.name
        for who in pin.via:
            assert pin.name in own if who.startswith("proxygen (") else who in names, f"{pin.name} is there via {who}"


@pytest.mark.parametrize("path", [environment.LOCK, *map(ROOT.joinpath, locking.SUBSETS)], ids=lambda path: path.name)
def test_every_package_has_hashes_and_no_place_is_named(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(read(path)) == len(re.findall(r"^\S", text, re.MULTILINE)) > 10
    assert not re.search(r"://|^\s*#.*/|index|find-links", text, re.MULTILINE)


@pytest.mark.parametrize(
    ("subset", "roots"),
    [
        ("requirements.txt", [*PROJECT["project"]["dependencies"], *EXTRAS["docker"], *EXTRAS["network"]]),
        ("requirements-build.txt", GROUPS["image"]),
    ],
)
def test_a_subset_is_the_locks_own_part(subset: str, roots: list[str], installed: list[Distribution]) -> None:
    """The same versions by the same hashes, of what it is for, of all that this needs, and of nothing else."""
    pins = {(pin.name, pin.version, pin.hashes) for pin in read(ROOT / "deploy" / "image" / subset)}
    assert pins <= {(pin.name, pin.version, pin.hashes) for pin in LOCK}
    names = {name for name, _, _ in pins}
    wanted = {canonicalize_name(each.name) for each in asked(roots)}
    assert wanted <= names <= reached(wanted)
    for package in installed:
        if canonicalize_name(package.name) in names:
            assert {canonicalize_name(need.name) for need in needs(package)} <= names, package.name


def reached(names: set[str]) -> set[str]:
    """The packages and all that they may need, by what the lock says."""
    below = {pin.name for pin in LOCK if pin.via & names}
    return names if below <= names else reached(names | below)
