"""A configuration with one model for each refusal of AWS, named after it, and the responses of the fakes. An unknown
key, a wrong secret and another region are real; the other refusals are scripted.
"""

from __future__ import annotations

import json
from typing import Any

from litellm_systemd.bedrock.refusals import REFUSALS
from tests.fakes import ACCOUNT, USER, Script
from tests.fakes.refusals import SCRIPTED

#: Refusals that a loopback fake cannot produce, and why.
NOT_SHOWN = {"untrusted": "there is no TLS on loopback"}
SHOWN = tuple(one.name for one in REFUSALS if one.name not in NOT_SHOWN)

_PAIR = {"aws_access_key_id": USER.access_key, "aws_secret_access_key": USER.secret_key}
#: LiteLLM's parameters of models with a real mistake.
_WRONG: dict[str, dict[str, Any]] = {
    "no-credentials": {"aws_access_key_id": None, "aws_secret_access_key": None},
    "role-not-assumed": {"aws_role_name": f"arn:aws:iam::{ACCOUNT}:role/nobodys", "aws_session_name": "gateway"},
    "key-unknown": {"aws_access_key_id": "AKIAUNKNOWNKEYUNKNOW"},
    "wrong-secret": {"aws_secret_access_key": USER.secret_key[::-1]},
    "wrong-region": {"aws_region_name": "eu-west-1"},
    "api-key-invalid": {"api_key": "ABSKwrong"},
    # The linter accepts it: another region offers it on demand.
    "on-demand": {"model": "bedrock/converse/meta.llama3-3-70b-instruct-v1:0"},
    "model-unknown": {"model": "bedrock/converse/us.anthropic.claude-1-0"},
    "unreachable": {"aws_bedrock_runtime_endpoint": "http://127.0.0.1:1"},
}
#: Refusals within a stream that has begun, by existing models.
_IN_STREAM = {"stream-cut": Script(cut=True), "model-stream-error": Script(broken_off_by="model-stream-error")}
_STREAMED_BY = {"stream-cut": "us.anthropic.claude-sonnet-4-6", "model-stream-error": "us.amazon.nova-2-lite-v1:0"}


def _called(name: str) -> str:
    """The id that is sent to Bedrock for the model of a scripted refusal."""
    return _STREAMED_BY.get(name, f"amazon.{name}")


def build_scripts() -> dict[str, Script]:
    """The responses of the fake by model id."""
    return {_called(name): _IN_STREAM.get(name, Script(refusal=name)) for name in SHOWN if name not in _WRONG}


def build_config() -> str:
    """The configuration as JSON, which is YAML, without retries and fallbacks."""
    models = []
    for name in SHOWN:
        model = {
            "model": f"bedrock/converse/{_called(name)}",
            "aws_region_name": "us-east-1",
            **_PAIR,
            **_WRONG.get(name, {}),
        }
        given = {key: value for key, value in model.items() if value is not None}
        models.append({"model_name": name, "litellm_params": given})
    return json.dumps(
        {
            "model_list": models,
            "router_settings": {"num_retries": 0},
            "general_settings": {"master_key": "os.environ/LITELLM_MASTER_KEY"},
        }
    )


def unshown() -> set[str]:
    """Refusals that have neither a script nor a wrong setting; and scripts without a refusal."""
    known = {*SCRIPTED, *_WRONG, *_IN_STREAM, *NOT_SHOWN}
    return {one.name for one in REFUSALS} ^ known
