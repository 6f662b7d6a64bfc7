"""What becomes of a path's prefix, on the way to an instance and back."""

from __future__ import annotations

from typing import Final, TypedDict

from proxygen.kit.templating import Expression, Regex, Variable
from proxygen.proxy.render.clients import ASKED_FOR
from proxygen.proxy.render.notation import literal
from proxygen.proxy.render.rawpaths import kept_variable
from proxygen.proxy.render.spots import Spot
from proxygen.proxy.render.surroundings import Surroundings
from proxygen.proxy.render.views import Rewrite


class Prefix(TypedDict):
    """What becomes of the path's prefix, there and back."""

    strip: bool
    rest: Variable | None
    kept: Variable | None
    prefix: str
    redirects: tuple[Rewrite, ...]
    cookie_paths: tuple[Rewrite, ...]


def prefix_of(at: Spot) -> Prefix:
    return Prefix(
        strip=at.strip,
        rest=at.rest,
        kept=None if at.rest is None else kept_variable(at.path),
        prefix=at.path,
        redirects=_redirects(at.path, at.around) if at.strip and "proxy_redirect" not in at.said_around else (),
        cookie_paths=_cookie_paths(at.path) if at.strip and "proxy_cookie_path" not in at.said_around else (),
    )


_REST_OF_PATH: Final = Variable("proxygen_rest")


def _redirects(prefix: str, around: Surroundings) -> tuple[Rewrite, ...]:
    """Where an answer leads, with the prefix that the instance did not see; not twice where it knows it after all. The
    first that matches counts."""
    pattern = literal(prefix)
    kept = Variable("proxygen_kept")
    knows_it = Regex(f"~^(?<{kept.name}>https?://[^/?#]+{pattern}(?:[/?#].*)?)$")
    unprefixed = Regex(f"~^/(?!{pattern[1:]}(?:[/?#]|$)|/)(?<{_REST_OF_PATH.name}>.*)$")
    hosts = [ASKED_FOR]
    if around.trusted_proxies:
        hosts.append(Variable("proxygen_asked_host"))
    return (
        Rewrite(match=knows_it, value=kept),
        *(
            Rewrite(match=Expression((scheme, host, "/")), value=Expression((scheme, host, f"{prefix}/")))
            for host in hosts
            for scheme in ("http://", "https://")
        ),
        Rewrite(match=unprefixed, value=Expression((f"{prefix}/", _REST_OF_PATH))),
    )


def _cookie_paths(prefix: str) -> tuple[Rewrite, ...]:
    unprefixed = Regex(f"~^/(?!{literal(prefix[1:])}(?:/|$))(?<{_REST_OF_PATH.name}>.+)$")
    return (
        Rewrite(match=Regex("~^/$"), value=prefix),
        Rewrite(match=unprefixed, value=Expression((f"{prefix}/", _REST_OF_PATH))),
    )
