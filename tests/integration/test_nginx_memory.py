"""What tags may cost nginx's master, measured."""

from __future__ import annotations

from collections.abc import Callable

import psutil
import pytest

from proxygen.catalog import Instance
from proxygen.kit.templating import Templates
from proxygen.proxy.apply.publish import write_files
from proxygen.proxy.plan.bounds import Bounds
from proxygen.proxy.render.renderer import Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings
from tests.harness.nginx import NginxServer
from tests.harness.ports import free_port
from tests.harness.tools import NginxBinary
from tests.proxy.plan.catalogs import instance, plan

MakeNginx = Callable[..., NginxServer]


def master(nginx: NginxServer, *ones: Instance) -> tuple[int, int]:
    """Start it with a plan of these; return the bytes that it has in memory, and the number of copies."""
    planned = plan(*ones)
    rendered = Renderer(Templates(), Surroundings(http=(f"127.0.0.1:{free_port()}",)), Snippets()).render(planned)
    write_files(nginx.output / "current", {"http.d/": b"", "stream.d/": b"", **rendered.contents})
    nginx.start()
    return psutil.Process(nginx.pid).memory_info().rss, len(planned.memory.copies)


@pytest.mark.incident("T46")
@pytest.mark.parametrize("tags", [(), ("strip-prefix=true",)])
def test_the_copies_of_all_services_together_stay_under_100_mb(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, tags: tuple[str, ...]
) -> None:
    """By default, whatever number of services asks for them."""
    hosts = [instance(f"h{n}", 100 + n, f"route=h{n}.ex.test/x") for n in range(100)]
    wide = [instance(f"any{n}", n, *(f"route=/m{n}-{path}" for path in range(10)), *tags) for n in range(1, 4)]
    without, _ = master(make_nginx(nginx_binary), *hosts)
    with_all, copies = master(make_nginx(nginx_binary), *hosts, *wide)
    assert copies == Bounds().all_copies
    assert with_all - without < 100_000_000


@pytest.mark.parametrize(("tags", "most"), [((), 95_000), (("strip-prefix=true",), 155_000)])
def test_a_route_takes_no_more_than_the_pages_say(
    nginx_binary: NginxBinary, make_nginx: MakeNginx, tags: tuple[str, ...], most: int
) -> None:
    def service(name: str, number: int) -> Instance:
        return instance(name, number, *(f"route=a.ex.test/{name}{path}" for path in range(100)), *tags)

    one, _ = master(make_nginx(nginx_binary), service("one", 1))
    four, _ = master(make_nginx(nginx_binary), *(service(name, n) for n, name in enumerate(("one", "b", "c", "d"), 1)))
    assert (four - one) / 300 < most
