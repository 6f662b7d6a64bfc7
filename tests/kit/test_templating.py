"""The one way in which a value becomes nginx text."""

from __future__ import annotations

from enum import Enum
from ipaddress import ip_address, ip_network
from pathlib import Path

import crossplane
import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxygen.kit.errors import TemplateError
from proxygen.kit.templating import MAX_TOKEN, Block, Expression, Regex, Templates, Variable, Word, lua, quote, word
from tests.corpora import hostile_text


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quoted") / "quoted.conf"


@given(hostile_text() | st.text(max_size=60))
def test_any_text_becomes_one_token_or_is_refused(scratch: Path, value: str) -> None:
    try:
        token = quote(value)
        scratch.write_text(f"before {token} after;\nlast;\n", encoding="utf-8")
    except (TemplateError, UnicodeEncodeError):
        assert (
            "$" in value
            or len(value.encode(errors="replace")) > MAX_TOKEN
            or any(ord(character) < 32 or 0xD800 <= ord(character) <= 0xDFFF for character in value)
        )
        return
    document = crossplane.parse(str(scratch), single=True, check_ctx=False, check_args=False)
    first, last = document["config"][0]["parsed"]
    assert (first["args"][0], len(first["args"]), first["args"][-1]) == ("before", 3, "after") or (
        first["directive"],
        len(first["args"]),
        first["args"][-1],
    ) == ("before", 2, "after")
    assert last["directive"] == "last"


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (8080, "8080"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[2001:db8::1]:80", "[2001:db8::1]:80"),
        ("", '""'),
        ("a b", '"a b"'),
        ('say "hi"', '"say \\"hi\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("*.example.com", '"*.example.com"'),
        ("#no comment", '"#no comment"'),
        (Variable("request_uri"), "$request_uri"),
        (Expression(("https://", Variable("host"), ":8443")), '"https://${host}:8443"'),
        (Regex("^/api/(.*)$"), '"^/api/(.*)$"'),
        (Expression(("<p>\ntwo lines</p>",)), '"<p>\ntwo lines</p>"'),
        (Block("as it is;\n"), "as it is;\n"),
    ],
)
def test_each_kind_of_value_has_its_form(value: object, token: str) -> None:
    assert quote(value) == token


@pytest.mark.parametrize(
    "value",
    [
        "$http_cookie",
        "a\nb",
        "tab\t",
        "nul\0",
        "x" * (MAX_TOKEN + 1),
        Expression(("$evil",)),
        None,
        True,
        1.5,
        ["list"],
        {"a": 1},
        object(),
    ],
)
def test_a_value_without_a_safe_form_is_refused(value: object) -> None:
    with pytest.raises(TemplateError):
        quote(value)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ name }}", "without the filter q"),
        ("{{ (name | q)[1:] }}", "without the filter q"),
        ("{{ name | upper }}", "without the filter q"),
        ("{{ missing | q }}", "missing"),
        ("{{ name.missing | q }}", "missing"),
        ("line one\n{% if %}", "own.j2:2"),
        ("{% include 'absent.j2' %}", "absent.j2"),
        ("{{ (nothing / 1000) | q }}", "NoneType"),
        ("{{ 1 / 0 }}", "ZeroDivisionError"),
        ("{% set x = name.upper(1, 2) %}", "TypeError"),
        ("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "RecursionError"),
    ],
)
def test_a_template_that_prints_what_it_must_not_is_refused_by_name(
    tmp_path: Path, template: str, message: str
) -> None:
    (tmp_path / "own.j2").write_text(template)
    with pytest.raises(TemplateError, match=r"own\.j2") as refused:
        Templates(tmp_path).render("own.j2", {"name": "a b", "nothing": None})
    assert message in str(refused.value)


def test_an_operators_template_replaces_ours_of_the_same_name_and_no_other(tmp_path: Path) -> None:
    (tmp_path / "404.html").write_text("gone")
    templates = Templates(tmp_path)
    assert templates.read("404.html") == "gone"
    assert "503" in templates.read("503.html")


def test_a_templates_directory_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="does not exist"):
        Templates(tmp_path / "absent")


def test_what_is_rendered_ends_with_a_line_break(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text("directive;")
    assert Templates(tmp_path).render("own.j2", {}) == "directive;\n"


@pytest.mark.parametrize("use", ["render", "read"])
def test_a_file_that_is_no_utf_8_is_refused_by_name_and_only_where_it_is_used(tmp_path: Path, use: str) -> None:
    """An editor's swap file beside the templates is nobody's template."""
    (tmp_path / "own.j2").write_bytes(b"# caf\xe9\n")
    (tmp_path / ".own.j2.swp").write_bytes(b"\0\xff")
    templates = Templates(tmp_path)
    assert "404" in templates.read("404.html")
    with pytest.raises(TemplateError, match=r"own\.j2 is not UTF-8"):
        templates.render("own.j2", {}) if use == "render" else templates.read("own.j2")


def test_a_file_that_changes_later_changes_nothing_until_it_is_read_anew(tmp_path: Path) -> None:
    """Not even what has not been rendered yet: an old set of templates is the old files, whole."""
    (tmp_path / "own.j2").write_text("{% include 'part.j2' %}")
    (tmp_path / "part.j2").write_text("old;")
    templates = Templates(tmp_path)
    (tmp_path / "part.j2").write_text("{% if %}")
    (tmp_path / "own.j2").unlink()
    (tmp_path / "404.html").write_text("new")
    assert templates.render("own.j2", {}) == "old;\n"
    assert templates.read("404.html") != "new"


def test_a_template_in_a_folder_of_the_directory_can_be_included(tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts/one.j2").write_text("one;")
    (tmp_path / "own.j2").write_text("{% include 'parts/one.j2' %}")
    assert Templates(tmp_path).render("own.j2", {}) == "one;\n"


class _Kind(Enum):
    NAME = "eth0"
    ODD = "a b"


def test_a_value_of_an_enumeration_is_quoted_as_what_it_stands_for() -> None:
    assert (quote(_Kind.NAME), quote(_Kind.ODD)) == ("eth0", '"a b"')


@pytest.mark.parametrize("character", list(" ;{}'\"#~*^$()<>|&\\"))
def test_nothing_that_nginx_reads_as_a_sign_goes_without_quotes(character: str) -> None:
    value = f"a{character}b"
    token = quote(Regex(value))
    assert token[0] == token[-1] == '"'


@pytest.mark.parametrize("character", list("._/:=%+[]-"))
def test_what_stands_in_addresses_and_names_needs_no_quotes(character: str) -> None:
    assert quote(f"a{character}b") == f"a{character}b"


@pytest.mark.parametrize("value", ["x" * MAX_TOKEN, "ä" * (MAX_TOKEN // 2), Expression(("x" * MAX_TOKEN,))])
def test_a_token_may_have_as_many_bytes_as_nginx_reads(value: object) -> None:
    assert len(quote(value).encode()) >= MAX_TOKEN


@pytest.mark.parametrize("value", ["ä" * (MAX_TOKEN // 2) + "x", Regex("x" * (MAX_TOKEN + 1))])
def test_bytes_are_counted_and_not_characters(value: object) -> None:
    with pytest.raises(TemplateError, match=f"a value of {MAX_TOKEN + 1} bytes is longer than nginx's {MAX_TOKEN}"):
        quote(value)


@pytest.mark.parametrize("value", ["\x1f", "a\x00"])
def test_control_characters_end_at_the_blank(value: str) -> None:
    with pytest.raises(TemplateError, match="control character"):
        quote(value)
    assert quote(" ") == '" "'


@pytest.mark.parametrize("value", [Regex("a\0"), Expression(("a\0",))])
def test_no_kind_of_value_holds_a_nul(value: object) -> None:
    with pytest.raises(TemplateError, match="NUL"):
        quote(value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (ip_address("10.0.0.1"), "10.0.0.1"),
        (ip_network("10.0.0.0/8"), "10.0.0.0/8"),
        (Word("eth0.7@x:y-z_"), "eth0.7@x:y-z_"),
        (Word("a" * 64), "a" * 64),
    ],
)
def test_a_word_of_frrs_is_written_as_it_is(value: object, text: str) -> None:
    assert word(value) == text


@pytest.mark.parametrize(
    "value", [Word("a" * 65), Word("a b"), Word(".a"), Word("a\n"), "eth0", True, ip_address("::1"), _Kind.NAME, None]
)
def test_what_frr_could_read_otherwise_is_no_word(value: object) -> None:
    with pytest.raises(TemplateError, match="in FRR's language"):
        word(value)


@pytest.mark.parametrize("written", ["a;\r\nb;\r\n", "a;\rb;\r", "a;\nb;\n"])
def test_lines_end_as_in_any_text_file(tmp_path: Path, written: str) -> None:
    (tmp_path / "own.j2").write_bytes(written.encode())
    templates = Templates(tmp_path)
    assert templates.render("own.j2", {}) == templates.read("own.j2") == "a;\nb;\n"


def test_nothing_rendered_is_nothing(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text("")
    (tmp_path / "blank.j2").write_text("{% if none %}\nx\n{% endif %}\n")
    assert (Templates(tmp_path).render("own.j2", {}), Templates(tmp_path).render("blank.j2", {})) == ("", "")


def test_which_template_is_the_operators_is_known(tmp_path: Path) -> None:
    (tmp_path / "server.conf.j2").write_text("")
    own = Templates(tmp_path)
    assert (own.is_own("server.conf.j2"), own.is_own("location.conf.j2")) == (True, False)
    assert not Templates().is_own("server.conf.j2")


def test_a_file_that_is_missing_is_named() -> None:
    with pytest.raises(TemplateError, match=r"template absent\.html is missing"):
        Templates().read("absent.html")


def test_a_file_that_cannot_be_read_is_refused_where_it_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root may read everything, so the refusal is made."""
    (tmp_path / "own.j2").write_text("x")
    read = Path.read_bytes

    def refuse(path: Path) -> bytes:
        if path.name == "own.j2":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(TemplateError, match=r"own\.j2 cannot be read: Permission denied"):
        Templates(tmp_path).read("own.j2")


def test_both_filters_are_there_for_templates(tmp_path: Path) -> None:
    (tmp_path / "own.j2").write_text("{{ text | q }} {{ name | word }}\n")
    assert Templates(tmp_path).render("own.j2", {"text": "a b", "name": Word("eth0")}) == '"a b" eth0\n'


@pytest.mark.parametrize("text", ["web_stable", "10.0.0.1:80/1/1/5/0/p", "[2001:db8::1]:80/1/0/10/0/b", "hash http_x"])
def test_what_is_plain_stands_in_a_text_of_lua_as_it_is(text: str) -> None:
    assert lua(text) == text


@pytest.mark.parametrize("value", ['a"b', "a\\b", "a\nb", "a}b", "", 7, None, "é", "$x"])
def test_what_could_mean_more_in_lua_is_refused(value: object) -> None:
    with pytest.raises(TemplateError, match="Lua"):
        lua(value)
