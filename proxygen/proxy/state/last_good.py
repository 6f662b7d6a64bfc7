"""The catalog that nginx serves, on disk: for a start while Consul is down, and to tell losses after a restart.

One JSON file in OUTPUT/state, replaced whole. It names the generation that was made from it: a kill between the two
leaves an older catalog beside a newer generation, and nobody may go back to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec

from proxygen.catalog import Catalog, Instance, ServiceName
from proxygen.kit.disk import write_atomically
from proxygen.kit.log import get_logger

FILE: Final = "state/catalog.json"

_log = get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LastGood:
    """A catalog that went live."""

    catalog: Catalog
    generation: int
    """The one that was made from it."""
    saved_at: datetime
    gone: tuple[Instance, ...] = ()
    """Instances that were served before and are not in the catalog; see `proxygen.proxy.guard.good_tags`."""


class _Known(msgspec.Struct, frozen=True):
    datacenter: str = ""
    services: dict[ServiceName, tuple[Instance, ...]] = {}
    elsewhere: dict[str, dict[ServiceName, tuple[Instance, ...]]] = {}


class _Part(msgspec.Struct, frozen=True):
    """The same file, of which only this is read."""

    catalog: _Known


_PART_DECODER: Final = msgspec.json.Decoder(_Part)
_DECODER: Final = msgspec.json.Decoder(LastGood)
# Mappings that nobody may change are no type that msgspec knows.
_ENCODER: Final = msgspec.json.Encoder(enc_hook=dict)


def load_last_good(output: Path) -> LastGood | None:
    """Read what was saved last; None where nothing was, or nothing that can be read."""
    path = output / FILE
    try:
        return _DECODER.decode(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        _log.warning("stored catalog not read", file=str(path), reason=str(error))
        return None


def load_known(output: Path) -> Catalog:
    """Read what was known of services, here and in other datacenters: some may be out of reach when others are not.

    Nothing where nothing can be read, which `load_last_good` tells.
    """
    try:
        known = _PART_DECODER.decode((output / FILE).read_bytes()).catalog
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        known = _Known()
    return Catalog(datacenter=known.datacenter, services=known.services, elsewhere=known.elsewhere)


def save_last_good(output: Path, last_good: LastGood) -> None:
    """Replace what is on disk. Raise OSError where that fails."""
    write_atomically(output / FILE, _ENCODER.encode(last_good))
