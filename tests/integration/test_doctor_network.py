"""doctor on the way to Bedrock, on loopback. From here: the sandbox needs a systemd."""

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

from litellm_systemd.doctor.check_network import endpoints_of
from litellm_systemd.doctor.engine import examine
from litellm_systemd.doctor.sandbox_probe import observe_connectivity, sandbox_argv, sandbox_lines
from litellm_systemd.gateway.config import parse_config
from tests.integration.doctor_snapshot import BASE, CONFIG, ENTRY, MODEL, PROBES, causes, diagnose, pair, scene_of
from tests.ports import free_port


@contextmanager
def listener(answer: bytes, context: ssl.SSLContext | None = None) -> Iterator[int]:
    """A port on loopback that answers each connection so, once something has come."""
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
    """Where the endpoint's name isn't resolved, that is the one cause, and all that needs it isn't checked."""
    # A name that no resolver has to be asked for: a label is too long.
    url = f"https://{'x' * 64}.example"
    diagnosis = diagnose(tmp_path, {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url})
    assert causes(diagnosis) == ["network-dns"]
    assert "from here, not in the service's sandbox" in diagnosis.causes[0].seen
    because = {each.cause.id: each.because for each in diagnosis.unchecked}
    asking = {"aws-key", "aws-identity", "aws-model-refused", "aws-throttled", "aws-quota-small"}
    assert because.keys() == {"network-unreachable", "network-certificate", *asking}
    assert set(because.values()) == {"network-dns has to be mended first"}


def test_a_closed_port(tmp_path: Path) -> None:
    """An endpoint that takes no connection is named with its error."""
    url = f"https://127.0.0.1:{free_port()}"
    diagnosis = diagnose(tmp_path, {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url})
    assert causes(diagnosis) == ["network-unreachable"]
    assert "Connection refused" in diagnosis.causes[0].seen


@pytest.mark.parametrize(("answer", "seen"), [(b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden"), (b"", "closes")])
def test_a_proxy_that_refuses(tmp_path: Path, answer: bytes, seen: str) -> None:
    """A proxy that doesn't let the service through is told by what it answers, and its password isn't."""
    with listener(answer) as port:
        proxy = {"HTTPS_PROXY": f"http://me:hidden@127.0.0.1:{port}"}
        diagnosis = diagnose(tmp_path, {**BASE, **pair(), **proxy})
    assert causes(diagnosis) == ["network-proxy"]
    assert seen in diagnosis.causes[0].seen
    assert "hidden" not in diagnosis.causes[0].seen + diagnosis.causes[0].mend


def test_an_endpoint_that_never_speaks(tmp_path: Path) -> None:
    """One that takes connections and says nothing isn't told for a certificate; two of them are one finding."""
    with create_server(("127.0.0.1", 0)) as first, create_server(("127.0.0.1", 0)) as second:
        urls = [
            f"https://{host}:{port.getsockname()[1]}" for host, port in (("127.0.0.1", first), ("localhost", second))
        ]
        config = CONFIG.replace("model_list:\n", ENTRY.format(f"{MODEL}, aws_bedrock_runtime_endpoint: '{urls[1]}'"))
        environment = {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": urls[0]}
        diagnosis = diagnose(tmp_path, environment, config)
    assert causes(diagnosis) == ["network-unreachable"]
    assert "127.0.0.1: no answer within" in diagnosis.causes[0].seen
    assert "localhost" in diagnosis.causes[0].seen


def make_certificate(folder: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody has signed but itself, with its key."""
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
    """A certificate of an unknown authority is told; with that authority in SSL_CERT_FILE it isn't."""
    certificate = make_certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with listener(b"", context) as port:
        url = f"https://127.0.0.1:{port}"
        environment = {**BASE, **pair(), "AWS_BEDROCK_RUNTIME_ENDPOINT": url}
        distrusted = diagnose(tmp_path, environment)
        trusting = {**environment, "SSL_CERT_FILE": str(certificate)}
        reached = observe_connectivity(scene_of(tmp_path, trusting), (url,))
    assert causes(distrusted) == ["network-certificate"]
    assert [(way.stage, way.error) for way in reached.service] == [("done", "")]


def test_an_endpoint_that_never_answers(tmp_path: Path) -> None:
    """Of one that completes TLS and answers no request nothing is made up: the models aren't checked, and why."""
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
        snapshot = scene_of(tmp_path, {**BASE, **pair(), **endpoint, "SSL_CERT_FILE": str(certificate)})
        snapshot.patience = 1
        asking = ("aws-model-refused", "aws-throttled")
        probes = (each for each in PROBES if each.cause.group == "network" or each.cause.id in asking)
        diagnosis = examine(snapshot, probes, each=60, total=60)
        for stream in held:
            stream.close()
    silent = f"claude ({MODEL} in us-east-1): the endpoint takes the connection, and no answer comes within 1 s"
    assert causes(diagnosis) == []
    assert {each.cause.id: each.because for each in diagnosis.unchecked} == dict.fromkeys(asking, silent)


def test_what_a_sandbox_is_made_of() -> None:
    """The transient unit has the sandbox, user and environment of the service and its drop-ins, and nothing else."""
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
    """Each region's endpoint is looked at once, that of .env in its place; mocked models and others have none."""
    config = parse_config(CONFIG + "# another\n", "x.yml")
    assert endpoints_of(config, BASE) == ("https://bedrock-runtime.us-east-1.amazonaws.com",)
    assert endpoints_of(config, {**BASE, "AWS_BEDROCK_RUNTIME_ENDPOINT": "https://vpce"}) == ("https://vpce",)
    assert endpoints_of(config, {}) == ()


def test_endpoint_of_sts() -> None:
    """Where a role is assumed, by .env or by a model's own parameter, the way to STS is looked at as well."""
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
