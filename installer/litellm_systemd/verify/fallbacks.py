"""Check that each fallback answers: one check for each link of each fallback chain.

LiteLLM has parameters that make the requested model fail before any provider is called (mock_testing_* in
litellm/router.py). The first link of a chain is tested with the chain as configured. For a later link, the targets
before it must fail too: the request then contains the same chain, with the parameter at each target before the one
that should respond (client-side fallbacks, litellm/router_utils/fallback_event_handlers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from litellm_systemd.client.gateway import Gateway
from litellm_systemd.gateway.config_types import Fallback, GatewayConfig
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import CheckResult, FailureScope, build_question, failed_result
from litellm_systemd.verify.api import EMBEDDINGS, check_embedding_answer
from litellm_systemd.verify.checks import PROMPT, check_chat_answer
from litellm_systemd.verify.steps import CHAT_PATHS, ModelInfo, Step

#: For each setting: its name for people, and the parameter that simulates the matching failure.
KINDS: Mapping[str, tuple[str, str]] = {
    "fallbacks": ("fallback", "mock_testing_fallbacks"),
    "default_fallbacks": ("default fallback", "mock_testing_fallbacks"),
    "context_window_fallbacks": ("context window fallback", "mock_testing_context_fallbacks"),
    "content_policy_fallbacks": ("content policy fallback", "mock_testing_content_policy_fallbacks"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: after `model` and the earlier targets failed, LiteLLM calls target `position` (from 1).

    `asked` is the name to request: `model`, or for `*` a model without a chain of its own. `obstacle` says why the
    link cannot be tested; empty if it can.
    """

    kind: str
    model: str
    asked: str
    targets: tuple[str, ...]
    position: int
    obstacle: str = ""

    @property
    def target(self) -> str:
        """The model that should respond."""
        return self.targets[self.position - 1]

    @property
    def name(self) -> str:
        """The name of the link in a report."""
        return f"{KINDS[self.kind][0]} {self.position} of {self.model}: {self.target}"


def build_links(config: GatewayConfig) -> tuple[Link, ...]:
    """Every link of every chain, in the order of the file."""
    return tuple(link for fallback in config.fallbacks for link in _links(config, fallback))


def _links(config: GatewayConfig, fallback: Fallback) -> Iterator[Link]:
    asked = _asked(config, fallback)
    for position, target in enumerate(fallback.targets, 1):
        obstacle = ""
        if not asked:
            obstacle = "every model has its own chain or is a target of this one"
        elif "*" in asked or "*" in target:
            obstacle = "the name is a pattern for several models"
        elif target == asked:
            obstacle = "LiteLLM skips the target because it is the model that failed"
        elif target in fallback.targets[: position - 1]:
            obstacle = "LiteLLM calls no model twice for one request"
        yield Link(fallback.kind, fallback.model, asked, fallback.targets, position, obstacle)


def _asked(config: GatewayConfig, fallback: Fallback) -> str:
    """The model to request; for the chain `*` the first model without its own chain, empty if there is none."""
    if fallback.model != "*":
        return fallback.model
    general = ("fallbacks", "default_fallbacks")
    kinds = general if fallback.kind in general else (fallback.kind,)
    own = {each.model for each in config.fallbacks if each.kind in kinds}
    return next((name for name in config.names if name not in {*own, *fallback.targets} and "*" not in name), "")


def build_failing(link: Link) -> dict[str, Any]:
    """The parameters to add to a request to `link.asked` so that `link.target` must respond."""
    parameter = KINDS[link.kind][1]
    if link.position == 1:
        return {parameter: True}
    # The parameters of a target also apply to later ones, hence the False (run_async_fallback).
    before = [{"model": name, parameter: True} for name in link.targets[: link.position - 1]]
    chain = [*before, {"model": link.target, parameter: False}]
    setting = "fallbacks" if link.kind == "default_fallbacks" else link.kind
    return {parameter: True, setting: [{link.asked: chain}]}


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
