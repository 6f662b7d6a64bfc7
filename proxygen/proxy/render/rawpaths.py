"""A request's path less a prefix, as the client wrote it: neither decoded nor with its slashes merged."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from proxygen.kit.templating import Expression, Regex, Variable
from proxygen.proxy.render.views import MapLine, MapView

DIRECT: Final = Variable("proxygen_direct")
"""1 while a request is at the path that the client wrote; empty after an error page, ``try_files`` or the like has led
it to another."""

_WRITTEN: Final = Variable("proxygen_written")
_SEPARATOR: Final = "(?:/|%2[Ff])"
_NO_DOT_SEGMENTS: Final = f"(?![^?]*{_SEPARATOR}(?:[.]|%2[Ee]){{1,2}}(?:{_SEPARATOR}|[?]|$))"


def rest_variable(prefix: str) -> Variable:
    """The same for the same prefix, whichever service states it."""
    return Variable(f"proxygen_rest_{_digits(prefix)}")


def kept_variable(prefix: str) -> Variable:
    """Of each prefix its own, so that a subrequest to another one leaves it as it is."""
    return Variable(f"proxygen_kept_{_digits(prefix)}")


def _digits(prefix: str) -> str:
    return sha256(prefix.encode()).hexdigest()[:16]


def rest_view(prefix: str) -> MapView:
    """Return the map that takes a prefix off what the client wrote.

    It is empty where that does not begin with the prefix, or where its dot segments lead elsewhere than to what follows
    the prefix: nginx then passes on the path by which it found the route.
    """
    pattern = f"~^1{_written(prefix)}"
    return MapView(
        source=Expression((DIRECT, Variable("request_uri"))),
        variable=rest_variable(prefix),
        default="",
        lines=(
            # A fragment is no part of a request's target; nginx drops it.
            MapLine(match=Regex(f"{pattern}{_NO_DOT_SEGMENTS}(?<{_WRITTEN.name}>/[^#]*)$"), value=_WRITTEN),
            MapLine(match=Regex(f"{pattern}(?<{_WRITTEN.name}>(?:[?][^#]*)?)$"), value=Expression(("/", _WRITTEN))),
        ),
    )


def _written(prefix: str) -> str:
    """A regular expression for a prefix in all the ways in which a client can write its characters."""
    return "".join(character if character == "/" else _either(character) for character in prefix)


def _either(character: str) -> str:
    literal = character if character.isalnum() else f"[{character}]"
    digits = "".join(f"[{digit.upper()}{digit}]" if digit.isalpha() else digit for digit in f"{ord(character):02x}")
    return f"(?:{literal}|%{digits})"
