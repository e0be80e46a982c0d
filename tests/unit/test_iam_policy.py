"""The IAM policy of a configuration, checked with parliament, which has AWS's own tables."""

from __future__ import annotations

import json
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import parliament
import pytest
import yaml

from litellm_systemd.aws.policy import (
    APPLY_GUARDRAIL,
    build_cloudwatch,
    build_elasticache,
    build_grant,
    build_guardrail,
    build_policy,
    build_rds,
    render_cloudformation,
    render_policy,
    render_terraform,
)
from litellm_systemd.commands.config_files import shipped_config
from litellm_systemd.env.secret_references import find_references
from litellm_systemd.gateway.config import parse_config
from litellm_systemd.gateway.models import build_served
from tests.cloudformation import as_list

CONFIGS = Path(__file__).parents[2] / "configs"
REGIONS = ("us-east-1", "ca-central-1", "eu-west-2", "ap-northeast-1", "ap-southeast-2", "ap-south-1", "sa-east-1")
SONNET = "anthropic.claude-sonnet-4-6"
OWN = "arn:aws:bedrock:eu-west-1:123456789012:application-inference-profile/a1b2c3d4e5f6"
BY_PROFILE = "bedrock:InferenceProfileArn"
#: The actions that AWS does not restrict to a resource.
ON_NOTHING = {
    f"{service['prefix']}:{each['privilege']}"
    for service in parliament.iam_definition
    if service["prefix"] == "servicequotas"
    for each in service["privileges"]
    if not any(kind["resource_type"] for kind in each["resource_types"])
}
#: Actions that parliament's tables don't have yet (Service Authorization Reference, Amazon Bedrock).
NEWER = {"bedrock:CountTokens"}


def policy_of(
    *models: str, region: str = "us-east-1", behind: tuple[str, ...] | None = None, account: str = "*"
) -> Any:
    """The policy of a configuration with these models."""
    entries = "".join(
        f"- {{model_name: m{i}, litellm_params: {{model: '{each}'}}}}\n" for i, each in enumerate(models)
    )
    served = build_served(parse_config(f"model_list:\n{entries}", "c.yml"), {"AWS_REGION_NAME": region})
    grants = (build_grant(each, behind, account=account) for each in served)
    return build_policy(tuple(grant for grant in grants if grant is not None))


def shipped_policy(region: str) -> Any:
    config = shipped_config("iam_role_config.yml", region)
    grants = (build_grant(each) for each in build_served(config, {"AWS_REGION_NAME": region}))
    return build_policy(tuple(grant for grant in grants if grant is not None))


def allows(policy: Any, action: str, arn: str, **context: str) -> bool:
    """Whether IAM would allow it, by the rules of its evaluation that these policies use."""
    return any(
        action in as_list(statement["Action"])
        and any(fnmatchcase(arn, pattern) for pattern in as_list(statement["Resource"]))
        and all(
            any(fnmatchcase(context.get(key, ""), pattern) for pattern in as_list(values))
            for test in statement.get("Condition", {}).values()
            for key, values in test.items()
        )
        for statement in policy["Statement"]
    )


@pytest.mark.parametrize("region", REGIONS)
def test_parliament_finds_nothing(region: str) -> None:
    """Actions, condition keys and types of ARN exist at AWS, in every geography."""
    policy = shipped_policy(region)
    counting = [statement for statement in policy["Statement"] if set(as_list(statement["Action"])) <= NEWER]
    assert [each["Sid"] for each in counting] == ["CountTokens"]
    policy["Statement"] = [each for each in policy["Statement"] if each not in counting]
    found = parliament.analyze_policy_string(json.dumps(policy)).findings
    # parliament requires an ARN of each type that an action supports.
    assert [str(finding) for finding in found if finding.issue != "RESOURCE_MISMATCH"] == []
    for statement in policy["Statement"]:
        for arn in statement["Resource"]:
            assert set(as_list(statement["Action"])) <= (_actions_on(arn) if arn != "*" else ON_NOTHING), arn


def _actions_on(arn: str) -> set[str]:
    """The actions that can be allowed on an ARN of this kind."""
    # ARNs without a region, of the models behind a global profile, are newer than parliament's tables.
    kinds = parliament.get_resource_type_matches_from_arn(arn.replace(":bedrock:::", ":bedrock:*::"))
    matches = parliament.get_privilege_matches_for_resource_type(kinds)
    return {f"{match['privilege_prefix']}:{match['privilege_name']}" for match in matches}


def test_the_cloudwatch_agent_writes_its_own_groups_only() -> None:
    """Actions, condition keys and types of ARN exist at AWS; the agent can write the gateway's log groups and
    namespace of metrics, and no other.
    """
    policy = build_policy((), more=build_cloudwatch("eu-west-1", account="123456789012"))
    found = parliament.analyze_policy_string(json.dumps(policy)).findings
    assert [str(finding) for finding in found if finding.issue != "RESOURCE_MISMATCH"] == []
    group = "arn:aws:logs:eu-west-1:123456789012:log-group:"
    for action in ("logs:CreateLogGroup", "logs:PutRetentionPolicy"):
        assert allows(policy, action, f"{group}/litellm/journal")
        assert not allows(policy, action, f"{group}/aws/lambda/other")
    assert allows(policy, "logs:PutLogEvents", f"{group}/litellm/journal:log-stream:i-1")
    assert not allows(policy, "logs:PutLogEvents", f"{group}/litellm/journal:log-stream:i-1".replace("eu", "us"))
    assert allows(policy, "cloudwatch:PutMetricData", "*", **{"cloudwatch:namespace": "LiteLLM"})
    assert not allows(policy, "cloudwatch:PutMetricData", "*", **{"cloudwatch:namespace": "AWS/EC2"})


def test_login_to_a_database() -> None:
    """The action and the type of ARN exist at AWS; the service can log in as its user, and in its region alone."""
    policy = build_policy((), more=build_rds("eu-west-1", "gateway", account="123456789012"))
    assert [str(finding) for finding in parliament.analyze_policy_string(json.dumps(policy)).findings] == []
    database = "arn:aws:rds-db:eu-west-1:123456789012:dbuser:db-ABCDEFGHIJKL01234"
    assert allows(policy, "rds-db:connect", f"{database}/gateway")
    assert not allows(policy, "rds-db:connect", f"{database}/postgres")
    assert not allows(policy, "rds-db:connect", f"{database}/gateway".replace("eu-west-1", "us-east-1"))


@pytest.mark.parametrize("kind", ["replicationgroup", "serverlesscache"])
def test_login_to_a_cache(kind: str) -> None:
    """The action and the types of ARN exist at AWS; the service can log in to its cache as its user alone."""
    statements = build_elasticache(
        "eu-west-1", "gateway", "litellm", is_serverless=kind == "serverlesscache", account="123456789012"
    )
    policy = build_policy((), more=statements)
    assert [str(finding) for finding in parliament.analyze_policy_string(json.dumps(policy)).findings] == []
    prefix = "arn:aws:elasticache:eu-west-1:123456789012"
    assert allows(policy, "elasticache:Connect", f"{prefix}:{kind}:gateway")
    assert allows(policy, "elasticache:Connect", f"{prefix}:user:litellm")
    assert not allows(policy, "elasticache:Connect", f"{prefix}:{kind}:other")
    assert not allows(policy, "elasticache:Connect", f"{prefix}:user:default")


def test_parliament_finds_mistakes() -> None:
    """The linter reports a misspelt action and an unknown condition key."""
    policy = shipped_policy("us-east-1")
    policy["Statement"][0]["Action"] = "bedrock:InvokeModle"
    policy["Statement"][1]["Condition"] = {"ArnLike": {"bedrock:InferenceProfile": "*"}}
    issues = {finding.issue for finding in parliament.analyze_policy_string(json.dumps(policy)).findings}
    assert {"UNKNOWN_ACTION", "UNKNOWN_CONDITION_FOR_ACTION"} <= issues


@pytest.mark.parametrize("region", [*REGIONS, "us-gov-west-1"])
def test_size_limit(region: str) -> None:
    """The policy fits into a managed policy: 6,144 characters without white space (IAM quotas)."""
    policy = (
        policy_of("bedrock/us-gov.anthropic.claude-sonnet-5-5", region=region)
        if "gov" in region
        else shipped_policy(region)
    )
    assert len(re.sub(r"\s", "", json.dumps(policy))) <= 6144


def test_a_profile_and_the_models_behind_it() -> None:
    """A geography's profile may be called, and its model in each of its regions, but only through the profile."""
    policy = policy_of(f"bedrock/converse/us.{SONNET}")
    profile = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{SONNET}"
    for action in ("bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream"):
        assert allows(policy, action, profile)
        for region in ("us-east-1", "us-east-2", "us-west-2"):
            model = f"arn:aws:bedrock:{region}::foundation-model/{SONNET}"
            assert allows(policy, action, model, **{BY_PROFILE: profile})
            assert not allows(policy, action, model)
            assert not allows(policy, action, model, **{BY_PROFILE: profile.replace("us.", "global.")})


def test_no_more_than_needed() -> None:
    """Other models, regions, actions, and profiles of other regions are not allowed."""
    policy = policy_of(f"bedrock/converse/us.{SONNET}")
    profile = f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{SONNET}"
    way = {BY_PROFILE: profile}
    assert not allows(policy, "bedrock:InvokeModel", profile.replace("sonnet", "opus"))
    assert not allows(policy, "bedrock:InvokeModel", profile.replace("us-east-1", "us-west-2"))
    assert not allows(policy, "bedrock:InvokeModel", f"arn:aws:bedrock:eu-west-1::foundation-model/{SONNET}", **way)
    assert not allows(policy, "bedrock:InvokeModel", "arn:aws:bedrock:us-east-1::foundation-model/x", **way)
    actions = {action for statement in policy["Statement"] for action in as_list(statement["Action"])}
    assert actions == {
        "bedrock:InvokeModel",
        "bedrock:InvokeModelWithResponseStream",
        "bedrock:CountTokens",
        "bedrock:GetFoundationModel",
        "bedrock:GetInferenceProfile",
        "servicequotas:GetAWSDefaultServiceQuota",
        "servicequotas:ListServiceQuotas",
    }
    assert allows(policy, "servicequotas:ListServiceQuotas", "*", **{"aws:RequestedRegion": "us-east-1"})
    assert not allows(policy, "servicequotas:ListServiceQuotas", "*", **{"aws:RequestedRegion": "us-west-2"})


def test_tokens_are_counted_in_the_region_of_the_call() -> None:
    """Tokens may be counted with the model behind a profile, as LiteLLM does, in the region of the call only."""
    policy = policy_of(f"bedrock/us.{SONNET}")
    model = f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}"
    assert allows(policy, "bedrock:CountTokens", model)
    assert not allows(policy, "bedrock:CountTokens", model.replace("us-east-1", "us-west-2"))
    assert not allows(policy, "bedrock:CountTokens", f"arn:aws:bedrock:us-east-1:1:inference-profile/us.{SONNET}")


def test_calls_and_queries_are_separate() -> None:
    """The permissions of the service and those of `models` are separate statements, so that either can be removed."""
    statements = policy_of(f"bedrock/us.{SONNET}", f"bedrock/{SONNET}")["Statement"]
    for statement in statements:
        reads = [action.startswith(("bedrock:Get", "servicequotas:")) for action in as_list(statement["Action"])]
        assert all(reads) or not any(reads)
    asking = {"Version": "2012-10-17", "Statement": [each for each in statements if each["Sid"].startswith("Ask")]}
    assert allows(asking, "bedrock:GetFoundationModel", f"arn:aws:bedrock:us-east-1::foundation-model/{SONNET}")
    assert allows(asking, "bedrock:GetInferenceProfile", f"arn:aws:bedrock:us-east-1:1:inference-profile/us.{SONNET}")


def test_the_region_of_the_call() -> None:
    """From Canada the us. profile is called there, and the model may be reached there too."""
    policy = policy_of(f"bedrock/us.{SONNET}", region="ca-central-1")
    profile = f"arn:aws:bedrock:ca-central-1:123456789012:inference-profile/us.{SONNET}"
    for region in ("ca-central-1", "us-east-1"):
        arn = f"arn:aws:bedrock:{region}::foundation-model/{SONNET}"
        assert allows(policy, "bedrock:InvokeModel", arn, **{BY_PROFILE: profile})


def test_a_global_profile() -> None:
    """A global profile reaches its model in its own region and, where AWS says `unspecified`, without a region."""
    policy = policy_of(f"bedrock/global.{SONNET}", region="ap-south-1")
    way = {BY_PROFILE: f"arn:aws:bedrock:ap-south-1:123456789012:inference-profile/global.{SONNET}"}
    assert allows(policy, "bedrock:InvokeModel", way[BY_PROFILE])
    assert allows(policy, "bedrock:InvokeModel", f"arn:aws:bedrock:ap-south-1::foundation-model/{SONNET}", **way)
    anywhere = f"arn:aws:bedrock:::foundation-model/{SONNET}"
    assert not allows(policy, "bedrock:InvokeModel", anywhere, **way)
    assert allows(policy, "bedrock:InvokeModel", anywhere, **way, **{"aws:RequestedRegion": "unspecified"})


def test_a_model_without_a_profile() -> None:
    """A model that is called by its own id is allowed in its own region, and nothing else is."""
    policy = policy_of("bedrock/eu-west-3/amazon.nova-lite-v1:0")
    arn = "arn:aws:bedrock:eu-west-3::foundation-model/amazon.nova-lite-v1:0"
    assert allows(policy, "bedrock:InvokeModel", arn)
    assert [statement["Resource"] for statement in policy["Statement"]] == [[arn], [arn], [arn], ["*"]]


def test_an_application_profile() -> None:
    """An application inference profile may be called, and the models behind it only through it."""
    policy = policy_of(f"bedrock/{OWN}", region="eu-west-1")
    model = f"arn:aws:bedrock:eu-north-1::foundation-model/{SONNET}"
    assert allows(policy, "bedrock:InvokeModel", OWN)
    assert allows(policy, "bedrock:InvokeModel", model, **{BY_PROFILE: OWN})
    assert not allows(policy, "bedrock:InvokeModel", model)
    policy = policy_of(f"bedrock/{OWN}", region="eu-west-1", behind=(model,))
    assert allows(policy, "bedrock:InvokeModel", model, **{BY_PROFILE: OWN})
    assert not allows(policy, "bedrock:InvokeModel", model.replace("north", "west"), **{BY_PROFILE: OWN})


def test_regions_from_bedrock() -> None:
    """If Bedrock named the regions behind a profile, the policy has these and not those of our table."""
    behind = tuple(f"arn:aws:bedrock:{region}::foundation-model/{SONNET}" for region in ("us-east-1", "us-north-9"))
    policy = policy_of(f"bedrock/us.{SONNET}", behind=behind)
    way = {BY_PROFILE: f"arn:aws:bedrock:us-east-1:1:inference-profile/us.{SONNET}"}
    assert allows(policy, "bedrock:InvokeModel", behind[1], **way)
    assert not allows(policy, "bedrock:InvokeModel", behind[0].replace("us-east-1", "us-west-2"), **way)


def test_a_guardrail() -> None:
    """parliament knows the ARN of a guardrail and the actions on it; a given ARN is used unchanged."""
    arn = build_guardrail("abc123", "eu-west-1", account="123456789012")
    assert APPLY_GUARDRAIL in _actions_on(arn)
    assert build_guardrail(arn, "us-east-1") == arn


def test_policy_allows_to_read_the_secrets() -> None:
    """iam-policy allows exactly the referenced secrets, and to decrypt through these services alone."""
    secret = "arn:aws:secretsmanager:eu-west-1:123456789012:secret:gateway-a1B2c3"
    environ = {
        "LITELLM_MASTER_KEY": f"aws-secretsmanager:{secret}#key",
        "OPENAI_API_KEY": "aws-secretsmanager:openai",
        "UI_PASSWORD": "aws-ssm:/gateway/ui",
        "AWS_REGION_NAME": "us-east-1",
    }
    policy = build_policy((), (), find_references(environ), account="123456789012")
    found = parliament.analyze_policy_string(json.dumps(policy)).findings
    assert [str(finding) for finding in found if finding.issue != "RESOURCE_MISMATCH"] == []
    by_sid = {each["Sid"]: each for each in policy["Statement"]}
    assert all(each["Action"] in _actions_on(arn) for each in by_sid.values() for arn in each["Resource"])
    assert by_sid["ReadSecrets"]["Action"] == "secretsmanager:GetSecretValue"
    assert by_sid["ReadSecrets"]["Resource"] == [
        secret,
        "arn:aws:secretsmanager:us-east-1:123456789012:secret:openai-??????",
    ]
    assert by_sid["ReadParameters"]["Resource"] == ["arn:aws:ssm:us-east-1:123456789012:parameter/gateway/ui"]
    assert by_sid["DecryptParameters"]["Condition"] == {
        "StringEquals": {"kms:ViaService": "ssm.us-east-1.amazonaws.com"}
    }
    assert set(by_sid) == {"ReadSecrets", "ReadParameters", "DecryptSecrets", "DecryptParameters"}


def test_other_partitions_and_one_account() -> None:
    """In GovCloud the ARNs have its partition, and --account restricts them to one account."""
    policy = policy_of(f"bedrock/us-gov.{SONNET}", region="us-gov-west-1", account="123456789012")
    resources = [arn for statement in policy["Statement"] for arn in statement["Resource"] if arn != "*"]
    assert all(arn.startswith("arn:aws-us-gov:bedrock:us-gov-") for arn in resources)
    assert not any("*" in arn for arn in resources)
    assert f"arn:aws-us-gov:bedrock:us-gov-east-1::foundation-model/{SONNET}" in resources


def test_imported_models_and_agents() -> None:
    """A model with its own ARN is listed unchanged, and agents and mocked models are not listed."""
    arn = "arn:aws:bedrock:us-east-1:123456789012:imported-model/r4c4kewx2s0n"
    assert allows(policy_of(f"bedrock/llama/{arn}"), "bedrock:InvokeModel", arn)
    assert policy_of("bedrock/agent/AGENT/ALIAS")["Statement"] == []


def test_the_three_forms() -> None:
    """JSON, CloudFormation and Terraform have the same policy."""
    policy = shipped_policy("eu-west-2")
    assert json.loads(render_policy(policy)) == policy
    template = yaml.safe_load(render_cloudformation(policy))
    (resource,) = template["Resources"].values()
    assert resource["Type"] == "AWS::IAM::ManagedPolicy"
    assert resource["Properties"]["PolicyDocument"] == policy
    terraform = render_terraform(policy)
    inside = re.fullmatch(
        r'resource "aws_iam_policy" "\w+" \{\n.* policy +=\s*jsonencode\((.*)\)\n\}', terraform, re.DOTALL
    )
    assert inside is not None
    assert json.loads(inside[1]) == policy
