"""The Jinja2 environments, and the one way in which a value becomes text of nginx, of FRR, or of a web page.

Every ``{{ … }}`` must end in the filter ``q``, for FRR in ``word``, in a text of Lua in ``lua``; anything else is
refused while rendering. They take typed values only, so what a template prints is a number, an address, a variable that
we named, or a quoted literal.
In a web page every value is escaped, and there is no way to say that one is not to be.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Final

import jinja2

from proxygen.kit.errors import TemplateError, quoted

_BARE: Final = re.compile(r"[A-Za-z0-9_./:=%+\[\]-]+")
"""What needs no quotes: nothing in it ends a token, begins a variable or a comment."""

_FRR_WORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:@-]{0,63}")
"""A link's name may hold nearly anything (dev_valid_name in the kernel); nobody's does."""

_LUA: Final = re.compile(r"[A-Za-z0-9_.:/\[\] -]{1,1000}")
"""What stands in a text of Lua as it is."""

MAX_TOKEN: Final = 4_000
"""nginx reads at most 4 096 bytes of one token (ngx_conf_file.c); the rest is left for the quotes."""


class Quoted(str):
    """Text that nginx may read as it stands."""

    __slots__ = ()


class Block(Quoted):
    """Whole lines: a rendered fragment, or a file of the operator's own."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Variable:
    """An nginx variable; the name is ours or came through a type."""

    name: str


@dataclass(frozen=True, slots=True)
class Expression:
    """Literals and variables in one token, such as ``https://${host}:8443``; a page too, which may run over lines."""

    parts: tuple[str | Variable, ...]


@dataclass(frozen=True, slots=True)
class Regex:
    """A regular expression that we built; the only literal in which ``$`` may stand."""

    pattern: str


@dataclass(frozen=True, slots=True)
class Word:
    """A name in FRR's configuration, such as a link's."""

    text: str


def quote(value: object) -> Quoted:
    """Turn one typed value into one nginx token.

    In double quotes nginx gives a meaning to ``\\``, ``"`` and ``$`` only (ngx_conf_read_token); the first two
    can be escaped, ``$`` cannot, so a literal with ``$`` is refused.
    """
    if isinstance(value, Quoted):
        return value
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises with the name that nobody defined
    if isinstance(value, bool) or value is None:
        raise TemplateError(f"{value!r} has no form in nginx's language")
    if isinstance(value, int):
        return Quoted(str(value))
    if isinstance(value, Variable):
        return Quoted(f"${value.name}")
    if isinstance(value, Expression):
        return _token(
            "".join(f"${{{part.name}}}" if isinstance(part, Variable) else _escape(part) for part in value.parts)
        )
    if isinstance(value, Regex):
        return _token(_escape(value.pattern, dollar=True))
    if isinstance(value, Enum):
        return quote(value.value)
    if isinstance(value, str):
        # A line break would end a comment in which a template prints the value.
        if any(ord(character) < 32 for character in value):
            raise TemplateError(f"{value!r} holds a control character")
        return _token(_escape(value))
    raise TemplateError(f"a {type(value).__name__} has no form in nginx's language")


def word(value: object) -> Quoted:
    """Turn one typed value into one word of FRR's language, which has no quotes: what needs some is refused."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises with the name that nobody defined
    if isinstance(value, IPv4Address | IPv4Network) or (isinstance(value, int) and not isinstance(value, bool)):
        return Quoted(str(value))
    if isinstance(value, Word):
        if not _FRR_WORD.fullmatch(value.text):
            raise TemplateError(f"{quoted(value.text)} cannot be written in FRR's language")
        return Quoted(value.text)
    if isinstance(value, Enum):
        return word(value.value)
    raise TemplateError(f"a {type(value).__name__} has no form in FRR's language")


def lua(value: object) -> Quoted:
    """Turn one typed value into what stands between the quotes of a text of Lua: what would mean more is refused."""
    if isinstance(value, jinja2.Undefined):
        str(value)  # raises with the name that nobody defined
    if not isinstance(value, str) or not _LUA.fullmatch(value):
        raise TemplateError(f"{quoted(str(value))} cannot be written in a text of Lua")
    return Quoted(value)


def _escape(text: str, *, dollar: bool = False) -> str:
    if "$" in text and not dollar:
        raise TemplateError(f"{text!r} holds a $, which nginx cannot be told to take literally")
    if "\0" in text:
        raise TemplateError("a NUL has no form in nginx's language")
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _token(text: str) -> Quoted:
    if len(text.encode()) > MAX_TOKEN:
        raise TemplateError(f"a value of {len(text.encode())} bytes is longer than nginx's {MAX_TOKEN}")
    return Quoted(text if _BARE.fullmatch(text) else f'"{text}"')


def _only_quoted(value: object) -> object:
    if isinstance(value, Quoted):
        return value
    raise TemplateError(f"{value!r} is printed without the filter q, word or lua")


class Templates:
    """The shipped templates, with the operator's own in front of them where the file name is the same.

    All files are read when it is made: however they change afterwards, the same templates render.
    """

    def __init__(self, own: Path | None = None) -> None:
        """Raise TemplateError where the directory cannot be read. A file that cannot be used is refused by `render`
        or `read`: what an editor leaves beside the templates is nobody's template."""
        if own is not None and not own.is_dir():
            raise TemplateError(f"the templates directory {own} does not exist")
        self.own: Final = own
        self._files: Final = _read_all(_shipped()) | (_read_all(own) if own is not None else {})
        self._environment: Final = jinja2.Environment(
            loader=jinja2.FunctionLoader(self._source),
            undefined=jinja2.StrictUndefined,
            finalize=_only_quoted,
            # nginx is not HTML: escaping is the filter q's work.
            autoescape=False,  # noqa: S701
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            auto_reload=False,
        )
        self._environment.filters["q"] = quote
        self._environment.filters["word"] = word
        self._environment.filters["lua"] = lua

    def render(self, name: str, context: Mapping[str, object]) -> Block:
        """Render one template. Raise TemplateError with its name and line."""
        try:
            text = self._environment.get_template(name).render(context)
        except TemplateError as error:
            raise TemplateError(f"template {name}: {error}") from error
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"template {error.filename or name}:{error.lineno}: {error.message}") from error
        except jinja2.TemplateError as error:
            raise TemplateError(f"template {name}: {error.message or type(error).__name__}") from error
        except Exception as error:
            # A template is a program: it can divide by zero, add None to a number, or run out of stack.
            raise TemplateError(f"template {name}: {type(error).__name__}: {error}") from error
        return Block(text if text.endswith("\n") or not text else text + "\n")

    def is_own(self, name: str) -> bool:
        """Whether the operator's template stands in front of the shipped one."""
        return self.own is not None and self._files[name].path.is_relative_to(self.own)

    def read(self, name: str) -> str:
        """Return a file of the templates directory as it is, such as a page."""
        found = self._source(name)
        if found is None:
            raise TemplateError(f"template {name} is missing")
        return found[0]

    def _source(self, name: str) -> tuple[str, str, None] | None:
        """Return a file's text and path, as jinja2 wants them."""
        file = self._files.get(name)
        if file is None:
            return None
        if isinstance(file.content, OSError):
            raise TemplateError(f"{file.path} cannot be read: {file.content.strerror}") from file.content
        try:
            text = file.content.decode()
        except UnicodeDecodeError as error:
            raise TemplateError(f"{file.path} is not UTF-8: {error.reason} at byte {error.start}") from error
        # As a file that is opened as text.
        return text.replace("\r\n", "\n").replace("\r", "\n"), str(file.path), None


class HtmlTemplates:
    """The templates of the status page: what they print is text, whatever stands in it.

    Only the shipped ones: a page that an operator changed could no longer be counted on to escape.
    """

    def __init__(self) -> None:
        directory = _shipped() / "admin"
        self._environment: Final = jinja2.Environment(
            loader=jinja2.FileSystemLoader(directory),
            undefined=jinja2.StrictUndefined,
            autoescape=True,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        # What turns a value into markup is not there to be used.
        for name in ("safe", "urlize", "xmlattr", "tojson"):
            del self._environment.filters[name]

    def render(self, name: str, context: Mapping[str, object]) -> str:
        """Render one page; what is undefined, or no template, raises jinja2's errors: it is our mistake."""
        return self._environment.get_template(name).render(context)


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    content: bytes | OSError


def _read_all(directory: Path) -> dict[str, _File]:
    """Read every regular file below a directory, by its path inside."""
    return {path.relative_to(directory).as_posix(): _read(path) for path in directory.rglob("*") if path.is_file()}


def _read(path: Path) -> _File:
    try:
        return _File(path, path.read_bytes())
    except OSError as error:
        return _File(path, error)


def _shipped() -> Path:
    """The wheel carries the templates inside the package; a checkout has them beside it."""
    package = Path(__file__).parents[1]
    inside = package / "templates"
    return inside if inside.is_dir() else package.parent / "templates"
