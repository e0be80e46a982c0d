"""What LiteLLM boots through in silence: see `lint`. Rules of values here, the others in lint_*.py."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

from litellm_systemd.env.variables import EXAMPLE_KEY, MASTER_KEY, REFUSED_KEY
from litellm_systemd.gateway.config_types import (
    REFERENCE,
    Fallback,
    GatewayConfig,
    KeyPath,
    LintFinding,
    Severity,
    mappings,
    resolve_reference,
)
from litellm_systemd.gateway.installed_litellm import Part, is_known_to_litellm
from litellm_systemd.gateway.known import GENERAL, LITELLM, ROUTER, TOP_LEVEL
from litellm_systemd.gateway.lint_models import model_findings, with_own_variables
from litellm_systemd.gateway.model_map import caches_prompts

SECTIONS: Mapping[str, frozenset[str]] = {
    "general_settings": GENERAL,
    "litellm_settings": LITELLM,
    "router_settings": ROUTER,
}

#: Which part of LiteLLM defines what may stand in a section.
_PARTS: Mapping[KeyPath, Part] = {
    (): Part.TOP_LEVEL,
    ("general_settings",): Part.GENERAL,
    ("litellm_settings",): Part.LITELLM,
    ("router_settings",): Part.ROUTER,
}

_SWITCH_OF_AUTH = re.compile(r"disable_\w*auth\w*")

#: Settings that were never LiteLLM's, or no longer are, with the one that does what was meant.
_RETIRED: Mapping[KeyPath, str] = {
    ("openapi",): "Remove it: LiteLLM describes its API at /openapi.json by itself.",
    ("general_settings", "disable_user_auth"): "Remove it: no setting turns the key check off.",
    ("general_settings", "log_level"): "Remove it and set LITELLM_LOG=INFO in .env.",
    ("general_settings", "openai_api_base"): "Give the model an api_base in its litellm_params.",
    ("router_settings", "default_model"): "Remove it, or name a default_fallbacks list.",
    ("router_settings", "failover"): "Write it as fallbacks: - MODEL: [OTHER]",
    ("router_settings", "retries"): "Write it as num_retries.",
}

#: Settings that are dangerous in the wrong place: what LiteLLM does with them there. All belong to general_settings.
_MISPLACED: Mapping[KeyPath, str] = {
    ("master_key",): "is ignored",
    ("litellm_settings", "master_key"): "is ignored",
    ("router_settings", "master_key"): "is ignored",
    ("enable_jwt_auth",): "is ignored",
    ("litellm_jwtauth",): "is ignored",
    ("router_settings", "health_check_interval"): "stops LiteLLM from starting",
    ("router_settings", "health_check_concurrency"): "stops LiteLLM from starting",
}


def name_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Sections and settings that LiteLLM doesn't know, or not there, with the name that was meant."""
    del environ
    for name, value in config.document.items():
        path: KeyPath = (str(name),)
        if name not in TOP_LEVEL:
            # x-… is YAML's own custom for a place where anchors are kept.
            if path in _MISPLACED or not str(name).startswith(("x-", ".")):
                yield from _unknown_setting(config, path, TOP_LEVEL)
        elif name in SECTIONS and value is not None:
            if isinstance(value, Mapping):
                yield from _unknown_in(config, str(name))
            else:
                yield config.error("not-a-mapping", path, "isn't a mapping", "Write one KEY: VALUE a line below it.")


def _unknown_in(config: GatewayConfig, section: str) -> Iterator[LintFinding]:
    for key in config.section(section):
        path = (section, str(key))
        if path in _MISPLACED or (key not in SECTIONS[section] and not _switch_of_a_feature(section, str(key))):
            yield from _unknown_setting(config, path, SECTIONS[section])


def _switch_of_a_feature(section: str, key: str) -> bool:
    # proxy/common_utils/rbac_utils.py puts these names together.
    return section == "general_settings" and (
        (key.startswith("disable_") and key.endswith("_for_internal_users"))
        or (key.startswith("allow_") and key.endswith("_for_team_admins"))
    )


def _unknown_setting(config: GatewayConfig, path: KeyPath, known: frozenset[str]) -> Iterator[LintFinding]:
    name = str(path[-1])
    unknown = "is not a setting that LiteLLM knows, and is ignored"
    if path in _MISPLACED:
        yield config.error("misplaced-setting", path, f"{_MISPLACED[path]} here", "Move it to general_settings.")
    elif path in _RETIRED:
        yield config.warning("retired-setting", path, "is not a setting of LiteLLM", _RETIRED[path])
    elif is_known_to_litellm(_PARTS[path[:-1]], name):
        return  # one that a newer LiteLLM brought
    elif _SWITCH_OF_AUTH.fullmatch(name):
        remedy = "Remove it: no setting turns the key check off."
        yield config.warning("retired-setting", path, "is not a setting of LiteLLM", remedy)
    elif home := next((section for section, names in SECTIONS.items() if name in names), None):
        message = f"is ignored here: it belongs to {home}"
        yield config.warning("misplaced-setting", path, message, f"Move it to {home}.")
    elif close := difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8):
        # A whole section that is ignored is an error; a single setting may be one of a newer LiteLLM.
        make = config.error if len(path) == 1 else config.warning
        yield make("misspelt-setting", path, f"{unknown}: did you mean {close[0]}?", f"Write it as {close[0]}.")
    else:
        yield config.warning("unknown-setting", path, unknown, "Remove it.")


#: The environment's own switch of enable_anthropic_prompt_caching (litellm/__init__.py).
_CACHING = "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING"


def route_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Fallbacks and aliases that lead to nothing, to where they come from, or out of the prompt cache."""
    yield from _fallbacks(config)
    yield from _aliases(config)
    yield from _lost_cache(config, environ)


def _deployed(config: GatewayConfig) -> frozenset[str]:
    """The names that lead to a provider at once: of models (patterns among them), their ids, routing groups."""
    groups = mappings(config.section("router_settings").get("routing_groups"))
    names = [*(model.name for model in config.models), *(group.get("group_name") for group in groups)]
    ids = (config.info(model).get("id") for model in config.models)
    return frozenset(str(name) for name in (*names, *ids) if name is not None)


def _all_aliases(config: GatewayConfig) -> tuple[tuple[str, str], ...]:
    return (*config.aliases, *config.hidden_aliases)


def _served(config: GatewayConfig) -> frozenset[str]:
    return _deployed(config) | {alias for alias, _ in _all_aliases(config)}


def _is_in(name: str, names: frozenset[str]) -> bool:
    return name in names or any("*" in pattern and fnmatchcase(name, pattern) for pattern in names)


def _fallbacks(config: GatewayConfig) -> Iterator[LintFinding]:
    served = _served(config)
    # A fallback for gpt-4 is one for openai/gpt-4 too (router_utils/fallback_event_handlers.py).
    asked_for = served | {name.partition("/")[2] for name in served if "/" in name}
    remedy = f"Name one of: {', '.join(config.names)}."
    for fallback in config.fallbacks:
        for target in dict.fromkeys(fallback.targets):
            yield from _target(config, fallback, target, served)
        if fallback.model != "*" and not _is_in(fallback.model, asked_for):
            message = f"is a fallback for {fallback.model}, which isn't there: it is never used"
            yield config.warning("fallback-for-nothing", fallback.key, message, remedy)


def _target(config: GatewayConfig, fallback: Fallback, target: str, served: frozenset[str]) -> Iterator[LintFinding]:
    aliases = dict(_all_aliases(config))
    model = aliases.get(fallback.model, fallback.model)
    if target == fallback.model:
        yield config.error("fallback-to-itself", fallback.key, "falls back to itself", "Name another model.")
    elif not _is_in(target, served):
        message = f"falls back to {target}, which isn't there"
        remedy = f"Name one of: {', '.join(config.names)}."
        yield config.error("fallback-to-nothing", fallback.key, message, remedy)
    elif aliases.get(target, target) == model:
        message = f"falls back to {target}, which is {model} again under another name"
        yield config.warning("fallback-to-itself", fallback.key, message, "Name another model.")


def _aliases(config: GatewayConfig) -> Iterator[LintFinding]:
    # The router follows an alias once: an alias of an alias leads nowhere.
    names = _deployed(config)
    with_fallbacks = {fallback.model for fallback in config.fallbacks}
    for alias, target in _all_aliases(config):
        path = ("router_settings", "model_group_alias", alias)
        if alias == target:
            yield config.warning("alias-to-itself", path, "stands for itself: it does nothing", "Remove it.")
        elif not _is_in(target, names):
            remedy = f"Name one of: {', '.join(sorted(names))}."
            is_alias = target in dict(_all_aliases(config))
            why = "is an alias itself: LiteLLM follows one, once" if is_alias else "isn't there"
            yield config.error("alias-to-nothing", path, f"stands for {target}, which {why}", remedy)
        elif alias in names:
            message = f"hides the model {alias}: every request for it goes to {target}"
            yield config.warning("alias-hides-model", path, message, "Give the alias another name.")
        elif target in with_fallbacks and not with_fallbacks & {alias, "*"}:
            message = f"doesn't inherit the fallbacks of {target}"
            remedy = f"Add to fallbacks: - {alias}: [MODEL]"
            yield config.warning("alias-without-fallback", path, message, remedy)


def _lost_cache(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Fallbacks from a model that is asked to cache prompts to one that doesn't."""
    everywhere = (
        config.section("litellm_settings").get("enable_anthropic_prompt_caching") is True
        or environ.get(_CACHING, "").lower() == "true"
    )
    marked = {model.name for model in config.models if config.params(model).get("cache_control_injection_points")}
    if not everywhere and not marked:
        return  # the map takes 20 ms to read
    caching, not_caching = _caching(config)
    aliases = dict(_all_aliases(config))
    for fallback in config.fallbacks:
        model = aliases.get(fallback.model, fallback.model)
        asked = caching if everywhere else marked & caching
        lost = [name for name in fallback.targets if aliases.get(name, name) in not_caching]
        if lost and (model in asked or (model == "*" and asked)):
            message = f"falls back to {lost[0]}, which doesn't cache prompts: it costs the full price"
            yield config.warning("lost-cache", fallback.key, message, "Fall back to models that cache.")


def _caching(config: GatewayConfig) -> tuple[frozenset[str], frozenset[str]]:
    """The names all of whose models cache prompts, and those of which one is known not to."""
    known = {(model.name, caches_prompts(config, model)) for model in config.models}
    not_caching = frozenset(name for name, caches in known if caches is False)
    return frozenset(name for name, caches in known if caches) - not_caching, not_caching


#: The keys, in small letters, that a credential stands under.
_SECRET = re.compile(
    r"(^|_)(api_key|master_key|secret_access_key|session_token|client_secret|password|database_url|ad_token)$"
)
#: What servers without keys of their own are given in place of one, as in LiteLLM's examples.
_PLACEHOLDER = re.compile(
    r"\b(fake|dummy|none|null|empty|anything|not[-_ ]?needed|no[-_ ]?key|ollama)\b", re.IGNORECASE
)

#: The switches of detailed debugging: LiteLLM then logs requests with all that they hold.
_DEBUG = (
    ("litellm_settings", "set_verbose"),
    ("litellm_settings", "log_raw_request_response"),
    ("router_settings", "set_verbose"),
)

#: How the settings of general_settings begin that do nothing without a database.
_OF_A_DATABASE = (
    *("database_", "maximum_spend_logs_", "store_model_in_db", "supported_db_objects"),
    *("allow_requests_on_db_unavailable", "use_redis_transaction_buffer", "use_spend_logs_partitioning"),
)

#: LiteLLM takes these at their word when they are empty: no region, no profile, no database of that name.
_EMPTY_IS_A_VALUE = (
    *("AWS_REGION_NAME", "AWS_REGION", "AWS_PROFILE", "AWS_PROFILE_NAME", "AWS_ROLE_NAME", "AWS_SESSION_NAME"),
    *("AWS_WEB_IDENTITY_TOKEN", "AWS_STS_ENDPOINT", "AWS_EXTERNAL_ID", "DATABASE_URL", "DIRECT_URL"),
)


#: What is only so in an environment without a certain variable.
_OF_THE_ENVIRONMENT = frozenset({"unset-variable", "no-master-key", "no-region", "no-database"})


def lint(config: GatewayConfig, environ: Mapping[str, str] | None) -> tuple[LintFinding, ...]:
    """All that is wrong with a configuration in the service's environment: errors first, else as in the file.

    Unknown and misspelt settings, references to variables that aren't set, the master key, the database, hazards;
    then what `model_findings` and `route_findings` give. LiteLLM starts with nearly all of them, and fails later or
    not at all. Without `environ` the environment isn't known, and what a variable could mend is left out.
    """
    settings = (name_findings, _references, _master_key, _environment, _database, _hazards, _plain_secrets)
    rules = (*settings, model_findings, route_findings)
    found = [finding for rule in rules for finding in rule(config, environ or {})]
    if environ is None:
        found = [finding for finding in found if finding.code not in _OF_THE_ENVIRONMENT]
    return tuple(sorted(found, key=lambda finding: finding.severity is Severity.WARNING))


def _references(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    places: dict[str, list[KeyPath]] = {}
    for path, variable in config.references:
        # The master key and the database have a rule of their own.
        if path not in (("general_settings", "master_key"), ("general_settings", "database_url")):
            places.setdefault(variable, []).append(path)
    for variable, paths in places.items():
        if not environ.get(variable):
            more = f" ({len(paths)} keys do)" if len(paths) > 1 else ""
            state = "empty" if variable in environ else "not set"
            message = f"refers to {variable}, which is {state}{more}"
            yield _unset(config)("unset-variable", paths[0], message, f"Set {variable} in .env, or remove the key.")


def _unset(config: GatewayConfig) -> Callable[[str, KeyPath, str, str], LintFinding]:
    # With a secret manager LiteLLM looks there as well, and what is there can't be seen from here.
    return config.warning if "key_management_system" in config.section("general_settings") else config.error


def _master_key(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    general = config.section("general_settings")
    path: KeyPath = ("general_settings", "master_key")
    written = "master_key" in general
    own = with_own_variables(config, environ)
    key = resolve_reference(general["master_key"], environ) if written else own.get(MASTER_KEY.name)
    remedy = f"Set {MASTER_KEY.name} in .env to sk- and 32 random characters."
    if not (key or "").strip():
        state = (
            "is empty, isn't text, or refers to a variable that isn't set"
            if written
            else f"isn't there, nor is {MASTER_KEY.name} set"
        )
        yield _unset(config)("no-master-key", path, state, remedy)
    elif key == REFUSED_KEY:
        yield config.error(
            "weak-master-key", path, f"is {REFUSED_KEY}, which everybody knows and LiteLLM refuses", remedy
        )
    elif written and general["master_key"] == EXAMPLE_KEY:
        yield config.warning("weak-master-key", path, f"is {EXAMPLE_KEY}, the example of the documentation", remedy)


def _environment(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    for name in _EMPTY_IS_A_VALUE:
        if environ.get(name) == "":
            remedy = f"Remove {name} from .env, or give it a value."
            yield config.error("empty-variable", (), f"{name} is set but empty, and LiteLLM takes it so", remedy)
    trio = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    if all(environ.get(name) == "" for name in trio):
        message = f"{', '.join(trio)} are set but empty: LiteLLM would sign with them"
        yield config.error("empty-variable", (), message, "Remove them from .env to use the IAM role.")


def _database(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    general = config.section("general_settings")
    path = ("general_settings", "database_url")
    remedy = "Remove it. Virtual keys and the Admin UI's log-in need the database; models don't."
    needs = "wants a database, for which LiteLLM needs Prisma's engine: without it the service doesn't start"
    if resolve_reference(general.get("database_url"), environ):
        yield config.error("database", path, needs, remedy)
    elif environ.get("DATABASE_URL") or environ.get("DIRECT_URL"):
        yield config.error("database", (), f"DATABASE_URL {needs}", remedy)
    elif general.get("database_url"):
        yield config.warning("no-database", path, "refers to a variable that isn't set: there is no database", remedy)
    else:
        for key, value in general.items():
            if value and str(key).startswith(_OF_A_DATABASE):
                message = "does nothing without a database"
                yield config.warning("no-database", ("general_settings", str(key)), message, "Remove it.")


def _hazards(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    for key, value in config.section("general_settings").items():
        path: KeyPath = ("general_settings", str(key))
        if value and str(key).startswith("dangerously_"):
            danger = "lets every client send mock_testing_* parameters"
            if "mock_testing" not in str(key):
                danger = "takes a protection away"
            yield config.warning("danger", path, danger, "Remove it outside of a test.")
        elif value and key == "store_prompts_in_spend_logs":
            yield config.warning("danger", path, "keeps every prompt and answer in the database", "Remove it.")
        elif value and key == "background_health_checks":
            message = "calls every model again and again, and each call is billed"
            yield config.warning("billed-health-checks", path, message, "Remove it: litellmctl verify asks once.")
    yield from _debug(config, environ)


def _debug(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    remedy = "Remove it outside of a test."
    for section, key in _DEBUG:
        if config.section(section).get(key):
            yield config.warning("debug-log", (section, key), "writes prompts to the journal", remedy)
    own = config.section("environment_variables").get("LITELLM_LOG")
    if str(own or environ.get("LITELLM_LOG")).upper() == "DEBUG":
        path: KeyPath = ("environment_variables", "LITELLM_LOG") if own else ()
        said = "writes prompts to the journal" if own else "LITELLM_LOG=DEBUG writes prompts to the journal"
        yield config.warning("debug-log", path, said, "Set LITELLM_LOG=INFO outside of a test.")


def _plain_secrets(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    del environ
    sections = [((*model.key, "litellm_params"), config.params(model)) for model in config.models]
    sections += [((name,), config.section(name)) for name in ("general_settings", "router_settings")]
    sections += [(("environment_variables",), config.section("environment_variables"))]
    for path, mapping in sections:
        for key in sorted(str(key) for key in mapping if _SECRET.search(str(key).lower())):
            if _is_secret(key, mapping.get(key)):
                yield _plain_secret(config, (*path, key))


def _plain_secret(config: GatewayConfig, path: KeyPath) -> LintFinding:
    key = str(path[-1])
    variable = MASTER_KEY.name if key == "master_key" else key.upper()
    remedy = f"Put it in .env and write {key}: {REFERENCE}{variable}"
    if path[0] == "environment_variables":
        remedy = "Put it in .env, and remove it here."
    return config.warning("plain-secret", path, "holds a secret in plain text", remedy)


def _is_secret(key: str, value: object) -> bool:
    if not isinstance(value, str) or not value or value.startswith(REFERENCE):
        return False
    if key == "database_url":
        return "@" in value  # user and password stand before it
    return key in ("master_key", MASTER_KEY.name) or not _PLACEHOLDER.search(value)
