"""Certificates as pairs: what nginx reads is whole whatever becomes of the operator's files, and stays secret."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from proxygen.proxy.plan.types import Certificate, CertificateIndex
from proxygen.proxy.policy import operator_files
from proxygen.proxy.policy.certificate_copies import GRACE, CertificateCopies, KnownPair
from proxygen.proxy.policy.operator_files import Certificates, read_certificates
from tests.consul.certificates import make_certificates


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[Path, Path]]:
    """Two pairs for the same names."""
    made = [make_certificates(tmp_path_factory.mktemp("certificates")) for _ in range(2)]
    return [(each.server, each.server_key) for each in made]


@pytest.fixture
def directory(tmp_path: Path, pairs: list[tuple[Path, Path]]) -> Path:
    """The operator's, with the first pair as ``web``."""
    (tmp_path / "certs").mkdir()
    (tmp_path / "output/state").mkdir(parents=True)
    put(tmp_path / "certs", "crt", pairs[0][0])
    put(tmp_path / "certs", "key", pairs[0][1])
    return tmp_path / "certs"


@pytest.fixture
def copies(tmp_path: Path) -> CertificateCopies:
    return CertificateCopies(tmp_path / "output", may_write=True)


def put(directory: Path, suffix: str, source: Path) -> None:
    shutil.copyfile(source, directory / f"web.{suffix}")


def the_one(read: Certificates) -> Certificate:
    (found,) = read.usable
    return found


def as_previous(certificate: Certificate) -> Certificate:
    return replace(certificate, is_previous=True)


def content(certificate: Certificate) -> tuple[bytes, bytes]:
    return Path(certificate.certificate).read_bytes(), Path(certificate.key).read_bytes()


def spoilt(directory: Path) -> dict[str, Callable[[], object]]:
    """All that may become of a pair while it is replaced."""
    crt, key = directory / "web.crt", directory / "web.key"
    return {
        "key first": lambda: None,
        "empty": lambda: crt.write_bytes(b""),
        "half": lambda: crt.write_bytes(crt.read_bytes()[:300]),
        "half a key": lambda: key.write_bytes(key.read_bytes()[:100]),
        "no key": key.unlink,
        "no certificate": crt.unlink,
        "a directory": lambda: (key.unlink(), key.mkdir()),
        "not text": lambda: key.write_bytes(b"\xff\x00"),
        "a loop": lambda: (key.unlink(), key.symlink_to(key)),
    }


def test_nginx_is_given_a_copy_that_nothing_in_the_directory_changes(
    directory: Path, copies: CertificateCopies
) -> None:
    before = the_one(read_certificates(directory, copies))
    assert directory not in Path(before.certificate).parents
    whole = content(before)
    shutil.rmtree(directory)
    assert content(before) == whole


@pytest.mark.incident("T58")
@pytest.mark.parametrize("how", spoilt(Path()).keys())
def test_the_old_pair_serves_until_a_whole_new_one_is_there(
    how: str, directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]]
) -> None:
    """In this run and in the next."""
    before = the_one(read_certificates(directory, copies))
    whole = content(before)
    put(directory, "key", pairs[1][1])
    spoilt(directory)[how]()
    for again in (copies, CertificateCopies(directory.parent / "output", may_write=True)):
        read = read_certificates(directory, again)
        assert the_one(read) == as_previous(before)
        assert content(the_one(read)) == whole
        (problem,) = read.problems
        assert problem.startswith(f"certificate {directory}/web.crt: ")
        assert problem.endswith("; the previous pair is served until web.crt and web.key match, or both are deleted")
    for name in ("web.crt", "web.key"):
        left = directory / name
        left.rmdir() if left.is_dir() and not left.is_symlink() else left.unlink(missing_ok=True)
    put(directory, "crt", pairs[1][0])
    put(directory, "key", pairs[1][1])
    read = read_certificates(directory, copies)
    assert read.problems == ()
    assert content(the_one(read)) == tuple(path.read_bytes() for path in pairs[1])
    assert content(before) == whole, "an older generation still names it"


@pytest.mark.parametrize("order", list(itertools.permutations(("crt", "key"))), ids=" then ".join)
def test_either_file_may_come_first(
    order: tuple[str, ...], directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]]
) -> None:
    before, new = the_one(read_certificates(directory, copies)), dict(zip(("crt", "key"), pairs[1], strict=True))
    put(directory, order[0], new[order[0]])
    assert the_one(read_certificates(directory, copies)) == as_previous(before)
    put(directory, order[1], new[order[1]])
    assert the_one(read_certificates(directory, copies)).fingerprint != before.fingerprint


def test_a_pair_that_never_was_good_is_left_out(directory: Path, copies: CertificateCopies) -> None:
    (directory / "web.key").write_bytes(b"")
    read = read_certificates(directory, copies)
    assert (read.usable, len(read.problems)) == ((), 1)


def test_a_pair_that_is_gone_is_given_up_after_a_moment(
    directory: Path, copies: CertificateCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some tools delete before they write; and an operator who deletes a pair wants it gone."""
    now = 1_000_000.0
    monkeypatch.setattr(operator_files.time, "time", lambda: now)
    before = the_one(read_certificates(directory, copies))
    for file in directory.iterdir():
        file.unlink()
    read = read_certificates(directory, copies)
    assert (the_one(read), read.look_again) == (as_previous(before), GRACE)
    now += GRACE - 1
    assert read_certificates(directory, copies).look_again == 1
    now += 1
    assert read_certificates(directory, copies) == Certificates()
    assert copies.known() == {}


@pytest.mark.parametrize(("old", "new"), [("pem", "crt"), ("crt", "pem")])
def test_a_certificate_whose_key_belongs_to_the_one_under_the_other_suffix_is_gone(
    old: str,
    new: str,
    directory: Path,
    copies: CertificateCopies,
    pairs: list[tuple[Path, Path]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The key of the new pair has the name of the old one's, and does not keep the old pair."""
    now = 1_000_000.0
    monkeypatch.setattr(operator_files.time, "time", lambda: now)
    (directory / "web.crt").rename(directory / f"web.{old}")
    before = the_one(read_certificates(directory, copies))
    (directory / f"web.{old}").unlink()
    put(directory, "key", pairs[1][1])
    assert the_one(read_certificates(directory, copies)) == as_previous(before), "not replaced yet"
    put(directory, new, pairs[1][0])
    read = read_certificates(directory, copies)
    assert read.look_again == GRACE
    index = CertificateIndex.of(read.usable)
    assert index.by_name["web"].file == index.by_host[before.hosts[0]].file == f"web.{new}"
    now += GRACE
    read = read_certificates(directory, copies)
    assert (the_one(read).file, read.problems, read.look_again) == (f"web.{new}", (), None)


def test_a_previous_pair_beside_a_good_one_of_its_name_is_served_until_its_file_is_deleted(
    directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]]
) -> None:
    """To delete the key as well would end the good one."""
    read_certificates(directory, copies)
    put(directory, "pem", pairs[1][0])
    put(directory, "key", pairs[1][1])
    (problem,) = read_certificates(directory, copies).problems
    assert problem.endswith("; the previous pair is served until web.crt matches web.key, or is deleted")


def test_one_that_came_back_in_time_is_not_given_up(
    directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1_000_000.0
    monkeypatch.setattr(operator_files.time, "time", lambda: now)
    read_certificates(directory, copies)
    for file in directory.iterdir():
        file.unlink()
    read_certificates(directory, copies)
    put(directory, "key", pairs[1][1])
    now += GRACE
    read = read_certificates(directory, copies)
    assert (len(read.usable), read.look_again) == (1, None)


def test_a_copy_that_was_tampered_with_is_not_used(directory: Path, copies: CertificateCopies) -> None:
    before = the_one(read_certificates(directory, copies))
    Path(before.key).write_bytes(b"")
    (directory / "web.crt").write_bytes(b"")
    assert read_certificates(directory, copies).usable == ()


def test_a_damaged_copy_is_made_anew(directory: Path, copies: CertificateCopies) -> None:
    before = the_one(read_certificates(directory, copies))
    whole = content(before)
    Path(before.key).write_bytes(b"")
    assert content(the_one(read_certificates(directory, copies))) == whole


def test_one_shot_commands_write_nothing_and_use_what_is_there(
    directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]]
) -> None:
    reader = CertificateCopies(directory.parent / "output", may_write=False)
    assert the_one(read_certificates(directory, reader)).certificate == str(directory / "web.crt")
    assert not copies.directory.exists()
    kept = the_one(read_certificates(directory, copies))
    assert the_one(read_certificates(directory, reader)) == kept
    put(directory, "key", pairs[1][1])
    assert the_one(read_certificates(directory, reader)) == as_previous(kept)


def test_what_no_generation_names_is_deleted_and_what_is_in_use_is_not(
    directory: Path, copies: CertificateCopies, pairs: list[tuple[Path, Path]]
) -> None:
    first = the_one(read_certificates(directory, copies))
    put(directory, "crt", pairs[1][0])
    put(directory, "key", pairs[1][1])
    second = the_one(read_certificates(directory, copies))
    (copies.directory / f".{'0' * 64}.key.new").write_bytes(b"left by a kill")
    copies.collect([first.fingerprint])
    assert content(first)
    copies.collect([])
    assert {path.name for path in copies.directory.iterdir()} == {
        "names.json",
        Path(second.certificate).name,
        Path(second.key).name,
    }


@pytest.mark.parametrize(("mode", "copied"), [(0o600, 0o600), (0o640, 0o640), (0o644, 0o644), (0o400, 0o600)])
def test_a_copy_can_be_read_by_those_who_could_read_the_original(
    mode: int, copied: int, directory: Path, copies: CertificateCopies
) -> None:
    (directory / "web.key").chmod(mode)
    found = the_one(read_certificates(directory, copies))
    assert stat.S_IMODE(Path(found.key).stat().st_mode) == copied


def test_a_group_that_cannot_be_given_gets_nothing(
    directory: Path, copies: CertificateCopies, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ours is another one."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a file to a group that is not its own")
    os.chown(directory / "web.key", -1, 54_321)
    (directory / "web.key").chmod(0o640)

    def refuse(*_: object) -> None:
        raise PermissionError

    with monkeypatch.context() as without_rights:
        without_rights.setattr(os, "fchown", refuse)
        found = the_one(read_certificates(directory, copies))
        assert stat.S_IMODE(Path(found.key).stat().st_mode) == 0o600
    Path(found.key).unlink()
    found = the_one(read_certificates(directory, copies))
    status = Path(found.key).stat()
    assert (status.st_gid, stat.S_IMODE(status.st_mode)) == (54_321, 0o640)


def test_damaged_names_are_none(directory: Path, copies: CertificateCopies) -> None:
    read_certificates(directory, copies)
    (copies.directory / "names.json").write_bytes(b"{")
    assert copies.known() == {}
    found = the_one(read_certificates(directory, copies))
    assert copies.known() == {"web.crt": KnownPair(found.fingerprint)}


def test_nothing_is_deleted_while_the_names_cannot_be_read(directory: Path, copies: CertificateCopies) -> None:
    before = the_one(read_certificates(directory, copies))
    whole = content(before)
    (copies.directory / "names.json").write_bytes(b"{")
    copies.collect([])
    assert content(before) == whole
