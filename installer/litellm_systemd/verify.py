"""Prove that a gateway does what its clients need, one check after the other.

/health is never asked: it calls, and bills, every model. A chat asks for one word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

from litellm_systemd.client import Gateway
from litellm_systemd.client_errors import GatewayError
from litellm_systemd.readiness import NotReady, wait_ready
from litellm_systemd.report import Check, Outcome, Report
from litellm_systemd.verify_caching import check_caching
from litellm_systemd.verify_checks import (
    Finding,
    Stops,
    check_chat,
    check_chat_stream,
    check_liveliness,
    check_models,
    check_readiness,
    check_refusal,
)

#: Names with their modes; free of charge. Names only at /v1/models.
MODEL_INFO = "/v1/model/info"
CHAT_PATHS = ("/chat/completions", "/v1/chat/completions")
#: Fits no installation: keys that `init` generates are longer, and nobody types this one.
WRONG_KEY = "sk-this-key-is-wrong-on-purpose"
#: Facts of one check each: their names in its data, and in the report's.
_BY_CHECK = {"first_token": "first_token_seconds", "caching": "prompt_caching"}
#: LiteLLM's `mode` of models that a chat request reaches; None where it doesn't know the model.
_CHAT_MODES = (None, "", "chat", "completion", "responses")


@dataclass(frozen=True, slots=True)
class Step:
    """A line of the table: a check, and the name of the one without which it means nothing."""

    name: str
    check: Callable[[], Finding]
    needs: str = ""


def verify(
    gateway: Gateway,
    *,
    expected: tuple[str, ...] = (),
    models: tuple[str, ...] = (),
    all_models: bool = False,
    spend: bool = True,
    caching: bool = False,
    wait: float = 0.0,
    proven: Report | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Check `gateway` with its `api_key` and report; nothing that a gateway does raises.

    `expected`: the names that the configuration gives, primary first; empty if it isn't known. `models`: chat
    with these; if empty, the primary, or with `all_models` each that is expected, else each that is listed.
    `spend`: without it, nothing is asked that reaches a model. `caching`: each of the models is also sent a long
    prompt at least twice, see `verify_caching`. `wait`: seconds to wait for readiness first. `proven`: what this
    function has just found with `spend=False`; it isn't asked again.
    Report.data: base_url, models (as listed), chat_models (names),
    litellm_version (None if not told), first_token_seconds (by the name of the check), and with `caching`
    prompt_caching (the tokens of each request, by the name of the check).
    """
    notes = (_wait(gateway, wait),) if wait > 0 else ()
    run = _Run(clock)
    if proven is None:
        run.through(_service_steps(gateway, expected))
    else:
        run.take_over(proven)
    chosen = _choice(gateway, expected, models, run.data["models"], all_models) if spend else ()
    run.data["chat_models"] = [name for name, obstacle in chosen if not obstacle]
    run.through(step for name, obstacle in chosen for step in _chat_steps(gateway, name, obstacle, caching))
    return Report(
        title=_title(gateway.base_url, run.checks),
        checks=tuple(run.checks),
        notes=notes,
        data={"base_url": gateway.base_url, **run.data},
    )


class _Run:
    """Goes through steps in order; what an earlier failure made meaningless is skipped, with that reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.checks: list[Check] = []
        self.data: dict[str, Any] = {"models": [], "litellm_version": None, "first_token_seconds": {}}
        self._because: dict[str, str] = {}
        self._over = ""

    def take_over(self, sound: Report) -> None:
        """Begin with the checks of a report in which none failed."""
        self.checks += sound.checks
        self.data.update(sound.data)

    def through(self, steps: Iterable[Step]) -> None:
        for step in steps:
            culprit = self._over or self._because.get(step.needs, "")
            if culprit:
                self._because[step.name] = culprit
                detail = f"not checked, because “{culprit}” failed"
                self.checks.append(Check(step.name, Outcome.SKIPPED, detail))
            else:
                self._make(step)

    def _make(self, step: Step) -> None:
        started = self.clock()
        try:
            found = step.check()
        except GatewayError as error:
            stops = Stops.EVERYTHING if error.trouble.lasting else Stops.DEPENDENTS
            found = Finding(Outcome.FAILED, error.message, error.hint, stops)
        seconds = None if found.outcome is Outcome.SKIPPED else self.clock() - started
        self.checks.append(Check(step.name, found.outcome, found.detail, found.hint, seconds))
        facts = dict(found.data)
        for name, by_check in _BY_CHECK.items():
            if name in facts:
                self.data.setdefault(by_check, {})[step.name] = facts.pop(name)
        self.data.update(facts)
        if found.outcome is Outcome.FAILED and found.stops is not Stops.NOTHING:
            self._because[step.name] = step.name
            if found.stops is Stops.EVERYTHING:
                self._over = step.name


def _service_steps(gateway: Gateway, expected: tuple[str, ...]) -> tuple[Step, ...]:
    without, wrong = gateway.with_key(""), gateway.with_key(WRONG_KEY)
    return (
        Step("liveliness", partial(check_liveliness, gateway)),
        Step("readiness", partial(check_readiness, gateway), "liveliness"),
        Step("models", partial(check_models, gateway, expected), "liveliness"),
        Step("refuses a missing key", partial(check_refusal, without, "without a key"), "liveliness"),
        Step("refuses a wrong key", partial(check_refusal, wrong, "with a wrong key"), "liveliness"),
    )


def _chat_steps(gateway: Gateway, model: str, obstacle: str, caching: bool) -> tuple[Step, ...]:
    """Four ways to ask one model, and its cache if wanted, or the one line that says why it isn't asked.

    All but the first wait on the first: LiteLLM rests a model that failed, and would answer them with that.
    """
    if obstacle:
        return (Step(f"chat {model}".strip(), partial(Finding, Outcome.SKIPPED, obstacle), "models"),)
    ways = (("", check_chat), (", streamed", check_chat_stream))
    table = [(f"chat {model}{way} ({path})", check, path) for way, check in ways for path in CHAT_PATHS]
    first = table[0][0]
    chats = tuple(
        Step(name, partial(check, gateway, model, path), "models" if name == first else first)
        for name, check, path in table
    )
    cache = (Step(f"prompt caching {model}", partial(check_caching, gateway, model), first),) if caching else ()
    return (*chats, *cache)


def _choice(
    gateway: Gateway,
    expected: tuple[str, ...],
    models: tuple[str, ...],
    listed: list[str],
    all_models: bool,
) -> tuple[tuple[str, str], ...]:
    """The models to chat with, each with what keeps it from being asked, an empty string for nothing."""
    if models:
        return tuple((name, "") for name in dict.fromkeys(models))
    modes = _modes(gateway) if listed else {}
    # LiteLLM lists aliases before models, so that the first of the list needn't be the primary.
    known = expected or tuple(listed if all_models else [*modes, *listed])
    rows = tuple((name, _obstacle(name, modes.get(name))) for name in dict.fromkeys(known))
    if all_models and rows:
        return rows
    return next(((row,) for row in rows if not row[1]), (("", "no chat model is known"),))


def _obstacle(name: str, mode: str | None) -> str:
    if "*" in name:
        return "a pattern that stands for many models: name one with --model"
    return "" if mode in _CHAT_MODES else f"its mode is {mode}, not chat"


def _modes(gateway: Gateway) -> dict[str, str | None]:
    """LiteLLM's mode by name, in the order of the configuration; empty if the key may not ask."""
    try:
        body = gateway.get(MODEL_INFO).json()
        return {one["model_name"]: one["model_info"].get("mode") for one in body["data"]}
    except (GatewayError, KeyError, TypeError, AttributeError):
        return {}


def _wait(gateway: Gateway, seconds: float) -> str:
    try:
        return f"ready after {wait_ready(gateway, seconds).seconds:.1f} s"
    except NotReady as error:
        return error.message


def _title(base_url: str, checks: list[Check]) -> str:
    def count(outcome: Outcome) -> int:
        return sum(check.outcome is outcome for check in checks)

    failed, skipped, warned = count(Outcome.FAILED), count(Outcome.SKIPPED), count(Outcome.WARNING)
    rest = f", {skipped} skipped" if skipped else ""
    if failed:
        return f"{base_url} is not sound: {failed} of {len(checks)} checks failed{rest}"
    warning = f", {warned} with a warning" if warned else ""
    return f"verified {base_url}: {len(checks) - skipped} checks passed{warning}{rest}"
