"""Every knob, once: its type, default, unit and help.

The flag (``--reload-settle``), the environment variable (``PROXYGEN_RELOAD_SETTLE``), the TOML key
(``settle`` in ``[reload]``), ``--help`` and the reference page all derive from the fields in `slices`.
Precedence: flag, environment, ``proxygen.toml``, default. Consul's own variables (``CONSUL_HTTP_ADDR``
and its siblings) are read as its other tools read them and stand just below ``PROXYGEN_CONSUL_…``.
"""

from proxygen.settings.knobs import Knob, knobs
from proxygen.settings.load import CONSUL_VARIABLES, DEFAULT_FILE, load
from proxygen.settings.slices import (
    AdminSettings,
    BoundsSettings,
    ConsulSettings,
    GuardSettings,
    LogSettings,
    NetworkSettings,
    NginxSettings,
    OutputSettings,
    ProxySettings,
    RegistratorSettings,
    ReloadSettings,
    Settings,
    TrafficSettings,
)

__all__ = [
    "CONSUL_VARIABLES",
    "DEFAULT_FILE",
    "AdminSettings",
    "BoundsSettings",
    "ConsulSettings",
    "GuardSettings",
    "Knob",
    "LogSettings",
    "NetworkSettings",
    "NginxSettings",
    "OutputSettings",
    "ProxySettings",
    "RegistratorSettings",
    "ReloadSettings",
    "Settings",
    "TrafficSettings",
    "knobs",
    "load",
]
