"""A fake AWS on loopback with strict protocols: instance metadata, STS, Service Quotas, Bedrock.

In a test::

    from tests.fakes import USER, run_cloud

    with run_cloud("eu-central-1") as aws:
        for name, value in aws.environment.items():     # AWS_ENDPOINT_URL_STS, AWS_ENDPOINT_URL_BEDROCK,
            monkeypatch.setenv(name, value)              # AWS_BEDROCK_RUNTIME_ENDPOINT,
        ...                                              # AWS_ENDPOINT_URL_SERVICE_QUOTAS and so on

`USER` is a key pair of the account (`USER.profile("cline")` renders it as a section of ~/.aws/credentials). `API_KEY`
is a Bedrock API key. A test can change the parts at any time:

    aws.metadata.role = None                              # no instance profile: 404
    aws.metadata.version_1 = True                         # answer without a token; otherwise 401
    aws.metadata.hop_limit_reached = True                 # a PUT for a token gets no response
    aws.metadata.enabled = False                          # 403
    aws.metadata.lifetime = timedelta(minutes=30)         # of the credentials that it returns
    aws.metadata.rotate()                                 # new credentials from now on
    aws.account.add_session(arn, timedelta(seconds=-1))   # a temporary key that has expired
    aws.account.revoke(USER)                              # an unknown key
    role = aws.account.add_role("other", external_id="x") # for AssumeRole; role.arn
    aws.account.denied.add("bedrock:ListFoundationModels")
    aws.catalogue.end_in("anthropic.claude-sonnet-4-6", days=30)
    aws.catalogue.put("anthropic.claude-new", profiles=("us",), on_demand=False)
    aws.quotas.values["On-demand model inference tokens per minute for Amazon Nova 2 Lite"] = 0
    aws.runtime.scripts["us.anthropic.claude-sonnet-5-5"] = Script(refusal="too-many-requests", times=2)
    aws.runtime.bodies[-1], aws.runtime.headers[-1]       # what a model was sent
    aws.seen                                              # each request: service, target, key, status, code

A prompt can ask a model for tool calls and for long streams (`default_behavior`):

    CALL read_file {"path": "a.txt"}
    STREAM 425 EVENTS EVERY 10 MS

The runtime refuses unknown fields and beta flags, thinking without its signature, and prefill where the model has
none (`validation`, `thinking`). Its prompt cache compares exact prefixes, with look-back (`prompt_cache`).

To run it as another process, also in a box: `python -m tests.fakes --help`.
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
