"""The AWS credentials that install and init check before a change, with instance metadata and STS on loopback."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.aws.sources import observe_instance
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.contract import ExitCode
from litellm_systemd.env.credentials_expiry import parse_moment
from litellm_systemd.env.settings import read_dotenv
from litellm_systemd.errors import InputError, Unavailable
from litellm_systemd.host.layout import Layout
from tests.fakes import ACCOUNT, USER, Cloud, Key, run_cloud
from tests.fakes.http import Reply, serving
from tests.fakes.http import Request as HttpRequest

#: Independent of the environment of the tests.
ASKED = {"AWS_EC2_METADATA_DISABLED": "false"}
VARIABLES = ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_REGION_NAME", "HTTPS_PROXY", "https_proxy")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cloud]:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # A missing profile of the caller must have no effect.
    monkeypatch.setenv("AWS_PROFILE", "of-the-caller")
    with run_cloud("eu-central-1") as cloud:
        for name, value in cloud.environment.items():
            monkeypatch.setenv(name, value)
        yield cloud


def wanted(folder: Path, env: str, config: str) -> ServiceConfig:
    """The result of install's checks of this `.env`, with queries to AWS."""
    (folder / ".env").write_text(env, encoding="utf-8")
    return resolve_service(Request(Layout(root=folder / "root"), config=config, cwd=folder, prove_access=True))


def pair(key: Key) -> str:
    lines = [f"AWS_ACCESS_KEY_ID={key.access_key}", f"AWS_SECRET_ACCESS_KEY={key.secret_key}"]
    lines += [f"AWS_SESSION_TOKEN={key.token}"] if key.token else []
    return "\n".join([*lines, "AWS_REGION_NAME=eu-central-1", ""])


def services(cloud: Cloud) -> set[str]:
    return {one.service for one in cloud.seen}


def test_role_of_the_instance(tmp_path: Path, aws: Cloud) -> None:
    """On an instance with a role, an empty .env is enough: the region is found and the role is named."""
    found = wanted(tmp_path, "", "iam_role_config.yml")
    assert found.settings.environment["AWS_REGION_NAME"] == "eu-central-1"
    assert any("The role of the instance is litellm-gateway." in note for note in found.notes)
    assert services(aws) == {"metadata"}
    assert not [value for value in found.settings.environment.values() if value.startswith("ASIA")]


def no_role(cloud: Cloud) -> None:
    cloud.metadata.role = None


def hop_limit(cloud: Cloud) -> None:
    cloud.metadata.hop_limit_reached = True


def switched_off(cloud: Cloud) -> None:
    cloud.metadata.enabled = False


def expired(cloud: Cloud) -> None:
    cloud.metadata.lifetime = timedelta(seconds=-1)


@pytest.mark.parametrize(
    ("harm", "said", "remedy"),
    [
        (no_role, "has no IAM role", "Modify IAM role"),
        (hop_limit, "hop limit is too small", "--http-put-response-hop-limit 2"),
        (switched_off, "is disabled", "--http-endpoint enabled"),
        (expired, "litellm-gateway expired at", "timedatectl"),
    ],
)
def test_role_that_cannot_be_used(
    tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Cloud], None], said: str, remedy: str
) -> None:
    """Each problem that prevents the use of an instance's role is an error of its own, with its remedy."""
    harm(aws)
    if harm is hop_limit:  # no response
        monkeypatch.setattr("litellm_systemd.aws.sources.METADATA_TIMEOUT", 0.2)
    with pytest.raises(Unavailable, match=said) as caught:
        wanted(tmp_path, "", "iam_role_config.yml")
    assert remedy in caught.value.hint
    assert "--offline" in caught.value.hint


def test_outside_ec2(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an instance metadata service, the error says that this is not EC2, not that the region is missing."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(Unavailable, match="this is not an EC2 instance") as caught:
            wanted(tmp_path, "", "iam_role_config.yml")
    assert "init --from-profile" in caught.value.hint
    assert aws.seen == []


@pytest.mark.parametrize(
    ("status", "of_data", "code"),
    [
        pytest.param(404, 404, "not-ec2", id="some web server"),
        pytest.param(404, 200, "version-1", id="another cloud's, or an old proxy"),
        pytest.param(200, 500, "odd-answer", id="out of order"),
    ],
)
def test_another_server_at_the_metadata_address(status: int, of_data: int, code: str) -> None:
    """A server at the metadata's address that does not behave like EC2's is reported as such."""
    with serving(lambda request: Reply(status if request.method == "PUT" else of_data, b"x")) as server:
        found = observe_instance({**ASKED, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url})
    assert found.trouble is not None
    assert found.trouble.code == code


def test_role_that_ec2_cannot_assume() -> None:
    """If EC2 itself gets no credentials for the role, the error has EC2's reason."""
    refusal = json.dumps({"Code": "AssumeRoleUnauthorizedAccess", "Message": "EC2 cannot assume the role x."})

    def answer(request: HttpRequest) -> Reply:
        return Reply(200, refusal.encode() if request.path.endswith("/gateway") else b"gateway")

    with serving(answer) as server:
        found = observe_instance({**ASKED, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url})
    assert found.trouble is not None
    assert (found.trouble.code, "AssumeRoleUnauthorizedAccess" in found.trouble.message) == ("role-refused", True)


def test_metadata_disabled_in_env(tmp_path: Path, aws: Cloud) -> None:
    """AWS_EC2_METADATA_DISABLED in .env, which the service obeys, is an error that names the variable."""
    with pytest.raises(Unavailable, match="AWS_EC2_METADATA_DISABLED=true"):
        wanted(tmp_path, "AWS_EC2_METADATA_DISABLED=true\nAWS_REGION_NAME=us-east-1\n", "iam_role_config.yml")
    assert aws.seen == []


def test_metadata_disabled_in_the_shell(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """AWS_EC2_METADATA_DISABLED in the caller's shell does not apply to the service: the check is skipped with a
    note.
    """
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    found = wanted(tmp_path, "AWS_REGION_NAME=us-east-1\n", "iam_role_config.yml")
    assert any("role of the instance was not checked" in note for note in found.notes)
    assert aws.seen == []


def test_credentials_without_a_key() -> None:
    """Metadata that report success without a key are reported as invalid."""

    def answer(request: HttpRequest) -> Reply:
        return Reply(200, b'{"Code": "Success"}' if request.path.endswith("/gateway") else b"gateway")

    with serving(answer) as server:
        found = observe_instance({**ASKED, "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url})
    assert found.trouble is not None
    assert (found.trouble.code, "without AccessKeyId" in found.trouble.message) == ("odd-answer", True)


def test_known_key(tmp_path: Path, aws: Cloud) -> None:
    """A key pair that STS knows is accepted and its owner is reported; neither the instance nor a profile is read."""
    found = wanted(tmp_path, pair(USER), "access_key_config.yml")
    assert f"The AWS key belongs to {USER.arn}." in found.notes
    assert [(one.service, one.key, one.status) for one in aws.seen] == [("sts", USER.access_key, 200)]


def test_installed_key_is_not_checked_again(tmp_path: Path, aws: Cloud) -> None:
    """STS checks a new key pair only, not the installed one at each install."""
    installed = tmp_path / "root/etc/litellm/litellm.env"
    installed.parent.mkdir(parents=True)
    installed.write_text(pair(USER), encoding="utf-8")
    wanted(tmp_path, pair(USER), "access_key_config.yml")
    assert aws.seen == []


def test_unknown_key(tmp_path: Path, aws: Cloud) -> None:
    """A key that AWS does not know is refused at its line, and only its ends are shown."""
    aws.account.revoke(USER)
    with pytest.raises(InputError, match=r"\.env:1: AWS doesn't know the access key AKIA…PAIR") as caught:
        wanted(tmp_path, pair(USER), "access_key_config.yml")
    assert caught.value.code is ExitCode.CONFIG
    assert USER.secret_key not in str(caught.value) + caught.value.hint


def test_wrong_secret(tmp_path: Path, aws: Cloud) -> None:
    """A secret that belongs to another key is reported as such."""
    env = pair(USER).replace(USER.secret_key, "A" * 40)
    with pytest.raises(InputError, match=r"the secret of the access key \S+ is wrong"):
        wanted(tmp_path, env, "access_key_config.yml")
    assert aws.seen[-1].code == "SignatureDoesNotMatch"


def test_expired_token(tmp_path: Path, aws: Cloud) -> None:
    """A temporary key that has expired is reported as such."""
    key = aws.account.add_session(f"arn:aws:sts::{ACCOUNT}:assumed-role/x/y", timedelta(seconds=-1))
    with pytest.raises(InputError, match="is temporary and has expired"):
        wanted(tmp_path, pair(key), "access_key_config.yml")


def test_wrong_clock(tmp_path: Path, aws: Cloud) -> None:
    """If the clocks of this host and AWS differ, the error names the clock, not the key."""
    clock = aws.account.clock
    aws.account.clock = lambda: clock() + timedelta(hours=3)
    with pytest.raises(InputError, match="its clock is wrong") as caught:
        wanted(tmp_path, pair(USER), "access_key_config.yml")
    assert "timedatectl" in caught.value.hint


def test_unreachable_sts(tmp_path: Path, aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """If STS cannot be reached, as in a private subnet, install continues and notes that the key was not checked."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", f"http://127.0.0.1:{closed.getsockname()[1]}")
        found = wanted(tmp_path, pair(USER), "access_key_config.yml")
    assert any("could not be checked: STS can't be reached" in note for note in found.notes)
    assert aws.seen == []


def test_demo_queries_no_aws(tmp_path: Path, aws: Cloud) -> None:
    """The demo configuration queries no AWS service, whatever keys are in .env."""
    wanted(tmp_path, pair(USER), "demo.yml")
    assert aws.seen == []


def test_key_under_a_configuration_for_a_role(tmp_path: Path, aws: Cloud) -> None:
    """A key pair that iam_role_config.yml would use silently is refused at its line, without a request to AWS."""
    with pytest.raises(InputError, match=r"\.env:1: AWS_ACCESS_KEY_ID is set, and iam_role_config\.yml is for"):
        wanted(tmp_path, pair(USER), "iam_role_config.yml")
    assert aws.seen == []


@pytest.mark.parametrize(
    ("content", "mode", "said"),
    [
        (None, 0o644, "does not exist"),
        ("not a certificate", 0o644, "has no certificate in PEM"),
        ("not a certificate", 0o600, "can't be read by the user litellm"),
    ],
)
def test_certificates(content: str | None, mode: int, said: str, aws: Cloud) -> None:
    """A file of CAs that is missing, invalid or unreadable for the service is refused at its line."""
    # Not in /tmp, which is hidden from the service.
    path = Path("/dev/shm") / f"litellm-systemd-{os.getpid()}.pem"
    folder = Path("/dev/shm") / f"litellm-systemd-{os.getpid()}"
    folder.mkdir()
    try:
        if content is not None:
            path.write_text(content, encoding="utf-8")
            path.chmod(mode)
        env = f"SSL_CERT_FILE={path}\n{pair(USER)}"
        with pytest.raises(InputError, match=rf"\.env:1: SSL_CERT_FILE=.* {said}"):
            wanted(folder, env, "access_key_config.yml")
        assert aws.seen == []
    finally:
        path.unlink(missing_ok=True)
        (folder / ".env").unlink()
        folder.rmdir()


def test_profile_of_a_user(tmp_path: Path, aws: Cloud) -> None:
    """A profile in .env, which the service cannot read, is refused with the verb that copies its key."""
    with pytest.raises(
        InputError, match=r"\.env:1: AWS_PROFILE is cline, but the service reads no ~/\.aws"
    ) as caught:
        wanted(tmp_path, "AWS_PROFILE=cline\nAWS_REGION_NAME=us-east-1\n", "prompt_caching.yml")
    assert "init --from-profile cline" in caught.value.hint
    assert aws.seen == []


def litellmctl(folder: Path, *arguments: str) -> tuple[int, Any]:
    """Run litellmctl with ~/.aws in `folder`. Returns the exit code and the JSON."""
    argv = (sys.executable, "-I", "-m", "litellm_systemd", *arguments, "--json")
    environ = {name: value for name, value in os.environ.items() if name != "SUDO_USER"}
    done = subprocess.run(
        argv,
        cwd=folder,
        env={**environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def write_profile(folder: Path, text: str) -> None:
    (folder / ".aws").mkdir()
    (folder / ".aws/credentials").write_text(text, encoding="utf-8")


def test_init_checks_the_key_with_sts(tmp_path: Path, aws: Cloud) -> None:
    """`init --from-profile` reports the owner of the key and writes a .env that install accepts."""
    write_profile(tmp_path, USER.profile("cline", "eu-central-1"))
    code, report = litellmctl(tmp_path, "init", "--from-profile", "cline")
    assert (code, f"The AWS key belongs to {USER.arn}." in report["notes"]) == (0, True)
    wanted(tmp_path, (tmp_path / ".env").read_text(encoding="utf-8"), "access_key_config.yml")
    assert {one.key for one in aws.seen} == {USER.access_key}


def test_init_stores_no_key_that_aws_refuses(tmp_path: Path, aws: Cloud) -> None:
    """A key that AWS does not know leaves no .env; with --offline AWS is not queried."""
    aws.account.revoke(USER)
    write_profile(tmp_path, USER.profile("cline"))
    code, report = litellmctl(tmp_path, "init", "--from-profile", "cline")
    assert (code, "AWS doesn't know the access key" in report["error"]) == (78, True)
    assert not (tmp_path / ".env").exists()
    aws.seen.clear()
    assert litellmctl(tmp_path, "init", "--from-profile", "cline", "--offline")[0] == 0
    assert aws.seen == []


@pytest.mark.parametrize("name", ["x_security_token_expires", "expiration"])
def test_init_stores_the_expiry_of_a_temporary_key(tmp_path: Path, aws: Cloud, name: str) -> None:
    """The expiry that a tool wrote next to a temporary key is stored with the key."""
    key = aws.account.add_session(f"arn:aws:sts::{ACCOUNT}:assumed-role/x/y", timedelta(hours=5))
    assert key.expires is not None
    write_profile(tmp_path, f"{key.profile('cline')}{name} = {key.expires.isoformat()}\n")
    assert litellmctl(tmp_path, "init", "--from-profile", "cline")[0] == 0
    stored = read_dotenv(tmp_path / ".env").values
    assert parse_moment(stored["AWS_CREDENTIAL_EXPIRATION"]) == key.expires.replace(microsecond=0)
    assert stored["AWS_SESSION_TOKEN"] == key.token


def test_init_refuses_an_expired_key(tmp_path: Path, aws: Cloud) -> None:
    """A profile whose expiry has passed is refused without a request to AWS."""
    key = aws.account.add_session(f"arn:aws:sts::{ACCOUNT}:assumed-role/x/y", timedelta(hours=5))
    write_profile(tmp_path, f"{key.profile('cline')}expiration = 2020-01-01T00:00:00Z\n")
    code, report = litellmctl(tmp_path, "init", "--from-profile", "cline")
    assert (code, "its key expired at 2020-01-01T00:00:00Z" in report["error"]) == (78, True)
    assert aws.seen == []
