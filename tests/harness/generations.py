"""Generations on disk that no gate was asked about."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from proxygen.kit.disk import Readers
from proxygen.proxy.apply.publish import Output, stage
from proxygen.proxy.check.gates import Checked
from proxygen.proxy.nginx.addresses import Listens
from proxygen.proxy.nginx.stamp import Stamp

_NOTHING: Mapping[Any, Any] = MappingProxyType({})


def staged(
    output: Output,
    stamp: Stamp,
    files: Mapping[str, bytes],
    readers: Mapping[str, Readers] = _NOTHING,
    *,
    listens: Listens = _NOTHING,
    test_seconds: float = 0.1,
) -> Checked:
    """Stage a generation, as if both gates had let it through."""
    return Checked(stamp=stamp, path=stage(output, stamp, files, readers), listens=listens, test_seconds=test_seconds)
