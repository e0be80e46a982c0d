"""By what each Bedrock model gets into AWS, as LiteLLM will decide it, and where two ways cross. Pure.

The order is that of get_credentials in litellm/llms/bedrock/base_aws_llm.py; a parameter of the model comes before
the variable of its name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum

from litellm_systemd.env.aws import (
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
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.env.network import ENDPOINT
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, Identity, Model, resolve_reference
from litellm_systemd.gateway.lint_models import with_own_variables
from litellm_systemd.gateway.served_models import ServedModel

#: The shipped configuration for an access key.
KEY_CONFIG = "access_key_config.yml"

#: Where boto3 looks before it asks the instance metadata: with one of these the service may not need it.
_BEFORE_METADATA = (
    *("AWS_PROFILE", "AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"),
    *("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"),
)


#: The variables in whose place a parameter of a model can stand, by that parameter (get_credentials, there).
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


def bedrock_models(config: GatewayConfig) -> tuple[Model, ...]:
    """The models that are called on Bedrock."""
    return tuple(
        model for model in config.models if (model.provider or "").startswith("bedrock") and not model.mocked
    )


def auth_method_of(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> AuthMethod:
    """By what a Bedrock model's calls are signed in this environment."""
    own = environ_of(config, model, environ)
    for way, variable in (
        (AuthMethod.API_KEY, BEARER_VARIABLE),
        (AuthMethod.ROLE, ROLE),
        (AuthMethod.PROFILE, PROFILE_NAME),
    ):
        if own.get(variable):
            return way
    return AuthMethod.KEYS if all(own.get(name) for name in PAIR) else AuthMethod.AMBIENT


def environ_of(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment as a model has it: what its own parameters say, in place of the variables that say it else."""
    params = config.params(model)
    given = {variable: resolve_reference(params.get(name), environ) for name, variable in _PARAMETERS.items()}
    own = {variable: value for variable, value in given.items() if value is not None}
    return {**with_own_variables(config, environ), **own}


@dataclass(frozen=True, slots=True)
class Caller:
    """Models that are called in one region by one identity; `environ` is the environment as these have it."""

    region: str
    models: tuple[ServedModel, ...]
    environ: Mapping[str, str] = field(repr=False)


def callers(config: GatewayConfig, served: Iterable[ServedModel], environ: Mapping[str, str]) -> tuple[Caller, ...]:
    """Who calls the models, in the order of the configuration: one caller where no model says something of its own.

    Those of which no region is known are in none of them.
    """
    found: dict[tuple[str, frozenset[tuple[str, str]]], list[ServedModel]] = {}
    for each in served:
        if each.is_called and each.region is not None:
            own = environ_of(config, each.model, environ)
            found.setdefault((each.region, frozenset(own.items())), []).append(each)
    return tuple(Caller(region, tuple(models), dict(own)) for (region, own), models in found.items())


def needs_metadata(config: GatewayConfig, environ: Mapping[str, str]) -> bool:
    """Whether a model gets its credentials, or those to assume its role with, from the instance metadata alone."""
    if any(environ.get(name) for name in _BEFORE_METADATA):
        return False
    return any(_is_ambient(config, model, environ) for model in bedrock_models(config))


def _is_ambient(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> bool:
    way = auth_method_of(config, model, environ)
    if way is AuthMethod.ROLE:
        return not environ_of(config, model, environ).get(KEY_ID)
    return way is AuthMethod.AMBIENT


def uses_pair(config: GatewayConfig, environ: Mapping[str, str]) -> bool:
    """Whether a model's calls are signed with the key pair of the environment, or it assumes a role by it."""
    ways = {auth_method_of(config, model, environ) for model in bedrock_models(config)}
    return KEY_ID in environ and bool(ways & {AuthMethod.KEYS, AuthMethod.ROLE})


def require_one_identity(config: GatewayConfig, environ: Mapping[str, str], where: Callable[[str], str]) -> None:
    """Refuse a key pair in two places, half a pair, and a pair that a configuration for a role would use in silence.

    Args:
        config: the configuration that is to run.
        environ: the service's environment.
        where: names the place of a variable to a user.

    Raises:
        InputError: the first of these, with its place and the remedy.
    """
    if config.identity is Identity.IAM_ROLE and KEY_ID in environ and bedrock_models(config):
        raise InputError(
            f"{where(KEY_ID)}: {KEY_ID} is set, and {config.source} is for the instance's role: LiteLLM would use"
            " the key and say nothing",
            f"Choose -c {KEY_CONFIG} for the key, or remove {KEY_ID} and {PAIR[1]} for the role.",
        )
    for error in _double_pairs(config, environ, where):
        raise error


def _double_pairs(
    config: GatewayConfig, environ: Mapping[str, str], where: Callable[[str], str]
) -> Iterator[InputError]:
    for model in bedrock_models(config):
        params = config.params(model)
        present = [variable.lower() for variable in PAIR if params.get(variable.lower())]
        literal = next((key for key in present if not str(params[key]).startswith(REFERENCE)), None)
        if len(present) == 1:
            missing = next(variable.lower() for variable in PAIR if variable.lower() not in present)
            place = config.place((*model.key, "litellm_params", present[0]))
            yield InputError(f"{place} is set, but {missing} is not", f"Set {missing} too, or remove both.")
        elif literal is not None and KEY_ID in environ:
            place = config.place((*model.key, "litellm_params", literal))
            yield InputError(
                f"{place} holds a key of its own, and {where(KEY_ID)} sets one too: LiteLLM would mix them",
                f"Keep the pair in .env and write {literal}: {REFERENCE}{literal.upper()}, or remove it from .env.",
            )
