"""Certificates, passwords and fragments as the operator left them: what nginx could not use costs itself alone."""

from __future__ import annotations

import shutil
import ssl
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from proxygen.kit.errors import BadInput
from proxygen.proxy.policy.operator_files import Certificates as Found
from proxygen.proxy.policy.operator_files import read_authorities, read_certificates, read_htpasswd, read_snippets
from tests.consul.certificates import SERVER_NAME, Certificates, make_certificates


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return make_certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "certs").mkdir()
    return tmp_path / "certs"


def test_a_pair_is_read_with_its_hosts_and_both_its_files(made: Certificates, directory: Path) -> None:
    for name, suffix in (("web", "crt"), ("api", "pem")):
        shutil.copy(made.server, directory / f"{name}.{suffix}")
        shutil.copy(made.server_key, directory / f"{name}.key")
    found = read_certificates(directory)
    (api, web), problems = found.usable, found.problems
    assert problems == ()
    assert (api.name, web.name) == ("api", "web")
    assert (api.file, web.file) == ("api.pem", "web.crt")
    assert web.hosts == (SERVER_NAME,)
    assert (web.certificate, web.key) == (f"{directory}/web.crt", f"{directory}/web.key")
    assert web.fingerprint == sha256(made.server.read_bytes() + b"\0" + made.server_key.read_bytes()).hexdigest()


def test_a_key_that_changes_alone_changes_the_fingerprint(made: Certificates, directory: Path) -> None:
    """nginx reads both, so both are what is live."""
    shutil.copy(made.server, directory / "web.crt")
    shutil.copy(made.server_key, directory / "web.key")
    (before,) = read_certificates(directory).usable
    (directory / "web.key").write_bytes(made.server_key.read_bytes() + b"\n")
    (after,) = read_certificates(directory).usable
    assert before.fingerprint != after.fingerprint


def test_a_pair_that_does_not_fit_costs_itself_alone(made: Certificates, directory: Path) -> None:
    for name, key in (("good", made.server_key), ("mixed", made.client_key)):
        shutil.copy(made.server, directory / f"{name}.crt")
        shutil.copy(key, directory / f"{name}.key")
    shutil.copy(made.server, directory / "lonely.crt")
    (directory / "torn.crt").write_text("-----BEGIN CERTIFICATE-----\n")
    shutil.copy(made.server_key, directory / "torn.key")
    read = read_certificates(directory)
    found, problems = read.usable, read.problems
    assert [one.name for one in found] == ["good"]
    lonely, mixed, torn = problems
    assert lonely.startswith(f"certificate {directory}/lonely.crt: ")
    assert mixed == f"certificate {directory}/mixed.crt: the key mixed.key does not belong to it"
    assert torn.startswith(f"certificate {directory}/torn.crt: ")


def test_an_rsa_key_costs_a_fraction_of_the_proof_that_its_numbers_are_prime(directory: Path) -> None:
    """All pairs are read again at each change of one, and nothing else goes live meanwhile."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    from tests.consul.certificates import _sign

    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    signed = _sign("web", key.public_key(), "web", key, is_ca=True)
    (directory / "web.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (directory / "web.key").write_bytes(pem)

    def seconds(work: Callable[[], object]) -> float:
        start = time.thread_time()
        work()
        return time.thread_time() - start

    assert [one.name for one in read_certificates(directory).usable] == ["web"]
    proof = min(seconds(lambda: serialization.load_pem_private_key(pem, None)) for _ in range(3))
    assert min(seconds(lambda: read_certificates(directory)) for _ in range(3)) < proof / 3


def test_a_certificate_without_names_is_for_who_names_it(made: Certificates, directory: Path) -> None:
    """The tag ``tls=NAME`` takes it; no host finds it by itself."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    from tests.consul.certificates import _sign

    key = ec.generate_private_key(ec.SECP256R1())
    signed = _sign("plain", key.public_key(), "plain", key, is_ca=True)
    (directory / "plain.crt").write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    (directory / "plain.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    read = read_certificates(directory)
    (plain,) = read.usable
    assert (plain.hosts, read.problems) == ((), ())


@pytest.mark.parametrize(
    ("what", "instead", "said"),
    [
        (
            "06082a8648ce3d030107",
            "06082a8648ce3d030104",
            "use a key of RSA, Ed25519 or ECDSA with P-256, P-384 or P-521",
        ),
        ("a003020102", "a003020105", "what it says of itself cannot be read: 5 is not a valid X509 version"),
        ("87047f000001", "a30430020500", "what it says of itself cannot be read: x400Address"),
    ],
    ids=["another curve", "another version", "a name of an odd kind"],
)
def test_a_certificate_that_cannot_be_judged_costs_itself_alone(
    what: str, instead: str, said: str, made: Certificates, directory: Path
) -> None:
    """nginx might serve it."""
    for name in ("good", "odd"):
        shutil.copy(made.server, directory / f"{name}.crt")
        shutil.copy(made.server_key, directory / f"{name}.key")
    der = ssl.PEM_cert_to_DER_cert(made.server.read_text()).hex()
    assert what in der
    odd = ssl.DER_cert_to_PEM_cert(bytes.fromhex(der.replace(what, instead)))
    (directory / "odd.crt").write_text(odd)
    read = read_certificates(directory)
    assert [one.name for one in read.usable] == ["good"]
    (problem,) = read.problems
    assert problem.startswith(f"certificate {directory}/odd.crt: ")
    assert said in problem


def test_only_what_a_tag_could_name_is_read(directory: Path) -> None:
    for name in ("team.a", "users", ".users.swp", "users~", "two words", "#users#"):
        (directory / name).write_text("x")
    (directory / "folder").mkdir()
    assert dict(read_htpasswd(directory)) == {name: f"{directory}/{name}" for name in ("team.a", "users")}


def test_fragments_are_the_conf_files_alone(directory: Path) -> None:
    for name in ("http.conf", "server-a.example.com.conf", "http.conf~", "README", "note.txt"):
        (directory / name).write_text(f"text of {name}")
    assert dict(read_snippets(directory)) == {
        "http.conf": "text of http.conf",
        "server-a.example.com.conf": "text of server-a.example.com.conf",
    }
    (directory / "http.conf").write_bytes(b"caf\xe9")
    with pytest.raises(BadInput, match=f"snippets directory {directory}"):
        read_snippets(directory)


def test_what_is_not_set_is_nothing_and_what_is_gone_is_told(tmp_path: Path) -> None:
    assert read_certificates(None) == Found()
    assert (dict(read_htpasswd(None)), dict(read_snippets(None)), read_authorities(None)) == ({}, {}, None)
    for read in (read_certificates, read_htpasswd, read_snippets):
        with pytest.raises(BadInput, match="No such file"):
            read(tmp_path / "gone")


def test_authorities_are_one_usable_file(made: Certificates, tmp_path: Path) -> None:
    """To go on without it would let every instance in."""
    found = read_authorities(made.ca)
    assert found is not None
    assert (found.file, found.fingerprint) == (str(made.ca), sha256(made.ca.read_bytes()).hexdigest())
    (tmp_path / "empty.pem").write_text("")
    for file in (tmp_path / "gone.pem", tmp_path / "empty.pem"):
        with pytest.raises(BadInput, match=f"proxy.upstream_ca {file}: "):
            read_authorities(file)
