"""What a configuration serves: each model with its id on Bedrock, its region, and what is known of it. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date

from litellm_systemd.bedrock.ids import BedrockId, parse_bedrock_id
from litellm_systemd.gateway.config_types import GatewayConfig, LintFinding, Model, resolve_reference
from litellm_systemd.gateway.lint_models import called_region, with_own_variables
from litellm_systemd.gateway.model_map import Lifecycle, MapEntry, find_entry

#: Days before a model's end from which on a user is warned.
WARNING_DAYS = 90


@dataclass(frozen=True, slots=True)
class Served:
    """One entry of `model_list`.

    `found` is its id on Bedrock, None for another provider's model. `region` is where it is called, None if nothing
    says where. `entry` is what LiteLLM's map has of it, None if nothing, and `life` too until Bedrock was asked.
    """

    model: Model
    found: BedrockId | None = None
    region: str | None = None
    entry: MapEntry | None = None
    life: Lifecycle = field(default_factory=Lifecycle)

    @property
    def is_called(self) -> bool:
        """Whether Bedrock's runtime is called for it: not for a mocked one, nor for another provider's."""
        return self.found is not None and not self.model.mocked


def build_served(config: GatewayConfig, environ: Mapping[str, str]) -> tuple[Served, ...]:
    """The entries of `model_list` in their order; `environ` is the service's own environment."""
    environ = with_own_variables(config, environ)
    return tuple(_served(config, model, environ) for model in config.models)


def _served(config: GatewayConfig, model: Model, environ: Mapping[str, str]) -> Served:
    called = resolve_reference(model.provider_model, environ) or ""
    found = parse_bedrock_id(called, resolve_reference(config.params(model).get("model_id"), environ))
    if found is None:
        return Served(model)
    region = called_region(config, model, environ)
    entry = find_entry(found, region)
    return Served(model, found, region, entry, Lifecycle(None, entry.ends if entry is not None else None))


def end_findings(
    config: GatewayConfig, served: tuple[Served, ...], today: date, *, known: frozenset[str] = frozenset()
) -> Iterator[LintFinding]:
    """Models that Bedrock has ended, as errors, and those that end within `WARNING_DAYS`, as warnings.

    `known` are models, by their ids on Bedrock, whose end is no news, and so a warning at most.
    """
    for each in served:
        ends = each.life.ends
        if not each.is_called or each.found is None or ends is None or (ends - today).days > WARNING_DAYS:
            continue
        path = (*each.model.key, "litellm_params", "model")
        model = each.found.model or each.found.text
        remedy = f"Have {each.model.name} call another model."
        if ends > today:
            yield config.warning("model-ends", path, f"calls {model}, which Bedrock ends on {ends}", remedy)
        else:
            tell = config.warning if model in known else config.error
            yield tell("model-ended", path, f"calls {model}, which Bedrock ended on {ends}", remedy)
