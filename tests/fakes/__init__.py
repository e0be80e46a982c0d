"""AWS on loopback, strict about its protocols: instance metadata, STS, Service Quotas, Bedrock.

In a test::

    from tests.fakes import USER, run_cloud

    with run_cloud("eu-central-1") as aws:
        for name, value in aws.environment.items():     # AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL_BEDROCK,
            monkeypatch.setenv(name, value)              # AWS_BEDROCK_RUNTIME_ENDPOINT,
        ...                                              # AWS_ENDPOINT_URL_SERVICE_QUOTAS and so on

`USER` is a key pair that the account knows (`USER.profile("cline")` writes it as ~/.aws has it), `API_KEY` a Bedrock
API key. Change the parts at any time:

    aws.metadata.role = None                              # no instance profile: 404
    aws.metadata.version_1 = True                         # answer without a token; else that is a 401
    aws.metadata.hop_limit_reached = True                 # PUT for a token is never answered
    aws.metadata.enabled = False                          # 403
    aws.metadata.lifetime = timedelta(minutes=30)         # of the credentials that it hands out
    aws.metadata.rotate()                                 # fresh ones from now on
    aws.account.add_session(arn, timedelta(seconds=-1))   # a temporary key that has expired
    aws.account.revoke(USER)                              # an unknown key
    role = aws.account.add_role("other", external_id="x") # for AssumeRole; role.arn
    aws.account.denied.add("bedrock:ListFoundationModels")
    aws.catalogue.end_in("anthropic.claude-sonnet-4-6", days=30)
    aws.catalogue.put("anthropic.claude-new", profiles=("us",), on_demand=False)
    aws.quotas.values["On-demand model inference tokens per minute for Amazon Nova 2 Lite"] = 0
    aws.runtime.scripts["us.anthropic.claude-sonnet-5-5"] = Script(refusal="too-many-requests", times=2)
    aws.seen                                              # each request: service, target, key, status, code

Another process, in a box too: `python -m tests.fakes --help`.
"""

from __future__ import annotations

from tests.fakes.account import ACCOUNT, API_KEY, USER, Account, Key, Role
from tests.fakes.catalogue import Catalogue, Model
from tests.fakes.cloud import Cloud, Seen, run_cloud
from tests.fakes.metadata import Metadata
from tests.fakes.quotas import Quotas
from tests.fakes.runtime import Runtime, Script

__all__ = [
    "ACCOUNT",
    "API_KEY",
    "USER",
    "Account",
    "Catalogue",
    "Cloud",
    "Key",
    "Metadata",
    "Model",
    "Quotas",
    "Role",
    "Runtime",
    "Script",
    "Seen",
    "run_cloud",
]
