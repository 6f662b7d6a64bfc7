"""The one tree of errors; the command line catches it once, at the top.

::

    ProxygenError
    ├── BadInput                 exit 2: something the caller wrote is wrong
    │   ├── SettingsError            a knob: unknown key, value out of range
    │   ├── CatalogFileError         a catalog file that cannot be read back
    │   ├── TemplateError            an operator's template or snippet
    │   ├── NetworkConfigError       the containers' network: its config in KV, or this host's identity
    │   ├── CannotStart              exit 127: the command to register is not there; 126: it may not be run
    │   └── TagError                 one tag, Meta key or combination of them
    ├── CatalogUnavailable       exit 3: Consul gave no answer to believe
    │   ├── ConsulUnreachable        no connection, time-out, 429, 5xx, no body, no leader
    │   └── AccessDenied             the token lacks a rule
    ├── Refused                  exit 1: a gate said no; what was live stays live
    │   ├── CheckRefused             crossplane or ``nginx -t``
    │   │   ├── RefusedWithoutName       nginx names no service: who it is must be found out
    │   │   └── FilesRefused             the operator's changed files are refused; those before stay in force
    │   ├── OutputUnusable           the output directory cannot hold generations
    │   ├── UnknownGeneration        no generation of that number is on disk
    │   ├── WithoutEffect            a command that would change nothing that is served
    │   └── ConflictingWrite         somebody else wrote first (check-and-set)
    ├── NginxUnavailable         exit 1: no nginx binary, no master, no permission
    ├── ProgramUnavailable       exit 1: a program that cannot be started, or does not end in time
    ├── NetworkError             exit 1: this host's data plane: its links and routes, FRR, AWS, the firewall
    ├── EngineUnavailable        exit 1: the engine of the containers gave no answer to believe
    ├── CommandNotReady          exit 1: the command to register ran, and did not become ready in time
    └── SidecarUnavailable       exit 1: no running ``proxygen run`` answers, or it refuses the caller

A module that must tell apart what it catches itself may refine a leaf; that has the leaf's exit code and status.
"""

from __future__ import annotations

from proxygen import __version__


def install_command(extras: str) -> str:
    """Return the command that adds ``extras`` (names between commas) to an installation.

    It names the checkout and the wheel. By the bare name a package index would be asked, where anybody could have put
    anything: proxygen is on none.
    """
    wheel = f"proxygen-{__version__}-py3-none-any.whl"
    return f"pip install '.[{extras}]' in proxygen's checkout, or pip install './{wheel}[{extras}]'"


class ProxygenError(Exception):
    """Anything proxygen refuses or cannot do; the text is one line for an operator."""

    exit_code = 1


class BadInput(ProxygenError):
    """Something the caller wrote is wrong; the text names the place and what is allowed."""

    exit_code = 2


class SettingsError(BadInput):
    """A setting is unknown, malformed or out of range."""


class CatalogFileError(BadInput):
    """A catalog file does not have the shape that ``proxygen snapshot`` writes."""


class TemplateError(BadInput):
    """An operator's template or snippet cannot be used."""


class NetworkConfigError(BadInput):
    """The containers' network cannot be as it is written; what runs goes on."""


class CannotStart(BadInput):
    """A program to register is not there, or may not be run. The exit code is a shell's: 127, 126."""

    exit_code = 127

    def __init__(self, message: str, *, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


class TagError(BadInput):
    """A proxy tag is wrong. ``place`` is the tag or Meta key as Consul holds it."""

    def __init__(self, place: str, reason: str) -> None:
        super().__init__(f"{place}: {reason}")
        self.place = place
        self.reason = reason


class CatalogUnavailable(ProxygenError):
    """Consul gave no answer that may be believed. Never to be read as "no services"."""

    exit_code = 3


class ConsulUnreachable(CatalogUnavailable):
    """No connection, a time-out, a 429, a 5xx, an answer without a body, or one from a server without a leader."""

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        """Seconds Consul asked us to wait (``Retry-After``), where it did."""


def stay_away(error: BaseException) -> float:
    """Return the least seconds to wait after an error: what Consul asked for (``Retry-After``), where it did."""
    return (error.retry_after or 0.0) if isinstance(error, ConsulUnreachable) else 0.0


class AccessDenied(CatalogUnavailable):
    """The token is unknown or lacks a rule; the text names the rule to add."""


class Refused(ProxygenError):
    """A gate refused; what was live stays live."""


class CheckRefused(Refused):
    """A candidate that crossplane or ``nginx -t`` refused and that no service can be blamed for."""


class RefusedWithoutName(CheckRefused):
    """``nginx -t`` refused a candidate for a reason that names no service. ``reason`` is nginx's own."""

    def __init__(self, reason: str) -> None:
        super().__init__(f"nginx -t refused the candidate: {reason}")
        self.reason = reason


class FilesRefused(CheckRefused):
    """Something speaks against the operator's changed files, and those before stay in force: a service that nothing
    spoke against is refused with them, or nginx took no reload with them."""

    def __init__(self, reason: str, *, service: str | None = None) -> None:
        """``service``: who is refused with them; None: nobody, nginx took no reload."""
        super().__init__(reason)
        self.service = service


class OutputUnusable(Refused):
    """The output directory cannot hold generations (read-only, full, a file, a bind-mounted file)."""


class UnknownGeneration(Refused):
    """There is no generation of that number on disk: none ever was, or it was removed since."""


class WithoutEffect(Refused):
    """What was asked for would change nothing that is served; who means it may force it."""


class ConflictingWrite(Refused):
    """A check-and-set found that somebody else wrote first."""


class NginxUnavailable(ProxygenError):
    """nginx cannot be asked or signalled: no binary, no master process, no permission."""


class ProgramUnavailable(ProxygenError):
    """Another program cannot be started, or does not end in time."""


class NetworkError(ProxygenError):
    """The host's data plane for containers cannot be brought to what it should be; what is there stays."""


class EngineUnavailable(ProxygenError):
    """The engine gave no answer to believe. Never to be read as "no containers"."""


class CommandNotReady(ProxygenError):
    """The command ran, and did not become ready in time."""


class SidecarUnavailable(ProxygenError):
    """The running sidecar cannot be asked: nobody listens, or the caller may not."""


def quoted(text: str) -> str:
    """Quote a text that somebody else wrote for one line of an error: printable, and cut at 80 characters."""
    return repr(text) if len(text) <= 80 else f"{text[:80]!r}…"


def printable(value: object) -> str:
    """Return ``value`` as one line: names from Consul may hold newlines and terminal escapes."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in str(value))
