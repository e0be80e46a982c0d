"""The certificate and the key of HTTPS: what is refused, what is warned about, and what doctor finds."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import ssl
import subprocess
import warnings
from datetime import datetime, timedelta, timezone
from pathlib import Path

import hypothesis
import pytest
import trustme
from hypothesis import strategies as st

from litellm_systemd.client.certificate import judge_certificate
from litellm_systemd.commands.preflight import require_tls
from litellm_systemd.env.settings import Settings, build_settings, parse_dotenv
from litellm_systemd.env.tls import TlsFiles, TlsPair, find_credentials, load_pair, read_pair
from litellm_systemd.errors import InputError, PermissionDenied
from litellm_systemd.host.layout import Layout
from litellm_systemd.install.render import render_service, render_verify_service
from litellm_systemd.report.report import Outcome
from litellm_systemd.runtime.master.certificate_log import CertificateLog
from tests.certificates import issue_pair, serving, write_pair

AUTHORITY = trustme.CA()
PAIR = issue_pair(AUTHORITY, "gateway.example", "127.0.0.1")
OTHER = issue_pair(AUTHORITY, "other.example")
NOW = datetime.now(timezone.utc)


def settings(text: str) -> Settings:
    return build_settings(parse_dotenv(text, ".env"), installed={}, new_key=lambda: "sk-made")


def naming(files: TlsFiles, *more: str) -> str:
    return "\n".join((f"TLS_CERT_FILE={files.certificate}", f"TLS_KEY_FILE={files.key}", *more))


def encrypt(key: str) -> str:
    argv = ("openssl", "pkey", "-aes-128-cbc", "-passout", "pass:secret")
    return subprocess.run(argv, input=key, capture_output=True, text=True, check=True).stdout


def test_a_pair_is_read() -> None:
    """Names, end and fingerprint are those of the first certificate, and the key never shows."""
    found = load_pair(PAIR).certificate
    assert found.names == ("gateway.example", "127.0.0.1")
    assert timedelta(days=89) < found.not_after - NOW < timedelta(days=91)
    assert not found.is_self_signed
    assert len(bytes.fromhex(found.sha256)) == 32
    assert "PRIVATE" not in repr(PAIR)


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        pytest.param(TlsPair(PAIR.certificate, OTHER.key), "is not that of the certificate", id="mismatch"),
        pytest.param(TlsPair(PAIR.certificate, encrypt(PAIR.key)), "has a passphrase", id="passphrase"),
        pytest.param(TlsPair("hello", PAIR.key), "TLS_CERT_FILE has no certificate in PEM", id="no certificate"),
        pytest.param(TlsPair(PAIR.certificate, "hello"), "TLS_KEY_FILE has no private key in PEM", id="no key"),
        pytest.param(TlsPair(PAIR.certificate, PAIR.certificate), "has no private key", id="twice the certificate"),
        pytest.param(TlsPair(PAIR.key, PAIR.certificate), "TLS_CERT_FILE has no certificate", id="exchanged"),
        pytest.param(TlsPair(PAIR.certificate, "\ud800"), "has no private key", id="not ASCII"),
        pytest.param(TlsPair("", ""), "TLS_CERT_FILE has no certificate", id="empty"),
        pytest.param(
            TlsPair(PAIR.certificate.replace("MII", "AAA", 1), PAIR.key), "has no certificate", id="damaged"
        ),
    ],
)
def test_an_unusable_pair(pair: TlsPair, said: str) -> None:
    """A pair with which no service could start is refused with its variable and a remedy, and no prompt."""
    with pytest.raises(InputError) as refused:
        load_pair(pair)
    assert said in refused.value.message
    assert refused.value.hint


def damage(pem: str, changes: list[tuple[int, int]]) -> str:
    """PEM with other bytes at some places of its content."""
    first, *lines, last = pem.strip().splitlines()
    content = bytearray(base64.b64decode("".join(lines)))
    for at, value in changes:
        content[at % len(content)] = value
    return f"{first}\n{base64.b64encode(content).decode()}\n{last}\n"


@hypothesis.settings(max_examples=200, derandomize=True, database=None)
@hypothesis.given(
    st.booleans(), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=3)
)
def test_a_damaged_pair(is_key: bool, changes: list[tuple[int, int]]) -> None:
    """Any damage to a certificate or a key is refused with one clear error, or does no harm."""
    pair = TlsPair(
        PAIR.certificate if is_key else damage(PAIR.certificate, changes),
        damage(PAIR.key, changes) if is_key else PAIR.key,
    )
    with contextlib.suppress(InputError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load_pair(pair)


def test_old_protocols_are_off() -> None:
    """TLS 1.2 is the oldest version, and HTTP/1.1 is what a client of several protocols gets."""
    client = trusting()
    client.set_alpn_protocols(["h2", "http/1.1"])
    with (
        serving(PAIR) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        client.wrap_socket(plain, server_hostname="127.0.0.1") as connection,
    ):
        assert connection.selected_alpn_protocol() == "http/1.1"
        assert connection.version() == "TLSv1.3"
    assert load_pair(PAIR).context.minimum_version is ssl.TLSVersion.TLSv1_2


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def test_systemd_passes_the_files() -> None:
    """The unit names the files, escaped as systemd reads them; the reload runs as root; the check gets no key."""
    found = settings("TLS_CERT_FILE='/srv/100% own/tls.crt'\nTLS_KEY_FILE=/root/tls.key")
    lines = render_service(Layout(), found, 252, "1").splitlines()
    assert "LoadCredential=tls.crt:/srv/100%% own/tls.crt" in lines
    assert "LoadCredential=tls.key:/root/tls.key" in lines
    assert [line for line in lines if line.startswith("ExecReload=+/")]
    check = render_verify_service(Layout(), found, "1").splitlines()
    assert [line for line in check if "LoadCredential" in line] == ["LoadCredential=tls.crt:/srv/100%% own/tls.crt"]
    assert found.base_url == "https://127.0.0.1:4000"


def test_plain_http_needs_no_credentials() -> None:
    """Without the variables, the units have no credentials, and the reload runs as the user of the service."""
    found = settings("")
    text = render_service(Layout(), found, 252, "1") + render_verify_service(Layout(), found, "1")
    assert "LoadCredential" not in text
    assert "ExecReload=/" in text


@pytest.mark.parametrize(
    "path", ["tls.crt", "/a/../b", "//a", "/a//b", "/a/", '"/a\\nExecStartPre=/bin/x"', "'/a\\\\'", "/a\x7f"]
)
def test_paths_that_a_unit_cannot_hold(path: str) -> None:
    """A path that systemd would refuse, or that would add a line to the unit, is refused by its line in .env."""
    with pytest.raises(InputError, match=r"(?s)^\.env:1: TLS_CERT_FILE=.* is not an absolute path"):
        settings(f"TLS_CERT_FILE={path}\nTLS_KEY_FILE=/k")


@pytest.mark.parametrize(("given", "missing"), [("CERT", "KEY"), ("KEY", "CERT")])
def test_one_file_needs_the_other(given: str, missing: str) -> None:
    """A certificate without a key, and a key without a certificate, are refused."""
    with pytest.raises(InputError, match=rf"^\.env:1: TLS_{given}_FILE=/x needs TLS_{missing}_FILE"):
        settings(f"TLS_{given}_FILE=/x")


def test_copies_of_systemd_come_first(tmp_path: Path) -> None:
    """A process reads the copies in its $CREDENTIALS_DIRECTORY, and without them the files themselves."""
    files = TlsFiles(Path("/root/a"), Path("/root/b"))
    assert find_credentials(files, {}) == files
    assert find_credentials(files, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == files
    copies = write_pair(tmp_path, PAIR)
    assert find_credentials(files, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == copies


@pytest.mark.parametrize(
    ("host", "more", "warned"),
    [
        ("0.0.0.0", "", True),
        ("10.1.2.3", "", True),
        ("127.0.0.1", "", False),
        ("::1", "", False),
        ("0.0.0.0", "TRUSTED_PROXIES=10.0.0.0/8", False),
        ("0.0.0.0", "TLS_CERT_FILE=/c\nTLS_KEY_FILE=/k", False),
    ],
)
def test_plain_http_for_other_machines(host: str, more: str, warned: bool) -> None:
    """Plain HTTP on an address of the network is a warning with both remedies, unless a proxy is named."""
    text = " ".join(settings(f"HOST={host}\n{more}").warnings)
    assert ("over plain HTTP" in text) is warned
    assert ("TLS_CERT_FILE" in text and "TRUSTED_PROXIES" in text) is warned


# --- install ---


def check(folder: Path, pair: TlsPair, now: datetime = NOW) -> tuple[str, ...]:
    dotenv = parse_dotenv(naming(write_pair(folder, pair)), ".env")
    return require_tls(dotenv, build_settings(dotenv, installed={}, new_key=str), now)


def test_install_accepts_a_pair(tmp_path: Path) -> None:
    """A good pair needs no word."""
    assert check(tmp_path, PAIR) == ()


@pytest.mark.parametrize(
    ("pair", "line", "said"),
    [
        pytest.param(TlsPair("hello", PAIR.key), 1, "TLS_CERT_FILE has no certificate", id="no certificate"),
        pytest.param(issue_pair(AUTHORITY, "a.example", days=-1), 1, "expired on", id="expired"),
        pytest.param(issue_pair(AUTHORITY, "a.example", since=1), 1, "not valid before", id="not valid yet"),
        pytest.param(TlsPair(PAIR.certificate, OTHER.key), 2, "the key in TLS_KEY_FILE is not that", id="mismatch"),
        pytest.param(TlsPair(PAIR.certificate, encrypt(PAIR.key)), 2, "has a passphrase", id="passphrase"),
        pytest.param(TlsPair(PAIR.certificate, "hello"), 2, "TLS_KEY_FILE has no private key", id="no key"),
    ],
)
def test_install_refuses(tmp_path: Path, pair: TlsPair, line: int, said: str) -> None:
    """A pair that no client or no start could use is refused with the line of the file's variable in .env."""
    with pytest.raises(InputError, match=rf"^\.env:{line}: ") as refused:
        check(tmp_path, pair)
    assert said in refused.value.message


@pytest.mark.parametrize(("line", "name", "file"), [(1, "TLS_CERT_FILE", "tls.crt"), (2, "TLS_KEY_FILE", "tls.key")])
def test_install_refuses_a_missing_file(tmp_path: Path, line: int, name: str, file: str) -> None:
    """A file that does not exist is refused with the line of its own variable."""
    dotenv = parse_dotenv(naming(write_pair(tmp_path, PAIR)), ".env")
    (tmp_path / file).unlink()
    with pytest.raises(InputError, match=rf"^\.env:{line}: {name}=.*/{file}: No such file"):
        require_tls(dotenv, build_settings(dotenv, installed={}, new_key=str), NOW)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_install_refuses_files_of_others(tmp_path: Path) -> None:
    """Root passes no file to the service that another user could replace by a link to any other file."""
    files = write_pair(tmp_path, PAIR)
    os.chown(files.key, 65534, 65534)
    dotenv = parse_dotenv(naming(files), ".env")
    with pytest.raises(PermissionDenied, match=r"^\.env:2: .*tls\.key is not safe for root to use"):
        require_tls(dotenv, build_settings(dotenv, installed={}, new_key=str), NOW)


def test_install_warns(tmp_path: Path) -> None:
    """A near end, a missing name and a key that every user can read are warnings with a remedy."""
    assert "valid until" in check(tmp_path, issue_pair(AUTHORITY, "a.example", days=13))[0]
    assert "no subjectAltName" in check(tmp_path, issue_pair(AUTHORITY))[0]
    dotenv = parse_dotenv(naming(write_pair(tmp_path, PAIR)), ".env")
    (tmp_path / "tls.key").chmod(0o644)
    (warning,) = require_tls(dotenv, build_settings(dotenv, installed={}, new_key=str), NOW)
    assert warning.endswith(f"sudo chmod o-rwx {tmp_path / 'tls.key'}")


def test_missing_and_large_files(tmp_path: Path) -> None:
    """A file that is missing, or too large for a certificate, is named with its variable."""
    files = write_pair(tmp_path, PAIR)
    files.key.unlink()
    with pytest.raises(InputError, match=r"^TLS_KEY_FILE=.*/tls\.key: No such file"):
        read_pair(files)
    files.certificate.write_bytes(b"x" * 70_000)
    with pytest.raises(InputError, match=r"^TLS_CERT_FILE=.* is not a file of at most 64 KiB"):
        read_pair(files)


@pytest.mark.parametrize(
    ("left", "outcome"),
    [(timedelta(days=15), Outcome.OK), (timedelta(days=13), Outcome.WARNING), (-timedelta(1), Outcome.FAILED)],
)
def test_end_of_a_certificate(left: timedelta, outcome: Outcome) -> None:
    """A certificate is a warning 14 days before its end, and a failure after it."""
    found = judge_certificate(NOW - timedelta(60), NOW + left, NOW)
    assert found.outcome is outcome
    assert "systemctl reload litellm" in found.hint


def test_end_of_a_certificate_for_days() -> None:
    """A certificate that is valid for six days is a warning in its last two only."""
    outcomes = [
        judge_certificate(NOW - timedelta(6 - left), NOW + timedelta(left), NOW).outcome for left in (5, 3, 1)
    ]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.WARNING]


def test_an_expired_certificate_in_the_journal() -> None:
    """A certificate that is not valid is an error with file and date, at its end or at the start and once a day."""
    certificate = load_pair(PAIR).certificate
    day, end = timedelta(days=1), f"{certificate.not_after:%Y-%m-%d %H:%M} UTC"
    errors: list[str] = []
    log = CertificateLog(errors.append, "TLS_CERT_FILE=/etc/a.pem")
    for after, count in ((-day, 0), (day, 1), (day * 1.9, 1), (day * 2, 2), (day * 2.1, 2)):
        log.tick(certificate, certificate.not_after + after)
        assert len(errors) == count
        said = certificate.render(certificate.not_after + after)
        assert said == f"gateway.example, {'expired on' if count else 'valid until'} {end}"
    # The clock was ahead, and has been corrected.
    log.tick(certificate, certificate.not_after + day)
    assert len(errors) == 3
    assert errors[0] == f"TLS_CERT_FILE=/etc/a.pem: clients refuse the certificate: {said}"
