from __future__ import annotations

from pathlib import Path

import msgspec

from proxygen.proxy.apply.publish import hold_output, publish, switch
from proxygen.proxy.nginx.stamp import Stamp
from tests.cli.conftest import Proxygen
from tests.harness.generations import staged


def test_a_live_generation_that_cannot_be_read_is_an_error_that_names_the_file(
    proxygen: Proxygen, tmp_path: Path
) -> None:
    output, catalog = tmp_path / "output", tmp_path / "catalog.json"
    catalog.write_bytes(msgspec.json.encode({"datacenter": "dc1", "services": {}, "kv": {}}))
    with hold_output(output) as held:
        publish(held, staged(held, Stamp(generation=1, digest="1" * 64), {"http.d/99-bad.conf/": b""}), {})
        switch(held, 1)
    ended = proxygen("diff", "--catalog", str(catalog), "--output-directory", str(output))
    assert ended.code == 2
    path = output / "current" / "http.d" / "99-bad.conf"
    assert ended.err.splitlines()[-1] == f"proxygen: the live generation cannot be read: {path}: Is a directory"
