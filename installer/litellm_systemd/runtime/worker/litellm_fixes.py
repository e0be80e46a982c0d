"""Faults of LiteLLM on Bedrock that coding agents notice, and what this service does instead (docs/agents.md).

Each wraps one function of LiteLLM. With a LiteLLM that has no such function, it has no effect. A test in
tests/integration/test_agents.py fails when LiteLLM no longer has the fault: then remove the fix.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import importlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

_SERVER = "litellm.proxy.proxy_server"
_COUNTER = "litellm.llms.bedrock.count_tokens.bedrock_token_counter"
_IN_FLIGHT = "litellm.proxy.middleware.in_flight_requests_middleware"
_INTERCEPTION = "websearch_interception"
#: Before the name of a model that only Bedrock's other endpoint counts tokens for.
_MANTLE = "bedrock_mantle/"
#: Decides whether to ask that endpoint after Bedrock's runtime has refused.
_ASKS_MANTLE = "is_mantle_claude_model"
#: Seconds that Bedrock has to count tokens. Then LiteLLM estimates.
COUNT_LIMIT = 0.7

_NO_SEARCH = (
    "Amazon Bedrock has no web search: the tool {tool} is not available for {model}. Deny it in the client, in Claude"
    ' Code with "permissions": {{"deny": ["WebSearch"]}} in its settings.json, or configure web search in LiteLLM:'
    " https://docs.litellm.ai/docs/integrations/websearch_interception"
)
_NO_HISTORY = (
    "Previous response with id '{id}' not found. This gateway stores no responses: it has no database. Send the whole"
    " conversation in `input`, without `previous_response_id`."
)


def apply() -> None:
    """Apply all fixes to the imported LiteLLM."""
    with contextlib.suppress(ImportError, AttributeError):
        refuse_unavailable_features()
    with contextlib.suppress(ImportError, AttributeError):
        limit_token_counts()
    with contextlib.suppress(ImportError, AttributeError):
        count_in_flight_if_wanted()


def count_in_flight_if_wanted() -> None:
    """Leave out LiteLLM's gauge of requests in flight unless METRICS or a callback counts with prometheus_client.

    LiteLLM counts as soon as the package is installed, which it is in each release. The first request of each worker
    would import it, and each would write to a file that no process reads.
    """
    middleware: Any = importlib.import_module(_IN_FLIGHT).InFlightRequestsMiddleware
    original: Any = middleware._get_gauge
    middleware._get_gauge = staticmethod(lambda: original() if "prometheus_client" in sys.modules else None)


def refuse_unavailable_features() -> None:
    """Refuse requests that need a web search or a stored response which this gateway doesn't have.

    LiteLLM drops both without a word, and the model invents search results or answers without the history.
    """
    logging: Any = importlib.import_module("litellm.proxy.utils").ProxyLogging
    original: Any = logging.pre_call_hook

    @functools.wraps(original)
    async def pre_call_hook(self: Any, *args: Any, **options: Any) -> Any:
        refuse(options.get("data"), options.get("call_type"))
        return await original(self, *args, **options)

    logging.pre_call_hook = pre_call_hook


def refuse(data: Any, call_type: Any) -> None:
    """Raise LiteLLM's exception for status 400 if a request needs what its model doesn't have."""
    if not isinstance(data, Mapping):
        return
    tool = _find_search(data, call_type)
    if tool is not None and not _searches(data, tool):
        raise _refusal(_NO_SEARCH.format(tool=tool, model=data.get("model")), "tools", "unsupported_value")
    previous = data.get("previous_response_id")
    if call_type == "aresponses" and previous and not _stores_responses(data):
        message = _NO_HISTORY.format(id=previous)
        raise _refusal(message, "previous_response_id", "previous_response_not_found")


def _find_search(data: Mapping[str, Any], call_type: Any) -> str | None:
    """The web search that a request can't do without, None if it has none.

    A model that gets other tools, as from Codex, does without: it doesn't know of the search.
    """
    if call_type not in ("acompletion", "anthropic_messages", "aresponses"):
        return None
    if call_type == "acompletion" and data.get("web_search_options") is not None:
        return "web_search_options"
    tools = data.get("tools")
    types = [str(tool.get("type")) for tool in tools if isinstance(tool, Mapping)] if isinstance(tools, list) else []
    found = [each for each in types if each == "web_search" or each.startswith("web_search_")]
    choice = data.get("tool_choice")
    is_chosen = isinstance(choice, Mapping) and str(choice.get("type")) in found
    # /v1/messages with any search tool is refused by LiteLLM itself, after all fallbacks.
    is_needed = is_chosen or len(found) == len(types) or call_type == "anthropic_messages"
    return found[0] if found and is_needed else None


def _searches(data: Mapping[str, Any], tool: str) -> bool:
    """Whether LiteLLM is set up to search itself, or a model of the request may not be one of Bedrock's."""
    callbacks = importlib.import_module("litellm").callbacks
    if any(each == _INTERCEPTION or _INTERCEPTION in type(each).__module__ for each in callbacks):
        return True
    models = [(provider, model) for provider, model, _ in _deployments(data)]
    # Nova searches by itself (Nova grounding).
    grounded = tool == "web_search_options"
    return not models or any(provider != "bedrock" or (grounded and "nova" in model) for provider, model in models)


def _stores_responses(data: Mapping[str, Any]) -> bool:
    """Whether LiteLLM's database or the provider may have the previous response, by LiteLLM's own rule."""
    server: Any = importlib.import_module(_SERVER)
    if server.prisma_client is not None:
        return True
    stores: Any = importlib.import_module("litellm.responses.main").provider_stores_the_conversation
    found = [stores(model, provider, parameters) for provider, model, parameters in _deployments(data)]
    return not found or any(found)


def _deployments(data: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Provider, model without it, and parameters of each deployment that LiteLLM's router may choose."""
    router: Any = importlib.import_module(_SERVER).llm_router
    resolve: Any = importlib.import_module("litellm").get_llm_provider
    for deployment in (router.get_model_list(model_name=data.get("model")) or ()) if router is not None else ():
        parameters = deployment["litellm_params"]
        model, provider, _, _ = resolve(
            model=parameters["model"],
            custom_llm_provider=parameters.get("custom_llm_provider"),
            api_base=parameters.get("api_base"),
        )
        yield provider, model, {**parameters, "model_info": deployment.get("model_info")}


def _refusal(message: str, parameter: str, code: str) -> Exception:
    """An exception that LiteLLM renders in the format of the API. `code` is OpenAI's."""
    base: Any = importlib.import_module("litellm.proxy._types").ProxyException

    class Refused(base):  # type: ignore[misc]
        def to_dict(self) -> dict[str, Any]:
            return {**super().to_dict(), "code": code}

    refused: Exception = Refused(message=message, type="invalid_request_error", param=parameter, code=400)
    return refused


def limit_token_counts() -> None:
    """Count tokens with the model itself on the configured endpoint, in less than a second, or estimate.

    For a model without CountTokens LiteLLM asks another model, in a region of its own choice, and then
    bedrock-mantle.REGION.api.aws, each for up to 30 seconds. No endpoint setting covers that host, and a private
    subnet drops the packets.
    """
    module: Any = importlib.import_module(_COUNTER)
    counter: Any = module.BedrockTokenCounter
    original: Any = counter.count_tokens

    @functools.wraps(original)
    async def count_tokens(self: Any, model_to_use: str, *args: Any, **options: Any) -> Any:
        if model_to_use.startswith(_MANTLE):
            return None  # LiteLLM estimates
        with contextlib.suppress(asyncio.TimeoutError):
            counted = await asyncio.wait_for(original(self, model_to_use, *args, **options), COUNT_LIMIT)
            # LiteLLM answers with an error of Bedrock instead of an estimate.
            return None if getattr(counted, "error", False) else counted
        return None

    setattr(module, _ASKS_MANTLE, lambda _: False)
    counter.count_tokens = count_tokens
