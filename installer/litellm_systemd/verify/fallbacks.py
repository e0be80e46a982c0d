"""Check that each fallback answers: one check for each link of each fallback chain."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.gateway.fallback_links import Link, build_failing, build_links
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import CheckResult, FailureScope, build_question, failed_result
from litellm_systemd.verify.api import EMBEDDINGS, check_embedding_answer
from litellm_systemd.verify.checks import PROMPT, check_chat_answer
from litellm_systemd.verify.steps import CHAT_PATHS, ModelInfo, Step

_OTHER_HINT = "Check the named model alone: litellmctl verify --model NAME"
_NONE_HINT = "LiteLLM did not use the fallback chain: check the names in it."


def fallback_steps(gateway: Gateway, config: GatewayConfig, known: Mapping[str, ModelInfo]) -> Iterator[Step]:
    """Yield a check for each link. `gateway` must allow mock_testing_* parameters."""
    aliases = dict((*config.aliases, *config.hidden_aliases))
    for link in build_links(config):
        if link.obstacle:
            yield Step(link.name, partial(CheckResult, Outcome.SKIPPED, link.obstacle))
            continue
        mode = known.get(aliases.get(link.asked, link.asked), ModelInfo()).mode
        check = partial(check_link, gateway, link, aliases, embeds=mode == "embedding")
        yield Step(link.name, check, bills=link.target not in config.mocked_names)


def check_link(gateway: Gateway, link: Link, aliases: Mapping[str, str], *, embeds: bool = False) -> CheckResult:
    """The target of the link answers in place of the requested model, according to LiteLLM's headers.

    CheckResult.data: kind, model, target, position, answered, attempted_fallbacks, and the tokens.
    """
    question = {"model": link.asked, "input": "pong"} if embeds else build_question(link.asked, PROMPT)
    answer = gateway.post(EMBEDDINGS if embeds else CHAT_PATHS[1], {**question, **build_failing(link)})
    if not answer.ok:
        return _independent(failed_result(gateway, answer), {})
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
        return _independent(said, data)
    if data["attempted_fallbacks"] == 0:
        detail = f"no fallback was called: {link.asked} itself answered"
        return CheckResult(Outcome.FAILED, detail, _NONE_HINT, FailureScope.NOTHING, data)
    if aliases.get(answered, answered) != aliases.get(link.target, link.target):
        detail = f"{data['answered'] or 'another model'} answered, and not {link.target}"
        return CheckResult(Outcome.FAILED, detail, _OTHER_HINT, FailureScope.NOTHING, data)
    return CheckResult(Outcome.OK, f"{link.target} answered for {link.asked}", data=data)


def _independent(found: CheckResult, data: Mapping[str, object]) -> CheckResult:
    """Return the result of a check that no other check depends on."""
    return CheckResult(found.outcome, found.detail, found.hint, FailureScope.NOTHING, data)
