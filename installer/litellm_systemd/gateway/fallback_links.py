"""The links of a configuration's fallback chains, and the request that tests each of them. Pure.

LiteLLM has parameters that make the requested model fail before any provider is called (mock_testing_* in
litellm/router.py). The first link of a chain is tested with the chain as configured. For a later link, the targets
before it must fail too: the request then contains the same chain, with the parameter at each target before the one
that should respond (client-side fallbacks, litellm/router_utils/fallback_event_handlers.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from litellm_systemd.gateway.config_types import Fallback, GatewayConfig

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
