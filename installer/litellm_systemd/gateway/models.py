"""The models of a configuration: the linter's rules for them, and what is served. Pure.

`model_findings` has the rules. `build_served` gives the models with their Bedrock id, region, limits and lifecycle.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date

from litellm_systemd.bedrock.models import (
    CALLING_REGIONS,
    REGIONS,
    BedrockId,
    looks_like_region,
    parse_bedrock_id,
    required_profiles,
)
from litellm_systemd.env.variables import AWS_REGION_NAME
from litellm_systemd.gateway.config_types import (
    CREDENTIAL_NAME,
    REFERENCE,
    GatewayConfig,
    KeyPath,
    LintFinding,
    Model,
    mappings,
    resolve_called,
    resolve_reference,
)
from litellm_systemd.gateway.installed_litellm import (
    Lifecycle,
    MapEntry,
    bedrock_models,
    find_entry,
    foundation_model,
    map_values,
    misspelt_model,
)
from litellm_systemd.gateway.parameters import entry_findings
from litellm_systemd.gateway.snapshot import load_snapshot

#: The variables for a region in LiteLLM's order (llms/bedrock/base_aws_llm.py); its default is us-west-2.
REGION_VARIABLES = AWS_REGION_NAME.names

#: The routes that may precede the id of a model (get_bedrock_route in llms/bedrock/common_utils.py).
_ROUTES = ("converse", "invoke", "converse_like", "async_invoke")

#: Claude with the route that the APIs of OpenAI use anyway. An ARN needs a route.
_CONVERSE_CLAUDE = re.compile(r"bedrock/converse/([a-z]+\.)?anthropic\.")

#: Parameters that distribute requests among entries with the same name: an order, a share, tags.
_ROUTED_BY = frozenset({"order", "weight", "tags", "rpm", "tpm"})

#: The variable for the present environment (router.py).
_ENVIRONMENT = "LITELLM_ENVIRONMENT"

#: The environment variable for drop_params (litellm/__init__.py).
_DROP_PARAMS = "LITELLM_DROP_PARAMS"


def model_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Unknown providers and parameters, missing or invalid regions, and entries that conflict with each other."""
    environ = with_own_variables(config, environ)
    config = with_references(config, environ)
    yield from _bad_environment_region(config, environ)
    yield from _bad_credentials(config)
    for model in config.models:
        yield from _provider(config, model, environ)
        yield from _credential(config, model, environ)
        yield from _environments(config, model, environ)
        yield from entry_findings(config, model)
        if model.calls_bedrock:
            yield from _route(config, model)
            yield from _region(config, model, environ)
            yield from _profile_only(config, model, environ)
            yield from _arn_region(config, model, environ)
    yield from _misspelt_ids(config, environ)
    yield from _no_region(config, environ)
    yield from _converse_route(config)
    yield from _sampling_params(config, environ)
    yield from _duplicates(config)
    yield from _unsendable_names(config)


def with_own_variables(config: GatewayConfig, environ: Mapping[str, str]) -> Mapping[str, str]:
    """The environment with the configuration's `environment_variables`.

    LiteLLM sets them before the first request but after it resolves `os.environ/…`: they apply to the region and the
    master key, but not to references.
    """
    own = {str(name): str(value) for name, value in config.section("environment_variables").items()}
    return {**environ, **{name: resolve_reference(value, environ) or "" for name, value in own.items()}}


def with_references(config: GatewayConfig, environ: Mapping[str, str]) -> GatewayConfig:
    """The configuration with the models whose `model` is a reference (`os.environ/X`) as LiteLLM calls them."""
    models = tuple(_with_reference(config, model, environ) for model in config.models)
    return config if models == config.models else replace(config, models=models)


def _with_reference(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Model:
    called = resolve_reference(model.provider_model, environ)
    if called is None or called == model.provider_model:
        return model
    found = resolve_called(config.document, config.params(model), called)
    return replace(model, provider_model=called, resolved=found)


def _provider(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """A model for which LiteLLM finds no provider: it drops the entry, mocked or not, and serves the others."""
    called, params = model.provider_model, config.params(model)
    resolved = {name: resolve_reference(params.get(name), environ) for name in ("custom_llm_provider", "api_base")}
    if called.startswith(REFERENCE) or any(name in params and not resolved[name] for name in resolved):
        return  # a reference to an unset variable has its own finding
    if model.resolved or resolve_called(config.document, {**params, **resolved}, called):
        return
    known = load_snapshot().providers
    provider, slash, rest = called.partition("/")
    path = (*model.key, "litellm_params", "model")
    if named := resolved["custom_llm_provider"]:
        path, provider, slash, rest = (*path[:-1], "custom_llm_provider"), named, "/", called
    close = difflib.get_close_matches(provider, sorted(known), n=1) if slash else []
    guess = f": did you mean {close[0]}?" if close else ""
    if slash and provider not in known:
        remedy = f"Write {close[0]}/{rest}." if close else "Write one of LiteLLM's providers there."
        remedy += f" For a server with OpenAI's API: openai/{rest} with its api_base."
        message = f"names the provider {provider}, which LiteLLM does not know: it drops the model{guess}"
        yield config.error("unknown-provider", path, message, remedy)
    else:
        message = f"names no provider, and LiteLLM knows none for {called}: it drops the model"
        head, colon, tail = called.partition(":")
        right = f"{head}/{tail}" if colon and head in known else f"PROVIDER/{called}, such as bedrock/{called}"
        remedy = f"Write it as {right}."
        yield config.error("no-provider", path, message, remedy)


def _environments(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """A model for certain environments, without the variable for the present one."""
    if config.info(model).get("supported_environments") and not environ.get(_ENVIRONMENT):
        path = (*model.key, "model_info", "supported_environments")
        message = f"needs {_ENVIRONMENT}, which is not set: LiteLLM drops the model"
        remedy = f"Set {_ENVIRONMENT} in .env to development, staging or production, or remove the key."
        yield config.error("unset-variable", path, message, remedy)


def _bad_credentials(config: GatewayConfig) -> Iterator[LintFinding]:
    """Entries of credential_list with which LiteLLM does not start (CredentialItem in models/credentials.py)."""
    entries = config.document.get("credential_list") or ()
    if not isinstance(entries, list):
        if entries:
            remedy = "Start each credential with a dash: - credential_name: NAME"
            yield config.error("bad-credential", ("credential_list",), "is not a list", remedy)
        return
    for index, entry in enumerate(entries):
        given = entry if isinstance(entry, Mapping) else {}
        missing = [
            name for name in ("credential_info", "credential_values") if not isinstance(given.get(name), Mapping)
        ]
        if not isinstance(given.get("credential_name"), str):
            missing.insert(0, "credential_name")
        if missing:
            message = f"has no {' and no '.join(missing)}, or of another kind: LiteLLM does not start with it"
            examples = {"credential_name": "NAME", "credential_info": "{}", "credential_values": "{api_key: …}"}
            remedy = f"Add {', '.join(f'{name}: {examples[name]}' for name in missing)}."
            yield config.error("bad-credential", ("credential_list", index), message, remedy)


def missing_credential(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> str | None:
    """The credential that a model names and that does not exist, as a part of a message with what was meant."""
    name = resolve_reference(config.params(model).get(CREDENTIAL_NAME), environ)
    known = [str(entry.get("credential_name")) for entry in mappings(config.document.get("credential_list"))]
    if name is None or name in known:
        return None
    close = difflib.get_close_matches(name, known, n=1)
    return f"{name}, which is not in credential_list" + (f": did you mean {close[0]}?" if close else "")


def _credential(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    if (missing := missing_credential(config, model, environ)) is not None:
        path = (*model.key, "litellm_params", CREDENTIAL_NAME)
        remedy = "Write it as in credential_list, or add it there. LiteLLM calls the model without it."
        yield config.error("unknown-credential", path, f"names the credential {missing}", remedy)


def _route(config: GatewayConfig, model: Model) -> Iterator[LintFinding]:
    """A misspelt route, which LiteLLM treats as a part of the model's id."""
    route, slash, rest = model.called.partition("/")[2].partition("/")
    close = difflib.get_close_matches(route, _ROUTES, n=1, cutoff=0.75) if slash else []
    if close and route not in _ROUTES:
        path = (*model.key, "litellm_params", "model")
        message = f"has the route {route}, which LiteLLM treats as a part of the id: did you mean {close[0]}?"
        yield config.error("misspelt-route", path, message, f"Write it as {model.provider}/{close[0]}/{rest}.")


def _converse_route(config: GatewayConfig) -> Iterator[LintFinding]:
    """Claude by Converse at every API, where LiteLLM would otherwise call /v1/messages by InvokeModel.

    LiteLLM's get_bedrock_route then still calls chats and responses by Converse (docs/routes.md).
    """
    models = [model for model in config.models if _CONVERSE_CLAUDE.match(model.called) and not model.mocked]
    if models:
        more = f" ({len(models)} models)" if len(models) > 1 else ""
        message = (
            f"loses Claude Code's prompt cache, and a streamed /v1/messages takes two to four times the CPU{more}"
        )
        path = (*models[0].key, "litellm_params", "model")
        remedy = f"Write it as {models[0].called.replace('converse/', '', 1)}. See docs/routes.md."
        yield config.warning("converse-route", path, message, remedy)


def _bad_environment_region(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    variable = next((name for name in REGION_VARIABLES if environ.get(name)), None)
    if variable is not None and any(model.calls_bedrock and model.region is None for model in config.models):
        yield from _bad_region(config, (), f"{variable}={environ[variable]}", environ[variable])


def _bad_region(config: GatewayConfig, path: KeyPath, written: str, region: str) -> Iterator[LintFinding]:
    if region in REGIONS:
        return
    close = difflib.get_close_matches(region, sorted(REGIONS), n=3)
    # Several can be equally close: us-est-1 is one letter from us-east-1 and from us-west-1. us-esat-1 is as close to
    # both, and has the letters of the first.
    ratios = {each: difflib.SequenceMatcher(None, each, region).ratio() for each in close}
    close = [each for each in close if ratios[each] == ratios[close[0]]]
    close = [each for each in close if sorted(each) == sorted(region)] or close
    remedy = (
        f"Did you mean {' or '.join(sorted(close))}?" if close else "Write it as AWS does: us-east-1, eu-central-1."
    )
    if looks_like_region(region):
        yield config.warning("unknown-region", path, f"{written} is not a region that this release knows", remedy)
    else:
        yield config.error("unknown-region", path, f"{written} is not an AWS region", remedy)


def _region(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    region = called_region(config, model, environ)
    if region is None:
        return  # see _no_region
    if model.region is not None:
        yield from _bad_region(config, config.param_path(model, "aws_region_name"), region, region)
    yield from _profile_out_of_reach(config, model, region, environ)


def called_region(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> str | None:
    """The region of a model's calls; None if nothing sets it, or only a reference to an unset variable.

    LiteLLM's order: the parameter, the id, the environment (llms/bedrock/base_aws_llm.py).
    """
    if model.region is not None:
        return resolve_reference(model.region, environ)
    named = (value for name in REGION_VARIABLES if (value := environ.get(name)))
    return _region_in_name(config, model, environ) or next(named, None)


def _no_region(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    # A reference to an unset variable has its own finding, and so has a credential that does not exist.
    without = [
        model
        for model in config.models
        if model.calls_bedrock
        and called_region(config, model, environ) is None
        and model.region is None
        and missing_credential(config, model, environ) is None
    ]
    if not without:
        return
    path = (*without[0].key, "litellm_params", "model")
    more = f" (the same for {len(without)} models)" if len(without) > 1 else ""
    if environ.get("AWS_PROFILE") or environ.get("AWS_CONFIG_FILE"):
        remedy = "Set AWS_REGION_NAME in .env, unless the profile has a region."
        yield config.warning("no-region", path, f"has a region only if the AWS profile sets one{more}", remedy)
    else:
        message = f"is on Bedrock, and no region is set{more}: LiteLLM would silently call us-west-2"
        yield config.error("no-region", path, message, "Set AWS_REGION_NAME in .env, such as us-east-1.")


def _bedrock_id(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> BedrockId | None:
    return parse_bedrock_id(model.called, resolve_reference(config.called_params(model).get("model_id"), environ))


def _region_in_name(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> str | None:
    found = _bedrock_id(config, model, environ)
    if found is not None:
        return found.region
    # Another Bedrock service, such as bedrock_mantle/us-gov-west-1/MODEL.
    return next((part for part in model.provider_model.split("/") if part in REGIONS), None)


def _profile_out_of_reach(
    config: GatewayConfig, model: Model, region: str, environ: Mapping[str, str]
) -> Iterator[LintFinding]:
    found = _bedrock_id(config, model, environ)
    reach = CALLING_REGIONS.get((found and found.geography) or "")
    # A region that is misspelt has its own finding.
    if found is not None and reach is not None and region in REGIONS and not region.startswith(reach):
        message = f"calls the inference profile {found.geography}., which is not available in {region}"
        remedy = f"Use the profile of that region, or global., or set another region for {model.name}."
        yield config.error("profile-out-of-reach", (*model.key, "litellm_params", "model"), message, remedy)


def _profile_only(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """A model that is called by its own id, although Bedrock offers it through inference profiles alone."""
    model_id = resolve_reference(config.called_params(model).get("model_id"), environ)
    found = _bedrock_id(config, model, environ)
    region = called_region(config, model, environ)
    profiles = required_profiles(found, region) if found is not None else None
    if found is None or profiles is None or "/async_invoke/" in model.called:
        return
    written = model_id or model.provider_model
    ids = [f"bedrock/{each}" if found.is_arn else written.replace(found.text, each) for each in profiles]
    remedy = (
        f"Write it as {' or '.join(ids)}." if ids else f"{region} has none of these: use another region or model."
    )
    message = f"calls {found.model} on demand, which Bedrock offers through inference profiles alone"
    path = config.param_path(model, "model_id" if model_id else "model")
    yield config.error("profile-only", path, message, remedy)


def _arn_region(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """An ARN of another region than that of the calls."""
    found, region = _bedrock_id(config, model, environ), called_region(config, model, environ)
    if found is not None and region not in (None, found.region) and f":{found.region}:" in found.text:
        message = f"is {region}, and the ARN is of {found.region}: Bedrock refuses each call"
        path = config.param_path(model, "aws_region_name")
        yield config.error("other-region", path, message, f"Write aws_region_name: {found.region}")


def _misspelt_ids(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    models = [model for model in config.models if model.calls_bedrock]
    known = bedrock_models() if models else frozenset()
    for model in models:
        found = _bedrock_id(config, model, environ)
        if found is not None and (meant := misspelt_model(found, known)) is not None:
            path = config.param_path(model, "model_id" if "model_id" in config.called_params(model) else "model")
            message = f"calls {found.text}, which is no model that this release knows: did you mean {meant}?"
            yield config.warning("unknown-model", path, message, f"Write it as bedrock/{meant}.")


def _sampling_params(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Models that reject temperature and top_p, which most clients send, if nothing drops them."""
    if _is_on(config.section("litellm_settings").get("drop_params")) or _is_on(environ.get(_DROP_PARAMS)):
        return
    rejecting = [model for model in config.models if not model.mocked and _rejects_sampling(config, model)]
    if rejecting:
        more = f" ({len(rejecting)} models do)" if len(rejecting) > 1 else ""
        message = f"rejects temperature and top_p, which most clients send{more}"
        path = (*rejecting[0].key, "litellm_params", "model")
        remedy = "Set drop_params: true under litellm_settings."
        yield config.warning("missing-drop-params", path, message, remedy)


def _rejects_sampling(config: GatewayConfig, model: Model) -> bool:
    params = config.params(model)
    more = params.get("additional_drop_params")
    if _is_on(params.get("drop_params")) or (isinstance(more, list) and "temperature" in more):
        return False
    return map_values(config, model).get("supports_sampling_params") is False


def _is_on(value: object) -> bool:
    return value is True or str(value).strip().lower() in ("true", "1", "yes", "on")


def _duplicates(config: GatewayConfig) -> Iterator[LintFinding]:
    """Entries with the same name that do not share its load: identical ones, or ones with another model."""
    groups: dict[str, list[Model]] = {}
    for model in config.models:
        earlier = groups.setdefault(model.name, [])
        same = next((other for other in earlier if _entry(config, other) == _entry(config, model)), None)
        if same is not None:
            here, first = config.place(model.key), config.place(same.key)
            where = f"line {first.line}" if first.file == here.file else first.position
            message = f"({model.name}) repeats the entry of {where}: it has no effect"
            remedy = "Remove it, or give it another region, key or model to share the load."
            yield config.warning("duplicate-model", model.key, message, remedy)
        earlier.append(model)
    for name, models in groups.items():
        yield from _mixed(config, name, models)


def _unsendable_names(config: GatewayConfig) -> Iterator[LintFinding]:
    """Names that LiteLLM cannot send back: it puts the name that a client asked for into a header, as Latin-1."""
    models = [(model.name, (*model.key, "model_name")) for model in config.models]
    aliases = [(alias, ("router_settings", "model_group_alias", alias)) for alias, _ in config.aliases]
    for name, path in (*models, *aliases):
        if strange := "".join(dict.fromkeys(each for each in name if ord(each) > 0xFF)):
            message = f"has {strange}, which no header can carry: LiteLLM answers each request of this name with 500"
            yield config.warning(
                "unsendable-name", path, message, "Name it with the letters A to Z, digits and -._/."
            )


def _entry(config: GatewayConfig, model: Model) -> object:
    entries = config.document["model_list"]
    return entries[model.key[1]]


def _mixed(config: GatewayConfig, name: str, models: list[Model]) -> Iterator[LintFinding]:
    called = {model.key: foundation_model(config, model) for model in models}
    first = called[models[0].key]
    if "*" in name or any(_ROUTED_BY & config.params(model).keys() for model in models):
        return
    for model in models[1:]:
        other = called[model.key]
        if first is not None and other is not None and other != first:
            message = f"gives {name} a second model, {other} in addition to {first}: requests alternate between them"
            remedy = "Give each its own name and a fallback, or set order: or weight: in their litellm_params."
            yield config.warning("mixed-models", (*model.key, "litellm_params", "model"), message, remedy)


#: A warning is given this many days before a model ends.
WARNING_DAYS = 90


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One entry of `model_list`.

    `found` is its Bedrock id, None for a model of another provider. `region` is the region of its calls, None if
    nothing sets it. `entry` is its entry in LiteLLM's map, None if there is none. `life` comes from the map until
    Bedrock was queried.
    """

    model: Model
    found: BedrockId | None = None
    region: str | None = None
    entry: MapEntry | None = None
    life: Lifecycle = field(default_factory=Lifecycle)

    @property
    def is_called(self) -> bool:
        """Whether requests for it call Bedrock's runtime: not for mocked models, nor for other providers."""
        return self.found is not None and not self.model.mocked


def build_served(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[ServedModel, ...]:
    """The entries of `model_list` in their order; `environ` is the service's own environment."""
    environ = with_own_variables(config, environ)
    config = with_references(config, environ)
    return tuple(_served(config, model, environ) for model in config.models)


def _served(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> ServedModel:
    found = _bedrock_id(config, model, environ)
    if found is None:
        return ServedModel(model)
    region = called_region(config, model, environ)
    entry = find_entry(found, region)
    return ServedModel(model, found, region, entry, Lifecycle(None, entry.ends if entry is not None else None))


def ends_by_name(served: Iterable[ServedModel]) -> dict[str, date]:
    """The day on which Bedrock ends a model, by the name that clients use: the first one if it has several."""
    found: dict[str, date] = {}
    for each in served:
        if each.is_called and each.life.ends is not None:
            name = each.model.name
            found[name] = min(each.life.ends, found.get(name, each.life.ends))
    return found


def end_findings(
    config: GatewayConfig, served: tuple[ServedModel, ...], today: date, *, known: frozenset[str] = frozenset()
) -> Iterator[LintFinding]:
    """Errors for models that Bedrock has ended, and warnings for those that end within `WARNING_DAYS`.

    `known` are Bedrock ids of models whose end the user has already accepted: they are warnings at most.
    """
    for each in served:
        ends = each.life.ends
        if not each.is_called or each.found is None or ends is None or (ends - today).days > WARNING_DAYS:
            continue
        path = (*each.model.key, "litellm_params", "model")
        model = each.found.model or each.found.text
        remedy = f"Configure another model for {each.model.name}."
        if ends > today:
            yield config.warning("model-ends", path, f"calls {model}, which Bedrock ends on {ends}", remedy)
        else:
            report = config.warning if model in known else config.error
            yield report("model-ended", path, f"calls {model}, which Bedrock ended on {ends}", remedy)
