"""Redis in a LiteLLM configuration: which one it uses, and the settings that connect LiteLLM to that of `.env`. Pure.

LiteLLM connects by itself to the Redis of REDIS_HOST only if that answers within 2 seconds of a start, and otherwise
counts in each process until the next start, without a word in the journal. With a cache in Redis, or with
`coordination_redis`, it always connects, and again after an outage (`ProxyConfig.load_config`, `init_cache`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from litellm_systemd.contract import REFERENCE
from litellm_systemd.env.redis import TARGETS, Redis, find_redis, names_redis
from litellm_systemd.env.variables import REDIS_CLUSTER_NODES, REDIS_SENTINEL_NODES, REDIS_URL
from litellm_systemd.errors import InputError
from litellm_systemd.gateway.config_types import GatewayConfig, LintFinding, resolve_reference
from litellm_systemd.gateway.models import with_own_variables

#: The section and key of a Redis for limits, cooldowns and spend alone.
COORDINATION = ("general_settings", "coordination_redis")
CACHE = ("litellm_settings", "cache_params")
#: Responses are cached for requests with {"cache": {"use-cache": true}} alone.
_OPT_IN = {"type": "redis", "mode": "default_off"}
_ROUTER = "router_settings"


def add_redis(config: GatewayConfig, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """The document of a configuration, with the settings for the Redis of the variables.

    What the file sets itself stays. The values are references to the variables: no secret becomes a part of it. The
    result is `config.document` itself if nothing is to be added.

    Raises:
        InputError: the nodes of a cluster or the Sentinels are not a list in JSON.
    """
    document, values = config.document, with_own_variables(config, environ)
    if not names_redis(values):
        return document
    general, litellm = config.section(COORDINATION[0]), config.section(CACHE[0])
    if not isinstance(litellm.get(CACHE[1]) or {}, Mapping) or COORDINATION[1] in general:
        return document
    if _is_in_redis(litellm):
        return document
    if _is_open(litellm):
        return {**document, CACHE[0]: {**litellm, "cache": True, CACHE[1]: {**_OPT_IN, **_params(litellm)}}}
    # The file wants no cache of responses, or another one.
    return {**document, COORDINATION[0]: {**general, COORDINATION[1]: _target(values)}}


def _is_in_redis(litellm: Mapping[str, Any]) -> bool:
    """Whether litellm_settings turn on a cache in Redis, which LiteLLM then uses for limits as well."""
    params = _params(litellm)
    # LiteLLM takes redis without parameters, and local with others.
    return litellm.get("cache") is True and params.get("type", "local" if params else "redis") == "redis"


def _is_open(litellm: Mapping[str, Any]) -> bool:
    """Whether a cache in Redis may be added: litellm_settings say nothing against it."""
    return "cache" not in litellm and _params(litellm).get("type", "redis") == "redis"


def _params(litellm: Mapping[str, Any]) -> Mapping[str, Any]:
    params = litellm.get(CACHE[1])
    return params if isinstance(params, Mapping) else {}


def _target(values: Mapping[str, str]) -> dict[str, Any]:
    """Where Redis is. LiteLLM adds the login and TLS from the other variables."""
    name = next(each.name for each in TARGETS if values.get(each.name))
    for variable, key in ((REDIS_CLUSTER_NODES, "startup_nodes"), (REDIS_SENTINEL_NODES, "sentinel_nodes")):
        if name == variable.name:
            find_redis(values)  # no install has checked the variables of a drop-in
            return {key: json.loads(values[name])}
    return {name.removeprefix("REDIS_").lower(): f"{REFERENCE}{name}"}


def find_used_redis(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[Redis, str] | None:
    """The Redis that LiteLLM uses for limits, with the name of the variable or the key that says where it is.

    `environ` has the values of secrets, not references to them. None without Redis.

    Raises:
        InputError: a value of it cannot be used.
    """
    values = with_own_variables(config, environ)
    own = _of_file(config, environ, with_router=not names_redis(values))
    found = next(own, None) or find_redis(values)
    namespace = _params(config.section(CACHE[0])).get("namespace")
    if found is None or not isinstance(namespace, str):
        return found
    return replace(found[0], namespace=resolve_reference(namespace, environ) or ""), found[1]


def redis_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """A Redis of the configuration that is another one than that of the variables."""
    try:
        variables, used = find_redis(with_own_variables(config, environ)), find_used_redis(config, environ)
        others = list(_of_file(config, environ, with_router=True))
    except InputError:
        return  # an install refuses it
    if variables is None or used is None:
        return
    own, name = variables
    for redis, place in others:
        is_same = redis.is_local and own.is_local and redis.port == own.port
        if redis.address != own.address and not is_same:
            message = (
                f"names the Redis at {redis.address}, and {name} the one at {own.address}: limits are counted in"
                f" {used[0].address}"
            )
            yield config.warning("two-redis", tuple(place.split(".")), message, "Remove one of them.")


def redis_references(config: GatewayConfig) -> frozenset[str]:
    """The variables to which the settings of Redis refer."""
    places = (COORDINATION, CACHE)
    return frozenset(name for path, name in config.references if path[:2] in places or path[0] == _ROUTER)


def _of_file(config: GatewayConfig, environ: Mapping[str, str], *, with_router: bool) -> Iterator[tuple[Redis, str]]:
    """Each Redis that the configuration itself names, with the key or section that does."""
    values = with_own_variables(config, environ)
    litellm, router = config.section(CACHE[0]), config.section(_ROUTER)
    has_cache = _is_in_redis(litellm) or (names_redis(values) and _is_open(litellm))
    given = {
        ".".join(COORDINATION): config.section(COORDINATION[0]).get(COORDINATION[1]),
        ".".join(CACHE): _params(litellm) if has_cache else None,
    }
    if with_router:
        given[_ROUTER] = {str(key)[6:]: value for key, value in router.items() if str(key).startswith("redis_")}
    for place, params in given.items():
        own = _as_variables(params if isinstance(params, Mapping) else {}, environ)
        if names_redis(own):
            try:
                found = find_redis(
                    {**_without_target(values, own), **own}, partial(_first, f"{config.source}: {place}")
                )
            except InputError as error:
                raise InputError(_with_keys(error.message), _with_keys(error.hint)) from None
            if found is not None:
                yield found[0], place


def _with_keys(text: str) -> str:
    """A message about variables, with the keys that have their values in a configuration."""
    text = text.replace(REDIS_CLUSTER_NODES.name, "startup_nodes")
    return re.sub(r"\bREDIS_([A-Z_]+)", lambda name: name[1].lower(), text)


def _first(position: str, _name: str) -> str:
    return position


def _without_target(values: Mapping[str, str], own: Mapping[str, str]) -> dict[str, str]:
    """The variables that LiteLLM combines with parameters of its own: with a URL, none of Redis."""
    left_out = "REDIS_" if REDIS_URL.name in own else tuple(each.name for each in TARGETS)
    return {name: value for name, value in values.items() if not name.startswith(left_out)}


def _as_variables(params: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, str]:
    """Parameters of a connection under the names of the variables with the same meaning."""
    found = {}
    for key, value in params.items():
        text = resolve_reference(value, environ) if isinstance(value, str) else json.dumps(value, default=str)
        if text and value is not None:
            name = {"redis_startup_nodes": "cluster_nodes", "startup_nodes": "cluster_nodes"}.get(key, str(key))
            found[f"REDIS_{name.upper()}"] = text
    return found
