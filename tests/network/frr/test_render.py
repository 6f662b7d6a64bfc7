"""What is printed: files that read as FRR prints them, and nothing that a lease could smuggle in."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings

from proxygen.kit.errors import NetworkConfigError, TemplateError
from proxygen.kit.templating import Word, word
from proxygen.network.fabric import Member
from proxygen.network.frr.render import render_for
from proxygen.network.frr.version import FrrVersion
from tests.harness.examples import examples
from tests.network.frr import golden
from tests.network.frr.fabrics import member, members, networks, seen_by, underlay

VERSION = FrrVersion(8, 4, 4)


def test_small_networks_become_the_files_that_the_manual_shows() -> None:
    """tests/network/frr/golden holds them; ``python -m tests.network.frr.golden`` writes them anew."""
    expected = {path.name: path.read_text() for path in golden.HERE.glob("*.conf")}
    assert golden.rendered() == expected


@settings(max_examples=examples(25), deadline=None)
@given(networks(kind="frr-bgp", most=20))
def test_what_leases_say_of_themselves_adds_no_word(everybody: list[Member]) -> None:
    """Of a lease only its subnet and its address are printed; names and data are not."""
    own = everybody[0]
    text = render_for(seen_by(own, everybody), underlay(own), VERSION)["frr.conf"]
    foreign = {word for line in text.splitlines() for word in line.split() if not re.fullmatch(r"[0-9./]+", word)}
    plain = render_for(seen_by(member(1), members(4)), underlay(member(1)), VERSION)["frr.conf"]
    assert foreign <= set(plain.split())


@pytest.mark.parametrize("link", ["eth0\nexit", "eth0 area 1", "", "eth0!", "é"])
def test_a_link_whose_name_frr_could_not_read_is_refused(link: str) -> None:
    own = member(1, kind="frr-ospf")
    with pytest.raises(TemplateError):
        render_for(seen_by(own, [own]), underlay(own, link=link), VERSION)


@pytest.mark.parametrize("value", ["eth0", True, None, 1.5, b"eth0", Word("eth0 exit"), Word("-x"), Word("")])
def test_only_typed_values_become_words(value: object) -> None:
    """A text says nothing of where it comes from."""
    with pytest.raises(TemplateError):
        word(value)


def test_typed_values_are_printed_as_frr_prints_them() -> None:
    own = member(1)
    values = (own.public_ip, own.subnet, 4_200_000_000, Word("vlan.100"))
    assert [str(word(value)) for value in values] == ["192.0.0.1", "10.99.1.0/24", "4200000000", "vlan.100"]


def test_other_backends_have_no_frr_configuration() -> None:
    own = member(1, kind="host-gw")
    with pytest.raises(NetworkConfigError, match="host-gw"):
        render_for(seen_by(own, [own]), underlay(own), VERSION)


@pytest.mark.parametrize(
    ("text", "parts"), [("8.4.4", (8, 4, 4)), ("10.1-dev", (10, 1, 0)), ("9.0.2~deb12", (9, 0, 2))]
)
def test_versions_are_read_as_distributions_write_them(text: str, parts: tuple[int, int, int]) -> None:
    assert FrrVersion.parse(text) == parts


@pytest.mark.parametrize("text", ["", "next", "v8.4", "8", "99999999999999999999.1"])
def test_what_is_no_version_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no version"):
        FrrVersion.parse(text)
