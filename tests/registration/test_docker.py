from __future__ import annotations

import sys

import pytest

from proxygen.kit.errors import BadInput
from proxygen.registration.docker import ContainerEvent, _event, _own_id, require_library

ID = "0123456789abcdef" * 4

MOUNTS = {
    "Docker": f"530 513 254:1 /var/lib/docker/containers/{ID}/hostname /etc/hostname rw - ext4 /dev/vda1 rw",
    "Podman": f"530 513 0:24 /containers/storage/overlay-containers/{ID}/userdata/hosts /etc/hosts rw - tmpfs tmpfs rw",
}


@pytest.mark.parametrize("line", MOUNTS.values(), ids=MOUNTS.keys())
def test_a_container_knows_its_id_by_what_is_mounted_into_it(line: str) -> None:
    """Docker's and Podman's; a hostname can be set to anything."""
    assert _own_id(f"24 30 0:22 / /proc rw - proc proc rw\n{line}\n") == ID


def test_elsewhere_nothing_looks_like_one() -> None:
    layer = f"1 2 0:3 /overlay/{ID}/merged / rw - overlay overlay rw"
    assert _own_id(f"{layer}\n24 30 0:22 / /proc rw - proc proc rw\n") is None
    assert _own_id("") is None


@pytest.mark.parametrize(
    "actor",
    [{"ID": "net", "Attributes": {"container": ID, "name": "other"}}, {"ID": ID, "Attributes": {"network": "other"}}],
    ids=["Docker", "Podman"],
)
def test_a_container_that_joins_a_network_is_named_by_its_event(actor: dict[str, object]) -> None:
    told = {"Type": "network", "Action": "connect", "Actor": actor}
    assert _event(told) == ContainerEvent(container=ID, action="connect", signal="")


def test_what_has_to_be_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "aiodocker", None)
    with pytest.raises(BadInput, match=r"pip install '\.\[docker\]' in proxygen's checkout"):
        require_library()
