"""Registration's door to a container engine: Docker, or Podman, which serves the same API."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from proxygen.kit.errors import BadInput, EngineUnavailable, install_command
from proxygen.registration.containers import Container, decode_container

if TYPE_CHECKING:
    import aiodocker

_PATIENCE: Final = 10.0
"""Seconds for an answer; an engine under load takes a few to inspect."""
_OVERLAP: Final = 2
"""Seconds before now from which events are asked for, so that none is lost between asking and listening."""
_NOT_FOUND: Final = 404
_GONE: Final = "no such container"
"""In the text of Podman's 500, where a container was removed while the answer was made."""
_GLANCE: Final = 1.0
"""Seconds between two looks at what runs, where an engine does not say that it stops a container."""
_SILENT: Final = "Podman Engine"
"""By its answer of its version."""
_LISTINGS: Final = 5
"""How often the containers are listed where one went each time."""
_USUAL: Final = "unix:///var/run/docker.sock"
_ID: Final = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_OF_ANOTHER: Final = "container:"
_MOST_OWNERS: Final = 8
"""Containers in a row, each in the network of the next; no engine makes a circle of them."""


class _NoSuchContainer(EngineUnavailable):
    """The engine answers, and knows of no such container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerEvent:
    """Something happened to a container; what is so now has to be asked."""

    container: str
    action: str
    signal: str
    """Of a ``kill``, as Docker tells it; Podman tells none."""


def require_library() -> None:
    """Raise BadInput where aiodocker, an extra, is not installed."""
    try:
        import aiodocker  # noqa: F401 - asked for early, to be loaded once it is needed
    except ImportError as error:
        raise BadInput(f"the engine's API needs: {install_command('docker')}") from error


def own_address(network: str | None) -> str:
    """Return the address that the engine gave the container in which this runs, in a network where it has several.

    The engine is the one of DOCKER_HOST, else on its usual socket, which has to be mounted. Blocks. Raise BadInput.
    """
    require_library()
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8")
        return asyncio.run(_address_of(_own_id(mounts) or socket.gethostname(), network))
    except EngineUnavailable as error:
        raise BadInput(f"address = docker: {error}") from error


async def _address_of(container_id: str, network: str | None) -> str:
    async with Engine.at(os.environ.get("DOCKER_HOST") or _USUAL) as engine:
        container = await engine.inspect(container_id)
    if container is None:
        raise BadInput(f"address = docker: the engine knows of no container {container_id}; is this one?")
    known = ", ".join(f"{address} in {name}" for name, address in sorted(container.networks.items())) or "none"
    if network is not None and network in container.networks:
        return container.networks[network]
    if network is not None or len(container.networks) != 1:
        raise BadInput(f"address = docker: which one? write docker:NETWORK; {container.place} has {known}")
    return next(iter(container.networks.values()))


def _own_id(mountinfo: str) -> str | None:
    """The id of the container that we are in, by the files that an engine mounts into it; a hostname can be set."""
    for line in mountinfo.splitlines():
        fields = line.split()
        if len(fields) > 4 and fields[4] in ("/etc/hostname", "/etc/hosts", "/etc/resolv.conf"):
            match = _ID.search(fields[3])
            if match is not None:
                return match[0]
    return None


class Engine:
    """One connection to an engine's API. Everything raises EngineUnavailable."""

    def __init__(self, url: str, api: aiodocker.Docker) -> None:
        self._url = url
        self._api = api

    @classmethod
    @asynccontextmanager
    async def at(cls, url: str) -> AsyncIterator[Engine]:
        """Open an engine by its URL; nothing is asked of it yet."""
        import aiodocker

        async with aiodocker.Docker(url=url) as api:
            yield cls(url, api)

    async def host(self) -> str:
        """The name of the host that the engine runs on, which is not the one of a container that asks."""
        async with self._asking():
            return str((await self._api.system.info())["Name"])

    async def running(self) -> tuple[str, ...]:
        """Ids of the containers that run, the oldest first."""
        for _ in range(_LISTINGS - 1):
            with suppress(_NoSuchContainer):
                return await self._list()
        return await self._list()

    async def _list(self) -> tuple[str, ...]:
        async with self._asking():
            listed = await self._api.containers.list()
            return tuple(item.id for item in sorted(listed, key=lambda item: (item["Created"], item.id)))

    async def tells_of_signals(self) -> bool:
        """Whether its events tell which signal a container is sent; Podman's tell of a stop once it is over."""
        async with self._asking():
            answer = await self._api.version()
            return all(component["Name"] != _SILENT for component in answer.get("Components") or ())

    async def stops(self) -> AsyncIterator[ContainerEvent]:
        """Yield what no longer runs, for ever: to Podman a container that it is stopping does not run any more."""
        before: set[str] = set()
        while True:
            running = set(await self.running())
            for container_id in before - running:
                yield ContainerEvent(container=container_id, action="stop", signal="")
            before = running
            await asyncio.sleep(_GLANCE)

    async def inspect(self, container_id: str) -> Container | None:
        """Return a container, None where it is gone."""
        with suppress(_NoSuchContainer):
            async with self._asking():
                answer = await self._api.containers.container(container_id).show()
                owner = await self._network_owner(answer)
                mode = {"NetworkMode": owner["HostConfig"].get("NetworkMode")}
                network = {"NetworkSettings": owner["NetworkSettings"], "HostConfig": {**answer["HostConfig"], **mode}}
                return decode_container({**answer, **network})
        return None

    async def _network_owner(self, answer: Mapping[str, Any]) -> Mapping[str, Any]:
        """The container whose network this one is in: its own, or that of another, which may be in a third one's."""
        for _ in range(_MOST_OWNERS):
            mode = answer["HostConfig"].get("NetworkMode") or ""
            if not mode.startswith(_OF_ANOTHER):
                break
            answer = await self._api.containers.container(mode.removeprefix(_OF_ANOTHER)).show()
        return answer

    async def events(self) -> AsyncIterator[ContainerEvent]:
        """Yield what happens to containers, for ever; raise EngineUnavailable when the engine ends the stream."""
        heard = self._api.events.subscribe(create_task=False)  # type: ignore[no-untyped-call]
        params: dict[str, Any] = {
            "filters": json.dumps({"type": ["container", "network"]}),
            "since": str(int(time.time()) - _OVERLAP),
        }
        stream = asyncio.create_task(self._api.events.run(**params), name="events of the engine")
        try:
            while (told := await heard.get()) is not None:
                event = _event(told) if isinstance(told, dict) else None
                if event is not None:
                    yield event
            await asyncio.wait({stream})
            reason = stream.exception() or "it was closed"
            raise EngineUnavailable(f"{self._url}: the stream of events ended: {reason}")
        finally:
            stream.cancel()
            await asyncio.wait({stream})

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Turn whatever goes wrong in an exchange and in reading its answer into EngineUnavailable."""
        import aiodocker

        try:
            async with asyncio.timeout(_PATIENCE):
                yield
        except aiodocker.DockerError as error:
            if error.status == _NOT_FOUND or _GONE in str(error.message):
                raise _NoSuchContainer(f"{self._url}: {error.message}") from error
            cause = error.__context__
            reason = cause if isinstance(cause, OSError) else error.message
            raise EngineUnavailable(f"{self._url}: {' '.join(str(reason).split())}") from error
        except TimeoutError as error:
            raise EngineUnavailable(f"{self._url} did not answer within {_PATIENCE:g}s") from error
        except OSError as error:
            raise EngineUnavailable(f"{self._url}: {error}") from error
        except Exception as error:
            # aiodocker reads any answer as an engine's: a stranger's ends in whatever Python raises for it.
            raise EngineUnavailable(f"what answers at {self._url} is no engine: {error!r}") from error


def _event(told: Mapping[str, Any]) -> ContainerEvent | None:
    actor = told.get("Actor") or {}
    attributes = actor.get("Attributes") or {}
    container, action = actor.get("ID") or told.get("id"), told.get("Action") or told.get("status")
    if told.get("Type") == "network":
        # Docker names the container that joined or left beside the network; Podman names it as the actor.
        container = attributes.get("container") or container
    if not container or not action:
        return None
    return ContainerEvent(container=str(container), action=str(action), signal=str(attributes.get("signal", "")))
