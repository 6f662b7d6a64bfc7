"""The operator's own directories: certificates, htpasswd files and snippets, read and judged."""

from __future__ import annotations

import ssl
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from proxygen.errors import BadInput
from proxygen.plan.types import Authorities, Certificate
from proxygen.tags.values import parse_file_name


def read_certificates(directory: Path | None) -> tuple[tuple[Certificate, ...], tuple[str, ...]]:
    """Return the usable certificates, and one line for each that is not.

    NAME.crt or NAME.pem holds the certificate and its chain, NAME.key the key. A pair that does not fit would make
    nginx refuse every service, so it is left out here.
    """
    if directory is None:
        return (), ()
    found, problems = [], []
    for path in _files(directory, (".crt", ".pem")):
        try:
            found.append(_certificate(path))
        except (OSError, ValueError, TypeError) as error:
            problems.append(f"certificate {path}: {error}")
    return tuple(found), tuple(problems)


def _certificate(path: Path) -> Certificate:
    # Loaded only where there are certificates: it is the heaviest of our libraries.
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificates
    from cryptography.x509.extensions import ExtensionNotFound

    chain = path.read_bytes()
    key_path = path.with_suffix(".key")
    key_bytes = key_path.read_bytes()
    leaf = load_pem_x509_certificates(chain)[0]
    key = load_pem_private_key(key_bytes, password=None)
    forms = [
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for public in (leaf.public_key(), key.public_key())
    ]
    if forms[0] != forms[1]:
        raise ValueError(f"the key {key_path.name} does not belong to it")
    # OpenSSL's own judgement, which nginx shares: too short a key, too weak a signature.
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(path, key_path)
    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value.get_values_for_type(DNSName)
    except ExtensionNotFound:
        names = []
    return Certificate(
        name=path.stem,
        hosts=tuple(name.lower() for name in names),
        certificate=str(path.absolute()),
        key=str(key_path.absolute()),
        fingerprint=sha256(chain + b"\0" + key_bytes).hexdigest(),
    )


def read_authorities(file: Path | None) -> Authorities | None:
    """Return who may vouch for instances. Raise BadInput for a file that nginx could not use: going on without it would
    let every instance in."""
    if file is None:
        return None
    try:
        content = file.read_bytes()
        # OpenSSL's own judgement, which nginx shares.
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cafile=file)
    except OSError as error:
        raise BadInput(f"proxy.upstream_ca {file}: {error.strerror or error}") from error
    return Authorities(file=str(file.absolute()), fingerprint=sha256(content).hexdigest())


def read_htpasswd(directory: Path | None) -> Mapping[str, str]:
    """Return the htpasswd files by the name that the auth tag gives."""
    if directory is None:
        return MappingProxyType({})
    return MappingProxyType({path.name: str(path.absolute()) for path in _files(directory, None)})


def read_snippets(directory: Path | None) -> Mapping[str, str]:
    """Return the operator's fragments by file name."""
    if directory is None:
        return MappingProxyType({})
    try:
        return MappingProxyType({path.name: path.read_text(encoding="utf-8") for path in _files(directory, (".conf",))})
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"snippets directory {directory}: {error}") from error


def _files(directory: Path, suffixes: tuple[str, ...] | None) -> Iterator[Path]:
    try:
        entries = sorted(directory.iterdir())
    except OSError as error:
        raise BadInput(f"{directory}: {error.strerror}") from error
    for path in entries:
        if (
            path.is_file()
            and _can_be_named(path.stem if suffixes else path.name)
            and (not suffixes or path.suffix in suffixes)
        ):
            yield path


def _can_be_named(name: str) -> bool:
    """Whether a tag could name it; editors' back-up files and the like could not."""
    with suppress(ValueError):
        return bool(parse_file_name(name))
    return False
