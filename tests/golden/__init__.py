"""One small catalog and the files that it becomes. ``python -m tests.golden`` writes them anew; read the diff."""

from __future__ import annotations

from pathlib import Path

from proxygen.consul.catalog_file import read_catalog_file
from proxygen.kit.templating import Templates
from proxygen.proxy.plan import plan_routes
from proxygen.proxy.plan.types import Certificate, Policy
from proxygen.proxy.render.renderer import Rendered, Renderer
from proxygen.proxy.render.surroundings import Snippets, Surroundings, TrafficLog
from proxygen.tags.shares import Share

HERE = Path(__file__).parent


def rendered() -> Rendered:
    """What the catalog becomes on nginx 1.31 with a certificate and a password file."""
    certificate = Certificate(
        name="example",
        hosts=("*.example.com",),
        certificate="/etc/proxygen/certificates/example.crt",
        key="/etc/proxygen/certificates/example.key",
        fingerprint="sha256-of-both-files",
    )
    policy = Policy(seed="golden", certificates=(certificate,), htpasswd={"staff": "/etc/proxygen/htpasswd/staff"})
    around = Surroundings(
        keepalive_min_timeout=True,
        keepalive_by_default=True,
        http2_directive=True,
        reject_handshake=True,
        traffic=TrafficLog(
            socket="/var/lib/proxygen/traffic.sock", mark="/var/lib/proxygen/traffic.sock.live", sample=Share(2500)
        ),
    )
    plan = plan_routes(read_catalog_file((HERE / "catalog.json").read_bytes()), policy)
    return Renderer(Templates(), around, Snippets()).render(plan)
