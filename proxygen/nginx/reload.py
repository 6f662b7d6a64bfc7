"""The three ways to ask nginx for a reload. None of them proves anything: see `proxygen.nginx.observe`."""

from __future__ import annotations

import asyncio
from typing import Final

from proxygen.errors import NginxUnavailable
from proxygen.nginx.master import Master, send_reload
from proxygen.nginx.process import run
from proxygen.settings import NginxSettings

# An engine that does not take a signal within this time is not going to.
_ENGINE_PATIENCE: Final = 10.0


async def ask_reload(settings: NginxSettings, master: Master | None) -> None:
    """Ask for a reload the way the settings say. Raise NginxUnavailable when the request did not get through."""
    match settings.reload:
        case "signal":
            if master is None:
                raise NginxUnavailable(
                    "no nginx master process was found; start nginx, or, where it runs out of sight, "
                    "set nginx.reload (--nginx-reload) to command or docker"
                )
            send_reload(master)
        case "command":
            await _by_command(settings)
        case "docker":
            await _by_engine(settings)


async def _by_command(settings: NginxSettings) -> None:
    if not settings.reload_command:
        raise NginxUnavailable("nginx.reload is command, but nginx.reload_command (--nginx-reload-command) is empty")
    completed = await run(settings.reload_command, timeout=settings.check_timeout)
    if completed.returncode != 0:
        command = " ".join(settings.reload_command)
        raise NginxUnavailable(f"{command} ended with {completed.returncode}: {completed.output.strip()[-500:]}")


async def _by_engine(settings: NginxSettings) -> None:
    if settings.container is None:
        raise NginxUnavailable("nginx.reload is docker, but nginx.container (--nginx-container) is not set")
    try:
        # An extra: only this way of reloading needs it.
        import aiodocker
    except ImportError as error:
        raise NginxUnavailable("nginx.reload is docker, which needs: pip install 'proxygen[docker]'") from error
    try:
        async with asyncio.timeout(_ENGINE_PATIENCE), aiodocker.Docker(url=settings.docker_host) as engine:
            await engine.containers.container(settings.container).kill(signal="HUP")
    except (aiodocker.DockerError, OSError, TimeoutError) as error:
        reason = getattr(error, "message", None) or str(error) or "no answer"
        raise NginxUnavailable(
            f"{settings.docker_host} did not send HUP to container {settings.container}: {reason}"
        ) from error
