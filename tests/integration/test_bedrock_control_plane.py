"""Queries to Bedrock's control plane with the service's credentials, against AWS on loopback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.aws.client import ask_bedrock
from litellm_systemd.cli import run_command
from litellm_systemd.commands.bedrock import models
from litellm_systemd.commands.resolve import Request
from litellm_systemd.errors import InputError
from litellm_systemd.host.layout import Layout
from litellm_systemd.report.report import Report
from tests.fakes import API_KEY, USER, Cloud, run_cloud

SONNET = "anthropic.claude-sonnet-5-5"
ENDING = "anthropic.claude-sonnet-4-5-20250929-v1:0"
PAIR = {"AWS_ACCESS_KEY_ID": USER.access_key, "AWS_SECRET_ACCESS_KEY": USER.secret_key}
FOREIGN = ("AWS_PROFILE", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_BEARER_TOKEN_BEDROCK", "AWS_EC2_METADATA_DISABLED")


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Cloud]:
    """AWS on loopback, without a reference to it in the environment of the caller."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    with run_cloud("us-east-1") as cloud:
        # Only the caller's environment can name a metadata service on loopback.
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", cloud.metadata_url)
        monkeypatch.setenv("HOME", str(tmp_path))
        yield cloud


def service(aws: Cloud, **more: str) -> dict[str, str]:
    """The environment of a service in that account."""
    return {"AWS_REGION_NAME": "us-east-1", "AWS_ENDPOINT_URL_BEDROCK": aws.api_url, **more}


def look(folder: Path, environ: dict[str, str], *ids: str, more: str = "") -> Report:
    """Run `models` with this environment, for a configuration with these models."""
    rows = "".join(
        f"- {{model_name: m{i}, litellm_params: {{model: 'bedrock/{each}'}}}}\n" for i, each in enumerate(ids)
    )
    (folder / "c.yml").write_text(f"model_list:\n{rows}{more}", encoding="utf-8")
    (folder / ".env").write_text("".join(f"{key}={value}\n" for key, value in environ.items()), encoding="utf-8")
    request = Request(Layout(root=folder / "root"), folder / ".env", "./c.yml", folder)
    return models(request, date.today())


def lifecycles(report: Report) -> list[dict[str, Any]]:
    return [model["lifecycle"] for model in report.data["models"]]


@pytest.mark.parametrize("credentials", [PAIR, {}], ids=["pair", "role"])
def test_lifecycle_from_bedrock(aws: Cloud, tmp_path: Path, credentials: dict[str, str]) -> None:
    """With a key pair or the instance's role, the status and end of each model are those that Bedrock reports."""
    report = look(tmp_path, service(aws, **credentials), f"us.{SONNET}", f"converse/us.{ENDING}")
    active, legacy = lifecycles(report)
    assert active == {"status": "active", "ends": None, "has_ended": False, "source": "bedrock"}
    assert (legacy["status"], legacy["ends"], legacy["source"]) == ("legacy", "2027-04-08", "bedrock")
    assert report.notes == ()
    assert {seen.service for seen in aws.seen} <= {"bedrock", "metadata"}


def test_assumed_role(aws: Cloud, tmp_path: Path) -> None:
    """With AWS_ROLE_NAME Bedrock is queried with that role, external id and session name."""
    role = aws.account.add_role("other", external_id="of-mine")
    assumed = {"AWS_ROLE_NAME": role.arn, "AWS_EXTERNAL_ID": "of-mine", "AWS_SESSION_NAME": "gateway"}
    environ = service(aws, AWS_ENDPOINT_URL_STS=aws.api_url, **PAIR, **assumed)
    assert lifecycles(look(tmp_path, environ, f"us.{SONNET}"))[0]["source"] == "bedrock"
    asked = {seen.service: seen.key for seen in aws.seen}
    assert asked["sts"] == USER.access_key
    assert aws.account.keys[asked["bedrock"]].arn == role.session_arn("gateway")


def test_end_of_life_after_this_release(aws: Cloud, tmp_path: Path) -> None:
    """An end of life that Bedrock announced after this release is shown with a warning."""
    aws.catalogue.end_in(SONNET, days=30)
    report = look(tmp_path, service(aws, **PAIR), f"us.{SONNET}")
    assert [check.name for check in report.checks] == ["ends"]
    assert lifecycles(report)[0]["source"] == "bedrock"


def test_the_callers_own_credentials_are_not_used(
    aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Keys, profiles and files of the caller of litellmctl are not used."""
    aws.metadata.role = None
    (tmp_path / ".aws").mkdir()
    (tmp_path / ".aws" / "credentials").write_text(USER.profile("default") + USER.profile("mine"), encoding="utf-8")
    for name, value in {**PAIR, "AWS_PROFILE": "mine", "AWS_BEARER_TOKEN_BEDROCK": API_KEY}.items():
        monkeypatch.setenv(name, value)
    report = look(tmp_path, service(aws), f"us.{SONNET}")
    assert lifecycles(report)[0]["source"] == "map"
    assert "has no credentials" in report.notes[0]
    monkeypatch.setenv("AWS_PROFILE", "of-the-caller")
    assert lifecycles(look(tmp_path, service(aws, **PAIR), f"us.{SONNET}"))[0]["source"] == "bedrock"


def test_each_refusal_has_its_message(aws: Cloud, tmp_path: Path) -> None:
    """If Bedrock refuses a query, the reason is reported and the values from other sources are marked."""
    stale = aws.account.add_session(USER.arn, timedelta(seconds=-1))
    session = {"AWS_ACCESS_KEY_ID": stale.access_key, "AWS_SECRET_ACCESS_KEY": stale.secret_key}
    cases = [
        ({**session, "AWS_SESSION_TOKEN": str(stale.token)}, "have expired"),
        ({**PAIR, "AWS_SECRET_ACCESS_KEY": "x" * 40}, "the secret key or the clock is wrong"),
        ({**PAIR, "AWS_ACCESS_KEY_ID": "AKIANOBODYKNOWSTHIS2"}, "doesn't know these credentials"),
        ({**PAIR, "AWS_ENDPOINT_URL_BEDROCK": "http://127.0.0.1:9"}, "can't be reached"),
        # botocore refuses to send an API key in plain text, which shows that the key is used.
        ({"AWS_BEARER_TOKEN_BEDROCK": API_KEY}, "requires an HTTPS endpoint"),
        ({**PAIR, "AWS_ENDPOINT_URL_BEDROCK": "not a url"}, "not a url"),
        ({**PAIR, "AWS_ROLE_NAME": "arn:aws:iam::123456789012:role/x"}, "role can't be assumed: User: arn:aws:iam"),
        ({"AWS_PROFILE": "mine"}, "there is no profile mine in /var/lib/litellm/.aws/credentials"),
    ]
    for environ, said in cases:
        report = look(tmp_path, service(aws, AWS_ENDPOINT_URL_STS=aws.api_url) | environ, f"us.{SONNET}")
        assert said in report.notes[0], environ
        assert lifecycles(report)[0]["source"] == "map"


def test_the_keys_of_a_profile_are_used(aws: Cloud, tmp_path: Path) -> None:
    """With AWS_PROFILE, Bedrock is queried with the keys of that profile in the file that the service reads."""
    file = tmp_path / "profiles"
    file.write_text(USER.profile("mine"), encoding="utf-8")
    environ = service(aws, AWS_PROFILE="mine", AWS_SHARED_CREDENTIALS_FILE=str(file))
    assert ask_bedrock(environ, "us-east-1", models=(SONNET,)).refusal is None
    assert "no profile other" in str(ask_bedrock({**environ, "AWS_PROFILE": "other"}, "us-east-1").refusal)


def test_an_environment_that_install_refuses_is_refused(aws: Cloud, tmp_path: Path) -> None:
    """Half a key pair in `.env` is refused with its file and line, as by install, before Bedrock is queried."""
    with pytest.raises(InputError, match=r"\.env:3: AWS_ACCESS_KEY_ID is set, but AWS_SECRET_ACCESS_KEY is not"):
        look(tmp_path, service(aws, AWS_ACCESS_KEY_ID=USER.access_key), f"us.{SONNET}")
    assert aws.seen == []


def test_a_denied_query_is_not_retried(aws: Cloud) -> None:
    """If the policy denies the query, it is not retried and no other model is queried."""
    aws.account.denied.add("bedrock:GetFoundationModel")
    answers = ask_bedrock(service(aws, **PAIR), "us-east-1", models=(SONNET, ENDING))
    assert "litellmctl iam-policy" in str(answers.refusal)
    assert len(aws.seen) == 1


def test_unknown_models(aws: Cloud, tmp_path: Path) -> None:
    """A model that Bedrock does not know is reported as such, and the others are still queried."""
    report = look(tmp_path, service(aws, **PAIR), "us.anthropic.claude-of-tomorrow", f"us.{SONNET}")
    assert [each["status"] for each in lifecycles(report)] == ["unknown to Bedrock", "active"]


def test_proxy_of_the_service(aws: Cloud, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proxy and NO_PROXY of the service's environment are used, those of the caller are not."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    environ = service(aws, **PAIR)
    assert ask_bedrock(environ, "us-east-1", models=(SONNET,)).refusal is None
    proxied = {**environ, "HTTP_PROXY": "http://127.0.0.1:9"}
    assert "proxy" in str(ask_bedrock(proxied, "us-east-1", models=(SONNET,)).refusal)
    assert ask_bedrock({**proxied, "NO_PROXY": "127.0.0.1"}, "us-east-1", models=(SONNET,)).refusal is None


def test_policy_has_the_regions_of_bedrock(
    aws: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`iam-policy` queries the models behind each profile; failed queries are reported on standard error."""
    monkeypatch.chdir(tmp_path)
    environ = service(aws, **PAIR)
    Path(".env").write_text("".join(f"{key}={value}\n" for key, value in environ.items()), encoding="utf-8")
    assert run_command(["iam-policy", "--env-file", ".env", "-c", "iam_role_config.yml"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    resources = {arn for statement in json.loads(out)["Statement"] for arn in statement["Resource"]}
    assert f"arn:aws:bedrock:us-east-2::foundation-model/{SONNET}" in resources
    assert any(seen.target.startswith("GET /inference-profiles/us.") for seen in aws.seen)
    aws.account.denied.add("bedrock:GetInferenceProfile")
    assert run_command(["iam-policy", "--env-file", ".env", "-c", "iam_role_config.yml"]) == 0
    again, err = capsys.readouterr()
    assert json.loads(again)["Version"] == "2012-10-17"
    assert "those that this release knows" in err
