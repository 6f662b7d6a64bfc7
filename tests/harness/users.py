"""What a user has set for other systems, which no part that a test starts must see."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Final

from tests.harness.shelf import VARIABLE as SHELF

OF_TESTS: Final = frozenset(
    {
        "PROXYGEN_BENCH_NAMESPACE",
        "PROXYGEN_LEASE_EXAMPLES",
        "PROXYGEN_LEASE_STEPS",
        "PROXYGEN_MODEL_EXAMPLES",
        "PROXYGEN_SCREENSHOTS",
        SHELF,
    }
)
"""What tells the tests themselves something."""
_PREFIXES: Final = ("ANSIBLE_", "CONSUL_", "PROXYGEN_")
_NAMES: Final = frozenset(
    {
        "GIT_COMMON_DIR",  # with these a hook has git at its own repository; a test's would commit there
        "GIT_DIR",
        "GIT_INDEX_FILE",
        "GIT_OBJECT_DIRECTORY",
        "GIT_PREFIX",
        "GIT_WORK_TREE",
        "NGINX",  # nginx takes listening sockets from it
        "PYTEST_ADDOPTS",  # read by now, and not meant for a pytest that a test starts
    }
)


def forget_settings(environ: MutableMapping[str, str]) -> None:
    """Take a user's settings out of the environment, once and before any test; one that sets some itself has them."""
    for name in [name for name in environ if name.startswith(_PREFIXES) or name in _NAMES]:
        if name not in OF_TESTS:
            del environ[name]
    # What a test starts on this machine is asked directly, whatever the way to others is.
    direct = environ.get("no_proxy") or environ.get("NO_PROXY")
    environ["no_proxy"] = environ["NO_PROXY"] = ",".join(filter(None, [direct, "127.0.0.1", "localhost"]))
