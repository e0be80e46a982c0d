"""The basic checks of `verify`. Each returns a `CheckResult`, or raises GatewayError if no answer arrives."""

from __future__ import annotations

from litellm_systemd.client.gateway import DONE, Gateway, Response
from litellm_systemd.client.ready import READINESS
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import (
    CheckResult,
    FailureScope,
    build_question,
    describe_failure,
    failed_result,
    finish_stream,
    hint_for,
    part_of,
    read_deltas,
    stream_failure,
    text_of,
    text_result,
    tokens_of,
)

LIVELINESS = "/health/liveliness"
MODELS = "/v1/models"
CHAT = "/v1/chat/completions"
PROMPT = "Reply with the single word: pong"
#: The answer has about fifty tokens: enough to measure their rate.
LONGER_PROMPT = "Count from 1 to 20, the numbers separated by spaces, and say nothing else."

_KEY_HINT = (
    "The service runs with another key. After an edit of /etc/litellm/litellm.env: `sudo systemctl restart litellm`."
    " After an edit of .env: `sudo litellmctl install`. For another gateway, use --api-key."
)
_OPEN_HINT = "Anyone who can connect can call models: set LITELLM_MASTER_KEY in .env and install again."
_RELOAD_HINT = "After a change of the configuration: `sudo systemctl reload litellm`"


def check_liveliness(gateway: Gateway) -> CheckResult:
    """LiteLLM answers. If it doesn't, all other checks are skipped."""
    answer = gateway.get(LIVELINESS)
    # LiteLLM answers with a JSON string; a web server that answers 200 to any path doesn't.
    if answer.ok and isinstance(answer.json(), str):
        return CheckResult(Outcome.OK, gateway.line(answer.json()))
    detail = describe_failure(gateway, answer)
    if answer.ok:
        detail = f"the program that responds is not LiteLLM: {detail}"
        return CheckResult(Outcome.FAILED, detail, "Check --base-url, HOST and PORT.")
    return CheckResult(Outcome.FAILED, detail, hint_for(answer))


def check_readiness(gateway: Gateway) -> CheckResult:
    """The gateway reports that it is ready."""
    answer = gateway.get(READINESS)
    if answer.status != 200:
        return CheckResult(Outcome.FAILED, describe_failure(gateway, answer), hint_for(answer))
    body = answer.json()
    return CheckResult(Outcome.OK, gateway.line(str(body.get("status", ""))) if isinstance(body, dict) else "")


def check_models(gateway: Gateway, expected: tuple[str, ...]) -> CheckResult:
    """The gateway accepts the key and lists each `expected` name, or at least one name if none is expected.

    Patterns (`*`) are not looked for. Additional names are a warning: a database may add some.
    """
    if not gateway.api_key:
        return CheckResult(Outcome.FAILED, "no API key is known", "Use --api-key, or run the command with sudo.")
    answer = gateway.get(MODELS)
    if not answer.ok:
        hint = _KEY_HINT if answer.status in (400, 401, 403) else hint_for(answer)
        return CheckResult(Outcome.FAILED, describe_failure(gateway, answer), hint)
    listed = _listed(answer)
    if not listed:
        detail = "it lists no model" if isinstance(answer.json(), dict) else describe_failure(gateway, answer)
        return CheckResult(Outcome.FAILED, detail, "Add a model_list to the configuration.")
    outcome, detail = compare_names(expected, listed)
    hint = "" if outcome is Outcome.OK else _RELOAD_HINT
    facts = {"models": list(listed)}
    return CheckResult(outcome, gateway.line(detail), hint, FailureScope.NOTHING, {"models": len(listed)}, facts)


def compare_names(expected: tuple[str, ...], listed: tuple[str, ...]) -> tuple[Outcome, str]:
    """Compare the listed names with the expected ones; the outcome and a sentence."""
    patterns = any("*" in name for name in expected)
    missing = [name for name in dict.fromkeys(expected) if "*" not in name and name not in listed]
    # LiteLLM decides what a pattern expands to.
    further = [name for name in listed if expected and not patterns and name not in expected]
    parts = [f"{len(listed)} listed: {', '.join(listed)}"] if not (missing or further) else []
    parts += [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not in the configuration: {', '.join(further)}"] if further else []
    outcome = Outcome.FAILED if missing else Outcome.WARNING if further else Outcome.OK
    return outcome, "; ".join(parts)


def check_refusal(gateway: Gateway, how: str) -> CheckResult:
    """A request with a wrong key, or without one, is refused. `how` describes the key in the message.

    LiteLLM without a database refuses with 500 or 400 instead of 401.
    """
    answer = gateway.get(MODELS)
    if answer.ok:
        return CheckResult(Outcome.FAILED, f"HTTP {answer.status}: the gateway answers {how}", _OPEN_HINT)
    return CheckResult(Outcome.OK, f"HTTP {answer.status}", data={"status": answer.status})


def check_chat(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers a chat at `path` with text."""
    return check_chat_answer(gateway, gateway.post(path, build_question(model, PROMPT)))


def check_chat_answer(gateway: Gateway, answer: Response) -> CheckResult:
    """The answer is a chat completion with text."""
    if not answer.ok:
        return failed_result(gateway, answer)
    body = answer.json()
    message = part_of(body, "message")
    if message is None:
        return failed_result(gateway, answer, "not a chat completion")
    numbers = tokens_of(body)
    return text_result(gateway, answer, text_of(message, "content"), text_of(message, "reasoning_content"), numbers)


def check_chat_stream(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers a streamed chat at `path` with text; the stream ends with `[DONE]`."""
    question = {**build_question(model, LONGER_PROMPT), "stream": True, "stream_options": {"include_usage": True}}
    stream = gateway.stream(path, question)
    if (trouble := stream_failure(gateway, stream)) is not None:
        return trouble
    deltas = read_deltas(stream)
    return finish_stream(gateway, stream, deltas, done=stream.done, end=DONE)


def _listed(answer: Response) -> tuple[str, ...]:
    body = answer.json()
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return ()
    return tuple(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))
