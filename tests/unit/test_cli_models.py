"""litellmctl models and iam-policy without requests to AWS."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from litellm_systemd.cli import run_command

CONFIG = """
model_list:
- model_name: sonnet
  litellm_params: {model: bedrock/converse/eu.anthropic.claude-sonnet-4-5-20250929-v1:0}
- model_name: old
  litellm_params: {model: bedrock/eu.anthropic.claude-3-7-sonnet-20250219-v1:0}
- model_name: far
  litellm_params: {model: openai/gpt-4o, api_key: k}
router_settings:
  model_group_alias: {best: sonnet}
  fallbacks: [{sonnet: [old]}, {best: [old]}]
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a configuration and a `.env`."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yml").write_text(CONFIG, encoding="utf-8")
    (tmp_path / ".env").write_text("AWS_REGION_NAME=eu-west-1\n", encoding="utf-8")
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> tuple[str, str]:
    assert run_command([*arguments, "--env-file", ".env"]) == code
    out, err = capsys.readouterr()
    return out, err


def test_the_table(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each model has a row with its id, region, limits and end; aliases and fallbacks are below."""
    out, err = ask(capsys, "models", "--offline", "-c", "./mine.yml")
    assert err == ""
    table, below = out.split("\n\n")
    lines = [line.split() for line in table.splitlines()]
    rows = {first[0]: (second[0], *first[1:]) for first, second in zip(lines[1::2], lines[2::2], strict=True)}
    assert rows["sonnet"][:5] == ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "eu-west-1", "200k", "64k", "yes")
    assert rows["far"] == ("openai/gpt-4o", "-", "-", "-", "-", "-")
    assert "  best     sonnet, then old\n" in below
    assert "ended 2026-04-28 (map)" in out
    assert "not by Bedrock: it was not queried (--offline)" in out


def test_json(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--json has every field, with the source of the lifecycle and the names of the fallbacks."""
    out, _ = ask(capsys, "models", "--offline", "--json", "-c", "./mine.yml")
    report: dict[str, Any] = json.loads(out)
    assert report["ok"] is True
    sonnet, old, far = report["data"]["models"]
    assert sonnet == {
        "name": "sonnet",
        "aliases": ["best"],
        "calls": "bedrock/converse/eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "mocked": False,
        "id": "eu.anthropic.claude-sonnet-4-5-20250929-v1:0",
        "model": "anthropic.claude-sonnet-4-5-20250929-v1:0",
        "profile": "eu",
        "region": "eu-west-1",
        "context": 200000,
        "output": 64000,
        "caches": True,
        "lifecycle": {
            "status": None,
            "ends": "2027-04-08",
            "has_ended": sonnet["lifecycle"]["has_ended"],
            "source": "map",
        },
        "fallbacks": ["old"],
    }
    assert old["lifecycle"]["has_ended"] is True
    assert (far["id"], far["lifecycle"]["source"]) == (None, None)
    assert "ended" in [check["name"] for check in report["checks"]]


def test_only_the_policy_is_printed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Standard output has only the policy document, with and without --json."""
    plain, _ = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml")
    same, _ = ask(capsys, "iam-policy", "--offline", "--json", "-c", "./mine.yml")
    assert plain == same
    policy = json.loads(plain)
    assert set(policy) == {"Version", "Statement"}
    assert any(":eu-west-1:*:inference-profile/eu.anthropic." in arn for arn in policy["Statement"][0]["Resource"])


def test_policy_for_the_cloudwatch_agent(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--with cloudwatch adds the statements of the agent in the region of the models, also if no model is called."""
    plain, _ = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml")
    more, _ = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml", "--with", "cloudwatch")
    before, after = (json.loads(each)["Statement"] for each in (plain, more))
    assert after[: len(before)] == before
    assert [each["Sid"] for each in after[len(before) :]] == ["WriteLogs", "ListLogGroups", "PutMetrics"]
    assert after[len(before)]["Resource"] == ["arn:aws:logs:eu-west-1:*:log-group:/litellm/*"]
    only, _ = ask(capsys, "iam-policy", "-c", "demo.yml", "--with", "cloudwatch")
    assert len(json.loads(only)["Statement"]) == 3


def test_guardrails_by_variables(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A guardrail's name and region may be references, as in LiteLLM's examples, and the policy has their values."""
    own = "{guardrailIdentifier: os.environ/OURS, guardrailVersion: '1'}"
    mine = CONFIG.replace("v1:0}", f"v1:0, guardrailConfig: {own}}}", 1)
    more = "guardrail: bedrock, guardrailIdentifier: os.environ/OTHER, aws_region_name: os.environ/THERE"
    (here / "mine.yml").write_text(f"{mine}guardrails: [{{litellm_params: {{{more}}}}}]\n", encoding="utf-8")
    variables = "AWS_REGION_NAME=eu-west-1\nOURS=abc123\nOTHER=def456\nTHERE=eu-north-1\n"
    (here / ".env").write_text(variables, encoding="utf-8")
    out, _ = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml")
    (statement,) = (each for each in json.loads(out)["Statement"] if each["Sid"] == "ApplyGuardrails")
    assert statement["Resource"] == [
        "arn:aws:bedrock:eu-north-1:*:guardrail/def456",
        "arn:aws:bedrock:eu-west-1:*:guardrail/abc123",
    ]


def test_a_models_own_role(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A note on standard error names the role of a model that has its own, because only that role needs its
    statements.
    """
    role = "arn:aws:iam::123456789012:role/own"
    mine = CONFIG.replace("20250929-v1:0}", f"20250929-v1:0, aws_role_name: '{role}'}}")
    (here / "mine.yml").write_text(mine, encoding="utf-8")
    _, err = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml")
    assert f"sonnet: called as {role}, which needs the statements for it alone" in err


def test_guardrails(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The policy allows the guardrail that a model names and the ones that LiteLLM applies, and no other."""
    own = "{guardrailIdentifier: abc123, guardrailVersion: '1'}"
    mine = CONFIG.replace("v1:0}", f"v1:0, guardrailConfig: {own}}}", 1)
    more = "{guardrail: bedrock, mode: pre_call, guardrailIdentifier: def456, guardrailVersion: '2'}"
    other = "{guardrail: presidio, mode: pre_call}"
    mine += f"guardrails: [{{guardrail_name: g, litellm_params: {more}}}, {{litellm_params: {other}}}]\n"
    (here / "mine.yml").write_text(mine, encoding="utf-8")
    out, _ = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml", "--account", "123456789012")
    guarding = [each for each in json.loads(out)["Statement"] if each["Action"] == "bedrock:ApplyGuardrail"]
    assert [each["Resource"] for each in guarding] == [
        [f"arn:aws:bedrock:eu-west-1:123456789012:guardrail/{name}" for name in ("abc123", "def456")]
    ]


def test_a_shipped_configuration_before_an_install(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before an install, a shipped configuration is read as an install would write it for the region; --region comes
    first.
    """
    out, _ = ask(capsys, "iam-policy", "--offline", "-c", "iam_role_config.yml")
    assert "inference-profile/eu.anthropic.claude-sonnet-5-5" in out
    out, _ = ask(
        capsys, "iam-policy", "--offline", "-c", "iam_role_config.yml", "--region", "us-west-2", "--terraform"
    )
    assert "us-west-2:*:inference-profile/us.anthropic.claude-sonnet-5-5" in out
    assert out.startswith('resource "aws_iam_policy"')


def test_no_policy_is_needed(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A configuration that calls no model on Bedrock needs no policy: a note says so, and nothing is printed."""
    out, err = ask(capsys, "iam-policy", "--offline", "-c", "demo.yml")
    assert (out, err) == ("", "  demo.yml calls no model on Bedrock and needs no policy.\n")


def test_no_models(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The models of a configuration without models are no empty table."""
    (here / "empty.yml").write_text("general_settings: {pass_through_endpoints: [{path: /a, target: http://b}]}\n")
    out, _ = ask(capsys, "models", "--offline", "-c", "./empty.yml")
    assert out.splitlines() == [f"{here}/empty.yml serves 0 models"]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["iam-policy", "--offline", "-c", "./mine.yml", "--account", "12345"], 64, "is not an AWS account number"),
        (["models", "--offline", "-c", "nowhere.yml"], 64, "there is no configuration named nowhere.yml"),
    ],
)
def test_refusals(arguments: list[str], code: int, said: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A request that cannot be answered ends with one line and its exit code."""
    out, err = ask(capsys, *arguments, code=code)
    assert out == ""
    assert said in err


CREDENTIALS = """\
credential_list:
  - credential_name: main
    credential_info: {}
    credential_values: {aws_region_name: os.environ/MAIN_REGION}
model_list:
  - {model_name: a, litellm_params: {model: eu.anthropic.claude-sonnet-4-6, litellm_credential_name: main}}
  - {model_name: b, litellm_params: {model: us.anthropic.claude-sonnet-4-6, litellm_credential_name: mian}}
"""


def test_bare_ids_and_credentials(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ids without `bedrock/` are Bedrock's, and the region may be in a credential; a misspelt one is a note."""
    (here / ".env").write_text("MAIN_REGION=eu-west-1\n", encoding="utf-8")
    (here / "mine.yml").write_text(CREDENTIALS, encoding="utf-8")
    out, err = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml", "--account", "123456789012")
    assert "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.anthropic.claude-sonnet-4-6" in out
    assert "inference-profile/us." not in out
    assert "b is not in it: it names the credential mian, which is not in credential_list: did you mean main?" in err
    out, _ = ask(capsys, "models", "--offline", "-c", "./mine.yml", "--json")
    assert [(each["id"], each["region"]) for each in json.loads(out)["data"]["models"]] == [
        ("eu.anthropic.claude-sonnet-4-6", "eu-west-1"),
        ("us.anthropic.claude-sonnet-4-6", None),
    ]


def test_no_region(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a region no ARN can be written, and the error says how to give one."""
    (here / ".env").write_text("", encoding="utf-8")
    _, err = ask(capsys, "iam-policy", "--offline", "-c", "./mine.yml", code=78)
    assert "no region is set" in err
    assert "--region" in err
