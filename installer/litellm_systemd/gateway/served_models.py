"""The models that a configuration serves, each with its Bedrock id, region, limits and lifecycle. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from litellm_systemd.bedrock.ids import BedrockId, parse_bedrock_id
from litellm_systemd.gateway.config_types import GatewayConfig, LintFinding, Model, resolve_reference
from litellm_systemd.gateway.lint_models import called_region, with_own_variables
from litellm_systemd.gateway.model_map import Lifecycle, MapEntry, find_entry

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
    return tuple(_served(config, model, environ) for model in config.models)


def _served(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> ServedModel:
    called = resolve_reference(model.provider_model, environ) or ""
    found = parse_bedrock_id(called, resolve_reference(config.params(model).get("model_id"), environ))
    if found is None:
        return ServedModel(model)
    region = called_region(config, model, environ)
    entry = find_entry(found, region)
    return ServedModel(model, found, region, entry, Lifecycle(None, entry.ends if entry is not None else None))


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
