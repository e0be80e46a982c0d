"""Verify that a gateway does what its clients need, one check after the other.

No check requests /health, which calls, and bills, every model. Most checks request one word.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

from litellm_systemd.client.gateway import Gateway, GatewayError, NotReady, wait_ready
from litellm_systemd.gateway.config import GatewayConfig
from litellm_systemd.report.report import Check, Outcome, Report, render_count
from litellm_systemd.verify.answers import CheckResult, FailureScope
from litellm_systemd.verify.steps import Scope as Scope
from litellm_systemd.verify.steps import (
    Step,
    choose_models,
    fallback_steps,
    metrics_steps,
    model_steps,
    read_known,
    service_steps,
    trial_key_steps,
)

#: Measurements that the report lists by check: the name in the data of a check, and in the data of the report.
_BY_CHECK = {"first_token_seconds": "first_token_seconds", "caching": "prompt_caching"}


def verify(
    gateway: Gateway,
    scope: Scope | None = None,
    *,
    wait: float = 0.0,
    proven: Report | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Report:
    """Check `gateway` with its `api_key` and report. No answer of a gateway raises an error.

    `wait`: seconds to wait for readiness first. `proven`: a report of this function with `spend=False`, whose checks
    are not repeated.
    Report.data: base_url, models (as listed), chat_models (names), litellm_version (None if unknown), database (as
    readiness reports it, in lower case; missing if it does not),
    first_token_seconds and prompt_caching (by the name of the check), billed (checks, input_tokens, output_tokens).
    Check.data: measurements such as first_token_seconds, tokens_per_second, input_tokens, output_tokens.
    """
    scope = scope or Scope()
    notes = (_wait(gateway, wait),) if wait > 0 else ()
    run = _Run(clock)
    if proven is None:
        run.run_steps(service_steps(gateway, scope.expected))
    else:
        run.start_from(proven)
    known = read_known(gateway) if scope.spend and run.data["models"] else {}
    chosen = choose_models(scope, run.data["models"], known) if scope.spend else ()
    run.data["chat_models"] = [name for name, obstacle in chosen if not obstacle]
    run.run_steps(metrics_steps(scope.metrics))
    # Without a database there are no virtual keys.
    with_keys = run.data["chat_models"] if run.data.get("database") == "connected" else []
    with trial_key_steps(gateway, scope, with_keys, known) as (first, last):
        run.run_steps((*first, *model_steps(gateway, scope, chosen, known), *last))
    run.data["billed"] = billed = _billed(run.checks)
    return Report(
        title=_title(gateway.base_url, run.checks),
        checks=tuple(run.checks),
        notes=(*notes, *_billed_notes(billed)),
        data={"base_url": gateway.base_url, **run.data},
    )


def verify_fallbacks(gateway: Gateway, config: GatewayConfig) -> Report:
    """Check every link of the configuration's fallback chains on a gateway that allows mock testing.

    Report.data: links (the number of those that were tried), billed. Check.data: see `check_link`.
    """
    run = _Run(time.monotonic)
    run.run_steps(fallback_steps(gateway, config, read_known(gateway)))
    billed = _billed(run.checks)
    return Report(
        title=_fallbacks_title(config.source, run.checks),
        checks=tuple(run.checks),
        notes=_billed_notes(billed),
        data={"links": sum(check.seconds is not None for check in run.checks), "billed": billed},
    )


def _fallbacks_title(source: str, checks: list[Check]) -> str:
    failed = sum(check.outcome is Outcome.FAILED for check in checks)
    tried = sum(check.seconds is not None for check in checks)
    rest = f", {len(checks) - tried} can't be tried" if tried < len(checks) else ""
    if not checks:
        return f"{source} has no fallbacks"
    if not tried:
        return f"no fallback of {source} can be tried"
    if failed:
        return f"fallbacks of {source}: {failed} of {tried} failed{rest}"
    return (
        f"fallbacks of {source}: all {tried} answer{rest}" if tried > 1 else f"the fallback of {source} answers{rest}"
    )


class _Run:
    """Runs steps in order, and skips those that depend on a failed one, with the reason."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.checks: list[Check] = []
        self.data: dict[str, Any] = {"models": [], "litellm_version": None, "first_token_seconds": {}}
        self._because: dict[str, str] = {}
        self._over = ""

    def start_from(self, report: Report) -> None:
        """Start with the checks of a report in which none failed."""
        self.checks += report.checks
        self.data.update(report.data)

    def run_steps(self, steps: Iterable[Step]) -> None:
        for step in steps:
            failed = self._over or self._because.get(step.needs, "")
            if failed:
                self._because[step.name] = failed
                detail = f"not checked, because “{failed}” failed"
                self.checks.append(Check(step.name, Outcome.SKIPPED, detail))
            else:
                self._run_step(step)

    def _run_step(self, step: Step) -> None:
        started = self.clock()
        try:
            found = step.check()
        except GatewayError as error:
            stops = FailureScope.EVERYTHING if error.kind.is_permanent else FailureScope.DEPENDENTS
            found = CheckResult(Outcome.FAILED, error.message, error.hint, stops)
        seconds = None if found.outcome is Outcome.SKIPPED else self.clock() - started
        data = {**found.data, **({"billed": True} if step.bills and seconds is not None else {})}
        self.checks.append(Check(step.name, found.outcome, found.detail, found.hint, seconds, data))
        for name, by_check in _BY_CHECK.items():
            if name in data:
                self.data.setdefault(by_check, {})[step.name] = data[name]
        self.data.update(found.facts)
        if found.outcome is Outcome.FAILED and found.stops is not FailureScope.NOTHING:
            self._because[step.name] = step.name
            if found.stops is FailureScope.EVERYTHING:
                self._over = step.name


def _billed(checks: list[Check]) -> dict[str, int]:
    """Return the number of checks that called a provider, and the tokens in their answers."""
    spent = [check.data for check in checks if check.data.get("billed")]
    return {
        "checks": len(spent),
        "input_tokens": sum(data.get("input_tokens", 0) for data in spent),
        "output_tokens": sum(data.get("output_tokens", 0) for data in spent),
    }


def _billed_notes(billed: dict[str, int]) -> tuple[str, ...]:
    if not billed["checks"]:
        return ()
    return (
        f"{render_count(billed['checks'], 'check')} called models that bill: {billed['input_tokens']:,} input tokens"
        f" and {billed['output_tokens']:,} output tokens.",
    )


def _wait(gateway: Gateway, seconds: float) -> str:
    try:
        return f"ready after {wait_ready(gateway, seconds):.1f} s"
    except NotReady as error:
        return error.message


def _title(base_url: str, checks: list[Check]) -> str:
    def count(outcome: Outcome) -> int:
        return sum(check.outcome is outcome for check in checks)

    failed, skipped, warned = count(Outcome.FAILED), count(Outcome.SKIPPED), count(Outcome.WARNING)
    rest = f", {skipped} skipped" if skipped else ""
    if failed:
        return f"{base_url} is unhealthy: {failed} of {render_count(len(checks), 'check')} failed{rest}"
    warning = f", {warned} with a warning" if warned else ""
    return f"verified {base_url}: {render_count(len(checks) - skipped, 'check')} passed{warning}{rest}"
