"""Rules of `x-identity`, the identity with which a configuration calls Bedrock: see `identity_findings`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping

from litellm_systemd.gateway.config_types import (
    IDENTITY,
    GatewayConfig,
    Identity,
    LintFinding,
    Model,
)
from litellm_systemd.gateway.lint_models import with_own_variables

PAIR = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")

#: Parameters by which a model names credentials of its own. The configuration's identity is then not its own.
_OWN = ("api_key", "aws_access_key_id", "aws_profile_name", "aws_role_name", "aws_web_identity_token")

#: Variables that LiteLLM prefers to a pair, with what they name (get_credentials in llms/bedrock/base_aws_llm.py).
_PREFERRED = {"AWS_BEARER_TOKEN_BEDROCK": "a Bedrock API key", "AWS_PROFILE_NAME": "a profile"}


def identity_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """An `x-identity` that isn't one, and an environment in which LiteLLM would use another identity."""
    yield from _spelling(config)
    environ = with_own_variables(config, environ)
    if not any(_uses_it(config, model) for model in config.models):
        return
    if config.identity is Identity.ACCESS_KEY:
        yield from _access_key(config, environ)
    elif config.identity is Identity.IAM_ROLE and environ.get(PAIR[0]):
        message = f"is iam-role, and {PAIR[0]} is set: LiteLLM would sign with that key"
        remedy = f"Remove {PAIR[0]} and {PAIR[1]} from .env, or use the configuration for an access key."
        yield config.error("other-identity", (IDENTITY,), message, remedy)


def _spelling(config: GatewayConfig) -> Iterator[LintFinding]:
    words = [each.value for each in Identity]
    if IDENTITY in config.document:
        if config.identity is None:
            message = f"is none of the identities that there are: {', '.join(words)}"
            yield config.error("bad-identity", (IDENTITY,), message, f"Write {IDENTITY}: {words[0]}")
        return
    own_keys = [str(key) for key in config.document if str(key).startswith("x-")]
    for key in difflib.get_close_matches(IDENTITY, own_keys, cutoff=0.8):
        message = f"is ignored: did you mean {IDENTITY}?"
        yield config.error("bad-identity", (key,), message, f"Write it as {IDENTITY}.")


def _uses_it(config: GatewayConfig, model: Model) -> bool:
    is_called = (model.provider or "").startswith("bedrock") and not model.mocked
    return is_called and not any(config.params(model).get(name) for name in _OWN)


def _access_key(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    missing = [name for name in PAIR if not environ.get(name)]
    if missing:
        message = f"is access-key, and {missing[0]} is not set: LiteLLM would look for another identity"
        remedy = f"Set {PAIR[0]} and {PAIR[1]} in .env, or use the configuration for the IAM role."
        yield config.error("missing-access-key", (IDENTITY,), message, remedy)
    for variable, what in _PREFERRED.items():
        if environ.get(variable):
            message = f"is access-key, and {variable} is set: LiteLLM would use that instead, {what}"
            yield config.error("other-identity", (IDENTITY,), message, f"Remove {variable} from .env.")
