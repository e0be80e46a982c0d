"""The failure of a model whose fallback has answered. LiteLLM logs none, so that it could go unnoticed for weeks."""

from __future__ import annotations

import functools
import importlib
import logging
from typing import Any

from litellm_systemd.runtime.failures import FALLBACK

_EVENTS = "litellm.router_utils.fallback_event_handlers"
#: LiteLLM's exception while all deployments of a model are in cooldown. What led to it was another one.
_COOLDOWN = "RouterRateLimitError"
_LOGGER = logging.getLogger("LiteLLM Router")


def log_failures() -> None:
    """Log the failure each time that LiteLLM reports to its callbacks that a fallback has answered."""
    events: Any = importlib.import_module(_EVENTS)
    original: Any = events.log_success_fallback_event

    @functools.wraps(original)
    async def log_success_fallback_event(
        original_model_group: str, kwargs: dict[str, Any], original_exception: Exception
    ) -> None:
        if type(original_exception).__name__ != _COOLDOWN:
            _LOGGER.error(
                "%s\nLiteLLM: model group '%s' failed",
                original_exception,
                original_model_group,
                exc_info=original_exception,
                extra={FALLBACK: kwargs.get("model")},
            )
        await original(original_model_group, kwargs, original_exception)

    events.log_success_fallback_event = log_success_fallback_event
