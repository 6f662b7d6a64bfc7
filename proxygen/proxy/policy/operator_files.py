"""The operator's own directories: certificates, htpasswd files and snippets, read and judged."""

from __future__ import annotations

import os
import re
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from proxygen.kit.errors import BadInput
from proxygen.proxy.plan.types import Authorities, Certificate
from proxygen.proxy.policy.certificate_copies import GRACE, CertificateCopies, KnownPair, Pair
from proxygen.tags.values import parse_file_name

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificates:
    """What the operator's directory holds, and what of it cannot be used."""

    usable: tuple[Certificate, ...] = ()
    problems: tuple[str, ...] = ()
    """One line for each file that cannot be used as it is now."""
    look_again: float | None = None
    """Seconds after which a pair that is gone is given up; None where there is none."""


def read_certificates(directory: Path | None, copies: CertificateCopies | None = None) -> Certificates:
    """Judge the operator's certificates. Where there are ``copies``, nginx is given those, and a file that is no part
    of a good pair leaves the last good one in use.

    NAME.crt or NAME.pem holds the certificate and its chain, NAME.key the key. A pair that does not fit would make
    nginx refuse every service, so it is left out here.
    """
    if directory is None:
        return Certificates()
    before, now = copies.known() if copies is not None else {}, {}
    usable, problems, waits = [], [], []
    paths = {path.name: path for path in _files(directory, (".crt", ".pem"))}
    found = {name: _read(paths.get(name, directory / name), copies) for name in sorted(paths.keys() | before.keys())}
    paired = {each.name for each in found.values() if isinstance(each, Certificate)}
    for name, certificate in found.items():
        if isinstance(certificate, Certificate):
            now[name] = KnownPair(certificate.fingerprint)
            usable.append(certificate)
            continue
        path = paths.get(name, directory / name)
        is_key_taken = path.stem in paired
        known = _missed(before.get(name), path, is_key_taken=is_key_taken)
        kept = None if known is None else _last_good(path, known, copies)
        if kept is None or known is None:
            problems += [f"certificate {path}: {_reason(certificate)}"] if name in paths else []
            continue
        now[name] = known
        usable.append(kept)
        problems.append(f"certificate {path}: {_reason(certificate)}; {_until(known, path, is_key_taken=is_key_taken)}")
        if known.gone_at is not None:
            waits.append(known.gone_at + GRACE - time.time())
    if copies is not None:
        with suppress(OSError):
            # Read again at the next change; until then it is known here.
            copies.note(now)
    return Certificates(
        usable=tuple(usable), problems=tuple(problems), look_again=max(0.0, min(waits)) if waits else None
    )


def _read(path: Path, copies: CertificateCopies | None) -> Certificate | OSError | ValueError:
    try:
        return _certificate(path, copies)
    except (OSError, ValueError) as error:
        return error


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _missed(known: KnownPair | None, path: Path, *, is_key_taken: bool) -> KnownPair | None:
    """What is known of a pair that cannot be used as it is now; None where it is given up. ``is_key_taken``: the key
    of its name makes a good pair with the certificate under the other suffix."""
    if known is None:
        return None
    if path.exists() or (path.with_suffix(".key").exists() and not is_key_taken):
        return KnownPair(known.fingerprint)
    gone_at = time.time() if known.gone_at is None else known.gone_at
    return KnownPair(known.fingerprint, gone_at) if time.time() < gone_at + GRACE else None


def _until(known: KnownPair, path: Path, *, is_key_taken: bool) -> str:
    """Say how long a previous pair is served, and so what ends it."""
    key = path.with_suffix(".key").name
    if known.gone_at is not None:
        return f"the previous pair is served for {GRACE:.0f} s"
    if is_key_taken:
        return f"the previous pair is served until {path.name} matches {key}, or is deleted"
    return f"the previous pair is served until {path.name} and {key} match, or both are deleted"


def _last_good(path: Path, known: KnownPair, copies: CertificateCopies | None) -> Certificate | None:
    pair = copies.load(known.fingerprint) if copies is not None else None
    if copies is None or pair is None:
        return None
    try:
        return replace(_judged(pair, path, copies.paths(known.fingerprint)), is_previous=True)
    except (OSError, ValueError):
        return None


def _certificate(path: Path, copies: CertificateCopies | None) -> Certificate:
    key_path = path.with_suffix(".key")
    pair = Pair(chain=path.read_bytes(), key=key_path.read_bytes())
    certificate = _judged(pair, path, (path.absolute(), key_path.absolute()))
    if copies is None or not copies.keep(pair, path, key_path):
        return certificate
    chain, key = copies.paths(pair.fingerprint)
    return replace(certificate, certificate=str(chain), key=str(key))


def _judged(pair: Pair, file: Path, paths: tuple[Path, Path]) -> Certificate:
    """Raise ValueError or OSError for a pair that nginx could not use, or that cannot be judged."""
    # Loaded only where there are certificates: it is the heaviest of our libraries.
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.x509 import DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType

    try:
        certificates = _certificates(pair.chain)
        _match(certificates, _private_key(pair.key, f"{file.stem}.key"), f"{file.stem}.key")
        _load(pair)
        hosts = _hosts(certificates[0])
    except UnsupportedAlgorithm as error:
        raise ValueError(f"{error}; use a key of RSA, Ed25519 or ECDSA with P-256, P-384 or P-521") from error
    except (DuplicateExtension, InvalidVersion, UnsupportedGeneralNameType) as error:
        raise ValueError(f"what it says of itself cannot be read: {error}") from error
    return Certificate(
        name=file.stem,
        file=file.name,
        hosts=hosts,
        certificate=str(paths[0]),
        key=str(paths[1]),
        fingerprint=pair.fingerprint,
        expires=certificates[0].not_valid_after_utc.timestamp(),
    )


_FIRST: Final = re.compile(rb"-----BEGIN (TRUSTED |X509 )?CERTIFICATE-----")


def _refuse_other_forms(chain: bytes) -> None:
    first = _FIRST.search(chain)
    if first is None:
        raise ValueError("there is no certificate in PEM form in it, which begins with -----BEGIN CERTIFICATE-----")
    if first[1] == b"TRUSTED ":
        # nginx would serve it; which hosts it names only OpenSSL could say.
        raise ValueError(
            "BEGIN TRUSTED CERTIFICATE is a form of OpenSSL's own; write it as BEGIN CERTIFICATE, as"
            " `openssl x509 -in FILE` does"
        )


def _certificates(chain: bytes) -> list[x509.Certificate]:
    """Read a certificate and its chain. Whatever else is in the file is skipped, as nginx does."""
    from cryptography.x509 import load_pem_x509_certificates

    _refuse_other_forms(chain)
    try:
        return load_pem_x509_certificates(chain)
    except ValueError as error:
        raise ValueError(f"a certificate in it is damaged: {_first_sentence(error)}") from error


def _private_key(content: bytes, name: str) -> PrivateKeyTypes:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        # To prove that the numbers of an RSA key are prime takes 50 ms for 2048 bits and 350 ms for 4096. nginx does
        # not do it, and what matters to it is judged below.
        return load_pem_private_key(content, password=None, unsafe_skip_rsa_key_validation=True)
    except TypeError as error:
        raise ValueError(f"the key {name} has a passphrase; `openssl pkey -in FILE` writes it without one") from error
    except ValueError as error:
        raise ValueError(f"there is no private key in PEM form in {name}: {_first_sentence(error)}") from error


def _match(certificates: list[x509.Certificate], key: PrivateKeyTypes, name: str) -> None:
    """Raise ValueError where the first certificate, which nginx serves, is not that of the key."""
    wanted = _form(key.public_key())
    if _form(certificates[0].public_key()) == wanted:
        return
    if any(_form(each.public_key()) == wanted for each in certificates[1:]):
        raise ValueError(
            f"the certificate of the key {name} must be the first one in it, before those that vouch for it"
        )
    raise ValueError(f"the key {name} does not belong to it")


def _form(public: PublicKeyTypes) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _hosts(leaf: x509.Certificate) -> tuple[str, ...]:
    from cryptography.x509 import DNSName, ExtensionNotFound, SubjectAlternativeName

    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value
    except ExtensionNotFound:
        return ()
    return tuple(found.lower() for found in names.get_values_for_type(DNSName))


def _first_sentence(error: Exception) -> str:
    """Without the library's advice to programmers."""
    return str(error).partition(". ")[0]


def _load(pair: Pair) -> None:
    """OpenSSL's own judgement, which nginx shares: too short a key, too weak a signature. It reads files only, and the
    operator's may be others by now."""
    with ExitStack() as stack:
        paths = []
        for content in (pair.chain, pair.key):
            file = stack.enter_context(os.fdopen(os.memfd_create("pair"), "wb"))
            file.write(content)
            file.flush()
            paths.append(f"/proc/self/fd/{file.fileno()}")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)
        except ssl.SSLError as error:
            # Of how the text is laid out it says nothing.
            reason = error.reason or "each BEGIN and END must be a line by itself, with nothing before it"
            raise ValueError(f"OpenSSL, by which nginx reads them, refuses it or its key: {reason}") from error


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
