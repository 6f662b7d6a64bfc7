"""The bench of leases measures what it says, and a thousand hosts at once come to terms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.leasing import measure, tell


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_thousand_hosts_at_once_get_a_thousand_subnets(tmp_path: Path) -> None:
    """All different, which `measure` sees to; few of them need a second try, which is three requests more."""
    crowd = measure(1000, tmp_path)
    assert len(crowd.subnets) == 1000
    assert 3 <= crowd.requests / 1000 < 6
    assert "1000 hosts at once" in tell(crowd)
