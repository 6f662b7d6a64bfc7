from __future__ import annotations

import hmac
from pathlib import Path

import pytest
import structlog.testing
from pydantic import SecretStr

from proxygen.kit.errors import SettingsError
from proxygen.proxy.admin.tokens import OPERATOR, Tokens, parse_tokens
from proxygen.settings import AdminSettings

ANNA, BOB, OWN = "a" * 16, "b" * 40, "operators-own-token"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"# who may steer\n\nanna {ANNA}\nci@build  {BOB}\r\n", encoding="utf-8")
    path.chmod(0o600)
    return path


def tokens(file: Path | None = None, token: str | None = None) -> Tokens:
    return Tokens(AdminSettings(tokens_file=file, token=SecretStr(token) if token is not None else None))


def test_a_token_says_whose_it_is(file: Path) -> None:
    known = tokens(file, OWN)
    assert [known.owner(given) for given in (ANNA, BOB, OWN)] == ["anna", "ci@build", OPERATOR]
    for wrong in ("", ANNA[:-1], ANNA + "a", "anna", "\udcff", "ä" * 16):
        assert known.owner(wrong) is None


def test_without_a_token_nobody_is_anybody(file: Path) -> None:
    for none in (tokens(), tokens(token="")):
        assert not none.exist()
        assert none.owner("") is None
    file.write_text("# nobody yet\n", encoding="utf-8")
    assert not tokens(file).exist()


def test_every_token_is_compared_whichever_is_right(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How long it takes must not tell which one it was, or that it was one."""
    known, compared = tokens(file, OWN), []
    compare = hmac.compare_digest

    def counting(one: bytes, other: bytes) -> bool:
        compared.append((len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    for given in (OWN, ANNA, BOB, "wrong", ""):
        compared.clear()
        known.owner(given)
        assert compared == [(32, 32)] * 3


def test_a_file_that_changes_is_read_again(file: Path) -> None:
    known = tokens(file)
    file.write_text(f"carol {'c' * 16}\n", encoding="utf-8")
    assert known.owner("c" * 16) == "carol"
    assert known.owner(ANNA) is None


@pytest.mark.parametrize("text", ["anna\n", None])
def test_no_token_counts_of_a_file_that_cannot_be_read_any_more(file: Path, text: str | None) -> None:
    """It may have been changed to take one away. The operator's own stays; a good file counts again."""
    known = tokens(file, OWN)
    if text is None:
        file.unlink()
    else:
        file.write_text(text, encoding="utf-8")
    with structlog.testing.capture_logs() as logged:
        assert [known.owner(given) for given in (ANNA, OWN, ANNA)] == [None, OPERATOR, None]
    (line,) = logged
    assert (line["event"], line["log_level"]) == ("no token of the file counts", "error")
    file.write_text(f"anna {ANNA}\n", encoding="utf-8")
    assert known.owner(ANNA) == "anna"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("anna", "line 1: a line is NAME TOKEN"),
        (f"\nanna {ANNA} x", "line 2: a line is NAME TOKEN"),
        ("anna 0123456789abcde", "line 1: a token has at least 16 characters of plain text"),
        (f"anna {'ä' * 16}", "line 1: a token has at least 16 characters of plain text"),
        (f"anna {ANNA}\nanna {BOB}", "line 2: its name is taken"),
        (f"{OPERATOR} {ANNA}", "line 1: its name is taken"),
        (f"anna {ANNA}\nbob {ANNA}", "line 2: its token is that of another name"),
        (f"bob {OWN}", "line 1: its token is that of another name"),
        (f"an:na {ANNA}", "line 1: a name has letters, digits and . _ @ -, at most 64 of them"),
        (f"{'n' * 65} {ANNA}", "line 1: a name has letters, digits and . _ @ -, at most 64 of them"),
    ],
)
def test_a_file_with_a_fault_is_refused_by_line_and_quotes_nothing(file: Path, text: str, said: str) -> None:
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError) as refused:
        tokens(file, OWN)
    assert str(refused.value) == f"admin.tokens_file {file}: {said}"


def test_a_token_in_its_names_place_is_not_told() -> None:
    with pytest.raises(ValueError, match="line 1") as refused:
        parse_tokens(f"{BOB} bob", taken={})
    assert BOB not in str(refused.value)


def test_a_file_that_is_not_there_or_not_text_is_named(file: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="No such file"):
        tokens(tmp_path / "nowhere")
    file.write_bytes(b"anna \xff\xfe" + b"x" * 16)
    with pytest.raises(SettingsError, match="not text"):
        tokens(file)


def test_a_file_that_anybody_can_write_is_refused_and_one_that_anybody_can_read_is_told(file: Path) -> None:
    """Others may only read a secret that an orchestrator mounts so; who can write it can name himself in it."""
    file.chmod(0o646)
    with pytest.raises(SettingsError, match="chmod o-w"):
        tokens(file)
    file.chmod(0o644)
    with structlog.testing.capture_logs() as logged:
        assert tokens(file).owner(ANNA) == "anna"
    assert ["chmod o-r" in line["event"] for line in logged] == [True]


def test_a_short_operators_token_is_told_and_works() -> None:
    with structlog.testing.capture_logs() as logged:
        assert tokens(token="short").owner("short") == OPERATOR
    assert [line["event"] for line in logged] == ["admin.token is short"]
    assert "short" not in {value for key, value in logged[0].items() if key != "event"}
