"""What registering itself costs an application, next to ``import requests``: ``python -m tests.bench.importing``.

Each figure is the median of fresh interpreters, started in turns so that a busy machine is busy for all of them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median
from typing import Final

TURNS: Final = 15

STATEMENTS: Final[Mapping[str, str]] = {
    "nothing": "pass",
    "import requests": "import requests",
    "import proxygen.registration": "import proxygen.registration",
    "… and enter a Registration": (
        "import asyncio\n"
        "from proxygen.registration import Registration\n"
        "async def main():\n"
        "    async with Registration(name='web', port=1, address='127.0.0.1', consul='127.0.0.1:9', drain=0): pass\n"
        "asyncio.run(main())"
    ),
}
"""By name what is measured. The last loads the client for Consul and tries to reach one where none is."""

_PROGRAM: Final = """
import logging, time
logging.disable()
start = time.perf_counter()
{statement}
spent = time.perf_counter() - start
memory = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmRSS:"))
print(spent, memory)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What one statement costs a fresh interpreter."""

    seconds: float
    mib: float
    """Resident memory of the whole process."""


def measure(turns: int = TURNS) -> Mapping[str, Cost]:
    """Run every statement so many times and return the medians."""
    runs: dict[str, list[Cost]] = {name: [] for name in STATEMENTS}
    for _ in range(turns):
        for name, statement in STATEMENTS.items():
            runs[name].append(_run(statement))
    return {
        name: Cost(seconds=median(cost.seconds for cost in costs), mib=median(cost.mib for cost in costs))
        for name, costs in runs.items()
    }


def _run(statement: str) -> Cost:
    program = _PROGRAM.format(statement=statement)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    seconds, kib = done.stdout.split()
    return Cost(seconds=float(seconds), mib=int(kib) / 1024)


def main() -> None:
    for name, cost in measure().items():
        print(f"{name:30} {cost.seconds * 1000:7.0f} ms {cost.mib:7.1f} MiB")


if __name__ == "__main__":
    main()
