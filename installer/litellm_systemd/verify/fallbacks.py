"""Does the model that is named as a fallback really answer? One check for each link of each chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.fallback_links import Link, build_failing, build_links
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import CheckResult, FailureScope, build_question, failed
from litellm_systemd.verify.api import EMBEDDINGS, check_embedding_answer
from litellm_systemd.verify.checks import PROMPT, check_chat_answer
from litellm_systemd.verify.steps import CHAT_PATHS, ModelInfo, Step

_OTHER_HINT = "Look at what the named model does by itself: 'litellmctl verify --model NAME'."
_NONE_HINT = "LiteLLM passed the chain over: look at the names in it."


def fallback_steps(gateway: Gateway, config: GatewayConfig, known: Mapping[str, ModelInfo]) -> Iterator[Step]:
    """A check for each link. `gateway` has to allow mock_testing_* parameters."""
    aliases = dict((*config.aliases, *config.hidden_aliases))
    for link in build_links(config):
        if link.obstacle:
            yield Step(link.name, partial(CheckResult, Outcome.SKIPPED, link.obstacle))
            continue
        mode = known.get(aliases.get(link.asked, link.asked), ModelInfo()).mode
        check = partial(check_link, gateway, link, aliases, embeds=mode == "embedding")
        yield Step(link.name, check, bills=link.target not in config.mocked_names)


def check_link(gateway: Gateway, link: Link, aliases: Mapping[str, str], *, embeds: bool = False) -> CheckResult:
    """The link's target answers in place of the model that was asked, as LiteLLM's headers have it.

    Finding.data: kind, model, target, position, answered, attempted_fallbacks, and the tokens.
    """
    question = {"model": link.asked, "input": "pong"} if embeds else build_question(link.asked, PROMPT)
    answer = gateway.post(EMBEDDINGS if embeds else CHAT_PATHS[1], {**question, **build_failing(link)})
    if not answer.ok:
        return _alone(failed(gateway, answer), {})
    answered = answer.headers.get("x-litellm-model-group", "")
    attempts = answer.headers.get("x-litellm-attempted-fallbacks", "0")
    said = check_embedding_answer(gateway, answer) if embeds else check_chat_answer(gateway, answer)
    data = {
        "kind": link.kind,
        "model": link.model,
        "target": link.target,
        "position": link.position,
        "answered": gateway.line(answered, 80),
        "attempted_fallbacks": int(attempts) if attempts.isdigit() else 0,
        **said.data,
    }
    if said.outcome is Outcome.FAILED:
        return _alone(said, data)
    if data["attempted_fallbacks"] == 0:
        detail = f"no fallback was asked: {link.asked} itself answered"
        return CheckResult(Outcome.FAILED, detail, _NONE_HINT, FailureScope.NOTHING, data)
    if aliases.get(answered, answered) != aliases.get(link.target, link.target):
        detail = f"{data['answered'] or 'another model'} answered, and not {link.target}"
        return CheckResult(Outcome.FAILED, detail, _OTHER_HINT, FailureScope.NOTHING, data)
    return CheckResult(Outcome.OK, f"{link.target} answered for {link.asked}", data=data)


def _alone(found: CheckResult, data: Mapping[str, object]) -> CheckResult:
    """The same, for a check on which no other one rests."""
    return CheckResult(found.outcome, found.detail, found.hint, FailureScope.NOTHING, data)
