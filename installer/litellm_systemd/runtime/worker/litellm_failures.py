"""What LiteLLM does not log: the failure of a model whose fallback has answered, and how many calls there were.

Each wraps one function of LiteLLM. With a LiteLLM that has no such function, it has no effect.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import logging
from typing import Any

from litellm_systemd.runtime.failures import FALLBACK, current_incident

_EVENTS, _UTILS = "litellm.router_utils.fallback_event_handlers", "litellm.proxy.utils"
#: LiteLLM's exception while all deployments of a model are in cooldown. What led to it was another one.
_COOLDOWN = "RouterRateLimitError"
_LOGGER = logging.getLogger("LiteLLM Router")


def apply() -> None:
    """Log and count with the imported LiteLLM."""
    with contextlib.suppress(ImportError, AttributeError):
        log_hidden_failures()
    with contextlib.suppress(ImportError, AttributeError):
        count_calls()


def log_hidden_failures() -> None:
    """Log the failure each time that LiteLLM reports to its callbacks that a fallback has answered."""
    events: Any = importlib.import_module(_EVENTS)
    original: Any = events.log_success_fallback_event

    @functools.wraps(original)
    async def log_success_fallback_event(
        original_model_group: str, kwargs: dict[str, Any], original_exception: Exception
    ) -> None:
        await original(original_model_group, kwargs, original_exception)
        if type(original_exception).__name__ != _COOLDOWN:
            _LOGGER.error(
                "%s\nLiteLLM: model group '%s' failed",
                original_exception,
                original_model_group,
                exc_info=original_exception,
                extra={FALLBACK: kwargs.get("model")},
            )

    events.log_success_fallback_event = log_success_fallback_event


def count_calls() -> None:
    """Count the requests for which LiteLLM calls callbacks, before it calls a model."""
    logging_class: Any = importlib.import_module(_UTILS).ProxyLogging
    original: Any = logging_class.pre_call_hook

    @functools.wraps(original)
    def pre_call_hook(*args: Any, **options: Any) -> Any:
        if (incident := current_incident()) is not None:
            incident.is_call = True
        return original(*args, **options)

    logging_class.pre_call_hook = pre_call_hook
