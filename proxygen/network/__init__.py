"""Networking of containers on many hosts, with Consul alone: a subnet for each host, and the ways between them.

Importing this package loads nothing of the proxy. Start reading at `proxygen.network.lease`.
"""

from proxygen.kit.errors import NetworkConfigError
from proxygen.network.config import NetworkConfig, parse_config, refuse_overlaps

__all__ = ["NetworkConfig", "NetworkConfigError", "parse_config", "refuse_overlaps"]
