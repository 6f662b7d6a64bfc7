"""The forms in which certificates and keys are written: what is found usable here, a real nginx accepts."""

from __future__ import annotations

import base64
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Final

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509 import load_pem_x509_certificate

from proxygen.proxy.policy.operator_files import Certificates, read_certificates
from tests.harness.tools import NginxBinary
from tests.integration.certificates import Authority

_PARAMETERS: Final = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
"""Of P-256, as `openssl ecparam -genkey` writes them before the key."""
_BOM: Final = b"\xef\xbb\xbf"
_TEXT: Final = b"Certificate:\n    Subject: CN = caf\xe9\n"


FORMS: Final[dict[str, Callable[[bytes, bytes, bytes], tuple[bytes, bytes]]]] = {
    "whole": lambda leaf, key, ca: (leaf + ca, key),
    "text before": lambda leaf, key, ca: (_TEXT + leaf + _TEXT + ca, _TEXT + key),
    "parameters before the key": lambda leaf, key, ca: (leaf + ca, _PARAMETERS + sec1(key)),
    "CRLF": lambda leaf, key, ca: ((leaf + ca).replace(b"\n", b"\r\n"), key.replace(b"\n", b"\r\n")),
    "BOM": lambda leaf, key, ca: (_BOM + leaf + ca, _BOM + key),
    "the key in the same file": lambda leaf, key, ca: (key + leaf + ca, leaf + key),
    "the old name": lambda leaf, key, ca: (leaf.replace(b" CERT", b" X509 CERT"), key),
    "OpenSSL's own in the chain": lambda leaf, key, ca: (leaf + trusted(ca), key),
}
REFUSED: Final[dict[str, Callable[[bytes, bytes, bytes], tuple[bytes, bytes]]]] = {
    "BEGIN TRUSTED CERTIFICATE is a form of OpenSSL's own": lambda leaf, key, ca: (trusted(leaf) + ca, key),
    "of the key web.key must be the first one in it": lambda leaf, key, ca: (ca + leaf, key),
    "the key web.key does not belong to it": lambda leaf, key, ca: (ca, key),
    "there is no certificate in PEM form in it": lambda leaf, key, ca: (b"\x30\x82\x01", key),
    "there is no private key in PEM form in web.key": lambda leaf, key, ca: (leaf, leaf),
    "the key web.key has a passphrase": lambda leaf, key, ca: (leaf, locked(key)),
    "a certificate in it is damaged": lambda leaf, key, ca: (leaf[:200] + b"\n\n" + leaf[200:], key),
    "each BEGIN and END must be a line by itself": lambda leaf, key, ca: (leaf.rstrip() + ca, key),
}
"""By what is said against it."""


def sec1(key: bytes) -> bytes:
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


def locked(key: bytes) -> bytes:
    with_passphrase = BestAvailableEncryption(b"secret")
    return load_pem_private_key(key, None).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, with_passphrase)


def trusted(certificate: bytes) -> bytes:
    """What `openssl x509 -trustout` writes: the certificate, and a list of what it is trusted for."""
    der = load_pem_x509_certificate(certificate).public_bytes(Encoding.DER) + b"\x30\x00"
    body = base64.encodebytes(der)
    return b"-----BEGIN TRUSTED CERTIFICATE-----\n" + body + b"-----END TRUSTED CERTIFICATE-----\n"


@pytest.fixture
def made(tmp_path: Path) -> tuple[bytes, bytes, bytes]:
    """A certificate, its key and that of the authority."""
    authority = Authority()
    path = authority.issue(tmp_path, "made", "web.test")
    return path.read_bytes(), path.with_suffix(".key").read_bytes(), authority.pem


@pytest.mark.parametrize("form", FORMS)
def test_what_is_found_usable_nginx_accepts(
    form: str, made: tuple[bytes, bytes, bytes], any_nginx_binary: NginxBinary, tmp_path: Path
) -> None:
    read = put(tmp_path, *FORMS[form](*made))
    assert read.problems == ()
    assert [one.hosts for one in read.usable] == [("web.test",)]
    assert nginx_accepts(any_nginx_binary, tmp_path)


@pytest.mark.parametrize("said", REFUSED)
def test_what_is_refused_is_named_with_what_is_allowed(
    said: str, made: tuple[bytes, bytes, bytes], tmp_path: Path
) -> None:
    read = put(tmp_path, *REFUSED[said](*made))
    (problem,) = read.problems
    assert read.usable == ()
    assert problem.startswith(f"certificate {tmp_path}/certs/web.crt: ")
    assert said in problem


def put(directory: Path, certificate: bytes, key: bytes) -> Certificates:
    (directory / "certs").mkdir()
    (directory / "certs/web.crt").write_bytes(certificate)
    (directory / "certs/web.key").write_bytes(key)
    return read_certificates(directory / "certs")


def nginx_accepts(binary: NginxBinary, directory: Path) -> bool:
    conf = directory / "nginx.conf"
    conf.write_text(
        f"pid {directory}/nginx.pid; error_log stderr; events {{}}\n"
        f"http {{ server {{ listen unix:{directory}/tls ssl; ssl_certificate {directory}/certs/web.crt;"
        f" ssl_certificate_key {directory}/certs/web.key; }} }}\n"
    )
    ended = subprocess.run(
        [binary.path, "-t", "-c", conf, "-p", directory], capture_output=True, text=True, check=False, timeout=30
    )
    print(ended.stderr)
    return ended.returncode == 0
