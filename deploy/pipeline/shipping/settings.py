"""Every setting once: its variable `PIPELINE_NAME`, its flag `--name`, its default and its meaning.

A flag goes before a variable. Secrets have no flag: a command line can be read by everybody on the machine.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shipping.errors import Misuse

_REPOSITORY = Path(__file__).resolve().parents[3]
# As registries define them; what fits neither could end up as an option of the engine.
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?(:[0-9]{1,5})?")
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(rf"{_PART}(/{_PART})*")
_REFERENCE = re.compile(
    rf"({_HOST.pattern}/)?{_PART}(/{_PART})*(:[A-Za-z0-9_][A-Za-z0-9_.-]{{0,127}})?(@sha256:[0-9a-f]{{64}})?"
)
_SERVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,62}")


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[str], str]:
    def convert(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"is no {what}")
        return text

    return convert


def _words(text: str) -> tuple[str, ...]:
    return tuple(shlex.split(text))


def _engine(text: str) -> tuple[str, ...]:
    words = _words(text)
    if not words or Path(words[0]).name not in ("docker", "podman"):
        raise ValueError("must be docker or podman, with options of its own behind it if need be")
    return words


def _existing(text: str) -> Path:
    path = Path(text)
    if not path.exists():
        raise ValueError("does not exist")
    return path.resolve()


def _seconds(text: str) -> float:
    return _number(text, 0, 86_400)


def _number(text: str, least: float, most: float) -> float:
    number = float(text)
    if not least <= number <= most:
        raise ValueError(f"is not from {least:g} to {most:g}")
    return number


def _percent(text: str) -> float:
    return _number(text.removesuffix("%"), 0, 100)


def _count(text: str) -> int:
    return int(_number(text, 0, 1e9))


def _shares(text: str) -> tuple[str, ...]:
    return tuple(f"{_percent(part.strip()):g}" for part in text.split(","))


def _either(*allowed: str) -> Callable[[str], str]:
    return _matching(re.compile("|".join(allowed)), " or ".join(allowed))


def _urls(text: str) -> tuple[str, ...]:
    urls = tuple(part.strip().rstrip("/") for part in text.split(",") if part.strip())
    for url in urls:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\[\]:-]+", url):
            raise ValueError("is not http://HOST:PORT or https://HOST:PORT")
    return urls


def _knob(
    text: str, convert: Callable[[str], Any] = str, default: str | None = None, *, secret: bool = False
) -> dict[str, Any]:
    """Say what a setting is. Without a default it is None until it is set, and the stages that need it say so."""
    return {"help": text, "convert": convert, "default": default, "secret": secret}


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the stages are told. The order is that of the manual."""

    output: Path = field(
        metadata=_knob(
            "directory of the state and of what is kept: bills of material, verdicts", Path, "build/pipeline"
        )
    )
    commit: str | None = field(
        metadata=_knob(
            "the commit; default what git has checked out, with nothing changed",
            _matching(re.compile(r"[0-9a-f]{7,64}"), "commit"),
        )
    )
    timeout: float = field(metadata=_knob("the longest that one program may take, in seconds", _seconds, "1800"))
    # test and lint
    tests: tuple[str, ...] | None = field(
        metadata=_knob("the command that tests the application; no shell reads it", _words)
    )
    definition: Path | None = field(metadata=_knob("the service definition that is linted, in JSON", _existing))
    snapshot: Path | None = field(
        metadata=_knob("what `proxygen snapshot` wrote in production; the definition is tried inside it", _existing)
    )
    proxygen: tuple[str, ...] = field(metadata=_knob("the command proxygen", _words, "proxygen"))
    # build and push
    engine: tuple[str, ...] = field(
        metadata=_knob("docker or podman, with options of its own behind it", _engine, "docker")
    )
    registry: str | None = field(
        metadata=_knob("HOST[:PORT] of the private registry", _matching(_HOST, "registry (HOST or HOST:PORT)"))
    )
    registry_ca: Path | None = field(
        metadata=_knob("certificates that vouch for the registry; docker has them in /etc/docker/certs.d", _existing)
    )
    registry_credentials: Path | None = field(metadata=_knob("file with USER:PASSWORD in one line", _existing))
    registry_user: str | None = field(metadata=_knob("user of the registry, where there is no file", secret=True))
    registry_password: str | None = field(metadata=_knob("password of that user", secret=True))
    image: str | None = field(metadata=_knob("the image's name in the registry", _matching(_IMAGE, "image name")))
    context: Path = field(metadata=_knob("directory that is built", _existing, "."))
    dockerfile: Path | None = field(metadata=_knob("default: Dockerfile in that directory", _existing))
    base: str | None = field(
        metadata=_knob("the base image, by tag; it is resolved to a digest", _matching(_REFERENCE, "image reference"))
    )
    base_argument: str = field(
        metadata=_knob(
            "the Dockerfile's argument for it", _matching(re.compile(r"[A-Z][A-Z0-9_]*"), "argument"), "BASE"
        )
    )
    build_options: tuple[str, ...] = field(metadata=_knob("more options of the engine's build", _words, ""))
    sbom: str = field(
        metadata=_knob(
            "where the image keeps its bill of materials; empty where it has none",
            str,
            "/usr/share/sbom/proxygen.cdx.json",
        )
    )
    # canary, promote and abort
    service: str | None = field(metadata=_knob("the service's name in Consul", _matching(_SERVICE, "service name")))
    ansible: tuple[str, ...] = field(metadata=_knob("the command ansible-playbook", _words, "ansible-playbook"))
    playbook: Path = field(
        metadata=_knob(
            "the playbook that rolls", _existing, str(_REPOSITORY / "deploy" / "ansible" / "application.yml")
        )
    )
    inventory: Path | None = field(metadata=_knob("the hosts", _existing))
    variables: Path | None = field(
        metadata=_knob("file with more variables for the playbook, in YAML or JSON", _existing)
    )
    steps: tuple[str, ...] | None = field(
        metadata=_knob("the canary's shares in percent, such as 5,25,50; default the role's", _shares)
    )
    margin: float | None = field(
        metadata=_knob("how many more of a hundred requests may fail on the canary; default the role's", _percent)
    )
    minimum_requests: int | None = field(metadata=_knob("with fewer requests nobody knows; default the role's", _count))
    inconclusive: str | None = field(
        metadata=_knob("what to do then: proceed or stop; default the role's", _either("proceed", "stop"))
    )
    admin: tuple[str, ...] = field(
        metadata=_knob("the sidecars' admin APIs that are asked once more before the promotion", _urls, "")
    )
    patience: float = field(metadata=_knob("how long to wait for figures that suffice, in seconds", _seconds, "60"))


def variable(name: str) -> str:
    return f"PIPELINE_{name.upper()}"


def flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Give the parser each setting that may stand on a command line."""
    for knob in dataclasses.fields(Settings):
        if knob.metadata["secret"]:
            continue
        default = knob.metadata["default"]
        text = f"{knob.metadata['help']} [{variable(knob.name)}{f'; {default}' if default else ''}]"
        parser.add_argument(flag(knob.name), dest=knob.name, metavar="X", help=text.replace("%", "%%"))


def load(flags: Mapping[str, str | None], environment: Mapping[str, str]) -> Settings:
    """Raise Misuse that names the setting, the value and what is wrong with it. An empty variable counts as not set."""
    values: dict[str, Any] = {}
    for knob in dataclasses.fields(Settings):
        given = flags.get(knob.name)
        text = given if given is not None else environment.get(variable(knob.name)) or knob.metadata["default"]
        try:
            values[knob.name] = None if text is None else knob.metadata["convert"](text)
        except ValueError as error:
            shown = "its value" if knob.metadata["secret"] else repr(text)
            raise Misuse(f"{variable(knob.name)} ({flag(knob.name)}): {shown} {error}") from error
    return Settings(**values)


def require(settings: Settings, names: Sequence[str], stage: str) -> None:
    """Raise Misuse that names all settings that the stage lacks, with what they mean."""
    meanings = {knob.name: knob.metadata["help"] for knob in dataclasses.fields(Settings)}
    lacking = [f"{variable(name)}: {meanings[name]}" for name in names if getattr(settings, name) is None]
    if lacking:
        raise Misuse(f"the stage {stage} needs " + "; ".join(lacking))
