"""Rules of the names of settings: see `name_findings`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping

from litellm_systemd.gateway.known import GENERAL, LITELLM, ROUTER, TOP_LEVEL
from litellm_systemd.gateway.model import Finding, GatewayConfig, KeyPath
from litellm_systemd.installed_litellm import Part, is_known_to_litellm

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


def name_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[Finding]:
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


def _unknown_in(config: GatewayConfig, section: str) -> Iterator[Finding]:
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


def _unknown_setting(config: GatewayConfig, path: KeyPath, known: frozenset[str]) -> Iterator[Finding]:
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
