"""Values of the settings of a configuration: their kinds, the cache, and what only a database enforces. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from litellm_systemd.env.database import database_mode
from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, KeyPath, LintFinding, Severity
from litellm_systemd.gateway.kinds import (
    closest,
    closest_key,
    kind_findings,
    misspelt_findings,
    period_findings,
    unknown_value,
)
from litellm_systemd.gateway.models import with_own_variables
from litellm_systemd.gateway.snapshot import Setting, load_snapshot

_SECTIONS = ("general_settings", "litellm_settings", "router_settings")

_NUMBER, _BOOLEAN = Setting(frozenset(("number",))), Setting(frozenset(("boolean",)))
_LIST = Setting(frozenset(("array",)))

#: Settings that LiteLLM reads in another way than it declares them, or does not declare (load_config in
#: proxy/proxy_server.py).
_READ_AS: Mapping[str, Mapping[str, Setting]] = {
    "litellm_settings": {
        **dict.fromkeys(("audit_log_callbacks", "failure_callback", "success_callback"), _LIST),
        **dict.fromkeys(
            ("max_budget", "max_internal_user_budget", "max_ui_session_budget", "request_timeout"), _NUMBER
        ),
        "callbacks": Setting(frozenset(("string", "array"))),  # a mapping stops the start
        **dict.fromkeys(("drop_params", "json_logs"), _BOOLEAN),
        "default_max_internal_user_budget": _NUMBER,
        **dict.fromkeys(("cache_params", "default_internal_user_params"), Setting(frozenset(("object",)))),
    }
}

#: Settings without whose value LiteLLM does not start: it converts it, or loops over it.
_NEVER_EMPTY = (
    *("audit_log_callbacks", "callbacks", "failure_callback", "input_callback", "service_callback"),
    *("custom_provider_map", "default_max_internal_user_budget", "default_team_settings", "guardrails"),
    *("max_budget", "max_internal_user_budget", "model_group_settings", "post_call_rules"),
    *("priority_reservation_settings", "responses", "upperbound_key_generate_params"),
    *("prometheus_deployment_and_latency_caller_identity", "success_callback"),
)

#: Settings that LiteLLM compares with what its database says was spent, or writes into rows of its database.
_BUDGETS = (
    *("budget_duration", "default_internal_user_params", "default_key_generate_params"),
    *(
        "default_max_internal_user_budget",
        "default_soft_budget",
        "default_team_params",
        "internal_user_budget_duration",
    ),
    *("max_budget", "max_end_user_budget", "max_end_user_budget_id", "max_internal_user_budget", "max_user_budget"),
    *("store_audit_logs", "upperbound_key_generate_params"),
)

#: What says where Redis is: keys of cache_params, and variables.
_REDIS = ("host", "url", "startup_nodes", "redis_startup_nodes", "sentinel_nodes")
#: What each semantic cache needs: a key, or one of the variables.
_SEMANTIC: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "redis-semantic": {
        "similarity_threshold": (),
        "host": ("REDIS_HOST",),
        "port": ("REDIS_PORT",),
        "password": ("REDIS_PASSWORD",),
    },
    "valkey-semantic": {"similarity_threshold": (), "host": ("REDIS_HOST", "VALKEY_HOST")},
    "qdrant-semantic": {
        "similarity_threshold": (),
        "qdrant_collection_name": (),
        "qdrant_api_base": ("QDRANT_API_BASE", "QDRANT_URL"),
    },
}
_REDIS_VARIABLES = ("REDIS_HOST", "REDIS_URL", "REDIS_CLUSTER_NODES", "REDIS_STARTUP_NODES", "REDIS_SENTINEL_NODES")

#: Receivers of alerts that are no callbacks (proxy/utils.py).
_RECEIVERS = ("slack", "ms_teams", "email", "webhook", "sentry")
#: The variables with the address of a receiver, one of which LiteLLM needs (integrations/SlackAlerting).
_WEBHOOKS = {
    "slack": ("SLACK_WEBHOOK_URL", "ALERTING_WEBHOOK_URL"),
    "ms_teams": ("MS_TEAMS_WEBHOOK_URL",),
    "webhook": ("WEBHOOK_URL",),
}

_LOG_LEVEL = ("environment_variables", "LITELLM_LOG")


def value_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Values that LiteLLM cannot use as they are, or does not know."""
    snapshot = load_snapshot()
    known = snapshot.sections
    top = {key: value for key, value in config.document.items() if key not in _SECTIONS}
    yield from kind_findings(config, (), top, known[""])
    for section in _SECTIONS:
        settings = {**known[section], **_READ_AS.get(section, {})}
        if section == "router_settings":
            settings["routing_strategy"] = Setting(frozenset(("string",)), snapshot.routing_strategies)
        elif section == "general_settings":  # a mapping names a group of the single sign-on
            settings["ui_access_mode"] = Setting(frozenset(("object",)), known[section]["ui_access_mode"].values)
        yield from kind_findings(config, (section,), config.section(section), settings)
    yield from _empty(config)
    yield from _policies(config)
    yield from _provider_budgets(config)
    yield from _alerts(config, environ)
    yield from _cache(config, environ)
    yield from _log_level(config)


def _empty(config: GatewayConfig) -> Iterator[LintFinding]:
    settings = config.section("litellm_settings")
    names = (*_NEVER_EMPTY, *(["cache_params"] if settings.get("cache") is True else ()))
    for path in (("litellm_settings", name) for name, value in settings.items() if value is None and name in names):
        yield config.error(
            "wrong-kind", path, "has no value: LiteLLM does not start with it", "Remove it, or give it one."
        )


def _policies(config: GatewayConfig) -> Iterator[LintFinding]:
    """Numbers of retries and failures for each kind of error, whose names LiteLLM reads and others not."""
    router = config.section("router_settings")
    groups = router.get("model_group_retry_policy")
    for key in ("retry_policy", "allowed_fails_policy"):
        yield from _policy(config, ("router_settings", key), router.get(key), key)
    for name, policy in groups.items() if isinstance(groups, Mapping) else ():
        yield from _policy(config, ("router_settings", "model_group_retry_policy", str(name)), policy, "retry_policy")


def _policy(config: GatewayConfig, path: KeyPath, policy: object, kind: str) -> Iterator[LintFinding]:
    known = load_snapshot().sections[kind]
    if not isinstance(policy, Mapping):
        if policy is not None and path[-1] != kind:  # the kind of the setting itself is known
            yield config.error("wrong-kind", path, "is not a mapping", f"Write it like this: {{{min(known)}: 3}}")
        return
    yield from kind_findings(config, path, policy, known)
    for name in map(str, policy):
        if name not in known:
            remedy = f"Write one of: {', '.join(known)}."
            yield config.warning("unknown-setting", (*path, name), f"is ignored{closest(name, known)}", remedy)


def _provider_budgets(config: GatewayConfig) -> Iterator[LintFinding]:
    """Budgets of providers: pydantic converts their limits, and nothing checks their periods."""
    path: KeyPath = ("router_settings", "provider_budget_config")
    budgets = config.section("router_settings").get("provider_budget_config")
    for provider, budget in budgets.items() if isinstance(budgets, Mapping) else ():
        if isinstance(budget, Mapping):
            place = (*path, str(provider))
            yield from kind_findings(config, place, budget, dict.fromkeys(("budget_limit", "max_budget"), _NUMBER))
            for key in ("time_period", "budget_duration"):
                yield from period_findings(config, (*place, key), budget.get(key))


def _alerts(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Receivers and kinds of alerts that do not exist: LiteLLM ignores them. Receivers without an address."""
    snapshot, own = load_snapshot(), with_own_variables(config, environ)
    has_addresses = bool(config.section("general_settings").get("alert_to_webhook_url"))
    known = {"alerting": (*_RECEIVERS, *snapshot.callbacks), "alert_types": tuple(snapshot.sections["alert_types"])}
    for key, choices in known.items():
        values = config.section("general_settings").get(key)
        for index, name in enumerate(values if isinstance(values, list) else ()):
            if isinstance(name, str) and name not in choices:
                message = f"is {name[:60]}, which LiteLLM does not know{closest(name, choices)}"
                remedy = f"Write one of: {', '.join(_RECEIVERS if key == 'alerting' else choices)}."
                yield config.warning("unknown-value", ("general_settings", key, index), message, remedy)
            variables = _WEBHOOKS.get(str(name), ()) if key == "alerting" and not has_addresses else ()
            if variables and not any(own.get(each) for each in variables):
                message = f"is {name}, which gets no alerts without {variables[0]}"
                remedy = f"Write {variables[0]}= and its value in .env."
                yield config.warning("missing-variable", ("general_settings", key, index), message, remedy)


def _cache(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    path: KeyPath = ("litellm_settings", "cache_params")
    settings = config.section("litellm_settings")
    # LiteLLM sets up a cache for `true`, and calls any other value as the cache itself.
    cache = settings.get("cache")
    if cache not in (None, True, False) and not str(cache).startswith(REFERENCE):
        message = "is neither true nor false, and every request fails"
        yield config.error("wrong-kind", ("litellm_settings", "cache"), message, "Write cache: true without quotes.")
    params = settings.get("cache_params") or {}
    if not isinstance(params, Mapping):
        return
    stopping = (*_redis(config, params, environ), *_semantic(config, params, environ))
    yield from stopping
    snapshot = load_snapshot()
    others = {key: value for key, value in params.items() if key != "type"}
    known = snapshot.sections["cache_params"]
    yield from kind_findings(config, path, others, known)
    if not any(each.code == "misspelt-setting" for each in stopping):
        yield from misspelt_findings(config, path, others, known)
    kind, kinds = params.get("type"), tuple(sorted(snapshot.cache_types))
    if kind == "disk":
        message = "is disk, which newer versions of LiteLLM do not have"
        make = config.warning if kind in kinds else config.error
        yield make(
            "disk-cache", (*path, "type"), message, "Write type: redis, or local for the memory of each worker."
        )
    elif isinstance(kind, str) and kind not in kinds and not kind.startswith(REFERENCE):
        yield unknown_value(config, (*path, "type"), kind, kinds)


def _semantic(
    config: GatewayConfig, params: Mapping[str, object], environ: Mapping[str, str]
) -> Iterator[LintFinding]:
    """What a semantic cache cannot do without: LiteLLM does not start (the classes in litellm/caching)."""
    kind, path = str(params.get("type")), ("litellm_settings", "cache_params")
    if config.section("litellm_settings").get("cache") is not True or kind not in _SEMANTIC:
        return
    own = with_own_variables(config, environ)
    given = {key for key, value in params.items() if value}
    given |= {"host", "port", "password"} if "redis_url" in given else set()
    for key, variables in _SEMANTIC[kind].items():
        if key in given or any(own.get(name) for name in variables):
            continue
        message = f"is a {kind} cache without {key}: LiteLLM does not start"
        if variables:
            yield config.error("missing-variable", path, message, f"Set {variables[0]} in .env.")
        else:
            yield config.error("incomplete-cache", path, message, f"Add {key}.")


def _redis(config: GatewayConfig, params: Mapping[str, object], environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """A cache in Redis without an address, which stops the start (get_redis_url_from_environment in _redis.py)."""
    if config.section("litellm_settings").get("cache") is not True:
        return
    own = with_own_variables(config, environ)
    address = next((key for key in _REDIS if params.get(key)), None)
    # The type is redis if there are no parameters, and local if there are others.
    kind = params.get("type", "local" if params else "redis")
    if kind == "redis" and address is None and not any(own.get(name) for name in _REDIS_VARIABLES):
        message = "is a cache in Redis, and nothing says where Redis is: LiteLLM does not start"
        remedy = "Set REDIS_HOST and REDIS_PORT in .env, or write cache_params: {type: local}"
        yield config.error("no-redis", ("litellm_settings", "cache"), message, remedy)
    elif address is not None and "type" not in params:
        path = ("litellm_settings", "cache_params", address)
        message = "is not used: without a type, LiteLLM caches in the memory of each worker"
        yield config.warning("unused-redis", path, message, "Add type: redis")
    elif kind == "redis" and address == "host":
        known = load_snapshot().sections["cache_params"]
        for key in (str(key) for key in params if key not in known):
            path = ("litellm_settings", "cache_params", key)
            close = closest_key(key, known, 0.85)
            guess, remedy = (f": did you mean {close}?", f"Write it as {close}.") if close else ("", "Remove it.")
            message = f"is not a parameter of LiteLLM or of Redis, and LiteLLM does not start{guess}"
            yield config.error("misspelt-setting", path, message, remedy)


def _log_level(config: GatewayConfig) -> Iterator[LintFinding]:
    level = config.section(_LOG_LEVEL[0]).get(_LOG_LEVEL[1])
    levels = load_snapshot().log_levels
    if isinstance(level, str) and level.upper() not in levels and not level.startswith(REFERENCE):
        # Set too late for a start to fail by it.
        yield replace(unknown_value(config, _LOG_LEVEL, level, levels), severity=Severity.WARNING)


def budget_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Budgets, and defaults for keys and teams, that LiteLLM keeps in a database."""
    if database_mode(environ, config.section("general_settings")):
        return
    for key, value in config.section("litellm_settings").items():
        if value and key in _BUDGETS:
            path, limit = ("litellm_settings", str(key)), "max_budget and budget_duration in its litellm_params"
            if "budget" in key:
                remedy = f"Remove it. A model can have a limit: {limit}."
                yield config.warning("not-enforced", path, "is not enforced without a database", remedy)
            else:
                yield config.warning("not-enforced", path, "has no effect without a database", "Remove it.")
