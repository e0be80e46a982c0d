"""Rules of the models of a configuration: see `model_findings`."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase

from litellm_systemd import bedrock_regions
from litellm_systemd.gateway_known import PROVIDERS
from litellm_systemd.gateway_model import Finding, GatewayConfig, KeyPath, Model, resolve_reference

#: Where LiteLLM looks for a region, in its order (llms/bedrock/base_aws_llm.py); after them it takes us-west-2.
REGION_VARIABLES = ("AWS_REGION_NAME", "AWS_REGION", "AWS_DEFAULT_REGION")

#: The parameters of a model that begin with aws_ and mean something (llms/bedrock, types/router.py).
AWS_PARAMS = frozenset(
    (
        *("aws_access_key_id", "aws_secret_access_key", "aws_session_token", "aws_region_name", "aws_session_name"),
        *("aws_profile_name", "aws_role_name", "aws_web_identity_token", "aws_sts_endpoint", "aws_external_id"),
        *("aws_bedrock_runtime_endpoint", "aws_session_tags", "aws_bedrock_project_id", "aws_batch_role_arn"),
        *("aws_s3_bucket_name", "aws_workspace_id", "aws_partition", "aws_sagemaker_allow_zero_temp"),
    )
)

#: Families of models on Bedrock that cache prompts (LiteLLM's model map); a fallback to another loses the cache.
_CACHING = ("anthropic.claude", "amazon.nova")


def model_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Unknown providers, regions that are missing or wrong, fallbacks and aliases that lead nowhere."""
    environ = with_own_variables(config, environ)
    yield from _bad_environment_region(config, environ)
    for model in config.models:
        yield from _provider(config, model, environ)
        yield from _aws_params(config, model)
        if _on_bedrock(model):
            yield from _region(config, model, environ)
    yield from _fallbacks(config)
    yield from _aliases(config)
    yield from _lost_cache(config)


def _on_bedrock(model: Model) -> bool:
    return (model.provider or "").startswith("bedrock") and not model.mocked


def with_own_variables(config: GatewayConfig, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with what stands under `environment_variables`.

    LiteLLM sets these before the first request, but after `os.environ/…` is resolved: they count for a region and
    for the master key, not for a reference.
    """
    own = {str(name): str(value) for name, value in config.section("environment_variables").items()}
    return {**environ, **{name: resolve_reference(value, environ) or "" for name, value in own.items()}}


def _provider(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[Finding]:
    params = config.params(model)
    called = resolve_reference(model.provider_model, environ) or ""
    provider, slash, rest = called.partition("/")
    custom = _mappings(config.section("litellm_settings").get("custom_provider_map"))
    if not slash or provider in PROVIDERS or provider in [entry.get("provider") for entry in custom]:
        return
    if params.get("custom_llm_provider") or params.get("api_base"):
        return  # then the name may be anything, such as a repository's
    close = difflib.get_close_matches(provider, sorted(PROVIDERS), n=1)
    guess = f": did you mean {close[0]}?" if close else ""
    path = (*model.key, "litellm_params", "model")
    message = f"asks for the provider {provider}, which LiteLLM doesn't know{guess}"
    yield config.error("unknown-provider", path, message, f"Write it as PROVIDER/{rest}, such as bedrock/{rest}.")


def _aws_params(config: GatewayConfig, model: Model) -> Iterator[Finding]:
    for key in config.params(model):
        if str(key).startswith("aws_") and key not in AWS_PARAMS:
            close = difflib.get_close_matches(str(key), sorted(AWS_PARAMS), n=1)
            remedy = f"Write it as {close[0]}, or remove it." if close else "Remove it."
            path = (*model.key, "litellm_params", str(key))
            yield config.error("unknown-aws-parameter", path, "is not a parameter that LiteLLM knows", remedy)


def _bad_environment_region(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
    variable = next((name for name in REGION_VARIABLES if environ.get(name)), None)
    if variable is not None and any(_on_bedrock(model) and model.region is None for model in config.models):
        yield from _bad_region(config, (), f"{variable}={environ[variable]}", environ[variable])


def _bad_region(config: GatewayConfig, path: KeyPath, told: str, region: str) -> Iterator[Finding]:
    if region in bedrock_regions.REGIONS:
        return
    close = difflib.get_close_matches(region, sorted(bedrock_regions.REGIONS), n=1)
    remedy = f"Did you mean {close[0]}?" if close else "Write it as AWS does: us-east-1, eu-central-1."
    if bedrock_regions.looks_like_region(region):
        yield config.warning("unknown-region", path, f"{told} is not a region known to this release", remedy)
    else:
        yield config.error("unknown-region", path, f"{told} is not an AWS region", remedy)


def _region(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[Finding]:
    path = (*model.key, "litellm_params", "model")
    if model.region is not None:
        own = resolve_reference(model.region, environ)
        if own is None:
            return  # a reference to a variable that isn't set: found already
        region: str | None = own
        yield from _bad_region(config, (*model.key, "litellm_params", "aws_region_name"), own, own)
    else:
        region = _region_in_name(model) or next(
            (value for name in REGION_VARIABLES if (value := environ.get(name))), None
        )
    if region is not None:
        yield from _profile_out_of_reach(config, model, region)
    elif environ.get("AWS_PROFILE") or environ.get("AWS_CONFIG_FILE"):
        remedy = "Set AWS_REGION_NAME in .env, unless the profile has a region."
        yield config.warning("no-region", path, "has a region only if the AWS profile has one", remedy)
    else:
        message = "is on Bedrock and no region is set: LiteLLM would call us-west-2 in silence"
        yield config.error("no-region", path, message, "Set AWS_REGION_NAME in .env, such as us-east-1.")


def _region_in_name(model: Model) -> str | None:
    # bedrock/us-east-1/MODEL, and arn:aws:bedrock:us-east-1:… (llms/bedrock/chat/converse_handler.py).
    if ":bedrock:" in model.provider_model:
        return model.provider_model.partition(":bedrock:")[2].split(":")[0] or None
    return next((part for part in model.provider_model.split("/") if part in bedrock_regions.REGIONS), None)


def _profile_out_of_reach(config: GatewayConfig, model: Model, region: str) -> Iterator[Finding]:
    prefix = model.provider_model.rpartition("/")[2].partition(".")[0]
    reach = bedrock_regions.REACH.get(prefix)
    if reach is not None and not region.startswith(reach):
        message = f"calls a {prefix}. inference profile, which {region} doesn't have"
        remedy = f"Take the profile of that region, or global., or set another region for {model.name}."
        yield config.error("profile-out-of-reach", (*model.key, "litellm_params", "model"), message, remedy)


def _deployed(config: GatewayConfig) -> frozenset[str]:
    """The names that lead to a provider at once: of models (patterns among them), their ids, routing groups."""
    groups = _mappings(config.section("router_settings").get("routing_groups"))
    infos = _mappings([config.document["model_list"][model.key[1]].get("model_info") for model in config.models])
    names = [*(model.name for model in config.models), *(group.get("group_name") for group in groups)]
    return frozenset(str(name) for name in (*names, *(info.get("id") for info in infos)) if name is not None)


def _all_aliases(config: GatewayConfig) -> tuple[tuple[str, str], ...]:
    return (*config.aliases, *config.hidden_aliases)


def _served(config: GatewayConfig) -> frozenset[str]:
    return _deployed(config) | {alias for alias, _ in _all_aliases(config)}


def _mappings(value: object) -> list[Mapping[str, object]]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _is_in(name: str, names: frozenset[str]) -> bool:
    return name in names or any("*" in pattern and fnmatchcase(name, pattern) for pattern in names)


def _fallbacks(config: GatewayConfig) -> Iterator[Finding]:
    served = _served(config)
    remedy = f"Name one of: {', '.join(config.names)}."
    for fallback in config.fallbacks:
        for target in fallback.targets:
            if target == fallback.model:
                yield config.error("fallback-to-itself", fallback.key, "falls back to itself", "Name another model.")
            elif not _is_in(target, served):
                message = f"falls back to {target}, which isn't there"
                yield config.error("fallback-to-nothing", fallback.key, message, remedy)
        if fallback.model != "*" and not _is_in(fallback.model, served):
            message = f"is a fallback for {fallback.model}, which isn't there: it is never used"
            yield config.warning("fallback-for-nothing", fallback.key, message, remedy)


def _aliases(config: GatewayConfig) -> Iterator[Finding]:
    # The router follows an alias once: an alias of an alias leads nowhere.
    names = _deployed(config)
    with_fallbacks = {fallback.model for fallback in config.fallbacks}
    for alias, target in _all_aliases(config):
        path = ("router_settings", "model_group_alias", alias)
        if not _is_in(target, names):
            remedy = f"Name one of: {', '.join(sorted(names))}."
            yield config.error("alias-to-nothing", path, f"stands for {target}, which isn't there", remedy)
        elif target in with_fallbacks and not with_fallbacks & {alias, "*"}:
            message = f"doesn't inherit the fallbacks of {target}"
            remedy = f"Add to fallbacks: - {alias}: [MODEL]"
            yield config.warning("alias-without-fallback", path, message, remedy)


def _lost_cache(config: GatewayConfig) -> Iterator[Finding]:
    if config.section("litellm_settings").get("enable_anthropic_prompt_caching") is not True:
        return
    caching = {model.name for model in config.models if any(family in model.provider_model for family in _CACHING)}
    caching |= {alias for alias, target in _all_aliases(config) if target in caching}
    for fallback in config.fallbacks:
        lost = [name for name in fallback.targets if name not in caching]
        if fallback.model in caching and lost:
            message = f"falls back to {lost[0]}, which doesn't cache prompts"
            yield config.warning("lost-cache", fallback.key, message, "Fall back to models that cache.")
