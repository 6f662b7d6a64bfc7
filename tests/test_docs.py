"""What the pages say is so: links lead somewhere, tables and names are the code's, examples can be used."""

from __future__ import annotations

import json
import os
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from proxygen.cli import proxygen
from proxygen.proxy.nginx.tokens import read_directives
from proxygen.registration.definition import read_definitions
from proxygen.settings import Settings, knobs, load
from proxygen.settings.retired import RETIRED
from proxygen.tags import KEYS, lint_tags

ROOT = Path(__file__).parents[1]
WRITTEN_BY_HAND = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "CONTRIBUTING.md",
    *sorted(ROOT.glob("deploy/**/*.md")),
    *(page for page in sorted(ROOT.glob("docs/**/*.md")) if page.parent.name != "reference"),
]
PAGES = [*WRITTEN_BY_HAND, *sorted(ROOT.glob("docs/reference/*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_CODE = re.compile(r"`([^`\n]+)`")

_BY_BARE_NAME = re.compile(r"install (-\S+ )*['\"]?proxygen\b(?![-/])|proxygen\[[a-z]")

of_pages = pytest.mark.parametrize("page", WRITTEN_BY_HAND, ids=lambda page: str(page.relative_to(ROOT)))


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in _FENCE.findall(page.read_text(encoding="utf-8")) if name == language]


def inline_code(page: Path) -> list[str]:
    return _CODE.findall(_FENCE.sub("", page.read_text(encoding="utf-8")))


def anchors(page: Path) -> set[str]:
    """The names under which a page's headings can be linked to, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", _FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of each proxygen command on the page: a shell's line, or a piece of code in a sentence."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [code.partition("|")[0] if re.search(r"\w\|\w", code) else code for code in inline_code(page)]
    for line in lines:
        if line.startswith("proxygen "):
            words = shlex.split(line, comments=True)
            yield words[1 : words.index("|") if "|" in words else None]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings_that_exist(page: Path) -> None:
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize(
    "text", [*PAGES, *sorted((ROOT / "proxygen").rglob("*.py"))], ids=lambda text: str(text.relative_to(ROOT))
)
def test_nobody_is_sent_to_a_package_index_for_proxygen(text: Path) -> None:
    """It is on none: whoever asks for it by its bare name gets what a stranger put there."""
    assert not _BY_BARE_NAME.search(text.read_text(encoding="utf-8"))


def test_bare_names_are_seen() -> None:
    assert all(
        map(_BY_BARE_NAME.search, ("pip install proxygen", "pip install -U 'proxygen[top]'", "needs proxygen[aws]"))
    )
    assert not _BY_BARE_NAME.search("pip install './proxygen-0.1.0-py3-none-any.whl[top]', pip install '.[top]'")


def test_every_page_is_listed_in_an_index() -> None:
    linked = {
        Path(os.path.normpath(index.parent / link))
        for index in (ROOT / "README.md", ROOT / "docs" / "README.md", ROOT / "docs" / "decisions" / "README.md")
        for link in _LINK.findall(index.read_text(encoding="utf-8"))
    }
    assert {page for page in PAGES if page.name not in ("README.md", "benchmarks.md")} <= linked


def test_the_readmes_tag_table_is_the_codes() -> None:
    rows = [
        f"| `{key.name}`{' (may repeat)' if key.repeatable else ''} | {key.syntax} | {key.meaning} |" for key in KEYS
    ]
    table = "\n".join(["| Key | Value | Meaning |", "|---|---|---|", *rows])
    assert f"\n{table}\n\n" in (ROOT / "README.md").read_text(encoding="utf-8")


def _is_module(package: str, name: str) -> bool:
    """Whether a module or a room of one of our packages is called so."""
    return any((ROOT / "proxygen").rglob(f"{package}/{name}.py")) or (ROOT / "proxygen" / package / name).is_dir()


@of_pages
def test_settings_that_a_page_names_exist(page: Path) -> None:
    """`slice.name` is a setting, or a module that is called like a slice, or in a package that is.

    What is retired stands only where people upgrade, or ask why.
    """
    known = {knob.key for knob in knobs()}
    if page.name == "CHANGELOG.md" or page.parent.name == "decisions":
        known |= RETIRED.keys()
    for code in inline_code(page):
        match = re.match(r"([a-z]+)\.([a-z_]+)(?: = .*)?$", code)
        if match and match[1] in Settings.model_fields:
            is_module = match[2] == "py" or _is_module(match[1], match[2])
            assert f"{match[1]}.{match[2]}" in known or is_module, code


@of_pages
def test_files_that_a_page_names_exist(page: Path) -> None:
    """A path with an ending, from the root or the package. The changelog and the decisions tell of the past."""
    if page.name == "CHANGELOG.md" or page.parent.name == "decisions":
        return
    for code in inline_code(page):
        if re.fullmatch(r"(?:proxygen|proxy|cli|tests|docs|deploy)/[\w./-]+\.(?:py|md|j2|toml|ya?ml)", code):
            assert any((root / code).exists() for root in (ROOT, ROOT / "proxygen", ROOT / "tests")), code


_NOT_LISTED_WHOLE = {"proxy", "admin", "registration", "network", "tags", "settings"}


def _map_of_the_rooms() -> dict[str, set[str]]:
    """By room the modules that docs/architecture.md names, of those where it names them all."""
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8").partition("## The map")[2]
    rows = re.findall(r"^\| `(\w+)/` \| (.*) \|$", page, re.MULTILINE)
    return {room: set(_CODE.findall(text)) for room, text in rows if room not in _NOT_LISTED_WHOLE}


@pytest.mark.parametrize("room", sorted(_map_of_the_rooms()))
def test_every_module_of_a_room_is_on_the_map(room: str) -> None:
    """And no other is."""
    (place,) = (path for path in (ROOT / "proxygen" / room, ROOT / "proxygen" / "proxy" / room) if path.is_dir())
    modules = {path.stem for path in place.glob("*.py")} - {"__init__"}
    assert {name for name in _map_of_the_rooms()[room] if name.isidentifier()} == modules


@of_pages
def test_variables_that_a_page_names_exist(page: Path) -> None:
    named = set(re.findall(r"\bPROXYGEN_[A-Z_]+\b", page.read_text(encoding="utf-8")))
    of_options = {option.envvar for option in _command(["register"])[0].params}
    assert named <= {knob.variable for knob in knobs()} | of_options | {"PROXYGEN_CONFIG"}


@of_pages
def test_tests_that_a_page_names_exist(page: Path) -> None:
    named = {code for code in inline_code(page) if re.fullmatch(r"test_\w+", code)}
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    known = {name for source in sources for name in re.findall(r"\bdef (test_\w+)", source)} if named else set()
    assert named <= known


@of_pages
def test_commands_and_flags_that_a_page_shows_exist(page: Path) -> None:
    for words in commands(page):
        command, rest = _command(words)
        flags = {name for option in command.params for name in (*option.opts, *option.secondary_opts)} | {"--help"}
        used = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
        assert used <= flags, " ".join(words)


def _command(words: list[str]) -> tuple[click.Command, list[str]]:
    command: click.Command = proxygen
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(click.Context(command), words[0])
        assert found is not None, " ".join(words)
        command, words = found, words[1:]
    return command, words


@of_pages
def test_tags_that_a_page_sets_are_valid_together_with_a_route(page: Path) -> None:
    needs = ["proxygen.route=app.example.com", "proxygen.tls=auto"]
    for words in commands(page):
        if words[:2] != ["tags", "set"]:
            continue
        stated = [f"proxygen.{word}" for word in words[3:] if "=" in word]
        missing = [need for need in needs if need.partition("=")[0] not in {tag.partition("=")[0] for tag in stated}]
        assert lint_tags([*stated, *missing]) == [], " ".join(words)


@of_pages
def test_toml_on_a_page_is_settings_that_load(page: Path, tmp_path: Path) -> None:
    for number, block in enumerate(blocks(page, "toml")):
        file = tmp_path / f"{number}.toml"
        file.write_text(block, encoding="utf-8")
        load(file=file, environment={})


@of_pages
def test_json_on_a_page_is_a_service_definition_without_a_fault(page: Path) -> None:
    for block in blocks(page, "json"):
        assert json.loads(block)
        for definition in read_definitions(block):
            assert lint_tags(definition.tags, definition.meta) == []


@of_pages
def test_nginx_on_a_page_can_be_read(page: Path) -> None:
    for block in blocks(page, "nginx"):
        assert list(read_directives(block))


# --- what of the code is broken on purpose


def test_what_is_mutated_and_what_runs_on_it_is_there() -> None:
    """Of a module that has moved mutmut breaks nothing, and says nothing."""
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    for key in ("source_paths", "only_mutate", "also_copy", "pytest_add_cli_args_test_selection"):
        assert [named for named in said[key] if not list(ROOT.glob(named))] == [], key
    for option in said["pytest_add_cli_args"]:
        if option.startswith("--deselect="):
            path, _, test = option.removeprefix("--deselect=").partition("::")
            assert f"def {test}(" in (ROOT / path).read_text(encoding="utf-8"), option


def test_the_modules_with_a_score_are_mutated() -> None:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    said = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["mutmut"]
    mutated = {path for named in said["only_mutate"] for path in ROOT.glob(named)}
    table = page.partition("| Module | Killed |")[2].partition("\n\n")[0]
    scored = _CODE.findall(table)
    assert scored
    assert [name for name in scored if ROOT / "proxygen" / f"{name}.py" not in mutated] == []
    (pattern,) = re.findall(r"mutmut run .*'(proxygen[\w.]+)\*'", page)
    assert ROOT / f"{pattern.replace('.', '/')}.py" in mutated
