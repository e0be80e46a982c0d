"""Which credentials LiteLLM uses for each Bedrock model, and which combinations conflict. Pure.

The order is that of get_credentials in litellm/llms/bedrock/base_aws_llm.py; a parameter of the model
overrides the variable of its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from litellm_systemd.env.aws import (
    BEARER_VARIABLE,
    ENDPOINT,
    EXTERNAL_ID,
    KEY_ID,
    PAIR,
    PROFILE_NAME,
    ROLE,
    SESSION_NAME,
    STS_ENDPOINT,
    TOKEN,
    WEB_IDENTITY,
)
from litellm_systemd.env.redis import uses_iam
from litellm_systemd.env.secret_references import is_reference
from litellm_systemd.env.variables import IAM_TOKEN_DB_AUTH
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, Identity, Model, resolve_reference
from litellm_systemd.gateway.models import ServedModel, with_own_variables, with_references
from litellm_systemd.gateway.python_files import find_references

#: The shipped configuration for an access key.
KEY_CONFIG = "access_key_config.yml"

#: boto3 uses these before the instance metadata: with one of them the service may not need the metadata.
_BEFORE_METADATA = (
    *("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)


#: The variable that a parameter of a model overrides, by that parameter (get_credentials, as above).
_PARAMETERS = {
    "api_key": BEARER_VARIABLE,
    **{
        name.lower(): name
        for name in (
            *PAIR,
            TOKEN,
            ROLE,
            SESSION_NAME,
            EXTERNAL_ID,
            PROFILE_NAME,
            WEB_IDENTITY,
            STS_ENDPOINT,
            ENDPOINT,
        )
    },
}


class AuthMethod(Enum):
    """How a model's calls are signed."""

    API_KEY = "Bedrock API key"
    ROLE = "assumed role"
    PROFILE = "profile"
    KEYS = "access key"
    AMBIENT = "ambient credentials"


def bedrock_models(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[Model, ...]:
    return tuple(model for model in with_references(config, environ).models if model.calls_bedrock)


def auth_method_of(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> AuthMethod:
    """How the calls of a Bedrock model are signed in this environment."""
    own = environ_of(config, model, environ)
    for method, variable in (
        (AuthMethod.API_KEY, BEARER_VARIABLE),
        (AuthMethod.ROLE, ROLE),
        (AuthMethod.PROFILE, PROFILE_NAME),
    ):
        if own.get(variable):
            return method
    return AuthMethod.KEYS if all(own.get(name) for name in PAIR) else AuthMethod.AMBIENT


def environ_of(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment for the calls of a model: its parameters and its credential override the variables."""
    params = config.called_params(model)
    given = {variable: resolve_reference(params.get(name), environ) for name, variable in _PARAMETERS.items()}
    own = {variable: value for variable, value in given.items() if value is not None}
    return {**with_own_variables(config, environ), **own}


@dataclass(frozen=True, slots=True)
class Caller:
    """Models that are called in one region by one identity; `environ` is the environment for their calls."""

    region: str
    models: tuple[ServedModel, ...]
    environ: Mapping[str, str] = field(repr=False)


def callers(config: GatewayConfig, served: Iterable[ServedModel], environ: Mapping[str, str]) -> tuple[Caller, ...]:
    """The callers of the models, in the order of the configuration: one if no model has parameters of its own.

    Models without a known region are left out.
    """
    found: dict[tuple[str, frozenset[tuple[str, str]]], list[ServedModel]] = {}
    for each in served:
        if each.is_called and each.region is not None:
            own = environ_of(config, each.model, environ)
            found.setdefault((each.region, frozenset(own.items())), []).append(each)
    return tuple(Caller(region, tuple(models), dict(own)) for (region, own), models in found.items())


def needs_metadata(config: GatewayConfig, environ: Mapping[str, str]) -> bool:
    """Whether credentials come from the instance metadata alone: for a model, to assume its role, for a secret, or
    for the token of a database.
    """
    if any(environ.get(name) for name in _BEFORE_METADATA):
        return False
    if _needs_credentials(environ) and not environ.get(KEY_ID):
        return True
    return any(_is_ambient(config, model, environ) for model in bedrock_models(config, environ))


def _needs_credentials(environ: Mapping[str, str]) -> bool:
    """Whether secrets are in AWS, or a login is signed with the credentials."""
    return any(map(is_reference, environ.values())) or IAM_TOKEN_DB_AUTH.read(environ) or uses_iam(environ)


def _is_ambient(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> bool:
    method = auth_method_of(config, model, environ)
    if method is AuthMethod.ROLE:
        return not environ_of(config, model, environ).get(KEY_ID)
    return method is AuthMethod.AMBIENT


#: Where clouds serve credentials to an instance: EC2 and others; then ECS, and EKS. Not all of 169.254.0.0/16, where
#: DNS (169.254.169.253) and time (169.254.169.123) of a VPC are too.
METADATA_ADDRESSES = ("169.254.169.254", "fd00:ec2::254", "169.254.170.2", "169.254.170.23", "fd00:ec2::23")
_CONTAINER = tuple(name for name in _BEFORE_METADATA if "_CONTAINER_" in name)
#: Parts of settings and models for which LiteLLM may need such credentials: of other clouds, and of AWS.
_OTHER_CLOUDS = re.compile(r"vertex|google|gcs|gcp|azure", re.IGNORECASE)
_AWS = re.compile(r"aws|s3|sqs|sagemaker|bedrock|dynamo|polly|secret_manager", re.IGNORECASE)


def may_use_metadata(config: GatewayConfig, environ: Mapping[str, str]) -> bool:
    """Whether the service may need the credentials of an instance or a container; in doubt, it does.

    Unlike `needs_metadata`, which is for a check whether they are there.
    """
    if any(environ.get(name) for name in _CONTAINER):
        return True
    for model in bedrock_models(config, environ):
        if _is_ambient(config, model, environ) or auth_method_of(config, model, environ) is AuthMethod.PROFILE:
            return True
    # Of models there are names alone in the settings of the router; credentials count where a model names them.
    elsewhere = ("credential_list", "model_list", "router_settings")
    settings = {key: value for key, value in config.document.items() if key not in elsewhere}
    others = [config.called_params(model) for model in config.models if not model.calls_bedrock]
    text = f"{settings} {others}"
    if _OTHER_CLOUDS.search(text):
        return True
    if all(environ.get(name) for name in PAIR):
        return False  # boto3 uses it before it queries an instance
    if _needs_credentials(environ):
        return True
    own_code = (value for _, value in find_references(config.document) if not value.startswith("litellm_systemd."))
    return _AWS.search(text) is not None or any(own_code)


def uses_pair(config: GatewayConfig, environ: Mapping[str, str]) -> bool:
    """Whether a model's calls are signed with the key pair of the environment, or it assumes a role by it."""
    methods = {auth_method_of(config, model, environ) for model in bedrock_models(config, environ)}
    return KEY_ID in environ and bool(methods & {AuthMethod.KEYS, AuthMethod.ROLE})


def require_one_identity(config: GatewayConfig, environ: Mapping[str, str], where: Callable[[str], str]) -> None:
    """Reject two key pairs, an incomplete pair, and a pair that a configuration for a role would use silently.

    Args:
        config: the configuration that is to run.
        environ: the service's environment.
        where: returns the position of a variable for messages, such as `.env:12`.

    Raises:
        InputError: the first of these, with its position and the remedy.
    """
    if config.identity is Identity.IAM_ROLE and KEY_ID in environ and bedrock_models(config, environ):
        raise InputError(
            f"{where(KEY_ID)}: {KEY_ID} is set, and {config.source} is for the instance's role: LiteLLM would"
            " silently use the key",
            f"Choose -c {KEY_CONFIG} for the key, or remove {KEY_ID} and {PAIR[1]} for the role.",
        )
    for error in _double_pairs(config, environ, where):
        raise error


def _double_pairs(
    config: GatewayConfig, environ: Mapping[str, str], where: Callable[[str], str]
) -> Iterator[InputError]:
    for model in bedrock_models(config, environ):
        params = config.called_params(model)
        present = [variable.lower() for variable in PAIR if params.get(variable.lower())]
        literal = next((key for key in present if not str(params[key]).startswith(REFERENCE)), None)
        if len(present) == 1:
            missing = next(variable.lower() for variable in PAIR if variable.lower() not in present)
            place = config.place(config.param_path(model, present[0]))
            yield InputError(f"{place} is set, but {missing} is not", f"Set {missing} too, or remove both.")
        elif literal is not None and KEY_ID in environ:
            place = config.place(config.param_path(model, literal))
            yield InputError(
                f"{place} has its own key, and {where(KEY_ID)} sets one too: LiteLLM would mix them",
                f"Keep the pair in .env and write {literal}: {REFERENCE}{literal.upper()}, or remove it from .env.",
            )
