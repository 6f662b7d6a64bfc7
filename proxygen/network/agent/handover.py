"""Handing the host's subnet on to Docker, by files."""

from __future__ import annotations

import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final

from proxygen.kit.errors import NetworkConfigError, NetworkError
from proxygen.kit.log import get_logger
from proxygen.network.docker import DockerVersion, daemon_flags, docker_options
from proxygen.network.files import SubnetFile, hinted_subnet, write_docker_opts_env, write_file, write_subnet_env
from proxygen.settings import NetworkSettings

_log: Final = get_logger(__name__)


class Handover:
    """Writes ``subnet.env`` and ``docker_opts.env`` once the subnet is the host's."""

    def __init__(self, settings: NetworkSettings, docker: DockerVersion | None) -> None:
        self.problem = ""
        """Why the files are not as they should be; empty where they are."""
        self.done = False
        """Whether the files were written: what waits for them, such as Docker, may go on."""
        self._settings = settings
        self._docker = docker

    def write(self, network: IPv4Network, subnet: IPv4Network, mtu: int) -> None:
        """Bring the files to the host's subnet."""
        try:
            self._refuse_another(subnet)
            changed = self._write(
                SubnetFile(network=network, subnet=subnet, mtu=mtu, masquerade=self._settings.masquerade)
            )
        except (NetworkError, NetworkConfigError) as error:
            if str(error) != self.problem:
                _log.error("subnet not handed on", reason=str(error))
            self.problem = str(error)
            return
        self.problem = ""
        if changed:
            _log.info("subnet handed on", file=str(self._settings.subnet_file), subnet=str(subnet), mtu=mtu)
        self.done = True

    def _refuse_another(self, subnet: IPv4Network) -> None:
        """Containers may have addresses of the subnet that the file names, if it is of this boot."""
        path = self._settings.subnet_file
        named = hinted_subnet(path)
        if named is None or named == subnet or not _is_of_this_boot(path):
            return
        raise NetworkError(
            f"{path} says {named}, which containers of this host may have, and its lease is {subnet}; stop Docker, "
            f"remove the file and start the agent and Docker again"
        )

    def _write(self, file: SubnetFile) -> bool:
        options = docker_options(
            file.subnet,
            mtu=file.mtu,
            masquerade=file.masquerade,
            divided=self._settings.docker_pools,
            version=self._docker,
        )
        # Units wait for subnet.env: what else they read is there by then.
        changed = write_file(self._settings.docker_file, write_docker_opts_env(daemon_flags(options)))
        return write_file(self._settings.subnet_file, write_subnet_env(file)) or changed


def _is_of_this_boot(path: Path) -> bool:
    booted = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    try:
        return path.stat().st_mtime > booted
    except FileNotFoundError:
        # Removed since it was read.
        return False
