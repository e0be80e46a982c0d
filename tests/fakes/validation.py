"""What Bedrock refuses in a request body, with its messages.

Sources: BerriAI/litellm#7416 and #14021 (extraneous keys), anthropics/claude-code#21612 and similar threads ("Extra
inputs are not permitted"), and Bedrock's documentation of Anthropic's messages, which lists fields and beta flags:
https://docs.aws.amazon.com/bedrock/latest/userguide/model-parameters-anthropic-claude-messages-request-response.html
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from tests.fakes import refusals, thinking
from tests.fakes.catalogue import Model
from tests.fakes.prompt import Body, Part, additional_fields, read_parts
from tests.fakes.refusals import Refused, refuse

_MOST_MARKS = 4
_SAMPLING = {"temperature", "topP", "top_p"}
_TIERS = ("default", "priority", "flex")
#: The fields of Anthropic's messages that Bedrock knows. Other fields need a beta flag.
_ANTHROPIC = frozenset(
    {
        *("anthropic_version", "anthropic_beta", "max_tokens", "messages", "metadata", "output_config"),
        *("stop_sequences", "system", "temperature", "thinking", "tool_choice", "tools", "top_k", "top_p"),
    }
)
#: Converse has fields of its own for the others.
_ADDITIONAL = frozenset({"anthropic_beta", "metadata", "output_config", "thinking", "tool_choice", "tools", "top_k"})
_NOVA = frozenset({"inferenceConfig", "reasoningConfig"})
_WITH_BETA = {"context_management": ("context-management-2025-06-27", "compact-2026-01-12")}
_EDITS = {"clear_tool_uses_20250919": "context-management-2025-06-27", "compact_20260112": "compact-2026-01-12"}
_BETAS = frozenset(
    {
        *("compact-2026-01-12", "computer-use-2025-01-24", "computer-use-2025-11-24", "context-1m-2025-08-07"),
        *("context-management-2025-06-27", "dangerous-tool-use-2026-09-03", "dev-full-thinking-2025-05-14"),
        *("effort-2025-11-24", "fine-grained-tool-streaming-2025-05-14", "interleaved-thinking-2025-05-14"),
        *("output-128k-2025-02-19", "structured-outputs-2025-11-13", "thinking-binding-controls-2026-08-01"),
        *("thinking-display-updates-2026-08-18", "token-efficient-tools-2025-02-19", "tool-examples-2025-10-29"),
        *("tool-search-tool-2025-10-19",),
        # LiteLLM's list for Bedrock (anthropic_beta_headers_config.json) has them; Claude Code 2.1 sends both.
        *("mid-conversation-output-config-2026-07-01", "mid-conversation-tool-changes-2026-07-01"),
        # LiteLLM sends it from Claude Code to models with supports_per_turn_control in its model map, Claude 4.5 on.
        "per-turn-control-2026-07-01",
    }
)
_TOOL_KEYS = frozenset({"type", "name", "description", "input_schema", "cache_control"})
_TOOL_KEYS_WITH_BETA = {
    "defer_loading": "tool-search-tool-2025-10-19",
    "input_examples": "tool-examples-2025-10-29",
    "eager_input_streaming": "fine-grained-tool-streaming-2025-05-14",
    "strict": "structured-outputs-2025-11-13",
}


def validate(model: Model, body: Body, form: str, headers: Mapping[str, str]) -> str:
    """Check a request. Raises Refused.

    Args:
        form: "converse" or "invoke".
        headers: of the request, names in lower case. InvokeModel has the service tier there.

    Returns:
        The service tier, empty if the request has none.
    """
    _check_messages(body)
    if form == "invoke" and body.get("anthropic_version") != "bedrock-2023-05-31":
        raise _invalid("Malformed input request: required key [anthropic_version] not found")
    _check_fields(model, body, form)
    parts = read_parts(body)
    if not model.prefill and parts and parts[-1].role == "assistant":
        raise _from_model(
            form,
            "This model does not support assistant message prefill. The conversation must end with a user message.",
        )
    if not model.samples and _SAMPLING & set(body.get("inferenceConfig") or body):
        raise Refused(refusals.SCRIPTED["parameter-refused"])
    _check_marks(model, parts, form)
    if (fault := thinking.find_fault(model, body, form, parts)) is not None:
        raise _from_model(form, fault)
    return _check_tier(body, form, headers)


def _invalid(message: str) -> Refused:
    return refuse(400, "ValidationException", message)


def _from_model(form: str, message: str) -> Refused:
    """An error of the model: Converse puts words before it."""
    return _invalid(f"The model returned the following errors: {message}" if form == "converse" else message)


def _check_messages(body: Body) -> None:
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages or messages[0].get("role") != "user":
        raise _invalid(
            "A conversation must start with a user message. Try again with one that starts with a user message."
        )


def _check_fields(model: Model, body: Body, form: str) -> None:
    fields = additional_fields(body, form)
    betas = set(fields.get("anthropic_beta") or ())
    allowed = (_ANTHROPIC if form == "invoke" else _ADDITIONAL) if model.provider == "Anthropic" else _NOVA
    if model.provider == "Anthropic":
        allowed |= {name for name, needed in _WITH_BETA.items() if betas & set(needed)}
    if unknown := sorted(set(fields) - allowed):
        keys = "".join(f"#: extraneous key [{name}] is not permitted" for name in unknown)
        raise _from_model(form, f"Malformed input request: {keys}, please reformat your input and try again.")
    if betas - _BETAS:
        raise _from_model(form, "invalid beta flag")
    for fault in (*_wrong_edits(fields, betas), *_wrong_tools(fields, betas), *_wrong_cache_control(body)):
        raise _from_model(form, fault)


def _wrong_edits(fields: Body, betas: set[str]) -> Iterator[str]:
    for edit in (fields.get("context_management") or {}).get("edits", []):
        if _EDITS.get(edit.get("type")) not in betas:
            yield "context_management: Extra inputs are not permitted"


def _wrong_tools(fields: Body, betas: set[str]) -> Iterator[str]:
    for index, tool in enumerate(fields.get("tools") or ()):
        if str(tool.get("type", "")).startswith("web_search"):
            yield "The provided request is not valid"
        elif tool.get("type", "custom") == "custom":
            known = _TOOL_KEYS | {name for name, beta in _TOOL_KEYS_WITH_BETA.items() if beta in betas}
            for name in set(tool) - known:
                yield f"tools.{index}.custom.{name}: Extra inputs are not permitted"


def _wrong_cache_control(body: Body) -> Iterator[str]:
    contents = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
    system = [body["system"]] if isinstance(body.get("system"), list) else []
    for blocks in (body.get("tools") or [], *system, *contents):
        for block in blocks:
            for name in set(block.get("cache_control") or {}) - {"type", "ttl"}:
                yield f"cache_control.ephemeral.{name}: Extra inputs are not permitted"


def _check_marks(model: Model, parts: list[Part], form: str) -> None:
    marks = [part.mark for part in parts if part.mark]
    if marks and not model.caches:
        raise Refused(refusals.SCRIPTED["no-caching"])
    if len(marks) > _MOST_MARKS:
        raise _invalid(f"A maximum of {_MOST_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    if "1h" in marks and not model.caches_for_an_hour:
        raise _from_model(form, "cache_control.ephemeral.ttl: Extra inputs are not permitted")
    if marks != sorted(marks):  # "1h" sorts before "5m"
        raise _from_model(
            form,
            "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are"
            " processed in the following order: `tools`, `system`, `messages`.",
        )


def _check_tier(body: Body, form: str, headers: Mapping[str, str]) -> str:
    """The tier of a request. Observed at Bedrock: NousResearch/hermes-agent#34476, envoyproxy/ai-gateway#1749."""
    by_header = headers.get("x-amzn-bedrock-service-tier", "")
    tier = by_header if form == "invoke" else str((body.get("serviceTier") or {}).get("type", ""))
    if tier == "reserved":
        raise _invalid("Reservation not found.")
    if tier and tier not in _TIERS:
        raise _invalid("service tier provided is invalid")
    return tier
