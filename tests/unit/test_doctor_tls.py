"""What doctor finds about HTTPS, with a server that serves a certificate on loopback."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from litellm_systemd.doctor.check_tls import (
    detect_tls_expiry,
    detect_tls_incomplete,
    detect_tls_key_readable,
    detect_tls_not_reloaded,
    detect_tls_off,
    detect_tls_unusable,
)
from litellm_systemd.doctor.engine import DoctorCheck, Finding
from litellm_systemd.doctor.snapshot import Snapshot
from litellm_systemd.env.settings import build_settings, parse_dotenv
from litellm_systemd.env.tls import TlsFiles, TlsPair
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Outcome
from tests.certificates import issue_pair, serving, write_pair

AUTHORITY = trustme.CA()
PAIR = issue_pair(AUTHORITY, "gateway.example")


class Host(Snapshot):
    """A host with these settings, whose service runs and serves HTTPS on a port of the test, or does not run."""

    dotenv: Any = None
    environment: Any = None
    settings: Any = None
    is_active: Any = None
    service: Any = None

    def __init__(self, files: TlsFiles, port: int | None) -> None:
        super().__init__(Layout())
        dotenv = parse_dotenv(
            f"TLS_CERT_FILE={files.certificate}\nTLS_KEY_FILE={files.key}\nPORT={port or 4000}", ".env"
        )
        self.dotenv, self.environment = dotenv, dotenv.values
        self.settings = build_settings(dotenv, installed={}, new_key=str)
        self.is_active = port is not None
        self.service = {}


def find(check: DoctorCheck, host: Snapshot) -> list[Finding]:
    return [each for each in check.detect(host) if isinstance(each, Finding)]


def test_doctor_with_a_good_pair(tmp_path: Path) -> None:
    """A usable pair that the service serves is no finding."""
    with serving(PAIR) as port:
        host = Host(write_pair(tmp_path, PAIR), port)
        for each in (
            detect_tls_unusable,
            detect_tls_expiry,
            detect_tls_incomplete,
            detect_tls_not_reloaded,
            detect_tls_key_readable,
            detect_tls_off,
        ):
            assert find(each, host) == []


def test_doctor_compares_file_and_service(tmp_path: Path) -> None:
    """A renewed file that the service has not loaded is found, and the end that counts is that of the served one."""
    old = issue_pair(AUTHORITY, "gateway.example", days=3)
    with serving(old) as port:
        host = Host(write_pair(tmp_path, PAIR), port)
        (stale,) = find(detect_tls_not_reloaded, host)
        assert stale.remedy.startswith("sudo systemctl reload litellm")
        (ends,) = find(detect_tls_expiry, host)
        assert ends.outcome is Outcome.WARNING


def test_doctor_with_a_variable_that_was_changed_by_hand(tmp_path: Path) -> None:
    """A unit that passes the previous file is found with its line: a reload would help until the next restart."""
    (tmp_path / "litellm.service").write_text("[Service]\nLoadCredential=tls.crt:/etc/old.pem\n", encoding="utf-8")
    with serving(issue_pair(AUTHORITY, "old.example")) as port:
        host = Host(write_pair(tmp_path, PAIR), port)
        host.service = {"FragmentPath": str(tmp_path / "litellm.service")}
        (stale,) = find(detect_tls_not_reloaded, host)
        assert stale.evidence.startswith(
            f"{tmp_path}/litellm.service:2: the unit passes another file; served: old.ex"
        )
        assert stale.remedy == "sudo litellmctl install --installed"


def test_doctor_with_an_expired_file(tmp_path: Path) -> None:
    """A file that was replaced by an expired certificate is the cause, and a reload is no remedy. If the served one
    has expired and the file is valid, a reload is the remedy, and the end a consequence. For one that is not valid
    yet, the clock of the host is named.
    """
    expired = issue_pair(AUTHORITY, "gateway.example", days=-1)
    with serving(PAIR) as port:
        host = Host(write_pair(tmp_path, expired), port)
        (ended,) = find(detect_tls_expiry, host)
        assert ended.outcome is Outcome.FAILED
        assert "expired on" in ended.evidence
        assert find(detect_tls_not_reloaded, host) == []
    early = issue_pair(AUTHORITY, "gateway.example", since=1)
    with serving(early) as port:
        (ended,) = find(detect_tls_expiry, Host(write_pair(tmp_path, early), port))
        assert "not valid before" in ended.evidence
        assert ended.remedy.startswith("timedatectl ")
    with serving(expired) as port:
        (stale,) = find(detect_tls_not_reloaded, Host(write_pair(tmp_path, PAIR), port))
        assert stale.outcome is Outcome.FAILED


def test_doctor_before_a_start(tmp_path: Path) -> None:
    """Without a running service the files are checked: an expired certificate, a wrong key, an open key."""
    expired = issue_pair(AUTHORITY, "gateway.example", days=-1)
    host = Host(write_pair(tmp_path, TlsPair(expired.certificate, PAIR.key)), None)
    (tmp_path / "tls.key").chmod(0o604)
    assert find(detect_tls_expiry, host)[0].outcome is Outcome.FAILED
    assert "is not that of the certificate" in find(detect_tls_unusable, host)[0].evidence
    assert find(detect_tls_key_readable, host)[0].remedy == f"sudo chmod o-rwx {tmp_path / 'tls.key'}"
    (tmp_path / "tls.key").unlink()
    assert "No such file" in find(detect_tls_unusable, host)[0].evidence


def chain(*certificates: x509.Certificate) -> str:
    return "".join(each.public_bytes(Encoding.PEM).decode() for each in certificates)


def test_doctor_with_an_incomplete_chain(tmp_path: Path) -> None:
    """A file of a public CA without the issuer, one with another issuer, and a certificate without a name are found;
    one of a private CA is not.
    """
    root, other = (trustme.CA(organization_name=name) for name in ("Right", "Wrong"))
    issuer, wrong = (x509.load_pem_x509_certificate(each.cert_pem.bytes()) for each in (root, other))
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "gateway.example")])
    now = datetime.now(timezone.utc)
    plain = x509.CertificateBuilder(issuer.subject, name, key.public_key(), 7, now, now + timedelta(days=90))
    named = plain.add_extension(x509.SubjectAlternativeName([x509.DNSName("gateway.example")]), critical=False)
    where = x509.UniformResourceIdentifier("http://ca.example/issuer.der")
    access = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, where)
    public = named.add_extension(x509.AuthorityInformationAccess([access]), critical=False)
    nameless, private, of_public = (each.sign(key, SHA256()) for each in (plain, named, public))
    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    for certificates, evidence in (
        ((of_public, issuer), ""),
        ((private,), ""),
        ((of_public,), "only the certificate of the host, and not that of its issuer"),
        ((private, wrong), "its second certificate is that of "),
        ((nameless, issuer), "no alternative name"),
    ):
        host = Host(write_pair(tmp_path, TlsPair(chain(*certificates), text)), None)
        assert find(detect_tls_unusable, host) == []
        found = find(detect_tls_incomplete, host)
        assert [evidence in each.evidence for each in found] == ([True] if evidence else [])
    host = Host(write_pair(tmp_path, TlsPair(chain(issuer, private), text)), None)
    (swapped,) = find(detect_tls_unusable, host)
    assert swapped.evidence == (
        ".env:1: the key in TLS_KEY_FILE is that of certificate 2 in TLS_CERT_FILE, not of the first one"
    )
    assert "# Move the certificate of the host to the beginning" in swapped.remedy


def test_issuer_of_another_type_of_key_comes_first(tmp_path: Path) -> None:
    """A certificate that follows that of an issuer with another type of key is in wrong order."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    leaf = authority.issue_cert("gateway.example")
    text = authority.cert_pem.bytes().decode() + leaf.cert_chain_pems[0].bytes().decode()
    host = Host(write_pair(tmp_path, TlsPair(text, leaf.private_key_pem.bytes().decode())), None)
    (swapped,) = find(detect_tls_unusable, host)
    assert "that of certificate 2 in TLS_CERT_FILE, not of the first one" in swapped.evidence
