"""How long the models of a configuration go on: Bedrock's own word, where it can be asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from litellm_systemd.aws.bedrock import BedrockCatalogue, ask_bedrock
from litellm_systemd.aws.credentials import callers
from litellm_systemd.bedrock.ids import IdKind, parse_bedrock_id
from litellm_systemd.gateway.config_types import GatewayConfig
from litellm_systemd.gateway.model_map import Lifecycle, find_entry
from litellm_systemd.gateway.served_models import ServedModel


def ask_lives(
    config: GatewayConfig, served: tuple[ServedModel, ...], environ: Mapping[str, str]
) -> tuple[tuple[ServedModel, ...], str | None]:
    """The models with what Bedrock says of them, and why it didn't, if so: those keep what the map has.

    Raises nothing.
    """
    told: dict[ServedModel, ServedModel] = {}
    refusals = []
    for caller in callers(config, served, environ):
        opaque = {each.found.text for each in caller.models if each.found is not None and _is_opaque(each)}
        profiles = (
            ask_bedrock(caller.environ, caller.region, profiles=tuple(sorted(opaque)))
            if opaque
            else BedrockCatalogue()
        )
        seen = {each: see_through(each, profiles) for each in caller.models}
        ids = {each.found.model for each in seen.values() if each.found is not None and each.found.model is not None}
        answers = ask_bedrock(caller.environ, caller.region, models=tuple(sorted(ids)))
        told |= {each: with_life(through, answers) for each, through in seen.items()}
        refusals += [refusal for refusal in (profiles.refusal, answers.refusal) if refusal is not None]
    return tuple(told.get(each, each) for each in served), next(iter(refusals), None)


def _is_opaque(served: ServedModel) -> bool:
    return served.found is not None and served.found.kind is IdKind.APPLICATION_PROFILE and served.found.model is None


def see_through(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """An application inference profile with the model that Bedrock has behind it; any other model as it is."""
    found = served.found
    arns = answers.profiles.get(found.text, ()) if found is not None else ()
    behind = parse_bedrock_id(f"bedrock/{arns[0]}") if arns else None
    if found is None or behind is None:
        return served
    found = replace(found, model=behind.model)
    entry = find_entry(found, served.region)
    return replace(served, found=found, entry=entry, life=Lifecycle(None, entry.ends if entry is not None else None))


def with_life(served: ServedModel, answers: BedrockCatalogue) -> ServedModel:
    """A model with the lifecycle that Bedrock tells; what Bedrock doesn't know keeps the end that the map has."""
    model = served.found.model if served.found is not None else None
    if model in answers.unknown:
        return replace(served, life=replace(served.life, status="unknown to Bedrock"))
    return replace(served, life=answers.lives.get(model or "", served.life))
