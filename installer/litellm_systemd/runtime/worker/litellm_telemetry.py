"""What LiteLLM's callback `otel` sends: its own spans and metrics, without prompts and keys (docs/opentelemetry.md).

Its SDK sends them from threads. It starts these in the worker, since LiteLLM loads the configuration there, and an
exit handler sends what is left (`run_exit_handlers`).
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Mapping
from typing import Any

_CALLBACK = "litellm.integrations.opentelemetry"
_HEALTH_CHECKS = "/health"
#: Turns on LiteLLM's next version of the callback, in which OpenTelemetry's own package traces the requests.
_NEXT = "LITELLM_OTEL_V2"
#: The parameter of a query in which clients of Gemini's API send the key.
_KEY = "key"


def apply(application: Any, environ: Mapping[str, str]) -> None:
    """Apply to the imported LiteLLM. What another version does not have stays as it is."""
    with contextlib.suppress(ImportError, AttributeError):
        omit_content()
    with contextlib.suppress(AttributeError):
        limit_spans_of_fastapi(application)
    if environ.get(_NEXT):
        with contextlib.suppress(ImportError, AttributeError):
            redact_keys_in_urls()


def omit_content() -> None:
    """Leave prompts, answers and tools out of spans and events unless the operator wants them there.

    OpenTelemetry's conventions for generative AI, and LiteLLM's next version of this callback, do so by default.
    `message_logging: true` under callback_settings or OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT adds them.
    Callbacks that are based on this one, as langfuse_otel, exist to show them.
    """
    callback: Any = importlib.import_module(_CALLBACK).OpenTelemetry
    original: Any = callback.__init__

    @functools.wraps(original)
    def __init__(self: Any, config: Any = None, callback_name: str | None = None, *args: Any, **options: Any) -> None:
        original(self, config, callback_name, *args, **options)
        if type(self) is callback and config is None and "message_logging" not in options:
            self._capture_mode_cached = self._capture_mode_cached or "NO_CONTENT"

    callback.__init__ = __init__


def limit_spans_of_fastapi(application: Any) -> None:
    """Turn off FastAPI's own spans and logs, and its metrics about health checks.

    With a provider of LiteLLM's callback, FastAPI sends four spans for each request next to those of LiteLLM. They
    have the query of the URL, in which clients of Gemini's API send the key, and the health checks of each worker
    would be most of them.
    """
    application._telemetry.update(tracing=False, logs=False, exclude=_is_health_check)


def redact_keys_in_urls() -> None:
    """Add Gemini's parameter for the key to those whose values OpenTelemetry leaves out of URLs."""
    parameters: Any = importlib.import_module("opentelemetry.util.http").PARAMS_TO_REDACT
    if _KEY not in parameters:
        parameters.append(_KEY)


def _is_health_check(scope: Mapping[str, Any]) -> bool:
    return str(scope.get("path")).startswith(_HEALTH_CHECKS)
