"""Secrets in AWS Secrets Manager and SSM Parameter Store, with both on loopback."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from litellm_systemd.commands.client import client
from litellm_systemd.commands.resolve import Request
from litellm_systemd.commands.salt_key import with_salt_key
from litellm_systemd.commands.service_config import ServiceConfig, resolve_service
from litellm_systemd.database.steps import database_environment
from litellm_systemd.doctor import check_redis
from litellm_systemd.doctor.check_database import detect_database_salt
from litellm_systemd.doctor.engine import run_checks
from litellm_systemd.errors import DatabaseError, InputError, InstallerError, RedisError, Unavailable
from litellm_systemd.host.layout import Layout
from litellm_systemd.host.stored_secrets import find_key, with_stored_secrets
from tests.database import SALT_KEY, Database
from tests.fakes import ACCOUNT, Cloud, run_cloud
from tests.fakes.http import utc_now
from tests.integration.doctor_snapshot import BASE, causes, diagnose, make_snapshot, pair
from tests.integration.runtime_service import KEY, Service, run_runtime
from tests.integration.test_salt_key import store as store_values
from tests.postgres import PASSWORD, ROLE
from tests.redis import Access, Redis, why_no_redis
from tests.skipping import refuse

KEY_REFERENCE = "aws-secretsmanager:litellm/gateway#master_key"
CONFIG = "model_list: [{model_name: m, litellm_params: {model: openai/m, mock_response: hi}}]\n"
ARN = f"arn:aws:secretsmanager:eu-central-1:{ACCOUNT}:secret:litellm/gateway"


@pytest.fixture
def aws() -> Iterator[Cloud]:
    with run_cloud("eu-central-1") as cloud:
        store(cloud, KEY)
        cloud.secrets.parameters["/gateway/openai"] = "canary-openai-key"
        yield cloud


def store(cloud: Cloud, key: str) -> None:
    cloud.secrets.values["litellm/gateway"] = json.dumps({"master_key": key, "other": "x"})


def variables(cloud: Cloud, **more: str) -> dict[str, str]:
    return {
        **cloud.environment,
        **pair(),
        "AWS_REGION_NAME": "eu-central-1",
        "LITELLM_MASTER_KEY": KEY_REFERENCE,
        "OPENAI_API_KEY": "aws-ssm:/gateway/openai",
        **more,
    }


def status_with(service: Service, key: str) -> int:
    connection = service.connect()
    connection.request("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})
    return connection.getresponse().status


def test_service_reads_secrets_at_start_and_reload(aws: Cloud, tmp_path: Path) -> None:
    """The service reads its secrets at the start and at each reload; a reload that cannot keeps the earlier ones.

    No value is in the journal, at the level DEBUG either.
    """
    with Service(tmp_path, **variables(aws, NUM_WORKERS="1", LITELLM_LOG="DEBUG")) as service:
        service.await_ready()
        assert service.chat() == (200, "hello")
        store(aws, "sk-after-the-rotation-0123")
        assert service.reload().returncode == 0
        assert [status_with(service, key) for key in (KEY, "sk-after-the-rotation-0123")] == [401, 200]

        aws.account.denied = {"secretsmanager:GetSecretValue"}
        failed = service.reload()
        assert failed.returncode == 1
        assert "LITELLM_MASTER_KEY: AWS Secrets Manager in eu-central-1, litellm/gateway#master_key" in failed.stderr
        assert "Allow secretsmanager:GetSecretValue" in failed.stderr
        assert status_with(service, "sk-after-the-rotation-0123") == 200
        log = service.log()
        assert not [value for value in (KEY, "sk-after-the-rotation", "canary-openai") if value in log]


@pytest.mark.parametrize(
    ("broken", "code", "said"),
    [
        ({"denied": {"ssm:GetParameter"}}, 69, "Allow ssm:GetParameter on it, and kms:Decrypt"),
        (
            {"parameters": {}},
            78,
            "OPENAI_API_KEY: SSM Parameter Store in eu-central-1, /gateway/openai: ParameterNotFound",
        ),
        ({"values": {}}, 78, "litellm/gateway#master_key: ResourceNotFoundException"),
        ({"values": {"litellm/gateway": "{}"}}, 78, "not a JSON object with a text of that key"),
        ({"busy": 9}, 69, "ThrottlingException"),
    ],
)
def test_start_without_a_secret(aws: Cloud, broken: dict[str, object], code: int, said: str) -> None:
    """Without a secret the service exits, with 78 if a restart cannot fix that, else 69, and one line says why."""
    aws.account.denied = broken.pop("denied", set())  # type: ignore[assignment]
    for name, value in broken.items():
        setattr(aws.secrets, name, value)
    done = run_runtime("--config", "/nowhere.yml", **variables(aws))
    assert done.returncode == code
    [line] = done.stderr.splitlines()
    assert said in line


def test_busy_service_is_asked_again(aws: Cloud) -> None:
    """A request that AWS throttles is repeated."""
    aws.secrets.busy = 1
    done = run_runtime("secrets", **variables(aws))
    assert json.loads(done.stdout) == {"LITELLM_MASTER_KEY": KEY, "OPENAI_API_KEY": "canary-openai-key"}
    assert aws.secrets.busy == 0


def test_install_checks_secrets_and_stores_no_value(aws: Cloud, tmp_path: Path) -> None:
    """install reads the secrets once before it changes anything, and keeps the references."""
    lines = variables(aws, LITELLM_MASTER_KEY=f"aws-secretsmanager:{ARN}#master_key")
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in lines.items()), encoding="utf-8")
    request = Request(Layout(root=tmp_path / "root"), config="demo.yml", cwd=tmp_path, prove_access=True)
    found = resolve_service(request)
    assert KEY not in found.settings.environment.values()
    assert any(note.startswith("LITELLM_MASTER_KEY, OPENAI_API_KEY: the service reads") for note in found.notes)
    assert find_key(found.settings) == KEY
    shown = client(request, "curl", environ={"HOME": str(tmp_path)}, now=utc_now(), show_key=True)
    assert KEY in str(shown.data)

    aws.account.denied = {"secretsmanager:GetSecretValue"}
    with pytest.raises(InstallerError) as refused:
        resolve_service(request)
    assert refused.value.message.startswith("LITELLM_MASTER_KEY: AWS Secrets Manager in eu-central-1, arn:aws:")
    assert "litellmctl iam-policy" in refused.value.hint


def test_home_of_the_service_runs_nothing_as_root(
    aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the service has no key pair, root runs no program that a file in the service's home names."""
    monkeypatch.setattr(Layout, "state", str(tmp_path))
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws/config").write_text(f"[default]\ncredential_process = touch {tmp_path}/ran\n", encoding="utf-8")
    environment = {name: value for name, value in variables(aws).items() if name not in pair()}
    with contextlib.suppress(InstallerError):
        with_stored_secrets(environment)
    assert not (tmp_path / "ran").exists()


def test_late_answer(aws: Cloud) -> None:
    """If AWS does not answer in time, the error names the variables."""
    with pytest.raises(Unavailable, match=r"AWS did not answer within .* LITELLM_MASTER_KEY, OPENAI_API_KEY"):
        with_stored_secrets(variables(aws), timeout=0.01)


def test_doctor_reports_an_unreadable_secret(aws: Cloud, tmp_path: Path) -> None:
    """doctor reports a secret that cannot be read, and nothing while it can."""
    environment = {**BASE, **variables(aws)}
    assert "environment-secrets" not in causes(diagnose(tmp_path, environment, CONFIG))
    aws.secrets.parameters.clear()
    assert "environment-secrets" in causes(diagnose(tmp_path, environment, CONFIG))


def test_database_with_its_password_and_salt_key_in_aws(aws: Cloud, database: Database, tmp_path: Path) -> None:
    """The password of the database and the salt key can be in AWS: install logs in and tries the key, migrations and
    doctor log in, and a wrong password or key there is refused as one in `.env` is.
    """
    store_values(database, SALT_KEY)
    aws.secrets.values |= {"password": PASSWORD, "salt": SALT_KEY, "other": "sk-another-salt-key-0123456789"}
    given = variables(
        aws,
        DATABASE_HOST=f"127.0.0.1:{database.cluster.port}",
        DATABASE_NAME=database.name,
        DATABASE_USERNAME=ROLE,
        DATABASE_PASSWORD="aws-secretsmanager:password",
        LITELLM_SALT_KEY="aws-secretsmanager:salt",
    )

    def install(**changed: str) -> ServiceConfig:
        text = "".join(f"{name}={value}\n" for name, value in {**given, **changed}.items())
        (tmp_path / ".env").write_text(text, encoding="utf-8")
        request = Request(Layout(root=tmp_path / "root"), config="demo.yml", cwd=tmp_path, prove_access=True)
        return with_salt_key(resolve_service(request), asks=True)

    found = install()
    assert found.settings.environment["LITELLM_SALT_KEY"] == "aws-secretsmanager:salt"
    environment = database_environment(found.settings.environment, {})
    assert environment is not None
    assert environment["DATABASE_URL"] == database.url
    with pytest.raises(DatabaseError, match="password"):
        install(DATABASE_PASSWORD="aws-secretsmanager:other")
    with pytest.raises(InputError, match="LITELLM_SALT_KEY does not decrypt"):
        install(LITELLM_SALT_KEY="aws-secretsmanager:other")
    # What a preview does, which asks neither AWS nor the database.
    with_salt_key(found, asks=False)

    def diagnosed(salt: str) -> list[str]:
        environment = {**BASE, **given, "LITELLM_SALT_KEY": f"aws-secretsmanager:{salt}"}
        snapshot = make_snapshot(tmp_path / salt, environment, CONFIG)
        return causes(run_checks(snapshot, (detect_database_salt,), check_timeout=60, total_timeout=60))

    assert (diagnosed("salt"), diagnosed("other")) == ([], ["database-salt"])


def test_redis_with_its_password_in_aws(aws: Cloud, tmp_path: Path) -> None:
    """The password or the URL of Redis can be in AWS: install and doctor log in, and name a wrong password there.

    So can a variable of another name, to which the configuration refers.
    """
    reason = why_no_redis()
    if reason is not None:
        refuse(reason)
    with Redis(Access("right")) as server:
        aws.secrets.values |= {"right": "right", "wrong": "wrong", "url": server.url}
        with_host = {"REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(server.port)}
        for given, found in (
            ({**with_host, "REDIS_PASSWORD": "aws-secretsmanager:right"}, []),
            ({"REDIS_URL": "aws-secretsmanager:url"}, []),
            ({"MINE": "aws-secretsmanager:url"}, []),
            ({**with_host, "REDIS_PASSWORD": "aws-secretsmanager:wrong"}, ["redis-refused"]),
        ):
            values = variables(aws, **given)
            text = "".join(f"{name}={value}\n" for name, value in values.items())
            (tmp_path / ".env").write_text(text, encoding="utf-8")
            own = "general_settings: {coordination_redis: {url: os.environ/MINE}}" if "MINE" in given else ""
            file = tmp_path / "mine.yml"
            file.write_text(CONFIG + own)
            request = Request(Layout(root=tmp_path / "root"), config=str(file), cwd=tmp_path, prove_access=True)
            with pytest.raises(RedisError, match="refuses the password") if found else contextlib.nullcontext():
                resolve_service(request)
            snapshot = make_snapshot(tmp_path / "doctor", {**BASE, **values}, CONFIG + own)
            diagnosis = run_checks(snapshot, (check_redis.REFUSED,), check_timeout=60, total_timeout=60)
            assert (causes(diagnosis), [each.skip_reason for each in diagnosis.unchecked]) == (found, [])
