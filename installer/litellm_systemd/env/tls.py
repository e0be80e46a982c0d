"""The certificate and the private key with which the service serves HTTPS: which files, are they usable, until when.

The runtime and the commands read them with the same code. It imports cryptography late: few commands need it.
"""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from litellm_systemd.contract import TLS_CERTIFICATE, TLS_KEY
from litellm_systemd.env.service_credential import credential_path
from litellm_systemd.env.variables import TLS_CERT_FILE, TLS_KEY_FILE
from litellm_systemd.errors import InputError
from litellm_systemd.user_files import read_regular

if TYPE_CHECKING:
    from cryptography import x509

#: Before the end of a certificate. certbot renews 30 days before it, so a renewal has failed by then.
WARN_BEFORE = timedelta(days=14)
#: Bytes of one file. A chain of four certificates has 8 KiB.
MAX_SIZE = 64 * 1024

_CERT, _KEY = TLS_CERT_FILE.name, TLS_KEY_FILE.name


def ca_trouble(path: Path) -> str:
    """Why OpenSSL cannot load the certificates of a CA file; empty if it can, or for a folder.

    OSError if the file cannot be opened.
    """
    if path.is_dir():
        return ""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        return f"the file has no usable certificate ({error.reason or error})"
    return ""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    certificate: Path
    key: Path


@dataclass(frozen=True, slots=True)
class TlsPair:
    """The content of the two files, in PEM. The key does not show in `repr`."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a certificate says: the DNS names and IP addresses that it is for, its period, whether it signs itself.

    `sha256` is the fingerprint in hex.
    """

    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    is_self_signed: bool
    sha256: str

    def __str__(self) -> str:
        return self.render(self.not_before)

    def is_valid(self, now: datetime) -> bool:
        """Whether clients accept its period. `now` has a time zone."""
        return self.not_before <= now < self.not_after

    def render(self, now: datetime) -> str:
        """The certificate, as in a sentence, with its state. `now` has a time zone."""
        return f"{self.names[0] if self.names else 'no name'}, {render_period(self.not_before, self.not_after, now)}"


def render_period(not_before: datetime, not_after: datetime, now: datetime) -> str:
    """The period of a certificate, as in a sentence. All times have a time zone."""
    if now < not_before:
        return f"not valid before {not_before:%Y-%m-%d %H:%M} UTC"
    return f"{'valid until' if now < not_after else 'expired on'} {not_after:%Y-%m-%d %H:%M} UTC"


@dataclass(frozen=True, slots=True)
class Tls:
    """A usable pair: the context for connections, and its certificate.

    Forked workers share the context and so the keys of its session tickets: a client may resume at any of them.
    """

    context: ssl.SSLContext = field(repr=False)
    certificate: Certificate


def find_files(values: Mapping[str, str]) -> TlsFiles | None:
    """The files that the variables name; None without HTTPS.

    Raises:
        InputError: a path cannot be used.
    """
    certificate, key = TLS_CERT_FILE.read(values), TLS_KEY_FILE.read(values)
    return TlsFiles(Path(certificate), Path(key)) if certificate and key else None


def find_credentials(files: TlsFiles, environ: Mapping[str, str]) -> TlsFiles:
    """The copies that systemd has made for this process; a file without a copy stays as it is.

    `environ` has the folder of the copies.
    """

    def find(name: str, original: Path) -> Path:
        copy = credential_path(environ, name)
        return copy if copy is not None and copy.exists() else original

    return TlsFiles(find(TLS_CERTIFICATE, files.certificate), find(TLS_KEY, files.key))


def read_pair(files: TlsFiles) -> TlsPair:
    """Read both files.

    Raises:
        InputError: one is missing, unreadable, too large or no text.
    """
    return TlsPair(_read(_CERT, files.certificate), _read(_KEY, files.key))


def read_certificate(path: Path) -> Certificate:
    """The first certificate in a file.

    Raises:
        InputError: the file is missing or unreadable, or has no certificate.
    """
    return parse_certificate(_read(_CERT, path))


def _read(name: str, path: Path) -> str:
    try:
        content = read_regular(path, MAX_SIZE)
    except PermissionError as error:
        hint = "Root can read it, and passes the service a copy by its unit: sudo litellmctl install --installed"
        raise InputError(f"{name}={path}: {error.strerror}", hint) from None
    except OSError as error:
        raise InputError(f"{name}={path}: {error.strerror}", f"Restore the file, or correct {name}.") from None
    except ValueError:
        limit = f"{MAX_SIZE // 1024} KiB"
        raise InputError(f"{name}={path} is not a file of at most {limit}", "Name a file in PEM.") from None
    # PEM is ASCII. What else is in the file is a comment.
    return content.decode("ascii", "replace").replace("\ufffd", "?")


def load_pair(pair: TlsPair) -> Tls:
    """Check that the pair can serve HTTPS. So can one with a certificate that is not valid now: see `is_valid`.

    Raises:
        InputError: it is not in PEM, the key has a passphrase, or the two do not belong together.
    """
    # First, because OpenSSL does not say which of the two files is no PEM.
    certificate = parse_certificate(pair.certificate)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # OpenSSL before 3.0 lets clients repeat the expensive handshake on an open connection.
    context.options |= ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    with _in_memory(pair.certificate) as certificate_path, _in_memory(pair.key) as key_path:
        try:
            context.load_cert_chain(certificate_path, key_path, password=_refuse_passphrase)
        except ssl.SSLError as error:
            raise _refusal(error, pair) from None
    return Tls(context, certificate)


@contextlib.contextmanager
def _in_memory(text: str) -> Iterator[Path]:
    """The path of a file that is on no disk: Python's interface of OpenSSL takes only paths."""
    descriptor = os.memfd_create("tls")
    try:
        path = Path(f"/proc/self/fd/{descriptor}")
        path.write_text(text, encoding="ascii", errors="replace")
        yield path
    finally:
        os.close(descriptor)


def _refuse_passphrase() -> str:
    # Without this function, OpenSSL would ask at the terminal.
    raise InputError(
        f"the key in {_KEY} has a passphrase, and no one can enter it at a start",
        "Write a copy without it, readable by root alone: (umask 077; openssl pkey -in KEY -out NEW)",
    )


def _refusal(error: ssl.SSLError, pair: TlsPair) -> InputError:
    # Before Python 3.14, the reason is "PEM lib" or None for a file without a key.
    reason = str(error.reason or "pem").replace("_", " ").lower()
    # The last one: the key is of another type than the certificates, such as EC for RSA.
    if reason in ("key values mismatch", "key type mismatch", "no certificate assigned"):
        if place := _place_of_key(pair):
            return InputError(
                f"the key in {_KEY} is that of certificate {place} in {_CERT}, not of the first one",
                "Move the certificate of the host to the beginning of the file, before that of its issuer.",
            )
        return InputError(
            f"the key in {_KEY} is not that of the certificate in {_CERT}",
            "Name two files that belong together. The certificate of the host is the first one in its file.",
        )
    if reason in ("pem", "pem lib", "no start line"):
        return InputError(
            f"{_KEY} has no private key in PEM", "PEM has lines like -----BEGIN PRIVATE KEY-----. Name such a file."
        )
    return InputError(
        f"OpenSSL refuses the files of {_CERT} and {_KEY}: {reason}", "Create a new key and certificate."
    )


def _place_of_key(pair: TlsPair) -> int:
    """The number of the certificate that the key belongs to, from 1 on; 0 if there is none."""
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        owner = load_pem_private_key(pair.key.encode(), None).public_key()
        found = x509.load_pem_x509_certificates(pair.certificate.encode())
        return next((place for place, each in enumerate(found, 1) if each.public_key() == owner), 0)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return 0


def parse_certificate(pem: str) -> Certificate:
    """The first certificate of a text.

    Raises:
        InputError: there is none, or it is damaged.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.hashes import SHA256

    try:
        found = x509.load_pem_x509_certificate(pem.encode())
        # What cryptography does not parse before it is read raises these here.
        return Certificate(
            names=_names(found),
            not_before=found.not_valid_before_utc,
            not_after=found.not_valid_after_utc,
            is_self_signed=found.issuer == found.subject,
            sha256=found.fingerprint(SHA256()).hex(),
        )
    except (ValueError, TypeError, x509.InvalidVersion, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise InputError(
            f"{_CERT} has no certificate in PEM", "PEM has lines like -----BEGIN CERTIFICATE-----. Name such a file."
        ) from None


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    """The alternative names of the subject. Clients ignore its common name (RFC 9110, 4.3.4)."""
    from cryptography import x509

    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    return (*names.get_values_for_type(x509.DNSName), *(str(each) for each in addresses))
