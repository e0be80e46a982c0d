"""Network checks of doctor on loopback, without the sandbox, which needs systemd."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from socket import create_server

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from litellm_systemd.doctor.check_network import endpoints_of, observe_connectivity, sandbox_argv, sandbox_lines
from litellm_systemd.doctor.engine import run_checks
from litellm_systemd.gateway.config import parse_config
from tests.integration.doctor_snapshot import (
    BASE,
    CHECKS,
    CONFIG,
    ENTRY,
    MODEL,
    causes,
    diagnose,
    make_snapshot,
    pair,
)
from tests.ports import free_port


@contextmanager
def listener(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A loopback port that sends `answer` on each connection after it has received something."""
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            while True:
                try:
                    stream = server.accept()[0]
                    with context.wrap_socket(stream, server_side=True) if context else stream as wrapped:
                        wrapped.recv(4096)
                        wrapped.sendall(answer)
                except ssl.SSLError:
                    continue
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_dead_resolver(tmp_path: Path) -> None:
    """An endpoint whose name is not resolved is the only cause, and everything that requires it is skipped."""
    # No resolver is queried for this name, because a label is too long.
    url = f"https://{'x' * 64}.example"
    diagnosis = diagnose(tmp_path, {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url})
    assert causes(diagnosis) == ["network-dns"]
    assert "from this shell, not in the service's sandbox" in diagnosis.causes[0].evidence
    skipped = {run.cause.id: run.skip_reason for run in diagnosis.unchecked}
    aws = {"aws-key", "aws-identity", "aws-model-refused", "aws-throttled", "aws-quota-small"}
    assert skipped.keys() == {"network-unreachable", "network-certificate", *aws}
    assert set(skipped.values()) == {"network-dns must be fixed first"}


def test_a_closed_port(tmp_path: Path) -> None:
    """An endpoint that refuses the connection is reported with the error."""
    url = f"https://127.0.0.1:{free_port()}"
    diagnosis = diagnose(tmp_path, {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url})
    assert causes(diagnosis) == ["network-unreachable"]
    assert "Connection refused" in diagnosis.causes[0].evidence


@pytest.mark.parametrize(
    ("answer", "evidence"), [(b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"), (b"", "closes")]
)
def test_a_proxy_that_refuses(tmp_path: Path, answer: bytes, evidence: str) -> None:
    """A proxy that rejects the service is reported with its response, but without its password."""
    with listener(answer) as port:
        proxy = {"HTTPS_PROXY": f"http://me:hidden@127.0.0.1:{port}"}
        diagnosis = diagnose(tmp_path, {**BASE, **pair(), **proxy})
    assert causes(diagnosis) == ["network-proxy"]
    assert evidence in diagnosis.causes[0].evidence
    assert "hidden" not in diagnosis.causes[0].evidence + diagnosis.causes[0].remedy


def test_a_proxy_without_tls(tmp_path: Path) -> None:
    """A proxy whose URL begins with https, although it speaks plain HTTP, is the cause."""
    with listener(b"HTTP/1.1 400 Bad Request\r\n\r\n") as port:
        diagnosis = diagnose(tmp_path, {**BASE, **pair(), "HTTPS_PROXY": f"https://127.0.0.1:{port}"})
    assert causes(diagnosis) == ["network-proxy"]
    assert f"127.0.0.1:{port}" in diagnosis.causes[0].evidence
    assert "it does not use TLS, but its URL begins with https" in diagnosis.causes[0].evidence
    assert ".env:" in diagnosis.causes[0].evidence


def test_an_endpoint_that_never_speaks(tmp_path: Path) -> None:
    """Endpoints that accept connections and send nothing are unreachable; two of them are one finding."""
    with create_server(("127.0.0.1", 0)) as first, create_server(("127.0.0.1", 0)) as second:
        urls = [
            f"https://{host}:{port.getsockname()[1]}" for host, port in (("127.0.0.1", first), ("localhost", second))
        ]
        config = CONFIG.replace("model_list:\n", ENTRY.format(f"{MODEL}, aws_bedrock_runtime_endpoint: '{urls[1]}'"))
        environment = {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": urls[0]}
        diagnosis = diagnose(tmp_path, environment, config)
    assert causes(diagnosis) == ["network-unreachable"]
    assert "127.0.0.1: the connection opens, but there is no answer to the TLS" in diagnosis.causes[0].evidence
    assert "localhost" in diagnosis.causes[0].evidence


def make_certificate(folder: Path) -> Path:
    """A self-signed certificate for 127.0.0.1, with its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "an authority of its own")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
    signed = builder.add_extension(address, critical=False).sign(key, hashes.SHA256())
    pem = signed.public_bytes(Encoding.PEM) + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path = folder / "ca.pem"
    path.write_bytes(pem)
    return path


def test_a_private_authority(tmp_path: Path) -> None:
    """A certificate of an unknown CA is reported with its issuer and the file that lacks it."""
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with listener(b"", context) as port:
        url = f"https://127.0.0.1:{port}"
        environment = {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url}
        distrusted = diagnose(tmp_path, environment)
        trusting = {**environment, "SSL_CERT_FILE": str(certificate)}
        reached = observe_connectivity(make_snapshot(tmp_path, trusting), (url,))
        other = "/etc/ssl/certs/ca-certificates.crt"
        of_others = diagnose(tmp_path, {**environment, "SSL_CERT_FILE": other})
    assert causes(distrusted) == ["network-certificate"]
    assert "its certificate is issued by CN=an authority of its own" in distrusted.causes[0].evidence
    # The file is not below the folder that the test takes for /.
    found = next(each for each, cause in of_others.consequences if cause == "environment-file")
    assert f"SSL_CERT_FILE={other} does not have its CA" in found.evidence
    assert found.remedy.startswith(f"sudo tee -a {other} <CA.pem")
    assert [(result.stage, result.error) for result in reached.service] == [("done", "")]


def test_an_endpoint_that_never_answers(tmp_path: Path) -> None:
    """If an endpoint completes TLS but answers no request, the models are not checked, with the reason."""
    certificate, held = make_certificate(tmp_path), list[ssl.SSLSocket]()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    with suppress(ssl.SSLError):
                        held.append(context.wrap_socket(server.accept()[0], server_side=True))

        threading.Thread(target=serve, daemon=True).start()
        endpoint = {"AWS_BEDROCK_RUNTIME_ENDPOINT": f"https://127.0.0.1:{server.getsockname()[1]}"}
        snapshot = make_snapshot(tmp_path, {**BASE, **pair(), **endpoint, "SSL_CERT_FILE": str(certificate)})
        snapshot.optional_timeout = 1
        calling = ("aws-model-refused", "aws-throttled")
        checks = (each for each in CHECKS if each.cause.group == "network" or each.cause.id in calling)
        diagnosis = run_checks(snapshot, checks, check_timeout=60, total_timeout=60)
        for stream in held:
            stream.close()
    silent = f"claude ({MODEL} in us-east-1): the endpoint accepted the connection but did not answer within 1 s"
    assert causes(diagnosis) == []
    assert {each.cause.id: each.skip_reason for each in diagnosis.unchecked} == dict.fromkeys(calling, silent)


def test_settings_of_the_transient_unit() -> None:
    """The transient unit has the sandbox, user and environment of the service with its drop-ins."""
    unit = "[Unit]\nRestartSec=1\n[Service]\nUser=litellm\nRestart=always\nRestrictRealtime=yes\nExecStart=/x\n"
    unit += "Environment=HOME=%S/litellm\nSystemCallFilter=@system-service \\\n  ~@obsolete\nRemoveIPC=yes\n"
    drop_in = "[Service]\nEnvironment=\nIPAddressDeny = any\nType=simple\n[Install]\nUser=x\n"
    assert list(sandbox_lines((unit, drop_in))) == [
        ("User", "litellm"),
        ("RestrictRealtime", "yes"),
        ("SystemCallFilter", "@system-service ~@obsolete"),
        ("Environment", ""),
        ("IPAddressDeny", "any"),
    ]
    argv = sandbox_argv((drop_in,), "/python", ("https://a", "https://b"))
    assert argv[0] == "systemd-run"
    assert "--property=IPAddressDeny=any" in argv
    assert argv[-7:] == ("/python", "-I", "-m", "litellm_systemd.runtime", "reach", "https://a", "https://b")


def test_endpoints() -> None:
    """Each region's endpoint is tested once, or the one of .env instead; mocked and other models have none."""
    config = parse_config(CONFIG + "# another\n", "x.yml")
    assert endpoints_of(config, BASE) == ("https://bedrock-runtime.us-east-1.amazonaws.com",)
    assert endpoints_of(config, {**BASE, "AWS_BEDROCK_RUNTIME_ENDPOINT": "https://vpce"}) == ("https://vpce",)
    assert endpoints_of(config, {}) == ()


def test_endpoint_of_sts() -> None:
    """If a role is assumed, by .env or by a parameter of a model, the connection to STS is tested as well."""
    bedrock, sts = (f"https://{name}.us-east-1.amazonaws.com" for name in ("bedrock-runtime", "sts"))
    role = "arn:aws:iam::123456789012:role/gateway"
    plain = parse_config(CONFIG, "x.yml")
    assert endpoints_of(plain, {**BASE, "AWS_ROLE_NAME": role}) == (bedrock, sts)
    assert endpoints_of(plain, {**BASE, "AWS_ROLE_NAME": role, "AWS_STS_ENDPOINT": "https://vpce"})[1:] == (
        "https://vpce",
    )
    own = parse_config(CONFIG.replace(f"{MODEL}}}", f"{MODEL}, aws_role_name: '{role}'}}"), "x.yml")
    assert endpoints_of(own, BASE) == (bedrock, sts)
    assert endpoints_of(own, {**BASE, "AWS_REGION": "eu-west-1"})[1:] == (sts.replace("us-east-1", "eu-west-1"),)
