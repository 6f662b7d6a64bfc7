"""Which service names Consul can be asked for. Pure.

Consul lets any name be registered, and its HTTP server then cleans every path (seen on 1.8.7 and 1.14.0): an empty,
``.`` or ``..`` part is answered with a redirect to another path, a control character with 400. All else is asked for
and found: inner slashes, blanks, ``?``, ``#``, ``%``, quotes and other scripts.
"""

from __future__ import annotations


def name_problem(name: str) -> str:
    """Say why a service of that name cannot be served; empty where it can."""
    if not name:
        return "an empty name cannot be asked for in Consul's API"
    if any(character < " " or character == "\x7f" for character in name):
        return "a name with a control character cannot be asked for in Consul's API"
    parts = name.split("/")
    if any(part in (".", "..") for part in parts):
        return "a name with a part . or .. between slashes cannot be asked for in Consul's API"
    if "" in parts:
        return "a name with a slash at an end, or two in a row, cannot be asked for in Consul's API"
    return ""


def is_askable(name: str) -> bool:
    """Tell whether ``/v1/health/service/NAME`` can be asked for."""
    return not name_problem(name)
