"""Build the IAM policy with exactly the permissions that a configuration, and the CloudWatch agent, need. Pure.

Source: the user guide of Bedrock, "Geographic cross-Region inference" and "Global cross-Region inference". A call
needs permissions for the inference profile, and for the foundation models behind it in each region that AWS may route
to; the latter are restricted to calls of that profile (condition key bedrock:InferenceProfileArn).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd.bedrock.models import DESTINATIONS, IdKind, default_endpoint, partition
from litellm_systemd.env.secret_references import SecretReference
from litellm_systemd.gateway.models import ServedModel

#: For Converse, ConverseStream and InvokeModel of LiteLLM (Service Authorization Reference, Amazon Bedrock).
INVOKE = ("bedrock:InvokeModel", "bedrock:InvokeModelWithResponseStream")
#: For /v1/messages/count_tokens. LiteLLM counts with the model behind a profile, in the region of the call.
COUNT = "bedrock:CountTokens"
#: For a guardrail in addition, whether LiteLLM or Bedrock itself applies it.
APPLY_GUARDRAIL = "bedrock:ApplyGuardrail"
#: For the queries of `models`, `doctor` and `iam-policy` to Bedrock's control plane.
READ_MODEL, READ_PROFILE = "bedrock:GetFoundationModel", "bedrock:GetInferenceProfile"
#: For the queries of `doctor` to Service Quotas. They can't be restricted to the quotas of one service (Service
#: Authorization Reference, Service Quotas).
READ_QUOTAS = ("servicequotas:GetAWSDefaultServiceQuota", "servicequotas:ListServiceQuotas")

#: For secrets that are kept in AWS.
READ_SECRET, READ_PARAMETER, DECRYPT = "secretsmanager:GetSecretValue", "ssm:GetParameter", "kms:Decrypt"

#: For the CloudWatch agent with configs/cloudwatch: the log groups that it writes, and the namespace of its metrics.
LOG_GROUPS, METRICS_NAMESPACE = "/litellm/", "LiteLLM"
#: For these log groups (CloudWatch user guide, "Prerequisites" of the agent: the policy CloudWatchAgentServerPolicy).
WRITE_LOGS = (
    "logs:CreateLogGroup",
    "logs:CreateLogStream",
    "logs:DescribeLogStreams",
    "logs:PutLogEvents",
    "logs:PutRetentionPolicy",
)
#: AWS allows the first for all log groups of a region, and the second without a resource.
LIST_LOG_GROUPS, PUT_METRICS = "logs:DescribeLogGroups", "cloudwatch:PutMetricData"

#: For a database with IAM authentication (RDS user guide, "IAM policy for IAM database access").
CONNECT = "rds-db:connect"
CONNECT_CACHE = "elasticache:Connect"

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Grant:
    """The permissions that one model needs.

    `target` is the ARN that is called, `is_profile` whether that is an inference profile. `models` are the ARNs of
    the foundation models behind it, in `region` or another one; `anywhere` those without a region, as a `global.`
    profile has them.
    """

    region: str
    target: str
    is_profile: bool = False
    models: tuple[str, ...] = ()
    anywhere: tuple[str, ...] = ()


def build_grant(served: ServedModel, behind: tuple[str, ...] | None = None, *, account: str = "*") -> Grant | None:
    """Return the permissions that a model needs, None if it doesn't call Bedrock's runtime.

    `behind` are the ARNs of the models behind its profile, as Bedrock reports them; the default is our own table of
    the regions of a geography. `account` is the AWS account in the ARNs.
    """
    found, region = served.found, served.region
    if found is None or region is None or not served.is_called or found.kind is IdKind.OTHER_SERVICE:
        return None
    prefix = f"arn:{partition(region)}:bedrock"
    if found.kind is IdKind.MODEL:
        return Grant(region, found.text if found.is_arn else f"{prefix}:{region}::foundation-model/{found.model}")
    if found.kind is IdKind.OTHER:
        return Grant(region, found.text)
    target = (
        found.text
        if found.is_arn
        else f"{prefix}:{region}:{account}:inference-profile/{found.geography}.{found.model}"
    )
    arns = [*_known(prefix, found.geography, found.model)] if behind is None else [*behind]
    if found.kind is IdKind.PROFILE:
        # AWS requires the model in the region of the call as well, even if no request is routed to it.
        arns.append(f"{prefix}:{region}::foundation-model/{found.model}")
    anywhere = tuple(arn for arn in arns if ":bedrock:::" in arn)
    return Grant(region, target, True, tuple(arn for arn in arns if arn not in anywhere), anywhere)


def _known(prefix: str, geography: str | None, model: str | None) -> Iterator[str]:
    if geography is None:
        # An application inference profile names neither model nor regions, but the condition restricts calls to it.
        yield f"{prefix}:*::foundation-model/{model or '*'}"
    elif geography == "global":
        yield f"{prefix}:::foundation-model/{model}"
    for each in DESTINATIONS.get(geography or "", ()):
        yield f"{prefix}:{each}::foundation-model/{model}"


def build_guardrail(identifier: str, region: str, *, account: str = "*") -> str:
    """Return the ARN of a guardrail that a configuration names by id or ARN."""
    is_arn = identifier.startswith("arn:")
    return identifier if is_arn else f"arn:{partition(region)}:bedrock:{region}:{account}:guardrail/{identifier}"


def build_policy(
    grants: tuple[Grant, ...],
    guardrails: tuple[str, ...] = (),
    references: tuple[SecretReference, ...] = (),
    *,
    account: str = "*",
    more: Iterable[Document] = (),
) -> Document:
    """Return the policy document, with separate statements for the queries of `models`, `doctor` and `iam-policy`.

    `references` are the secrets that the service reads, `account` is the AWS account of those without an ARN, `more`
    are statements for other programs than the service.
    """
    guarding = _allow("ApplyGuardrails", (APPLY_GUARDRAIL,), guardrails)
    counting = _allow("CountTokens", (COUNT,), _models_here(grants))
    calling = [*_calling(grants), *counting, *guarding, *_secrets(references, account)]
    return {"Version": "2012-10-17", "Statement": [*calling, *_reading(grants), *more]}


def build_cloudwatch(region: str | None, *, account: str = "*") -> list[Document]:
    """Return the statements that the CloudWatch agent needs for the files in configs/cloudwatch."""
    groups = f"arn:{partition(region or '')}:logs:{region or '*'}:{account}:log-group:"
    in_namespace: Document = {"StringEquals": {"cloudwatch:namespace": METRICS_NAMESPACE}}
    return [
        *_allow("WriteLogs", WRITE_LOGS, (f"{groups}{LOG_GROUPS}*",)),
        *_allow("ListLogGroups", (LIST_LOG_GROUPS,), (f"{groups}*",)),
        *_allow("PutMetrics", (PUT_METRICS,), ("*",), in_namespace),
    ]


def build_rds(region: str, user: str, *, account: str = "*") -> list[Document]:
    """Return the statement for the login of a user to databases on RDS or Aurora with IAM authentication.

    It matches each database of the account in the region, because no variable has the id of its resource.
    """
    return [
        *_allow(
            "ConnectToDatabase", (CONNECT,), (f"arn:{partition(region)}:rds-db:{region}:{account}:dbuser:*/{user}",)
        )
    ]


def build_elasticache(
    region: str, cache: str, user: str, *, is_serverless: bool = False, account: str = "*"
) -> list[Document]:
    """Return the statement for the login of a user to a cache of ElastiCache with IAM authentication."""
    kind = "serverlesscache" if is_serverless else "replicationgroup"
    prefix = f"arn:{partition(region)}:elasticache:{region}:{account}"
    return [*_allow("ConnectToCache", (CONNECT_CACHE,), (f"{prefix}:{kind}:{cache}", f"{prefix}:user:{user}"))]


def _secrets(references: tuple[SecretReference, ...], account: str) -> Iterator[Document]:
    for service, name, action in (("secretsmanager", "Secrets", READ_SECRET), ("ssm", "Parameters", READ_PARAMETER)):
        found = [each for each in references if each.service == service]
        yield from _allow(f"Read{name}", (action,), (_secret_arn(each, account) for each in found))
        # A key of AWS needs no permission; which key of the customer encrypts a secret is not known here.
        regions = {each.region for each in found}
        hosts = _one_or_all(default_endpoint(each, service).removeprefix("https://") for each in regions)
        keys = (f"arn:{partition(each)}:kms:{each}:{account}:key/*" for each in regions)
        yield from _allow(f"Decrypt{name}", (DECRYPT,), keys, {"StringEquals": {"kms:ViaService": hosts}})


def _secret_arn(reference: SecretReference, account: str) -> str:
    if reference.name.startswith("arn:"):
        # Secrets Manager accepts an ARN without the six random characters at its end.
        whole = reference.service == "ssm" or re.search(r"-\w{6}$", reference.name)
        return reference.name if whole else f"{reference.name}-??????"
    prefix = f"arn:{partition(reference.region)}:{reference.service}:{reference.region}:{account}"
    if reference.service == "ssm":
        return f"{prefix}:parameter/{reference.name.lstrip('/')}"
    return f"{prefix}:secret:{reference.name}-??????"


def _calling(grants: tuple[Grant, ...]) -> Iterator[Document]:
    profiles = [grant for grant in grants if grant.is_profile]
    yield from _allow("InvokeModels", INVOKE, (grant.target for grant in grants if not grant.is_profile))
    yield from _allow("InvokeInferenceProfiles", INVOKE, (grant.target for grant in profiles))
    profile_arns = [grant.target for grant in profiles if grant.models]
    condition: Document = {"ArnLike": {"bedrock:InferenceProfileArn": _one_or_all(profile_arns)}}
    yield from _allow(
        "InvokeModelsBehindProfiles", INVOKE, (arn for grant in profiles for arn in grant.models), condition
    )
    profile_arns = [grant.target for grant in profiles if grant.anywhere]
    # AWS sets this region for a request that it may route anywhere.
    condition = {
        "StringEquals": {"aws:RequestedRegion": "unspecified"},
        "ArnLike": {"bedrock:InferenceProfileArn": _one_or_all(profile_arns)},
    }
    yield from _allow(
        "InvokeModelsBehindGlobalProfiles", INVOKE, (arn for grant in profiles for arn in grant.anywhere), condition
    )


def _reading(grants: tuple[Grant, ...]) -> Iterator[Document]:
    yield from _allow("AskForLifecycle", (READ_MODEL,), _models_here(grants))
    yield from _allow("AskForProfiles", (READ_PROFILE,), (grant.target for grant in grants if grant.is_profile))
    regions = [grant.region for grant in grants if re.search(":(foundation-model|inference-profile)/", grant.target)]
    here: Document = {"StringEquals": {"aws:RequestedRegion": _one_or_all(regions)}}
    yield from _allow("AskForQuotas", READ_QUOTAS, ("*" for _ in regions), here)


def _models_here(grants: tuple[Grant, ...]) -> list[str]:
    """The foundation models in the region of their call."""
    arns = [arn for grant in grants for arn in (grant.target, *grant.models) if f":{grant.region}::" in arn]
    return [arn for arn in arns if ":foundation-model/" in arn]


def _allow(
    sid: str, actions: tuple[str, ...], arns: Iterable[str], condition: Document | None = None
) -> Iterator[Document]:
    resources = sorted(set(arns))
    if resources:
        statement: Document = {"Sid": sid, "Effect": "Allow", "Action": _one_or_all(actions), "Resource": resources}
        yield {**statement, "Condition": condition} if condition else statement


def _one_or_all(values: Iterable[str]) -> str | list[str]:
    found = sorted(set(values))
    return found[0] if len(found) == 1 else found


def render_policy(policy: Mapping[str, Any]) -> str:
    """Return the document, as `aws iam put-role-policy --policy-document file:///dev/stdin` reads it."""
    return json.dumps(policy, indent=2)


def render_cloudformation(policy: Mapping[str, Any]) -> str:
    """Return a template with the policy as a managed policy, to be attached to the role of the instance."""
    resource = {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {"Description": "What the LiteLLM gateway needs of Amazon Bedrock", "PolicyDocument": policy},
    }
    template = {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "What the LiteLLM gateway needs of Amazon Bedrock.",
        "Resources": {"LitellmBedrockPolicy": resource},
        "Outputs": {"PolicyArn": {"Value": {"Ref": "LitellmBedrockPolicy"}}},
    }
    return json.dumps(template, indent=2)


def render_terraform(policy: Mapping[str, Any]) -> str:
    """Return a resource of Terraform's provider `aws`. `jsonencode` accepts JSON as an expression."""
    # "${" starts an interpolation in HCL; apart from that JSON is a valid HCL expression.
    document = json.dumps(policy, indent=2).replace("${", "$${").replace("\n", "\n  ")
    return (
        'resource "aws_iam_policy" "litellm_bedrock" {\n'
        '  name        = "litellm-bedrock"\n'
        '  description = "What the LiteLLM gateway needs of Amazon Bedrock"\n'
        f"  policy      = jsonencode({document})\n"
        "}"
    )
