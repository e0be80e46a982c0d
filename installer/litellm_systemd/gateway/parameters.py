"""The linter's rules for the keys of a model: its entry in `model_list`, `litellm_params` and `model_info`. Pure.

LiteLLM ignores an unknown key of an entry, keeps one of `model_info` for its own listing, and sends one of
`litellm_params` to the provider with each call.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping

from litellm_systemd.bedrock.models import REQUEST_FIELDS, IdKind, parse_bedrock_id
from litellm_systemd.gateway.config_types import REFERENCE, GatewayConfig, KeyPath, LintFinding, Model
from litellm_systemd.gateway.kinds import closest_key, kind_findings, period_findings
from litellm_systemd.gateway.snapshot import Setting, Snapshot, load_snapshot

#: The keys of an entry that LiteLLM reads (Deployment in types/router.py; `deployment.get` in router.py).
_ENTRY: Mapping[str, Setting] = {
    **{name: Setting() for name in ("model_name", "litellm_params", "model_info", "blocked")},
    **{name: Setting(frozenset({"integer"})) for name in ("rpm", "tpm", "itpm", "otpm", "num_retries")},
}

#: The providers whose own API refuses a request with an unknown field.
_STRICT = ("anthropic", "azure", "openai")

#: How similar a key must be to a known one to be a misspelling; and where servers have parameters of their own.
_SIMILAR, _NEARLY_EQUAL = 0.8, 0.9

#: Kinds that LiteLLM's own declarations leave open or lack: a text must be a number (completion_timeout.py) or a flag
#: (normalize_drop_params), a list stands for several (set_model_list).
_NUMBER = Setting(frozenset({"integer", "number"}))
_KINDS: Mapping[str, Setting] = {
    **dict.fromkeys(("timeout", "stream_timeout", "weight", "num_retries", "cooldown_time"), _NUMBER),
    **dict.fromkeys(("max_parallel_requests", "order"), _NUMBER),
    "drop_params": Setting(frozenset({"boolean"})),
    "organization": Setting(frozenset({"string", "array"})),
    "extra_headers": Setting(frozenset({"object"})),
}

#: The paths of OpenAI's API.
_ROUTE = re.compile(r"/(?:chat/completions|completions|embeddings|responses)/?$")

#: LiteLLM converts the id of a model.
_ID = Setting(frozenset({"string", "integer"}))

#: Numbers that LiteLLM sends as they are written.
_SENT = (
    *("temperature", "top_p", "top_k", "max_tokens", "max_completion_tokens", "n", "seed", "presence_penalty"),
    *("frequency_penalty", "dimensions"),
)


def entry_findings(config: GatewayConfig, model: Model) -> Iterator[LintFinding]:
    """Keys that LiteLLM does not know, with what was meant, and values of the wrong kind."""
    snapshot = load_snapshot()
    entry = config.document["model_list"][model.key[1]]
    yield from _entry_keys(config, model, entry, snapshot)
    yield from kind_findings(config, model.key, entry, _ENTRY)
    yield from _parameters(config, model, snapshot)
    yield from _kinds(config, model, snapshot)
    yield from _address(config, model)
    yield from _info(config, model, snapshot)


def _entry_keys(
    config: GatewayConfig, model: Model, entry: Mapping[str, object], snapshot: Snapshot
) -> Iterator[LintFinding]:
    for key in _unknown(entry, _ENTRY):
        close = closest_key(key, _ENTRY, 0.7)
        home = next((name for name in ("model_info", "litellm_params") if key in snapshot.sections[name]), None)
        if close or home:  # any other key is a note of the user's, or of another program
            guess = f"did you mean {close}?" if close else f"it belongs to {home}"
            remedy = f"Write it as {close}." if close else f"Move it to {home}."
            path = (*model.key, key)
            yield config.warning("unknown-model-key", path, f"is ignored by LiteLLM: {guess}", remedy)


def _parameters(config: GatewayConfig, model: Model, snapshot: Snapshot) -> Iterator[LintFinding]:
    if model.provider not in snapshot.providers:
        return  # a provider of the user's own may have any
    params = config.called_params(model)  # LiteLLM sends the values of its credential in the same way
    own = snapshot.sections["bedrock_params" if model.calls_bedrock else "litellm_params"]
    refuses, is_strict = _refuses(config, model), _is_strict(config, model)
    # LiteLLM reads the mode in model_info alone; `provider` is a parameter of OpenRouter.
    known = {*own, *REQUEST_FIELDS} - {"mode"} if is_strict else {*own, *REQUEST_FIELDS, "provider"}
    dropped = params.get("additional_drop_params")
    for key in _unknown(params, known):
        home = "model_info" if key in snapshot.sections["model_info"] else None
        close = closest_key(key, known, _SIMILAR if is_strict else _NEARLY_EQUAL)
        # A server of one's own may have parameters that only it knows.
        if (is_strict or (close and not home)) and not (isinstance(dropped, list) and key in dropped):
            yield _parameter(config, model, key, close, home, refuses=refuses)


def _parameter(
    config: GatewayConfig, model: Model, key: str, close: str | None, home: str | None, *, refuses: bool
) -> LintFinding:
    guess = f": it belongs to {home}" if home else f": did you mean {close}?" if close else ""
    remedy = f"Move it to {home}." if home else f"Write it as {close}." if close else "Remove it."
    path = config.param_path(model, key)
    if refuses:
        message = f"is not a parameter of LiteLLM: it is sent along, and Bedrock refuses each call{guess}"
        return config.error("unknown-parameter", path, message, remedy)
    message = f"is not a parameter of LiteLLM, which sends it to {model.provider or 'the provider'} as it is{guess}"
    return config.warning("unknown-parameter", path, message, remedy)


def _is_strict(config: GatewayConfig, model: Model) -> bool:
    """Whether its provider refuses unknown fields and wrong kinds; a server with OpenAI's API may not."""
    is_theirs = model.provider in _STRICT and not config.called_params(model).get("api_base")
    return _refuses(config, model) or (is_theirs and not model.mocked)


def _refuses(config: GatewayConfig, model: Model) -> bool:
    """Whether it is one of Bedrock's own models, which refuse unknown fields; imported ones may not."""
    found = parse_bedrock_id(model.called, config.called_params(model).get("model_id"))
    return model.calls_bedrock and found is not None and found.kind not in (IdKind.OTHER, IdKind.OTHER_SERVICE)


def _kinds(config: GatewayConfig, model: Model, snapshot: Snapshot) -> Iterator[LintFinding]:
    path, params = (*model.key, "litellm_params"), config.params(model)
    converted = {key: value for key, value in params.items() if key not in _SENT}
    yield from kind_findings(config, path, converted, {**snapshot.sections["litellm_params"], **_KINDS})
    yield from period_findings(config, (*path, "budget_duration"), params.get("budget_duration"))
    flag = params.get("drop_params")
    if isinstance(flag, str) and flag.lower() in ("true", "false"):
        message = "is a text in quotes, which LiteLLM takes for a flag here, but not everywhere"
        yield config.warning("wrong-kind", (*path, "drop_params"), message, f"Write drop_params: {flag.lower()}")
    for key in (key for key in params if key in _SENT):
        yield from _sent_number(config, model, key, params[key])


def _address(config: GatewayConfig, model: Model) -> Iterator[LintFinding]:
    """An address of the provider that no call can reach; LiteLLM appends the path of OpenAI's API itself."""
    value = config.called_params(model).get("api_base")
    if not isinstance(value, str) or not value or value.startswith(REFERENCE):
        return
    path, route = config.param_path(model, "api_base"), _ROUTE.search(value)
    if re.fullmatch(r"[\w.-]+(?::\d+)?(?:/\S*)?", value):
        message = "has no http:// or https://, and each call fails"
        yield config.warning("bad-address", path, message, f"Write http://{value}, or https:// for TLS.")
    elif model.provider == "openai" and route is not None:
        message = f"ends in {route[0]}, which LiteLLM appends itself: each call gets 404"
        yield config.warning("bad-address", path, message, f"Write {value[: route.start()]}")


def _sent_number(config: GatewayConfig, model: Model, key: str, value: object) -> Iterator[LintFinding]:
    if not isinstance(value, str) or not value or value.startswith(REFERENCE):
        return
    path = (*model.key, "litellm_params", key)
    if not re.fullmatch(r"-?\d+(\.\d+)?", value.strip()):
        yield config.error("wrong-kind", path, f"is the text {value[:30]}, not a number", "Write a number.")
    elif _is_strict(config, model):
        message = f"is a text, and LiteLLM sends it as one: {model.provider} expects a number"
        yield config.warning("wrong-kind", path, message, f"Write {key}: {value.strip()} without quotes.")


def _info(config: GatewayConfig, model: Model, snapshot: Snapshot) -> Iterator[LintFinding]:
    info, known = config.info(model), snapshot.sections["model_info"]
    path: KeyPath = (*model.key, "model_info")
    if not isinstance(config.document["model_list"][model.key[1]].get("model_info", {}), Mapping):
        remedy = "Write one KEY: VALUE per line below it, or remove it."
        yield config.error("bad-model", path, "is not a mapping: LiteLLM does not start with it", remedy)
    for key in _unknown(info, known):
        # Any other key is accepted: clients read it at /model/info.
        if close := closest_key(key, known, _NEARLY_EQUAL):
            message = f"has no effect in LiteLLM: did you mean {close}?"
            yield config.warning("unknown-model-key", (*path, key), message, f"Write it as {close}.")
    yield from kind_findings(config, path, info, {**known, "id": _ID})
    mode, modes = info.get("mode"), snapshot.model_modes
    if isinstance(mode, str) and mode not in modes and (close := closest_key(mode, modes, _SIMILAR)):
        message = f"is {mode}, which LiteLLM does not know: did you mean {close}?"
        yield config.warning("unknown-value", (*path, "mode"), message, f"Write it as {close}.")


def _unknown(mapping: Mapping[str, object], known: Collection[str]) -> Iterator[str]:
    """The keys that are not known, except those that hold anchors."""
    return (str(key) for key in mapping if key not in known and not str(key).startswith(("x-", ".")))
