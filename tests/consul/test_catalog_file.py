"""The catalog file, both ways."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from proxygen.consul.catalog_file import RawCatalog, catalog_of, read_catalog_file, write_catalog_file
from proxygen.kit.errors import CatalogFileError

WEB: dict[str, Any] = {
    "Node": {"Node": "n1", "Address": "10.0.0.1", "Datacenter": "dc1"},
    "Service": {"ID": "web-1", "Service": "web", "Port": 80, "Tags": ["proxygen.route=a.example.com"]},
    "Checks": [{"CheckID": "c", "Status": "warning", "Output": "not read by us"}],
}


def raw(*entries: object) -> RawCatalog:
    encoded = [msgspec.Raw(json.dumps(entry).encode()) for entry in entries]
    return RawCatalog(datacenter="dc1", services={"web": encoded, "gone": []}, kv={"proxygen/canary/web": "{}"})


def test_what_is_written_reads_back_as_the_same_catalog() -> None:
    text = write_catalog_file(raw(WEB), taken_at=datetime(2026, 1, 2, tzinfo=UTC))
    assert read_catalog_file(text) == catalog_of(raw(WEB))
    assert read_catalog_file(text.decode()).services["gone"] == ()  # type: ignore[index]


def test_other_datacenters_read_back_too() -> None:
    there = replace(raw(WEB), elsewhere={"dc2": raw(WEB).services})
    catalog = read_catalog_file(write_catalog_file(there, taken_at=datetime(2026, 1, 2, tzinfo=UTC)))
    assert catalog == catalog_of(there)
    assert catalog.elsewhere["dc2"] == catalog.services
    assert b"elsewhere" not in write_catalog_file(raw(WEB), taken_at=datetime(2026, 1, 2, tzinfo=UTC))


def test_entries_stay_exactly_as_consul_returned_them() -> None:
    """A field that proxygen does not read is there for whoever looks at the snapshot."""
    document = json.loads(write_catalog_file(raw(WEB), taken_at=datetime(2026, 1, 2, tzinfo=UTC)))
    assert document["services"]["web"] == [WEB]
    assert document["taken_at"] == "2026-01-02T00:00:00+00:00"
    assert document["kv"] == {"proxygen/canary/web": "{}"}


@pytest.mark.parametrize(
    ("document", "place"),
    [
        ("{", "truncated"),
        ("[]", "object"),
        ({"services": {}}, "datacenter"),
        ({"datacenter": "dc1", "service": {}}, "service"),
        ({"datacenter": "dc1", "services": {"web": {}}}, "services"),
        ({"datacenter": "dc1", "services": {"web": [WEB, {"Node": {"Node": "n"}}]}}, r"services\.web\[1\].*Service"),
        (
            {"datacenter": "dc1", "services": {"web": [WEB | {"Service": WEB["Service"] | {"Port": "x"}}]}},
            r"services\.web\[0\].*Port",
        ),
        ({"datacenter": "dc1", "services": {}, "kv": {"canary": "{}"}}, "PREFIX/canary/SERVICE"),
        ({"datacenter": "dc1", "services": {}, "elsewhere": {"dc2": {"web": [{}]}}}, r"elsewhere\.dc2\.web\[0\]"),
        ({"datacenter": "dc1", "services": {}, "kv": {"p/canary/web": {"canary": 1}}}, "kv"),
        ({"datacenter": "dc1", "services": {"web\ud800": []}}, "malformed"),
        ({"datacenter": "dc1", "services": {"web": [WEB | {"Node": {"Node": "\ud800"}}]}}, "malformed"),
        ({"datacenter": "dc1", "services": {}, "kv": {"p/canary/\ud800": "{}"}}, "malformed"),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(document: object, place: str) -> None:
    text = document if isinstance(document, str) else json.dumps(document)
    with pytest.raises(CatalogFileError, match=place):
        read_catalog_file(text)
