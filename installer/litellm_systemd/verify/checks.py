"""The checks of `verify`: each a function from a gateway to a `CheckResult`. GatewayError if no answer came."""

from __future__ import annotations

from litellm_systemd.client.gateway import DONE, Gateway, Response
from litellm_systemd.client.ready import READINESS
from litellm_systemd.report.report import Outcome
from litellm_systemd.verify.answers import (
    CheckResult,
    FailureScope,
    build_question,
    failed,
    failure,
    finish_stream,
    hint_for,
    part_of,
    read_deltas,
    spoken,
    text_of,
    tokens_of,
    trouble_of,
)

LIVELINESS = "/health/liveliness"
MODELS = "/v1/models"
PROMPT = "Reply with the single word: pong"
#: Some fifty tokens: enough to see how fast they come.
LONGER_PROMPT = "Count from 1 to 20, the numbers separated by spaces, and say nothing else."

_KEY_HINT = (
    "The service runs with another key: `systemctl restart litellm` after an edit of /etc/litellm/litellm.env,"
    " `sudo litellmctl install` after one of .env, or give --api-key."
)
_OPEN_HINT = "Anyone who reaches the port can spend: set LITELLM_MASTER_KEY in .env and install again."
FALLBACK_HINT = "Clients are served, but the model itself fails: `journalctl -u litellm -n 50` says why."
_RELOAD_HINT = "After a change of the configuration, `systemctl reload litellm`."


def check_liveliness(gateway: Gateway) -> CheckResult:
    """Something that answers like LiteLLM is there. If it isn't, no other check means anything."""
    answer = gateway.get(LIVELINESS)
    # LiteLLM says a JSON string. A web server that answers 200 to any address doesn't.
    if answer.ok and isinstance(answer.json(), str):
        return CheckResult(Outcome.OK, gateway.line(answer.json()))
    detail = failure(gateway, answer)
    if answer.ok:
        detail = f"what answers is not LiteLLM: {detail}"
        return CheckResult(Outcome.FAILED, detail, "Check --base-url, HOST and PORT.")
    return CheckResult(Outcome.FAILED, detail, hint_for(answer))


def check_readiness(gateway: Gateway) -> CheckResult:
    """The gateway takes requests, as it sees it itself."""
    answer = gateway.get(READINESS)
    if answer.status != 200:
        return CheckResult(Outcome.FAILED, failure(gateway, answer), hint_for(answer))
    body = answer.json()
    return CheckResult(Outcome.OK, gateway.line(str(body.get("status", ""))) if isinstance(body, dict) else "")


def check_models(gateway: Gateway, expected: tuple[str, ...]) -> CheckResult:
    """The key is taken, and the list has each `expected` name; any name will do when none is expected.

    Names with a `*` stand for others and aren't looked for. Further names are a warning: a database may add some.
    """
    if not gateway.api_key:
        return CheckResult(Outcome.FAILED, "no API key is known", "Give it with --api-key, or run as root.")
    answer = gateway.get(MODELS)
    if not answer.ok:
        hint = _KEY_HINT if answer.status in (400, 401, 403) else hint_for(answer)
        return CheckResult(Outcome.FAILED, failure(gateway, answer), hint)
    listed = _listed(answer)
    if not listed:
        detail = "it lists no model" if isinstance(answer.json(), dict) else failure(gateway, answer)
        return CheckResult(Outcome.FAILED, detail, "Give the configuration a model_list.")
    outcome, detail = compare_names(expected, listed)
    hint = "" if outcome is Outcome.OK else _RELOAD_HINT
    facts = {"models": list(listed)}
    return CheckResult(outcome, gateway.line(detail), hint, FailureScope.NOTHING, {"models": len(listed)}, facts)


def compare_names(expected: tuple[str, ...], listed: tuple[str, ...]) -> tuple[Outcome, str]:
    """How the listed names fit the expected ones, and the same in words."""
    patterns = any("*" in name for name in expected)
    missing = [name for name in dict.fromkeys(expected) if "*" not in name and name not in listed]
    # What a pattern expands to is LiteLLM's business.
    further = [name for name in listed if expected and not patterns and name not in expected]
    parts = [f"{len(listed)} listed: {', '.join(listed)}"] if not (missing or further) else []
    parts += [f"missing: {', '.join(missing)}"] if missing else []
    parts += [f"not in the configuration: {', '.join(further)}"] if further else []
    outcome = Outcome.FAILED if missing else Outcome.WARNING if further else Outcome.OK
    return outcome, "; ".join(parts)


def check_refusal(gateway: Gateway, how: str) -> CheckResult:
    """A request with this gateway's (wrong or no) key is not answered with 2xx; `how` says which in words.

    LiteLLM without a database refuses with 500 or 400 where one expects 401.
    """
    answer = gateway.get(MODELS)
    if answer.ok:
        return CheckResult(Outcome.FAILED, f"HTTP {answer.status}: the gateway answers {how}", _OPEN_HINT)
    return CheckResult(Outcome.OK, f"HTTP {answer.status}", data={"status": answer.status})


def check_chat(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers a question at `path` with some text, in one piece."""
    return check_chat_answer(gateway, gateway.post(path, build_question(model, PROMPT)))


def check_chat_answer(gateway: Gateway, answer: Response) -> CheckResult:
    """The answer is a chat completion with some text."""
    if not answer.ok:
        return failed(gateway, answer)
    body = answer.json()
    message = part_of(body, "message")
    if message is None:
        return failed(gateway, answer, "not a chat completion")
    numbers = tokens_of(body)
    return spoken(gateway, answer, text_of(message, "content"), text_of(message, "reasoning_content"), numbers)


def check_chat_stream(gateway: Gateway, model: str, path: str) -> CheckResult:
    """`model` answers at `path` with some text, event by event, and the stream ends in `[DONE]`."""
    question = {**build_question(model, LONGER_PROMPT), "stream": True, "stream_options": {"include_usage": True}}
    stream = gateway.stream(path, question)
    if (trouble := trouble_of(gateway, stream)) is not None:
        return trouble
    deltas = read_deltas(stream)
    return finish_stream(gateway, stream, deltas, done=stream.done, end=DONE)


def _listed(answer: Response) -> tuple[str, ...]:
    body = answer.json()
    rows = body.get("data") if isinstance(body, dict) else None
    if not isinstance(rows, list):
        return ()
    return tuple(row["id"] for row in rows if isinstance(row, dict) and isinstance(row.get("id"), str))
