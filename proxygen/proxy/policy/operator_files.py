"""The operator's own directories: certificates, htpasswd files and snippets, read and judged."""

from __future__ import annotations

import os
import ssl
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType

from proxygen.kit.errors import BadInput
from proxygen.proxy.plan.types import Authorities, Certificate
from proxygen.proxy.policy.certificate_copies import GRACE, CertificateCopies, KnownPair, Pair
from proxygen.tags.values import parse_file_name


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
    for name in sorted(paths.keys() | before.keys()):
        path = paths.get(name, directory / name)
        try:
            certificate = _certificate(path, copies)
        except (OSError, ValueError, TypeError) as error:
            known = _missed(before.get(name), path)
            kept = None if known is None else _last_good(path, known, copies)
            if kept is None or known is None:
                problems += [f"certificate {path}: {_reason(error)}"] if name in paths else []
                continue
            certificate, now[name] = kept, known
            until = ""
            if known.gone_at is not None:
                waits.append(known.gone_at + GRACE - time.time())
                until = f" for {GRACE:.0f} s"
            problems.append(f"certificate {path}: {_reason(error)}; the previous pair is served on{until}")
        else:
            now[name] = KnownPair(certificate.fingerprint)
        usable.append(certificate)
    if copies is not None:
        with suppress(OSError):
            # Read again at the next change; until then it is known here.
            copies.note(now)
    return Certificates(
        usable=tuple(usable), problems=tuple(problems), look_again=max(0.0, min(waits)) if waits else None
    )


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _missed(known: KnownPair | None, path: Path) -> KnownPair | None:
    """What is known of a pair that cannot be used as it is now; None where it is given up."""
    if known is None or path.exists() or path.with_suffix(".key").exists():
        return None if known is None else KnownPair(known.fingerprint)
    gone_at = time.time() if known.gone_at is None else known.gone_at
    return KnownPair(known.fingerprint, gone_at) if time.time() < gone_at + GRACE else None


def _last_good(path: Path, known: KnownPair, copies: CertificateCopies | None) -> Certificate | None:
    pair = copies.load(known.fingerprint) if copies is not None else None
    if copies is None or pair is None:
        return None
    try:
        return _judged(pair, path.stem, copies.paths(known.fingerprint))
    except (OSError, ValueError, TypeError):
        return None


def _certificate(path: Path, copies: CertificateCopies | None) -> Certificate:
    key_path = path.with_suffix(".key")
    pair = Pair(chain=path.read_bytes(), key=key_path.read_bytes())
    certificate = _judged(pair, path.stem, (path.absolute(), key_path.absolute()))
    if copies is None or not copies.keep(pair, path, key_path):
        return certificate
    chain, key = copies.paths(pair.fingerprint)
    return replace(certificate, certificate=str(chain), key=str(key))


def _judged(pair: Pair, name: str, paths: tuple[Path, Path]) -> Certificate:
    """Raise ValueError, TypeError or OSError for a pair that nginx could not use."""
    # Loaded only where there are certificates: it is the heaviest of our libraries.
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
    from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificates
    from cryptography.x509.extensions import ExtensionNotFound

    leaf = load_pem_x509_certificates(pair.chain)[0]
    # To prove that the numbers of an RSA key are prime takes 50 ms for 2048 bits and 350 ms for 4096. nginx does not do
    # it, and what matters to it is judged below.
    key = load_pem_private_key(pair.key, password=None, unsafe_skip_rsa_key_validation=True)
    forms = [
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        for public in (leaf.public_key(), key.public_key())
    ]
    if forms[0] != forms[1]:
        raise ValueError(f"the key {name}.key does not belong to it")
    _load(pair)
    try:
        names = leaf.extensions.get_extension_for_class(SubjectAlternativeName).value.get_values_for_type(DNSName)
    except ExtensionNotFound:
        names = []
    return Certificate(
        name=name,
        hosts=tuple(found.lower() for found in names),
        certificate=str(paths[0]),
        key=str(paths[1]),
        fingerprint=pair.fingerprint,
        expires=leaf.not_valid_after_utc.timestamp(),
    )


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
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*paths)


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
