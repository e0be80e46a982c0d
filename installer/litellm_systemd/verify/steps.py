"""The steps of `verify` and their order, from what the caller requests and what the gateway lists.

The fallbacks come last: one check for each link of each fallback chain.

LiteLLM has parameters that make the requested model fail before any provider is called (mock_testing_* in
litellm/router.py). The first link of a chain is tested with the chain as configured. For a later link, the targets
before it must fail too: the request then contains the same chain, with the parameter at each target before the one
that should respond (client-side fallbacks, litellm/router_utils/fallback_event_handlers.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from litellm_systemd.client.gateway import Gateway, GatewayError
from litellm_systemd.contract import REFUSED_KEY
from litellm_systemd.gateway.config_types import Fallback, GatewayConfig, is_mocked
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import CheckResult, FailureScope, build_question, failed_result
from litellm_systemd.verify.checks import (
    CHAT,
    EMBEDDINGS,
    MESSAGES,
    PROMPT,
    RESPONSES,
    check_chat,
    check_chat_answer,
    check_chat_stream,
    check_embedding_answer,
    check_embeddings,
    check_liveliness,
    check_messages,
    check_messages_stream,
    check_metrics,
    check_models,
    check_readiness,
    check_refusal,
    check_responses,
    check_responses_stream,
    check_tools,
)
from litellm_systemd.verify.costly_checks import Prices, check_caching, check_concurrency, check_long_prompt
from litellm_systemd.verify.virtual_keys import TrialKey

#: Lists models with their modes, without a charge; /v1/models lists names only.
MODEL_INFO = "/v1/model/info"
CHAT_PATHS = ("/chat/completions", CHAT)
#: LiteLLM's `mode` of models that answer chats; None where it doesn't know the model.
_CHAT_MODES = (None, "", "chat", "completion", "responses")
#: Default number of simultaneous requests.
CONCURRENCY = 8

_NO_CACHE = "the model answers without a provider, so no prompt is cached"

#: For each setting: its name for people, and the parameter that simulates the matching failure.
KINDS: Mapping[str, tuple[str, str]] = {
    "fallbacks": ("fallback", "mock_testing_fallbacks"),
    "default_fallbacks": ("default fallback", "mock_testing_fallbacks"),
    "context_window_fallbacks": ("context window fallback", "mock_testing_context_fallbacks"),
    "content_policy_fallbacks": ("content policy fallback", "mock_testing_content_policy_fallbacks"),
}

_OTHER_HINT = "Check the named model alone: sudo litellmctl verify --model NAME"
_NONE_HINT = "LiteLLM did not use the fallback chain: check the names in it."


@dataclass(frozen=True, slots=True)
class Scope:
    """What to check.

    `expected`: the names that the configuration gives, primary first; None if it isn't known. `models`: chat
    with these; if empty, the primary, or with `all_models` each that is expected, else each that is listed.
    `spend`: without it, no request reaches a model. `full`: also checks that cost more than one word, and each of the
    models at every API. `concurrency`: the number of simultaneous requests; 0 for none, or CONCURRENCY with `full`.
    `caching`: also send each of the models a long prompt at least twice, see `verify.costly_checks`.
    `mocked`: names that answer without a provider, so without a charge. `metrics`: where the metrics are, None to
    leave them out.
    """

    expected: tuple[str, ...] | None = None
    models: tuple[str, ...] = ()
    all_models: bool = False
    spend: bool = True
    full: bool = False
    concurrency: int = 0
    caching: bool = False
    mocked: frozenset[str] = frozenset()
    metrics: Gateway | None = None


@dataclass(frozen=True, slots=True)
class Step:
    """A check, the name of the step that it depends on (`needs`), and whether it is billed."""

    name: str
    check: Callable[[], CheckResult]
    needs: str = ""
    bills: bool = False


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What LiteLLM knows of a model: its mode and prices (None if unknown), and whether it is mocked."""

    mode: str | None = None
    mocked: bool = False
    prices: Prices | None = None


def metrics_steps(metrics: Gateway | None) -> tuple[Step, ...]:
    """Return the step that scrapes the metrics, if there are any."""
    return () if metrics is None else (Step("metrics", partial(check_metrics, metrics)),)


def service_steps(gateway: Gateway, expected: tuple[str, ...] | None) -> tuple[Step, ...]:
    """Return the steps that call no model."""
    without, wrong = gateway.with_refused_key(""), gateway.with_refused_key(REFUSED_KEY)
    return (
        Step("liveliness", partial(check_liveliness, gateway)),
        Step("readiness", partial(check_readiness, gateway), "liveliness"),
        Step("models", partial(check_models, gateway, expected), "liveliness"),
        Step("refuses a missing key", partial(check_refusal, without, "without a key"), "liveliness"),
        Step("refuses a wrong key", partial(check_refusal, wrong, "with a wrong key"), "liveliness"),
    )


def model_steps(
    gateway: Gateway, scope: Scope, chosen: tuple[tuple[str, str], ...], known: dict[str, ModelInfo]
) -> Iterator[Step]:
    """Yield the steps that call models: those of `chosen`, each with what prevents the call, or an empty string."""
    mocked = scope.mocked | {name for name, one in known.items() if one.mocked}
    is_first = True
    for name, obstacle in chosen:
        if obstacle:
            yield Step(f"chat {name}".strip(), partial(CheckResult, Outcome.SKIPPED, obstacle), "models")
            continue
        yield from _chat_steps(gateway, name, bills=name not in mocked)
        if is_first or scope.full:
            yield from _api_steps(gateway, name, scope, mocked=name in mocked)
            yield from _load_steps(gateway, name, scope, mocked=name in mocked)
        if scope.caching:
            yield from _caching_steps(gateway, name, known.get(name, ModelInfo()).prices, mocked=name in mocked)
        is_first = False
    if scope.spend:
        yield from _embedding_steps(gateway, scope, known, mocked)


@contextmanager
def trial_key_steps(
    gateway: Gateway, scope: Scope, models: list[str], known: Mapping[str, ModelInfo]
) -> Iterator[tuple[tuple[Step, ...], tuple[Step, ...]]]:
    """Yield the steps with a virtual key for the first model, before and after the others, and remove the key.

    There are none without a model to call: a key without a request proves little.
    """
    if not models:
        yield (), ()
        return
    model = models[0]
    trial = TrialKey(gateway, model, next((name for name in known if name != model and "*" not in name), None))
    bills = model not in scope.mocked and not known.get(model, ModelInfo()).mocked
    try:
        yield (
            (
                Step("virtual key", trial.check_created, "models"),
                Step(chat := f"virtual key, chat {model}", trial.check_chat, "virtual key", bills),
                Step("virtual key, another model", trial.check_another_model, "virtual key"),
            ),
            # At the end: LiteLLM writes what was spent while the others run.
            (
                Step("virtual key, spend", trial.check_spend, chat),
                Step("virtual key, deleted", trial.check_deleted, "virtual key"),
            ),
        )
    finally:
        trial.remove()


def _chat_steps(gateway: Gateway, model: str, *, bills: bool) -> Iterator[Step]:
    """Yield four chats with one model: each path, plain and streamed.

    The last three depend on the first: LiteLLM does not use a model for a while after an error, and refuses them.
    """
    variants = (("", check_chat), (", streamed", check_chat_stream))
    table = [(f"chat {model}{variant} ({path})", check, path) for variant, check in variants for path in CHAT_PATHS]
    first = table[0][0]
    for name, check, path in table:
        yield Step(name, partial(check, gateway, model, path), "models" if name == first else first, bills)


def _api_steps(gateway: Gateway, model: str, scope: Scope, *, mocked: bool) -> Iterator[Step]:
    table: list[tuple[str, Callable[[Gateway, str], CheckResult]]] = [
        (f"tools {model}", check_tools),
        (f"messages {model} ({MESSAGES})", check_messages),
        (f"messages {model}, streamed ({MESSAGES})", partial(check_messages_stream, mocked=mocked)),
        (f"responses {model} ({RESPONSES})", check_responses),
    ]
    if scope.full:
        streamed = partial(check_responses_stream, mocked=mocked)
        table.append((f"responses {model}, streamed ({RESPONSES})", streamed))
    first = f"chat {model} ({CHAT_PATHS[0]})"
    for name, check in table:
        yield Step(name, partial(check, gateway, model), first, bills=not mocked)


def _load_steps(gateway: Gateway, model: str, scope: Scope, *, mocked: bool) -> Iterator[Step]:
    first, bills = f"chat {model} ({CHAT_PATHS[0]})", not mocked
    if scope.full:
        long_prompt = partial(check_long_prompt, gateway, model, mocked=mocked)
        yield Step(f"long prompt {model}", long_prompt, first, bills)
    if number := scope.concurrency or (CONCURRENCY if scope.full else 0):
        yield Step(f"{number} at once {model}", partial(check_concurrency, gateway, model, number), first, bills)


def _caching_steps(gateway: Gateway, model: str, prices: Prices | None, *, mocked: bool) -> Iterator[Step]:
    for path in (CHAT, MESSAGES, RESPONSES):
        check = partial(check_caching, gateway, model, path, prices)
        skip = partial(CheckResult, Outcome.SKIPPED, _NO_CACHE)
        yield Step(
            f"prompt caching {model} ({path})",
            skip if mocked else check,
            f"chat {model} ({CHAT_PATHS[0]})",
            not mocked,
        )


def _embedding_steps(
    gateway: Gateway, scope: Scope, known: dict[str, ModelInfo], mocked: frozenset[str]
) -> Iterator[Step]:
    """Yield a check of the first embedding model, or with `all_models` or `full` of each of them."""
    names = [name for name, one in known.items() if one.mode == "embedding"]
    for name in names if scope.all_models or scope.full else names[:1]:
        check = partial(check_embeddings, gateway, name)
        yield Step(f"embeddings {name} ({EMBEDDINGS})", check, "models", name not in mocked)


def choose_models(scope: Scope, listed: list[str], known: dict[str, ModelInfo]) -> tuple[tuple[str, str], ...]:
    """Return the models to chat with, each with what prevents a chat, or an empty string."""
    if scope.models:
        return tuple((name, "") for name in dict.fromkeys(scope.models))
    # LiteLLM lists aliases before models, so the first of the list may not be the primary.
    names = scope.expected or tuple(listed if scope.all_models else [*known, *listed])
    rows = tuple((name, _obstacle(name, known.get(name, ModelInfo()).mode)) for name in dict.fromkeys(names))
    if scope.all_models and rows:
        return rows
    return next(((row,) for row in rows if not row[1]), (("", "no chat model is known"),))


def _obstacle(name: str, mode: str | None) -> str:
    if "*" in name:
        return "a pattern for several models: name one with --model"
    return "" if mode in _CHAT_MODES else f"its mode is {mode}, not chat"


def read_known(gateway: Gateway) -> dict[str, ModelInfo]:
    """Return what LiteLLM knows of each model, in the order of the configuration; empty if the key may not see it."""
    try:
        rows = gateway.get(MODEL_INFO).json()["data"]
        return {
            one["model_name"]: ModelInfo(
                mode if isinstance(mode := one["model_info"].get("mode"), str) else None,
                is_mocked(one.get("litellm_params", {})),
                _read_prices(one["model_info"]),
            )
            for one in rows
            if isinstance(one["model_name"], str)
        }
    except (GatewayError, KeyError, TypeError, AttributeError):
        return {}


def _read_prices(info: Mapping[str, Any]) -> Prices | None:
    names = ("input_cost_per_token", "cache_creation_input_token_cost", "cache_read_input_token_cost")
    full, written, read = (price if isinstance(price := info.get(name), (int, float)) else 0 for name in names)
    return Prices(full, written, read) if full and written and read else None


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
    """Every link of every chain, in the order of the file.

    A hidden alias with the chain of its model is left out: it has the same links.
    """
    chains = {(each.kind, each.model, each.targets) for each in config.fallbacks}
    hidden = dict(config.hidden_aliases)
    tested = [each for each in config.fallbacks if (each.kind, hidden.get(each.model), each.targets) not in chains]
    return tuple(link for fallback in tested for link in _links(config, fallback))


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
