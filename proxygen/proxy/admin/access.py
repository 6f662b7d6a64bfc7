"""Who may write, and by what way.

Anyone who reaches a listener may read. Over TCP a write needs a bearer token, and without any in the settings there
are no writes at all; the unix socket's file mode is its own guard. No cookie exists, so there is nothing that another
site's request could ride on; what such a request looks like is refused all the same, before its token is looked at.
"""

from __future__ import annotations

import pwd
import socket
import struct
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final, NoReturn

from aiohttp import hdrs, web
from yarl import URL

from proxygen.kit.aio import Pace
from proxygen.kit.log import get_logger
from proxygen.proxy.admin.tokens import Tokens

Writers = Callable[[web.Request], str]
"""Returns who writes; raises an HTTP error for a request that may not."""

_REFUSALS: Final = 10
"""Of one kind at once that leave a line each."""
_REFUSAL_RATE: Final = 0.2
"""And then so many a second."""

_log = get_logger(__name__)


def anyone(request: web.Request) -> str:
    """Let every request write: for the unix socket, which only its owner can open. It is the user who asks."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    if connection is None or connection.family != socket.AF_UNIX:
        return "anyone"
    # struct ucred of unix(7): pid, uid, gid.
    _, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")))
    try:
        return f"{pwd.getpwuid(uid).pw_name} (local)"
    except KeyError:
        return f"uid {uid} (local)"


class _Refusals:
    """Lines of the log about writes that are not let in, no more than a disk can bear."""

    def __init__(self) -> None:
        self._pace: Final = Pace(burst=_REFUSALS, rate=_REFUSAL_RATE)
        self._untold = 0

    def tell(self, request: web.Request, reason: str) -> bool:
        """Return whether there was room for it."""
        if not self._pace.try_step():
            self._untold += 1
            return False
        _log.warning("write refused", reason=reason, path=request.path, remote=request.remote, untold=self._untold)
        self._untold = 0
        return True


class Bearer:
    """Lets requests write that carry a token; none at all where there is no token."""

    def __init__(self, tokens: Tokens) -> None:
        self._tokens: Final = tokens
        self._wrong: Final = _Refusals()
        # Apart: what another site's page sends must not use up what an operator who mistypes is told.
        self._others: Final = _Refusals()

    def __call__(self, request: web.Request) -> str:
        try:
            self._refuse_what_no_token_opens(request)
        except web.HTTPException as error:
            self._others.tell(request, error.reason)
            raise
        scheme, _, given = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        owner = self._tokens.owner(given.strip())
        if scheme.lower() != "bearer" or owner is None:
            self._refuse(request, given=bool(given))
        return owner

    def _refuse_what_no_token_opens(self, request: web.Request) -> None:
        if not self._tokens.exist():
            raise web.HTTPForbidden(
                reason="writes over TCP are off: neither admin.token nor admin.tokens_file has a token; "
                "use the unix socket"
            )
        _refuse_other_sites(request)
        _refuse_forms(request)

    def _refuse(self, request: web.Request, *, given: bool) -> NoReturn:
        """A right token is always let in: where one waits behind another's wrong ones, a forgotten script would
        lock the operator out. Nobody guesses 16 characters; what is bounded is what guessing costs us."""
        if not self._wrong.tell(request, "its token is wrong" if given else "it has no token"):
            raise web.HTTPTooManyRequests(
                reason="too many wrong tokens; a right one is let in at any time",
                headers={hdrs.RETRY_AFTER: str(round(1 / _REFUSAL_RATE))},
            )
        raise web.HTTPUnauthorized(
            reason="the bearer token is missing or wrong", headers={hdrs.WWW_AUTHENTICATE: "Bearer"}
        )


def _refuse_other_sites(request: web.Request) -> None:
    """Raise 403 for what a browser sends in another site's name.

    ``Sec-Fetch-Site`` cannot be set by a script, and says it whatever a proxy made of ``Host``. Browsers send it over
    https and to this host; elsewhere ``Origin`` has to name the host that was asked.
    """
    host = request.headers.get(hdrs.HOST, "").lower()
    if not _is_from_here(request, host):
        raise web.HTTPForbidden(reason="this write comes from a page of another site")
    if _is_loopback(request) and not _is_local(host):
        raise web.HTTPForbidden(
            reason=f"{host!r} is no name of this host's loopback; a proxy in front must send its address as Host"
        )


def _is_loopback(request: web.Request) -> bool:
    name = request.transport.get_extra_info("sockname") if request.transport is not None else None
    return isinstance(name, tuple) and ip_address(name[0]).is_loopback


def _is_from_here(request: web.Request, host: str) -> bool:
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get(hdrs.ORIGIN)
    if site is not None:
        return site in ("same-origin", "none")
    return origin is None or (host != "" and origin.lower().partition("://")[2] == host)


def _is_local(host: str) -> bool:
    """Tell whether a ``Host`` is one that no foreign DNS can have led here: an address, localhost, or none at all.

    A page of evil.example whose name is made to mean 127.0.0.1 is of our origin, as far as its browser can see.
    """
    if not host:
        return True
    try:
        name = URL(f"http://{host}").host or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _is_address(name)


def _is_address(name: str) -> bool:
    try:
        ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _refuse_forms(request: web.Request) -> None:
    """Raise 415 for a body that a form of any site could send without asking."""
    if request.body_exists and request.content_type != "application/json":
        raise web.HTTPUnsupportedMediaType(reason="a body must be application/json")
