"""Read and check a LiteLLM configuration: what it serves, and errors that LiteLLM does not report.

Nothing here imports LiteLLM, which takes seconds. Installer and service both use this module.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from litellm_systemd.bedrock.regions import localize as localize
from litellm_systemd.bedrock.regions import profiles_outside_geography as profiles_outside_geography
from litellm_systemd.gateway.choice import ConfigChoice as ConfigChoice
from litellm_systemd.gateway.choice import ConfigOrigin as ConfigOrigin
from litellm_systemd.gateway.choice import resolve_name as resolve_name
from litellm_systemd.gateway.config_types import REFERENCE, Fallback, KeyPath, Place, config_error, find_place
from litellm_systemd.gateway.config_types import ConfigError as ConfigError
from litellm_systemd.gateway.config_types import GatewayConfig as GatewayConfig
from litellm_systemd.gateway.config_types import LintFinding as LintFinding
from litellm_systemd.gateway.config_types import Model as Model
from litellm_systemd.gateway.config_types import Severity as Severity
from litellm_systemd.gateway.lint import lint as lint
from litellm_systemd.gateway.model_map import read_model_map
from litellm_systemd.gateway.yaml_source import Document, Lookup, parse_document, read_document

#: Each maps a model to the models that are called if it fails (litellm/router.py).
FALLBACK_KINDS = ("fallbacks", "context_window_fallbacks", "content_policy_fallbacks")

_EXAMPLE = "An entry looks like this: {model_name: NAME, litellm_params: {model: bedrock/ID}}"


def read_config(path: Path, lookup: Lookup = lambda _path: None) -> GatewayConfig:
    """The configuration in a file, merged with the files that it includes.

    `lookup` returns texts that replace files, as for `read_document`.

    Raises ConfigError (bad YAML, no models, a model without a name or without something to call), MissingError (no
    such file) and PermissionDenied (not readable).
    """
    return _build(read_document(path, lookup))


def parse_config(text: str, source: str) -> GatewayConfig:
    """The configuration in `text`; `source` names it in messages. ConfigError as for `read_config`."""
    return _build(parse_document(text, source))


def check(config: GatewayConfig, environ: Mapping[str, str]) -> None:
    """Raise ConfigError for the first error that `lint` finds; warnings pass. `environ` is the service's own."""
    findings = lint(config, environ)
    # The service's main process checks too, and is forked: it has no use for the megabytes of the map afterwards.
    read_model_map.cache_clear()
    for finding in findings:
        if finding.severity is Severity.ERROR:
            raise ConfigError(finding)


def _build(document: Document) -> GatewayConfig:
    return GatewayConfig(
        source=document.source,
        models=_models(document),
        aliases=tuple(_aliases(document.data, hidden=False)),
        hidden_aliases=tuple(_aliases(document.data, hidden=True)),
        fallbacks=tuple(_fallbacks(document)),
        references=tuple(_references(document.data, ())),
        digest=document.digest,
        includes=document.includes,
        document=document.data,
        marks=document.marks,
        replaced=document.replaced,
    )


def _wrong(document: Document, code: str, path: KeyPath, what: str, remedy: str) -> ConfigError:
    return config_error(code, find_place(document.source, document.marks, path), what, remedy)


def _models(document: Document) -> tuple[Model, ...]:
    if "model_list" not in document.data:
        close = difflib.get_close_matches("model_list", [str(key) for key in document.data], n=1)
        if close:
            what = "is not a setting: did you mean model_list?"
            raise _wrong(document, "misspelt-setting", (close[0],), what, "Write it as model_list.")
        place = Place(document.source)
        raise config_error("no-models", place, "there is no model_list: it would serve nothing", _EXAMPLE)
    entries = document.data["model_list"]
    if not isinstance(entries, list):
        remedy = f"Start each model with a dash. {_EXAMPLE}"
        raise _wrong(document, "bad-model", ("model_list",), "is not a list", remedy)
    if not entries:
        raise _wrong(document, "no-models", ("model_list",), "is empty: it would serve nothing", _EXAMPLE)
    models: list[Model] = []
    findings: list[LintFinding] = []
    for index, entry in enumerate(entries):
        try:
            models.append(_model(document, entry, ("model_list", index)))
        except ConfigError as error:
            findings += error.findings
    if findings:
        raise ConfigError(*findings)
    return tuple(models)


def _model(document: Document, entry: object, path: KeyPath) -> Model:
    if not isinstance(entry, Mapping):
        raise _wrong(document, "bad-model", path, "is not a mapping", _EXAMPLE)
    name = entry.get("model_name")
    _require_spelling(document, entry, path, ("model_name", "litellm_params"))
    if not isinstance(name, str) or not name:
        raise _wrong(document, "bad-model", path, "has no model_name, or one that isn't text", _EXAMPLE)
    params = entry.get("litellm_params")
    if not isinstance(params, Mapping):
        raise _wrong(document, "bad-model", path, f"({name}) has no litellm_params", _EXAMPLE)
    _require_spelling(document, params, (*path, "litellm_params"), ("model",))
    model = params.get("model")
    if not isinstance(model, str) or not model:
        what = f"({name}) has no model, or one that isn't text"
        raise _wrong(document, "bad-model", (*path, "litellm_params"), what, _EXAMPLE)
    region = params.get("aws_region_name")
    return Model(
        name=name,
        provider_model=model,
        mocked=bool(params.get("mock_response")),
        region=region if isinstance(region, str) and region else None,
        key=path,
    )


def _require_spelling(document: Document, found: Mapping[str, Any], path: KeyPath, names: tuple[str, ...]) -> None:
    """Raise ConfigError if a name is missing and another key is a misspelling of it."""
    for name in names:
        close = difflib.get_close_matches(name, [str(key) for key in found], n=1, cutoff=0.8)
        if name not in found and close:
            what = f"is not a key of a model: did you mean {name}?"
            raise _wrong(document, "bad-model", (*path, close[0]), what, f"Write it as {name}.")


def _aliases(data: Mapping[str, Any], *, hidden: bool) -> Iterator[tuple[str, str]]:
    # A name, or {model: NAME, hidden: true} (RouterModelGroupAliasItem in litellm/types/router.py).
    settings = data.get("router_settings")
    aliases = settings.get("model_group_alias") if isinstance(settings, Mapping) else None
    for name, value in (aliases if isinstance(aliases, Mapping) else {}).items():
        item = value if isinstance(value, Mapping) else {"model": value}
        if bool(item.get("hidden")) is hidden and isinstance(item.get("model"), str):
            yield str(name), item["model"]


def _fallbacks(document: Document) -> Iterator[Fallback]:
    for section in ("router_settings", "litellm_settings"):
        settings = document.data.get(section)
        if isinstance(settings, Mapping):
            for kind in FALLBACK_KINDS:
                yield from _fallbacks_of(document, settings.get(kind), (section, kind))
            yield from _default_fallbacks(document, settings.get("default_fallbacks"), (section, "default_fallbacks"))


def _default_fallbacks(document: Document, value: object, path: KeyPath) -> Iterator[Fallback]:
    if isinstance(value, list):
        yield Fallback("default_fallbacks", "*", tuple(str(name) for name in value), path)
    elif value is not None:
        remedy = "Write it as a list: default_fallbacks: [claude-haiku]"
        raise _wrong(document, "bad-fallback", path, "is not a list of model names", remedy)


def _fallbacks_of(document: Document, value: object, path: KeyPath) -> Iterator[Fallback]:
    remedy = "Write one model a line: - claude-sonnet: [claude-haiku]"
    if value is None:
        return
    if not isinstance(value, list):
        raise _wrong(document, "bad-fallback", path, "is not a list", remedy)
    for index, entry in enumerate(value):
        if not isinstance(entry, Mapping) or len(entry) != 1:
            raise _wrong(document, "bad-fallback", (*path, index), "is not one model with its list", remedy)
        for model, targets in entry.items():
            key = (*path, index, str(model))
            if not isinstance(targets, list):
                raise _wrong(document, "bad-fallback", key, "is not a list of model names", remedy)
            # A target may be a mapping {model: NAME, …} with parameters of its own (litellm/router_utils).
            names = (target.get("model") if isinstance(target, Mapping) else target for target in targets)
            yield Fallback(str(path[-1]), str(model), tuple(str(name) for name in names), key)


def _references(value: object, path: KeyPath) -> Iterator[tuple[KeyPath, str]]:
    if isinstance(value, str) and value.startswith(REFERENCE):
        yield path, value.removeprefix(REFERENCE)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _references(item, (*path, str(key)))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _references(item, (*path, index))
