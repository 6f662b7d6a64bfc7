"""Write the image's bill of materials: Debian's packages and Python's, as CycloneDX 1.6, from what lies in its root."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from email import message_from_string
from email.message import Message
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Final

from cyclonedx.model import Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

_TOLD: Final = ("revision", "created")
PLACE: Final = "usr/share/sbom/proxygen.cdx.json"


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("root", type=Path)
    asked.add_argument("--version", required=True)
    asked.add_argument("--revision", default="")
    asked.add_argument("--created", default="", help="ISO 8601")
    given = asked.parse_args()
    bom = Bom(components=[*debian_packages(given.root), *python_packages(given.root)])
    facts = [Property(name=name, value=value) for name, value in vars(given).items() if name in _TOLD and value]
    bom.metadata.component = Component(
        name="proxygen", version=given.version, type=ComponentType.CONTAINER, properties=facts
    )
    path = given.root / PLACE
    path.parent.mkdir(parents=True)
    path.write_text(JsonV1Dot6(bom).output_as_string(indent=1) + "\n", encoding="utf-8")


def debian_packages(root: Path) -> Iterator[Component]:
    suite = dict(
        line.split("=", 1) for line in (root / "etc/os-release").read_text(encoding="utf-8").splitlines() if "=" in line
    )
    for path in sorted((root / "var/lib/dpkg/status.d").iterdir()):
        entry = message_from_string(path.read_text(encoding="utf-8"))
        qualifiers = {"arch": entry["Architecture"], "distro": f"debian-{suite['VERSION_ID'].strip(chr(34))}"}
        url = PackageURL("deb", "debian", entry["Package"], entry["Version"], qualifiers)
        yield _component(entry["Package"], entry["Version"], url, kind="deb")


def python_packages(root: Path) -> Iterator[Component]:
    found = [
        item
        for place in root.glob("opt/proxygen/lib/python3*/site-packages")
        for item in distributions(path=[str(place)])
    ]
    for item in sorted(found, key=_name):
        name, version = _name(item), item.version
        yield _component(name, version, PackageURL("pypi", None, name.lower(), version), kind="pypi")


def _name(item: Distribution) -> str:
    metadata: Message = item.metadata  # type: ignore[assignment]
    return str(metadata["Name"])


def _component(name: str, version: str, url: PackageURL, *, kind: str) -> Component:
    return Component(name=name, version=version, purl=url, bom_ref=f"{kind}:{name}", type=ComponentType.LIBRARY)


if __name__ == "__main__":
    main()
