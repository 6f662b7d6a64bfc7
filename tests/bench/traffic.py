"""What the figures by variant cost and how true they are: ``python -m tests.bench.traffic [--nginx wheel]``.

The same nginx serves with and without the sidecar's log in turns; wrk sends the load and says how many answers it got.
Root runs it in a network namespace of its own, where the queue of a datagram socket is as long as systemd makes it on a
host (512), or as short as the kernel's default (``--queue 10``).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from tests.bench.options import add_consul
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.process import wait_until
from tests.harness.sidecar import Sidecar
from tests.harness.tools import NginxBinary, find_nginx

_QUEUE: Final = Path("/proc/sys/net/unix/max_dgram_qlen")
_TICKS: Final = os.sysconf("SC_CLK_TCK")
_UPSTREAM: Final = "server {{ listen 127.0.0.1:{port}; access_log off; location / {{ return 200 ok; }} }}"
_HOST: Final = "web.example.com"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One run of the load."""

    sample: float
    requests: int
    """That wrk saw answered."""
    per_second: float
    nginx_cpu: float
    """Microseconds of nginx's workers for a request; the instances run in them too."""
    sidecar_cpu: float
    """Part of one CPU."""
    told: float
    """Requests by the sidecar's figures."""
    lost: int
    thinned: int


def measure(binary: NginxBinary, directory: Path, *, sample: float, seconds: int, connections: int) -> Turn:
    with serving(binary, directory, sample=sample) as (nginx, sidecar):
        return _load(nginx, sidecar, sample, seconds, connections)


@contextmanager
def serving(binary: NginxBinary, directory: Path, *, sample: float) -> Iterator[tuple[NginxServer, Sidecar]]:
    """One service that answers two bytes, with so many percent of its requests told of."""
    port = free_port()
    nginx = NginxServer(
        binary,
        directory / "nginx",
        output=directory / "output",
        http=f"{_UPSTREAM.format(port=port)}\naccess_log /dev/null combined if=0;",
    )
    nginx.conf.write_text(nginx.conf.read_text().replace(f"    access_log {nginx.directory}/access.log;\n", ""))
    consul = ConsulAgent(directory / "consul")
    sidecar = Sidecar(consul, nginx, directory / "sidecar", {"traffic.sample": sample, "log.level": "info"})
    consul.start()
    try:
        consul.register("web", port=port, tags=[f"proxygen.route={_HOST}"])
        nginx.start()
        sidecar.start(cold=True)
        wait_until(lambda: sidecar.request("/api/v1/services/web")[0] == 200, what="the plan")
        yield nginx, sidecar
    finally:
        sidecar.kill()
        nginx.stop()
        consul.kill()


def _load(nginx: NginxServer, sidecar: Sidecar, sample: float, seconds: int, connections: int) -> Turn:
    before, began = (_cpu(nginx.workers()), _cpu({sidecar.pid})), time.monotonic()
    requests = _send(sidecar, seconds, connections)
    passed = time.monotonic() - began
    after = (_cpu(nginx.workers()), _cpu({sidecar.pid}))
    time.sleep(1.5)
    state = sidecar.status()["traffic"]
    return Turn(
        sample=sample,
        requests=requests,
        per_second=requests / passed,
        nginx_cpu=(after[0] - before[0]) / requests * 1e6,
        sidecar_cpu=(after[1] - before[1]) / passed,
        told=_told(sidecar),
        lost=state["lost"] or 0,
        thinned=state["thinned"],
    )


def _send(sidecar: Sidecar, seconds: int, connections: int) -> int:
    """Send for so long; return how many requests were answered."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-H", f"Host: {_HOST}"]
    text = subprocess.run(
        [*command, f"http://127.0.0.1:{sidecar.http}/"], check=True, capture_output=True, text=True
    ).stdout
    found = re.search(r"(\d+) requests in", text)
    assert found is not None
    assert "Non-2xx" not in text
    return int(found[1])


def throughput(binary: NginxBinary, directory: Path, *, pairs: int, connections: int) -> list[float]:
    """Requests with all of them told of, as a part of those with none, second by second in turns.

    What else the machine does comes and goes more slowly than that, so neighbours can be compared.
    """
    with (
        serving(binary, directory / "plain", sample=0) as (_, plain),
        serving(binary, directory / "told", sample=100) as (_, told),
    ):
        found = []
        for _ in range(pairs):
            before = _send(plain, 1, connections)
            between = _send(told, 1, connections)
            found.append(2 * between / (before + _send(plain, 1, connections)))
        return found


def _told(sidecar: Sidecar) -> float:
    detail = sidecar.request("/api/v1/services/web")[1]
    return sum(variant["traffic"]["requests"] for variant in detail["variants"] if variant["traffic"])


def _cpu(processes: set[int] | frozenset[int]) -> float:
    """Seconds of user and system time."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(field[11]) + int(field[12]) for field in fields) / _TICKS


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nginx", default="debian", choices=("debian", "wheel"))
    parser.add_argument("--queue", type=int, default=512, help="net.unix.max_dgram_qlen")
    parser.add_argument("--seconds", type=int, default=4)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--pairs", type=int, default=0, help="compare throughput alone, second by second")
    add_consul(parser)
    return parser.parse_args()


def _in_a_namespace(queue: int) -> None:
    """Go on in a network namespace where the queue is as long as that; without root as long as it is here."""
    if os.environ.get("PROXYGEN_BENCH_NAMESPACE") or os.getuid() != 0 or shutil.which("unshare") is None:
        return
    script = f'ip link set lo up && echo {queue} > {_QUEUE} && exec "$@"'
    command = ["unshare", "-n", "sh", "-c", script, "sh", sys.executable, "-m", "tests.bench.traffic", *sys.argv[1:]]
    # S606: without a shell is what we want; the command is fixed.
    os.execvpe(command[0], command, {**os.environ, "PROXYGEN_BENCH_NAMESPACE": "1"})  # noqa: S606


def main() -> None:
    arguments = _arguments()
    _in_a_namespace(arguments.queue)
    binary = find_nginx(arguments.nginx)
    if binary is None or shutil.which("wrk") is None:
        raise SystemExit("nginx and wrk are needed (apt-get install wrk)")
    if arguments.pairs:
        _tell_throughput(binary, arguments)
        return
    turns: list[Turn] = []
    for number in range(arguments.turns):
        for sample in (0, 100, 10):
            with tempfile.TemporaryDirectory(prefix="pg-") as directory:
                turn = measure(
                    binary,
                    Path(directory) / f"{number}",
                    sample=sample,
                    seconds=arguments.seconds,
                    connections=arguments.connections,
                )
            turns.append(turn)
    print(f"{binary.name}, queue {_QUEUE.read_text().strip()}, medians of {arguments.turns} turns")
    for sample in (0, 100, 10):
        _tell(sample, [turn for turn in turns if turn.sample == sample], [turn for turn in turns if not turn.sample])
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(turn) for turn in turns], indent=1))


def _tell_throughput(binary: NginxBinary, arguments: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="pg-") as directory:
        ratios = throughput(binary, Path(directory), pairs=arguments.pairs, connections=arguments.connections)
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(
        f"{binary.name}: throughput with the log x{middle:.2f}, half of {len(ratios)} pairs x{low:.2f} to x{high:.2f}"
    )


def _tell(sample: float, turns: list[Turn], plain: list[Turn]) -> None:
    def median(name: str, among: list[Turn]) -> float:
        return statistics.median(getattr(turn, name) for turn in among)

    print(
        f"  sample {sample:>3} %: {median('per_second', turns):>7.0f} requests/s"
        f"  x{median('per_second', turns) / median('per_second', plain):.2f}"
        f"  nginx {median('nginx_cpu', turns):.1f} us/request"
        f" x{median('nginx_cpu', turns) / median('nginx_cpu', plain):.2f}"
        f"  sidecar {median('sidecar_cpu', turns):.1%} of a CPU"
        f"  told {sum(turn.told for turn in turns) / sum(turn.requests for turn in turns):.4f}"
        f"  lost {sum(turn.lost for turn in turns)}  thinned {sum(turn.thinned for turn in turns)}"
    )


if __name__ == "__main__":
    main()
