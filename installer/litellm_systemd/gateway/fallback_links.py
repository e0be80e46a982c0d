"""The links of a configuration's fallback chains, and the request that tries each of them. Pure.

LiteLLM has parameters that make the model that is asked fail before any provider is called (mock_testing_* in
litellm/router.py). The first link of a chain is tried with the chain as it is configured. For the second, the first
target has to fail too: the request then brings the same chain along, with the parameter at each target before the
one that is meant to answer (client-side fallbacks, litellm/router_utils/fallback_event_handlers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd.gateway.config_types import Fallback, GatewayConfig

#: By the setting: how people call it, and the parameter that makes a model fail in just that way.
KINDS: Mapping[str, tuple[str, str]] = {
    "fallbacks": ("fallback", "mock_testing_fallbacks"),
    "default_fallbacks": ("default fallback", "mock_testing_fallbacks"),
    "context_window_fallbacks": ("context window fallback", "mock_testing_context_fallbacks"),
    "content_policy_fallbacks": ("content policy fallback", "mock_testing_content_policy_fallbacks"),
}


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a chain: when `model` and the targets before have failed, number `position` (from 1) is asked.

    `asked` is the name that a client sends: `model`, or where that is `*`, a model without a chain of its own.
    `obstacle` says why it can't be tried; empty if it can.
    """

    kind: str
    model: str
    asked: str
    targets: tuple[str, ...]
    position: int
    obstacle: str = ""

    @property
    def target(self) -> str:
        """The model that is meant to answer."""
        return self.targets[self.position - 1]

    @property
    def name(self) -> str:
        """The link in words, for a report."""
        return f"{KINDS[self.kind][0]} {self.position} of {self.model}: {self.target}"


def build_links(config: GatewayConfig) -> tuple[Link, ...]:
    """Every link of every chain, in the order of the file."""
    return tuple(link for fallback in config.fallbacks for link in _links(config, fallback))


def _links(config: GatewayConfig, fallback: Fallback) -> Iterator[Link]:
    asked = _asked(config, fallback)
    for position, target in enumerate(fallback.targets, 1):
        obstacle = ""
        if not asked:
            obstacle = "every model has a chain of its own, or is named in this one"
        elif "*" in asked or "*" in target:
            obstacle = "a pattern that stands for many models"
        elif target == asked:
            obstacle = "LiteLLM passes it over: it is the model that failed"
        elif target in fallback.targets[: position - 1]:
            obstacle = "LiteLLM asks no model twice for one request"
        yield Link(fallback.kind, fallback.model, asked, fallback.targets, position, obstacle)


def _asked(config: GatewayConfig, fallback: Fallback) -> str:
    """The model to ask; for the chain of all others the first without a chain, empty if there is none."""
    if fallback.model != "*":
        return fallback.model
    general = ("fallbacks", "default_fallbacks")
    kinds = general if fallback.kind in general else (fallback.kind,)
    own = {each.model for each in config.fallbacks if each.kind in kinds}
    return next((name for name in config.names if name not in {*own, *fallback.targets} and "*" not in name), "")


def build_failing(link: Link) -> dict[str, Any]:
    """What to add to a request to `link.asked`, so that `link.target` has to answer it."""
    parameter = KINDS[link.kind][1]
    if link.position == 1:
        return {parameter: True}
    # A target's parameters stay for those after it, hence the False (run_async_fallback).
    before = [{"model": name, parameter: True} for name in link.targets[: link.position - 1]]
    chain = [*before, {"model": link.target, parameter: False}]
    setting = "fallbacks" if link.kind == "default_fallbacks" else link.kind
    return {parameter: True, setting: [{link.asked: chain}]}
