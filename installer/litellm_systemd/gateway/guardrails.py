"""Guardrails of a configuration: types, modes and names that LiteLLM does not know. Pure.

LiteLLM starts without a guardrail that it cannot set up (init_guardrails_v2 in proxy/guardrails/init_guardrails.py),
and skips names that no guardrail has: the requests are then not guarded. So all of these are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, KeyPath, LintFinding, mappings
from litellm_systemd.gateway.kinds import closest, kind_findings, misspelt_findings
from litellm_systemd.gateway.models import with_own_variables
from litellm_systemd.gateway.snapshot import load_snapshot

#: The consequence, as the beginning of a remedy.
_UNGUARDED = "LiteLLM would start without this guardrail."
#: The servers that a guardrail calls: a key of the same name in lower case, or a variable.
_ADDRESSES = {"presidio": ("PRESIDIO_ANALYZER_API_BASE", "PRESIDIO_ANONYMIZER_API_BASE")}
_EXAMPLE = "An entry looks like this: {guardrail_name: NAME, litellm_params: {guardrail: TYPE, mode: pre_call}}"


def guardrail_findings(config: GatewayConfig, environ: Mapping[str, str]) -> Iterator[LintFinding]:
    """Guardrails that LiteLLM does not set up, and names that refer to none."""
    own = with_own_variables(config, environ)
    entries = config.document.get("guardrails") or []
    if not isinstance(entries, list):
        yield config.error("bad-guardrail", ("guardrails",), "is not a list: LiteLLM does not start", _EXAMPLE)
        return
    for index, entry in enumerate(entries):
        yield from _guardrail(config, ("guardrails", index), entry, own)
    for index, entry in enumerate(mappings(config.section("litellm_settings").get("guardrails"))):
        if "guardrail_name" in entry:
            path: KeyPath = ("litellm_settings", "guardrails", index)
            remedy = "Move it to guardrails at the top of the file."
            yield config.error("bad-guardrail", path, "stops the start: it has the form of another section", remedy)
    names = frozenset(_names(config))
    for path, name in _uses(config):
        if name not in names and not name.startswith(REFERENCE):
            remedy = f"Name one of: {', '.join(sorted(names))}." if names else "Define it under guardrails."
            message = f"refers to {name}, a guardrail that is not defined{closest(name, names)}"
            yield config.error("unknown-guardrail", path, message, remedy)


def _guardrail(
    config: GatewayConfig, path: KeyPath, entry: object, environ: Mapping[str, str]
) -> Iterator[LintFinding]:
    params = entry.get("litellm_params") if isinstance(entry, Mapping) else None
    name = entry.get("guardrail_name") if isinstance(entry, Mapping) else None
    if not isinstance(name, str) or not name or not isinstance(params, Mapping):
        message = "has no guardrail_name that is a text, or no litellm_params"
        yield config.error("bad-guardrail", path, message, _EXAMPLE)
        return
    path = (*path, "litellm_params")
    missing = [key for key in ("guardrail", "mode") if not params.get(key)]
    if missing:
        yield config.error("bad-guardrail", path, f"has no {missing[0]}", f"{_UNGUARDED} {_EXAMPLE}")
    snapshot = load_snapshot()
    others = {key: value for key, value in params.items() if key not in ("guardrail", "mode")}
    yield from kind_findings(config, path, others, snapshot.sections["guardrail"])
    yield from misspelt_findings(config, path, others, snapshot.sections["guardrail"])
    kind, modes = params.get("guardrail"), snapshot.guardrail_modes
    # A name with a dot is a class in a file of the user.
    if isinstance(kind, str) and kind and "." not in kind and kind not in snapshot.guardrails:
        message = f"is {kind}, which LiteLLM does not know{closest(kind, snapshot.guardrails)}"
        remedy = f"{_UNGUARDED} Write a type of LiteLLM, or the class of your own: FILE.CLASS"
        yield config.error("bad-guardrail", (*path, "guardrail"), message, remedy)
    for variable in _ADDRESSES.get(str(kind), ()):
        if not (params.get(variable.lower()) or environ.get(variable)):
            message = f"is {kind}, which needs {variable}"
            yield config.error("missing-variable", (*path, "guardrail"), message, f"{_UNGUARDED} Set it in .env.")
    # A guardrail that only checks texts can log the outcome, too.
    supported = (*snapshot.guardrail_hooks.get(str(kind), modes), "logging_only")
    for mode in _modes(params.get("mode")):
        if mode not in supported and not mode.startswith(REFERENCE):
            unknown = f"which LiteLLM does not know{closest(mode, supported)}"
            message = f"is {mode}, {f'which {kind} does not support' if mode in modes else unknown}"
            remedy = f"{_UNGUARDED} Write one of: {', '.join(dict.fromkeys(supported))}."
            yield config.error("bad-guardrail", (*path, "mode"), message, remedy)


def _modes(value: object) -> Iterator[str]:
    """The modes of a guardrail: one, a list, or `tags` and `default` that each have one or a list."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (str(item) for item in value)
    elif isinstance(value, Mapping):
        tags = value.get("tags")
        for item in (*(tags.values() if isinstance(tags, Mapping) else ()), value.get("default")):
            yield from _modes(item)


def _names(config: GatewayConfig) -> Iterator[str]:
    """The names of all guardrails, also of the older form under litellm_settings, in which the name is the key."""
    defined = (entry.get("guardrail_name") for entry in mappings(config.document.get("guardrails")))
    yield from (str(name) for name in defined if name)
    for entry in mappings(config.section("litellm_settings").get("guardrails")):
        yield from map(str, entry)


def _uses(config: GatewayConfig) -> Iterator[tuple[KeyPath, str]]:
    """The names of guardrails for models, for new keys and teams, and in policies."""
    for model in config.models:
        yield from _listed((*model.key, "litellm_params", "guardrails"), config.params(model).get("guardrails"))
    for key in ("default_key_generate_params", "default_team_params"):
        params = config.section("litellm_settings").get(key)
        if isinstance(params, Mapping):
            yield from _listed(("litellm_settings", key, "guardrails"), params.get("guardrails"))
    for name, policy in config.section("policies").items():
        guardrails = policy.get("guardrails") if isinstance(policy, Mapping) else None
        if isinstance(guardrails, Mapping):
            for key in ("add", "remove"):
                yield from _listed(("policies", str(name), "guardrails", key), guardrails.get(key))


def _listed(path: KeyPath, value: object) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str):
        yield path, value
    elif isinstance(value, list):
        yield from (((*path, index), item) for index, item in enumerate(value) if isinstance(item, str))
