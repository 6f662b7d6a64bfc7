"""The soak: 54 random faults, or 700 with --long; `--soak-seed` makes it another one."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.bench.upstreams import Upstreams
from tests.faults.soak import SETTINGS, Site, Soak
from tests.harness.app import App
from tests.harness.consul import ConsulAgent
from tests.harness.nginx import NginxServer
from tests.harness.sidecar import Sidecar
from tests.integration.waiting import call


@pytest.mark.faults
@pytest.mark.slow
@pytest.mark.timeout(1800)
async def test_nothing_that_happens_is_noticed(
    request: pytest.FixtureRequest,
    cluster: list[ConsulAgent],
    running: NginxServer,
    make_sidecar: Callable[..., Sidecar],
    tmp_path: Path,
    times: Callable[[int, int], int],
    saw: Callable[[str], None],
) -> None:
    """Injects whatever else these scenarios inject, in random order. No request to a healthy service fails,
    generations only grow and are always valid, the process lives and stays as large as it was."""
    seed = request.config.getoption("--soak-seed")
    saw(f"--soak-seed {seed}")
    snippets = tmp_path / "snippets"
    snippets.mkdir()
    steady, restless = [f"steady-{number}" for number in range(3)], [f"restless-{number}" for number in range(5)]
    with ExitStack() as stack:
        upstreams = stack.enter_context(Upstreams(tmp_path / "upstreams", [*steady, *restless]))
        site = Site(
            servers=cluster,
            nginx=running,
            sidecar=make_sidecar(cluster[0], running, proxy__snippets=str(snippets), **SETTINGS),
            snippets=snippets,
            steady={name: upstreams.ports[name] for name in steady},
            restless={name: upstreams.ports[name] for name in restless},
            mortal=[stack.enter_context(App(f"mortal-{number}")) for number in range(3)],
        )
        soak = Soak(site, seed)
        soak.register_all()
        await call(site.sidecar.start)
        try:
            await soak.run(times(54, 700))
        except BaseException:
            print("\n".join(soak.diary))
            raise
        saw(f"{len(soak.diary)} acts, {site.sidecar.generation()} generations; {'; '.join(soak.diary[-4:])}")
