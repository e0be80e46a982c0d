"""doctor on the way to Bedrock and at AWS, against fakes on loopback. From here: the sandbox needs a systemd."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address
from pathlib import Path
from socket import create_server

import pytest
from certifi import where
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from litellm_systemd.doctor import look_aws, look_credentials, look_environment, look_network
from litellm_systemd.doctor.cause import Probe
from litellm_systemd.doctor.engine import Diagnosis, examine
from litellm_systemd.doctor.look_network import endpoints_of
from litellm_systemd.doctor.sandbox import observe_ways, sandbox_argv, sandbox_lines
from litellm_systemd.doctor.scene import Scene
from litellm_systemd.environment_file import render_assignments
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.layout import Layout
from litellm_systemd.report import Outcome
from tests.fakes import USER, Cloud, Key, run_cloud

MODEL = "us.anthropic.claude-sonnet-5-5"
CONFIG = f"""\
model_list:
  - model_name: claude
    litellm_params: {{model: bedrock/{MODEL}}}
  - model_name: mocked
    litellm_params: {{model: bedrock/nobody.asks, mock_response: x}}
general_settings: {{master_key: os.environ/LITELLM_MASTER_KEY}}
litellm_settings: {{drop_params: true}}
"""
PROBES = tuple(
    each
    for module in (look_environment, look_credentials, look_network, look_aws)
    for each in vars(module).values()
    if isinstance(each, Probe)
)
BASE = {"LITELLM_MASTER_KEY": "sk-0123456789abcdef0123", "AWS_REGION_NAME": "us-east-1"}


def pair(key: Key = USER) -> dict[str, str]:
    found = {"AWS_ACCESS_KEY_ID": key.access_key, "AWS_SECRET_ACCESS_KEY": key.secret_key}
    return found | ({"AWS_SESSION_TOKEN": key.token} if key.token else {})


def scene_of(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Scene:
    """An installation with that environment and configuration, looked at by somebody who isn't root."""
    layout = Layout(root=root)
    for path, text in (
        (layout.environment_file, render_assignments(environment)),
        (layout.config_link, config),
    ):
        real = layout.real(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_text(text, encoding="utf-8")
    scene = Scene(layout)
    scene.is_root = False  # so that the way is gone from here
    return scene


def diagnose(root: Path, environment: Mapping[str, str], config: str = CONFIG) -> Diagnosis:
    """What is found of it."""
    # This is about what is found; that it takes less than five seconds is for a host at rest.
    return examine(scene_of(root, environment, config), PROBES, each=60, total=60)


def causes(diagnosis: Diagnosis) -> list[str]:
    return [finding.cause.id for finding in diagnosis.causes]


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    with run_cloud() as cloud:
        yield cloud


# --- the way ---


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
    assert because.keys() == {
        "network-unreachable",
        "network-certificate",
        "aws-key",
        "aws-model-refused",
        "aws-throttled",
    }
    assert set(because.values()) == {"network-dns has to be mended first"}


def test_a_closed_port(tmp_path: Path) -> None:
    """An endpoint that takes no connection is named with its error."""
    with create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
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
        reached = observe_ways(scene_of(tmp_path, trusting), (url,))
    assert causes(distrusted) == ["network-certificate"]
    assert [(way.stage, way.error) for way in reached.service] == [("done", "")]


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


# --- AWS ---


def test_a_sound_account(tmp_path: Path, aws: Cloud) -> None:
    """With a key that may call the models nothing is told, everything is checked and no call was answered."""
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert (causes(diagnosis), diagnosis.unchecked) == ([], ())
    asked = [seen for seen in aws.seen if "/invoke" in seen.target]
    assert [(seen.status, seen.code) for seen in asked] == [(400, "ValidationException")]


def test_an_unknown_key(tmp_path: Path, aws: Cloud) -> None:
    """A key that AWS doesn't know is the one cause; no model is tried with it."""
    aws.account.revoke(USER)
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-key"]
    assert "doesn't know" in diagnosis.causes[0].seen
    assert {each.cause.id for each in diagnosis.unchecked} == {"aws-model-refused", "aws-throttled"}


def test_a_call_that_is_denied(tmp_path: Path, aws: Cloud) -> None:
    """A model that may not be called is told in AWS's words, with the remedy for that refusal."""
    aws.account.denied.add("bedrock:InvokeModel")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()})
    assert causes(diagnosis) == ["aws-model-refused"]
    (found,) = diagnosis.causes
    assert found.seen.startswith(f"claude ({MODEL} in us-east-1): ")
    assert "bedrock:InvokeModel" in found.seen
    assert "allow bedrock:InvokeModel and " in found.mend


def test_an_ended_model(tmp_path: Path, aws: Cloud) -> None:
    """A model that has ended is told by its day, and not a second time by AWS's refusal."""
    config = CONFIG.replace(MODEL, "us.anthropic.claude-3-7-sonnet-20250219-v1:0")
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment, **pair()}, config)
    assert causes(diagnosis) == ["aws-model-ended"]
    assert "2026-04-28" in diagnosis.causes[0].seen


def test_credentials_that_end(tmp_path: Path, aws: Cloud) -> None:
    """Temporary credentials that have ended are the cause, and nothing is asked with them; a warning comes before."""

    def look(lifetime: timedelta) -> Diagnosis:
        session = aws.account.add_session(USER.arn, lifetime)
        assert session.expires is not None
        end = {"AWS_CREDENTIAL_EXPIRATION": session.expires.strftime("%Y-%m-%dT%H:%M:%SZ")}
        return diagnose(tmp_path, {**BASE, **aws.environment, **pair(session), **end})

    ended = look(timedelta(seconds=-1))
    assert causes(ended) == ["environment-credentials"]
    assert [seen for seen in aws.seen if seen.service in ("sts", "bedrock")] == []
    ending = look(timedelta(minutes=30))
    assert [(each.cause.id, each.outcome) for each in ending.causes] == [("environment-credentials", Outcome.WARNING)]


def test_no_role(tmp_path: Path, aws: Cloud) -> None:
    """An instance without a role is the cause, if the configuration needs one; with one the models are tried."""
    aws.metadata.role = None
    diagnosis = diagnose(tmp_path, {**BASE, **aws.environment})
    assert causes(diagnosis) == ["aws-role"]
    assert "Attach an instance profile" in diagnosis.causes[0].mend
    aws.metadata.role = "litellm-gateway"
    assert causes(diagnose(tmp_path, {**BASE, **aws.environment})) == []


def test_a_named_file_that_is_gone(tmp_path: Path, aws: Cloud) -> None:
    """A variable that names a file which isn't there, or which the service may not read, is told with the path."""
    environment = {**BASE, **aws.environment, **pair(), "AWS_CA_BUNDLE": "/etc/litellm/ca.pem"}
    gone = diagnose(tmp_path, environment)
    assert causes(gone)[0] == "environment-file"
    assert "/etc/litellm/ca.pem: there is no such file" in gone.causes[0].seen
    authority = tmp_path / "etc/litellm/ca.pem"
    authority.write_text(Path(where()).read_text(encoding="utf-8"), encoding="utf-8")
    authority.chmod(0o600)
    assert "mode 0600" in diagnose(tmp_path, environment).causes[0].seen
    authority.chmod(0o644)
    assert causes(diagnose(tmp_path, environment)) == []
