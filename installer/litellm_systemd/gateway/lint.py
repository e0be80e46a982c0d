"""Find mistakes that LiteLLM ignores silently: see `lint`. The rules for models are in models.py."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatchcase

from litellm_systemd.env.database import SETTING, database_mode
from litellm_systemd.env.placeholders import is_known_key
from litellm_systemd.env.variables import EXAMPLE_KEY, MASTER_KEY, REFUSED_KEY
from litellm_systemd.gateway.callbacks import callback_findings
from litellm_systemd.gateway.config_types import (
    ENVIRONMENT,
    IDENTITY,
    REFERENCE,
    Fallback,
    GatewayConfig,
    Identity,
    KeyPath,
    LintFinding,
    Model,
    Severity,
    mappings,
    resolve_reference,
)
from litellm_systemd.gateway.environment import environment_findings
from litellm_systemd.gateway.guardrails import guardrail_findings
from litellm_systemd.gateway.installed_litellm import caches_prompts
from litellm_systemd.gateway.models import model_findings, with_own_variables
from litellm_systemd.gateway.python_files import python_findings
from litellm_systemd.gateway.redis_settings import redis_findings
from litellm_systemd.gateway.references import is_anchor, reference_findings
from litellm_systemd.gateway.services import service_findings
from litellm_systemd.gateway.settings import budget_findings, value_findings
from litellm_systemd.gateway.snapshot import load_snapshot
from litellm_systemd.gateway.timeouts import timeout_findings

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
            message = f"is not a known identity: {', '.join(words)}"
            yield config.error("bad-identity", (IDENTITY,), message, f"Write {IDENTITY}: {words[0]}")
        return
    own_keys = [str(key) for key in config.document if str(key).startswith("x-")]
    for key in difflib.get_close_matches(IDENTITY, own_keys, cutoff=0.8):
        message = f"is ignored: did you mean {IDENTITY}?"
        yield config.error("bad-identity", (key,), message, f"Write it as {IDENTITY}.")


def _uses_it(config: GatewayConfig, model: Model) -> bool:
    return model.calls_bedrock and not any(config.called_params(model).get(name) for name in _OWN)


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


#: The sections whose keys are checked.
_SECTIONS = ("general_settings", "litellm_settings", "router_settings")

_AUTH_SWITCH = re.compile(r"disable_\w*auth\w*")

#: Settings that LiteLLM never had or has removed, with the setting that has the intended effect.
_RETIRED: Mapping[KeyPath, str] = {
    ("openapi",): "Remove it. API_DOCS=true in .env serves LiteLLM's API description at /openapi.json.",
    ("general_settings", "disable_user_auth"): "Remove it: no setting disables the key check.",
    ("general_settings", "log_level"): "Remove it and set LITELLM_LOG=INFO in .env.",
    ("general_settings", "openai_api_base"): "Set api_base in the litellm_params of the model.",
    ("router_settings", "default_model"): "Remove it, or set a default_fallbacks list.",
    ("router_settings", "failover"): "Write it as fallbacks: - MODEL: [OTHER]",
    ("router_settings", "retries"): "Write it as num_retries.",
}

#: Settings of general_settings that are dangerous in another section, with their effect there.
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
    """Sections and settings that LiteLLM does not know, or not in that section, with the intended name."""
    del environ
    known = load_snapshot().sections[""]
    for name, value in config.document.items():
        path: KeyPath = (str(name),)
        if name not in known:
            # By convention, x-… keys in YAML hold anchors.
            if path in _MISPLACED or not str(name).startswith(("x-", ".")):
                yield from _unknown_setting(config, path)
        elif name in _SECTIONS and value is not None:
            if isinstance(value, Mapping):
                yield from _unknown_in(config, str(name))
            else:
                yield config.error(
                    "not-a-mapping", path, "is not a mapping", "Write one KEY: VALUE per line below it."
                )


def _unknown_in(config: GatewayConfig, section: str) -> Iterator[LintFinding]:
    known = load_snapshot().sections[section]
    for key in config.section(section):
        path = (section, str(key))
        if path in _MISPLACED or (key not in known and not _is_feature_switch(section, str(key))):
            yield from _unknown_setting(config, path)


def _is_feature_switch(section: str, key: str) -> bool:
    # proxy/common_utils/rbac_utils.py composes these names.
    return section == "general_settings" and (
        (key.startswith("disable_") and key.endswith("_for_internal_users"))
        or (key.startswith("allow_") and key.endswith("_for_team_admins"))
    )


def _unknown_setting(config: GatewayConfig, path: KeyPath) -> Iterator[LintFinding]:
    name = str(path[-1])
    sections = load_snapshot().sections
    known = sections[str(path[0]) if len(path) > 1 else ""]
    unknown = "is not a LiteLLM setting and is ignored"
    if path in _MISPLACED:
        yield config.error("misplaced-setting", path, f"{_MISPLACED[path]} here", "Move it to general_settings.")
    elif path in _RETIRED:
        yield config.warning("retired-setting", path, "is not a LiteLLM setting", _RETIRED[path])
    elif _AUTH_SWITCH.fullmatch(name):
        remedy = "Remove it: no setting disables the key check."
        yield config.warning("retired-setting", path, "is not a LiteLLM setting", remedy)
    elif home := next((section for section in _SECTIONS if name in sections[section]), None):
        message = f"is ignored here: it belongs to {home}"
        yield config.warning("misplaced-setting", path, message, f"Move it to {home}.")
    elif close := difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.8):
        # An ignored section is an error; a single setting may belong to a newer LiteLLM.
        make = config.error if len(path) == 1 else config.warning
        yield make("misspelt-setting", path, f"{unknown}: did you mean {close[0]}?", f"Write it as {close[0]}.")
    else:
        yield config.warning("unknown-setting", path, unknown, "Remove it.")


#: The environment variable for enable_anthropic_prompt_caching (litellm/__init__.py).
_CACHING = "LITELLM_ENABLE_ANTHROPIC_PROMPT_CACHING"


def route_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Fallbacks and aliases with a missing target, with themselves as target, or that lose the prompt cache."""
    yield from _fallbacks(config)
    yield from _aliases(config)
    yield from _lost_cache(config, environ)


def _deployed(config: GatewayConfig) -> frozenset[str]:
    """The names that call a provider directly: models (with patterns), their ids, and routing groups."""
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
    # A fallback for gpt-4 also applies to openai/gpt-4 (router_utils/fallback_event_handlers.py).
    requestable = served | {name.partition("/")[2] for name in served if "/" in name}
    remedy = f"Name one of: {', '.join(config.names)}."
    for fallback in config.fallbacks:
        for target in dict.fromkeys(fallback.targets):
            yield from _target(config, fallback, target, served)
        if fallback.model != "*" and not _is_in(fallback.model, requestable):
            message = f"is a fallback for {fallback.model}, which does not exist: it is never used"
            yield config.warning("fallback-for-nothing", fallback.key, message, remedy)


def _target(config: GatewayConfig, fallback: Fallback, target: str, served: frozenset[str]) -> Iterator[LintFinding]:
    aliases = dict(_all_aliases(config))
    model = aliases.get(fallback.model, fallback.model)
    if target == fallback.model:
        yield config.error("fallback-to-itself", fallback.key, "falls back to itself", "Name another model.")
    elif not _is_in(target, served):
        message = f"falls back to {target}, which does not exist"
        remedy = f"Name one of: {', '.join(config.names)}."
        yield config.error("fallback-to-nothing", fallback.key, message, remedy)
    elif aliases.get(target, target) == model:
        message = f"falls back to {target}, which is an alias of the same model, {model}"
        yield config.warning("fallback-to-itself", fallback.key, message, "Name another model.")


def _aliases(config: GatewayConfig) -> Iterator[LintFinding]:
    # The router resolves an alias once, so an alias of an alias fails.
    names = _deployed(config)
    with_fallbacks = {fallback.model for fallback in config.fallbacks}
    for alias, target in _all_aliases(config):
        path = ("router_settings", "model_group_alias", alias)
        if alias == target:
            yield config.warning("alias-to-itself", path, "is an alias for itself: it has no effect", "Remove it.")
        elif not _is_in(target, names):
            remedy = f"Name one of: {', '.join(sorted(names))}."
            is_alias = target in dict(_all_aliases(config))
            why = "is itself an alias: LiteLLM resolves only one" if is_alias else "does not exist"
            yield config.error("alias-to-nothing", path, f"is an alias for {target}, which {why}", remedy)
        elif alias in names:
            message = f"hides the model {alias}: every request for it calls {target}"
            yield config.warning("alias-hides-model", path, message, "Give the alias another name.")
        elif target in with_fallbacks and not with_fallbacks & {alias, "*"}:
            message = f"does not inherit the fallbacks of {target}"
            remedy = f"Add to fallbacks: - {alias}: [MODEL]"
            yield config.warning("alias-without-fallback", path, message, remedy)


def _lost_cache(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Fallbacks from a model with prompt caching to one without."""
    everywhere = (
        config.section("litellm_settings").get("enable_anthropic_prompt_caching") is True
        or environ.get(_CACHING, "").lower() == "true"
    )
    marked = {model.name for model in config.models if config.params(model).get("cache_control_injection_points")}
    if not everywhere and not marked:
        return  # reading the map takes 20 ms
    caching, not_caching = _caching(config)
    aliases = dict(_all_aliases(config))
    for fallback in config.fallbacks:
        model = aliases.get(fallback.model, fallback.model)
        asked = caching if everywhere else marked & caching
        lost = [name for name in fallback.targets if aliases.get(name, name) in not_caching]
        if lost and (model in asked or (model == "*" and asked)):
            message = f"falls back to {lost[0]}, which does not cache prompts: they cost the full price"
            yield config.warning("lost-cache", fallback.key, message, "Fall back to models that cache prompts.")


def _caching(config: GatewayConfig) -> tuple[frozenset[str], frozenset[str]]:
    """The names whose models all cache prompts, and those with a model that is known not to."""
    known = {(model.name, caches_prompts(config, model)) for model in config.models}
    not_caching = frozenset(name for name, caches in known if caches is False)
    return frozenset(name for name, caches in known if caches) - not_caching, not_caching


#: Lower-case keys whose values are credentials.
_SECRET = re.compile(
    r"(^|_)(api_key|master_key|secret_access_key|session_token|client_secret|password|database_url|ad_token)$"
)
#: Placeholder keys for servers that need none, as in LiteLLM's examples.
_PLACEHOLDER = re.compile(
    r"\b(fake|dummy|none|null|empty|anything|not[-_ ]?needed|no[-_ ]?key|ollama|lm[-_ ]?studio|x+)\b", re.IGNORECASE
)

#: Settings for detailed debugging: LiteLLM then logs whole requests.
_DEBUG = (
    ("litellm_settings", "set_verbose"),
    ("litellm_settings", "log_raw_request_response"),
    ("router_settings", "set_verbose"),
)

#: Prefixes of the general_settings that have no effect without a database.
_DATABASE_SETTINGS = (
    *("database_", "maximum_spend_logs_", "store_model_in_db", "supported_db_objects"),
    *("allow_requests_on_db_unavailable", "use_redis_transaction_buffer", "use_spend_logs_partitioning"),
)

#: LiteLLM uses the empty value of these variables as a region, profile or database with an empty name.
_EMPTY_IS_A_VALUE = (
    *("AWS_REGION_NAME", "AWS_REGION", "AWS_PROFILE", "AWS_PROFILE_NAME", "AWS_ROLE_NAME", "AWS_SESSION_NAME"),
    *("AWS_WEB_IDENTITY_TOKEN", "AWS_STS_ENDPOINT", "AWS_EXTERNAL_ID", "DATABASE_URL", "DIRECT_URL"),
)


#: Codes that depend on the variables of the environment.
_DEPENDS_ON_ENVIRONMENT = frozenset(
    (
        *("unset-variable", "missing-variable", "no-master-key", "no-region", "no-database", "no-redis"),
        "missing-access-key",
    )
)


def lint(config: GatewayConfig, environ: Mapping[str, str] | None) -> tuple[LintFinding, ...]:
    """All findings for a configuration in the service's environment: errors first, otherwise in file order.

    Unknown and misspelt settings, references to unset variables, the master key, the database, hazards; then those of
    `model_findings` and `route_findings`. LiteLLM starts with nearly all of these mistakes, and fails later or never.
    If `environ` is None, the environment is unknown, and findings that a variable could resolve are left out.
    """
    settings = (
        name_findings,
        _replaced_sections,
        reference_findings,
        value_findings,
        guardrail_findings,
        service_findings,
        _references,
        _master_key,
        _environment,
        _database,
        redis_findings,
        budget_findings,
        _hazards,
        _plain_secrets,
    )
    rules = (
        *settings,
        environment_findings,
        identity_findings,
        model_findings,
        route_findings,
        python_findings,
        callback_findings,
        timeout_findings,
    )
    # A credential that several models name is checked with each of them.
    found = list(dict.fromkeys(finding for rule in rules for finding in rule(config, environ or {})))
    # A text that LiteLLM takes for a value has one cause. What it breaks is not reported again.
    unresolved = {finding.place.key for finding in found if finding.code.endswith("-reference")}
    found = [
        finding
        for finding in found
        if finding.place.key not in unresolved or finding.code.endswith(("-reference", "-setting"))
    ]
    if environ is None:
        found = [finding for finding in found if finding.code not in _DEPENDS_ON_ENVIRONMENT]
    return tuple(sorted(found, key=lambda finding: finding.severity is Severity.WARNING))


def _replaced_sections(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Sections of an included file that replace a whole section, and lack keys of that section."""
    del environ
    for each in config.replaced:
        if each.lost:
            message = f"replaces the whole section of {each.before.position} and leaves out {', '.join(each.lost)}"
            remedy = "Copy these too. To omit one, give it an empty value."
            yield config.warning("replaced-section", (each.section,), message, remedy)
        elif each.section in (IDENTITY, "model_list"):
            message = f"replaces what {each.before.position} says"
            yield config.warning("replaced-section", (each.section,), message, "Keep one of the two.")


#: How similar the names of two variables are if one of them may be a slip of the other.
_CLOSE = 0.85


def _references(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    places: dict[str, list[KeyPath]] = {}
    for path, variable in config.references:
        # The master key and the database have their own rules.
        if path not in (("general_settings", "master_key"), ("general_settings", "database_url")):
            places.setdefault(variable, []).append(path)
    for variable, paths in places.items():
        if not environ.get(variable) and not all(map(is_anchor, paths)):
            more = f" ({len(paths)} keys do)" if len(paths) > 1 else ""
            state = "empty" if variable in environ else "not set"
            # One that another key refers to is not misspelled: API_KEY_1 for API_KEY_2.
            known = [] if variable in environ else sorted(environ.keys() - places.keys())
            close = difflib.get_close_matches(variable, known, n=1, cutoff=_CLOSE)
            guess = f": did you mean {close[0]}?" if close else ""
            message = f"refers to {variable}, which is {state}{more}{guess}"
            yield _unset(config)("unset-variable", paths[0], message, f"Set {variable} in .env, or remove the key.")


def _unset(config: GatewayConfig) -> Callable[[str, KeyPath, str, str], LintFinding]:
    # With a secret manager, LiteLLM may find the value there, which cannot be checked here.
    return config.warning if "key_management_system" in config.section("general_settings") else config.error


def _master_key(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    general = config.section("general_settings")
    path: KeyPath = ("general_settings", "master_key")
    written = "master_key" in general
    own = with_own_variables(config, environ)
    key = resolve_reference(general["master_key"], environ) if written else own.get(MASTER_KEY.name)
    remedy = f"Set {MASTER_KEY.name} in .env to sk- and 32 random characters."
    if key and written and not str(general["master_key"]).startswith(REFERENCE):
        remedy = f"Write {REFERENCE}{MASTER_KEY.name} here. {remedy}"
    if not (key or "").strip():
        state = (
            "is empty, is not a string, or refers to a variable that is not set"
            if written
            else f"is missing, and {MASTER_KEY.name} is not set"
        )
        yield _unset(config)("no-master-key", path, state, remedy)
    elif key == REFUSED_KEY:
        yield config.error(
            "weak-master-key", path, f"is {REFUSED_KEY}, which is publicly known and which LiteLLM rejects", remedy
        )
    elif written and general["master_key"] == EXAMPLE_KEY:
        yield config.warning(
            "weak-master-key", path, f"is {EXAMPLE_KEY}, the example key of the documentation", remedy
        )
    elif written and general["master_key"] != f"{REFERENCE}{MASTER_KEY.name}" and is_known_key(str(key)):
        # For the variable itself, an install refuses it with the line of .env.
        message = "is a placeholder or a key of tutorials, which protects nothing"
        yield config.error("weak-master-key", path, message, remedy)


def _environment(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    for name in _EMPTY_IS_A_VALUE:
        if environ.get(name) == "":
            remedy = f"Remove {name} from .env, or give it a value."
            yield config.error(
                "empty-variable", (ENVIRONMENT, name), "is empty, and LiteLLM uses the empty value", remedy
            )
    trio = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    if all(environ.get(name) == "" for name in trio):
        message = f"{', '.join(trio)} are empty: LiteLLM would sign with the empty values"
        yield config.error("empty-variable", (), message, "Remove them from .env to use the IAM role.")


def _database(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    general = config.section("general_settings")
    path = ("general_settings", SETTING)
    if database_mode(environ, general):
        return
    if general.get(SETTING):
        message = "refers to a variable that is not set: there is no database"
        yield config.warning("no-database", path, message, "Set the variable in .env, or remove this line.")
        return
    for key, value in general.items():
        if value and str(key).startswith(_DATABASE_SETTINGS):
            message = "has no effect without a database"
            yield config.warning(
                "no-database", ("general_settings", str(key)), message, "Remove it, or set DATABASE_URL."
            )


def _hazards(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    for key, value in config.section("general_settings").items():
        path: KeyPath = ("general_settings", str(key))
        if value and str(key).startswith("dangerously_"):
            danger = "lets every client send mock_testing_* parameters"
            if "mock_testing" not in str(key):
                danger = "disables a protection"
            yield config.warning("danger", path, danger, "Remove it outside of a test.")
        elif value and key == "store_prompts_in_spend_logs":
            yield config.warning("danger", path, "stores every prompt and response in the database", "Remove it.")
        elif value and key == "background_health_checks":
            message = "calls every model periodically, and each call is billed"
            remedy = "Remove it. To check the models once: litellmctl verify"
            yield config.warning("billed-health-checks", path, message, remedy)
    yield from _debug(config, environ)


def _debug(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    remedy = "Remove it outside of a test."
    for section, key in _DEBUG:
        if config.section(section).get(key):
            yield config.warning("debug-log", (section, key), "writes prompts to the journal", remedy)
    own = config.section("environment_variables").get("LITELLM_LOG")
    if str(own or environ.get("LITELLM_LOG")).upper() == "DEBUG":
        path: KeyPath = ("environment_variables" if own else ENVIRONMENT, "LITELLM_LOG")
        message = "writes prompts to the journal" if own else "is DEBUG, which writes prompts to the journal"
        yield config.warning("debug-log", path, message, "Set LITELLM_LOG=INFO outside of a test.")


def _plain_secrets(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    sections = [((*model.key, "litellm_params"), config.params(model)) for model in config.models]
    sections += [((name,), config.section(name)) for name in ("general_settings", "router_settings")]
    sections += [(("environment_variables",), config.section("environment_variables"))]
    for index, entry in enumerate(mappings(config.document.get("credential_list"))):
        if isinstance(values := entry.get("credential_values"), Mapping):
            sections.append((("credential_list", index, "credential_values"), values))
    for path, mapping in sections:
        for key in sorted(str(key) for key in mapping if _SECRET.search(str(key).lower())):
            if _is_secret(key, mapping.get(key)):
                is_other = key == "master_key" and environ.get(MASTER_KEY.name, mapping[key]) != mapping[key]
                more = f". It is the key of the gateway, and {MASTER_KEY.name} has no effect" if is_other else ""
                yield _plain_secret(config, (*path, key), more)


def _plain_secret(config: GatewayConfig, path: KeyPath, more: str) -> LintFinding:
    key = str(path[-1])
    variable = MASTER_KEY.name if key == "master_key" else key.upper()
    remedy = f"Put it into .env and write {key}: {REFERENCE}{variable}"
    if path[0] == "environment_variables":
        remedy = "Put it into .env, and remove it here."
    return config.warning("plain-secret", path, f"contains a secret in plain text{more}", remedy)


def _is_secret(key: str, value: object) -> bool:
    if not isinstance(value, str) or not value or value.startswith(REFERENCE):
        return False
    if key == "database_url":
        return "@" in value  # after user and password
    return key in ("master_key", MASTER_KEY.name) or not _PLACEHOLDER.search(value)
