"""HTTPS: are the certificate and the key usable, do they end soon, and does the service serve what is in the files?

And the absence of HTTPS, where other machines reach the port.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime, timezone
from urllib.parse import urlsplit

from litellm_systemd.client.certificate import CLOCK, RELOAD, judge_certificate, served_certificate
from litellm_systemd.contract import TLS_CERTIFICATE
from litellm_systemd.doctor.engine import Cause, Finding, detects
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.settings import exposure_warning
from litellm_systemd.env.tls import Certificate, TlsFiles, load_pair, parse_certificate, read_certificate, read_pair
from litellm_systemd.env.variables import TLS_CERT_FILE
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.host.effective import read_unit_lines
from litellm_systemd.report.report import Check, Outcome

_REQUIRES = ("files-not-installed", "environment-unusable")

UNUSABLE = Cause(
    "tls-unusable",
    "The files of TLS_CERT_FILE and TLS_KEY_FILE cannot be used: the service does not start with them. If it runs, it"
    " keeps the previous certificate.",
    f"ls -lL {{certificate}} {{key}}    # {{hint}} Then: {RELOAD}, or if it does not run: sudo litellmctl start",
    requires=_REQUIRES,
)


@detects(UNUSABLE)
def detect_tls_unusable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect files that are missing, or that are no certificate and its key."""
    files = snapshot.settings.tls
    if files is None:
        return
    try:
        load_pair(read_pair(files))
    except InputError as error:
        certificate, key = str(files.certificate), str(files.key)
        evidence = f"{snapshot.dotenv.where(TLS_CERT_FILE.name)}: {error.message}"
        yield UNUSABLE.finding(evidence, hint=error.hint, certificate=certificate, key=key)


INCOMPLETE = Cause(
    "tls-incomplete",
    "The file of TLS_CERT_FILE lacks the certificate of the issuer, or its certificate has no name of a host: clients"
    " such as curl, Python and Node.js refuse the connection.",
    f"{{remedy}}, then: {RELOAD}",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "tls-unusable"),
)


@detects(INCOMPLETE)
def detect_tls_incomplete(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a certificate that no client can check, whatever CAs the client trusts."""
    files = snapshot.settings.tls
    if files is None:
        return
    problem = judge_chain(read_pair(files).certificate)
    if problem is not None:
        yield INCOMPLETE.finding(f"{files.certificate}: {problem[0]}", remedy=problem[1])


def judge_chain(pem: str) -> tuple[str, str] | None:
    """What is missing in a file of certificates, and the remedy; None if it seems complete."""
    from cryptography import x509

    host, *others = x509.load_pem_x509_certificates(pem.encode())
    issuer = host.issuer.rfc4514_string()
    if not parse_certificate(pem).names:
        return "its certificate has no alternative name (subjectAltName)", "Issue it again for the name of the host"
    if host.issuer == host.subject or any(each.subject == host.issuer for each in others):
        return None
    complete = "Write the certificate of the issuer after that of the host into the file (certbot: use fullchain.pem)"
    if others:
        return f"its second certificate is that of {others[0].subject.rfc4514_string()}, not of {issuer}", complete
    try:
        host.extensions.get_extension_for_class(x509.AuthorityInformationAccess)
    except x509.ExtensionNotFound:
        return None  # of a private CA, which may have signed it itself
    return f"it has only the certificate of the host, and not that of its issuer {issuer}", complete


EXPIRY = Cause(
    "tls-expiry",
    "The certificate has expired or is not valid yet, so clients refuse the connection, or it expires within 14 days"
    " (a warning): its renewal does not work.",
    "{remedy}",
    requires=_REQUIRES,
    caused_by=("tls-not-reloaded",),
)


@detects(EXPIRY)
def detect_tls_expiry(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect an expired file, and the end of the certificate that the service serves or will serve."""
    files = snapshot.settings.tls
    if files is None:
        return
    certificate = served(snapshot) if snapshot.is_active else read_certificate(files.certificate)
    # The service does not load such a file, and serves the previous certificate until its next start.
    certificate = _invalid_file(files) or certificate
    found = _judge(certificate)
    if found.outcome is not Outcome.OK:
        uses_certbot = str(files.certificate).startswith("/etc/letsencrypt/")
        renew = "sudo certbot renew" if uses_certbot else f"Renew {files.certificate}"
        is_early = certificate.not_before.timestamp() > time.time()
        remedy = f"{CLOCK}; then: {RELOAD}" if is_early else f"{renew}    # then: {RELOAD}"
        name = certificate.names[0] if certificate.names else files.certificate
        yield EXPIRY.finding(f"{name}: {found.detail}", outcome=found.outcome, remedy=remedy)


NOT_RELOADED = Cause(
    "tls-not-reloaded",
    "The service serves another certificate than the one in TLS_CERT_FILE: the file was renewed, and the service was"
    " not reloaded.",
    f"{RELOAD}    # certbot does it after each renewal: see docs/tls.md",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "tls-unusable"),
)


@detects(NOT_RELOADED)
def detect_tls_not_reloaded(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a certificate file that the service has not loaded."""
    files = snapshot.settings.tls
    if files is None or not snapshot.is_active:
        return
    file, current = read_certificate(files.certificate), served(snapshot)
    if file.sha256 != current.sha256 and _judge(file).outcome is not Outcome.FAILED:
        outcome = Outcome.FAILED if _judge(current).outcome is Outcome.FAILED else Outcome.WARNING
        evidence, remedy = f"served: {current}; in {files.certificate}: {file}", ""
        # With a variable that was changed without an install, a reload helps until the next restart.
        lines = read_unit_lines(snapshot.layout, snapshot.service)
        passed = [each for each in lines if each.value.startswith(f"{TLS_CERTIFICATE}:")]
        if passed and passed[-1].value.replace("%%", "%") != f"{TLS_CERTIFICATE}:{files.certificate}":
            evidence = f"{passed[-1].where}: the unit passes another file; {evidence}"
            remedy = "sudo litellmctl install --installed"
        yield NOT_RELOADED.finding(evidence, outcome=outcome, instead=remedy)


KEY = Cause(
    "tls-key-readable",
    "Every user of this host can read the private key, and with it pose as the gateway.",
    "sudo chmod o-rwx {path}",
    outcome=Outcome.WARNING,
    requires=(*_REQUIRES, "tls-unusable"),
)


@detects(KEY)
def detect_tls_key_readable(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect a private key that other users can read."""
    files = snapshot.settings.tls
    if files is not None and (mode := files.key.stat().st_mode) & 0o004:
        yield KEY.finding(f"{files.key}: mode {mode & 0o7777:04o}", path=str(files.key))


OFF = Cause(
    "tls-off",
    "Other machines reach the port over plain HTTP: keys and prompts cross the network unencrypted.",
    "Set TLS_CERT_FILE and TLS_KEY_FILE in .env, or TRUSTED_PROXIES to the proxy that adds HTTPS (docs/tls.md), then:"
    " sudo litellmctl install",
    outcome=Outcome.WARNING,
    requires=_REQUIRES,
    # Then the service does not listen on HOST.
    skipped_if=("port-address", "port-mismatch"),
)


@detects(OFF)
def detect_tls_off(snapshot: Snapshot) -> Iterator[Finding]:
    """Detect plain HTTP on an address that other machines reach, without a proxy in front."""
    if exposure_warning(snapshot.environment):
        yield OFF.finding(f"HOST={snapshot.settings.host}")


def _judge(certificate: Certificate) -> Check:
    now = datetime.fromtimestamp(time.time(), timezone.utc)
    return judge_certificate(certificate.not_before, certificate.not_after, now)


def _invalid_file(files: TlsFiles) -> Certificate | None:
    """The certificate in the file if it is not valid now."""
    try:
        file = read_certificate(files.certificate)
    except InputError:
        return None  # `tls-unusable` reports it
    return file if _judge(file).outcome is Outcome.FAILED else None


def served(snapshot: Snapshot) -> Certificate:
    """The certificate that the service serves on its port.

    Raises:
        Unavailable: it does not serve HTTPS there.
    """

    def fetch() -> Certificate:
        url = urlsplit(snapshot.settings.base_url)
        try:
            return served_certificate(url.hostname or "", url.port or 0, 2.0)
        except OSError as error:
            raise Unavailable(f"no certificate from {url.netloc}: {error.strerror or error}") from None

    return snapshot.cached("served certificate", fetch)  # type: ignore[no-any-return]
