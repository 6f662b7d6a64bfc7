"""How values are written in nginx's language."""

from __future__ import annotations

from proxygen.kit.templating import Variable
from proxygen.tags.shares import Share


def literal(text: str) -> str:
    """A regular expression for exactly this text, without backslashes, which nginx would want doubled."""
    return "".join(character if character.isalnum() or character in "/_-" else f"[{character}]" for character in text)


def percent(share: Share) -> str:
    return f"{share // 100}.{share % 100:02}%"


def header_variable(name: str | None) -> Variable:
    return Variable(f"http_{(name or '').lower().replace('-', '_')}")
