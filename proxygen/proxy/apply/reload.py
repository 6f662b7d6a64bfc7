"""The three ways to ask nginx for a reload. None of them proves anything: see `proxygen.proxy.apply.observe`."""

from __future__ import annotations

import asyncio
from typing import Final

from proxygen.kit.errors import NginxUnavailable, install_command
from proxygen.proxy.nginx.master import Master, send_reload
from proxygen.proxy.nginx.process import run
from proxygen.settings import NginxSettings

# An engine that does not take a signal within this time is not going to.
_ENGINE_PATIENCE: Final = 10.0
_NO_SUCH_CONTAINER: Final = 404
_SEE_HOST: Final = "see nginx.docker_host (--nginx-docker-host)"


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
        raise NginxUnavailable(f"nginx.reload is docker, which needs: {install_command('docker')}") from error
    try:
        async with asyncio.timeout(_ENGINE_PATIENCE), aiodocker.Docker(url=settings.docker_host) as engine:
            await engine.containers.container(settings.container).kill(signal="HUP")
    except aiodocker.DockerError as error:
        raise _unsent(settings, _engines_reason(error.status, error.message, error.__context__)) from error
    except TimeoutError as error:
        raise _unsent(settings, f"no answer within {_ENGINE_PATIENCE:g}s") from error
    except OSError as error:
        raise _unsent(settings, str(error)) from error
    except Exception as error:
        # aiodocker reads any answer as an engine's: a stranger's ends in whatever Python raises for it.
        raise _unsent(settings, f"what answers there is no engine; {_SEE_HOST}") from error


def _engines_reason(status: int, message: str, cause: BaseException | None) -> str:
    """Why there is no connection, or why the engine refused, and where that is put right."""
    if isinstance(cause, OSError):
        return f"{cause.strerror or cause}; start the engine, or {_SEE_HOST}"
    advice = "; see nginx.container (--nginx-container)" if status == _NO_SUCH_CONTAINER else ""
    return " ".join(message.split()) + advice


def _unsent(settings: NginxSettings, reason: str) -> NginxUnavailable:
    return NginxUnavailable(f"{settings.docker_host} did not send HUP to container {settings.container}: {reason}")
