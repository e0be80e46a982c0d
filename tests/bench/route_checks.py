"""What arrives at Bedrock, and what comes back, by one API and one route. Each check returns a cell of the table."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from tests.claude_code import Failed, run_loop, share_read
from tests.fakes import Cloud, Script
from tests.fakes.thinking import THOUGHT

from .route_apis import Answer, Chat, Json, Messages, Responses

MODEL = "us.anthropic.claude-sonnet-5-5"
SPARE = "us.anthropic.claude-haiku-5-5"
_BILLING = "x-anthropic-billing-header: cc_version=2.1.0; cch=a1b2c;"
_LONG = "A manual of many words. " * 400
_CALL = 'CALL look {"path": "a.txt"}'
_GUARDRAIL = {"guardrailIdentifier": "gr-fake", "guardrailVersion": "1"}


@dataclass(frozen=True, slots=True)
class Reply:
    """A response, and the bodies and headers that Bedrock got for it, as one text."""

    status: int
    body: str
    sent: str

    @property
    def json(self) -> Json:
        found: Json = json.loads(self.body)
        return found


@dataclass(frozen=True, slots=True)
class Probe:
    """Sends requests to the model name `model` by one API. `safe` is the same model with a fallback."""

    api: Chat | Messages | Responses
    model: str
    aws: Cloud
    port: int
    key: str

    @property
    def safe(self) -> str:
        return f"{self.model}-safe"

    def ask(self, body: Json, *, headers: Mapping[str, str] | None = None, model: str = "") -> Reply:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        given = {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json", **(headers or {})}
        start = len(self.aws.runtime.bodies)
        try:
            connection.request("POST", self.api.path, json.dumps({"model": model or self.model, **body}), given)
            response = connection.getresponse()
            text = response.read().decode()
        except (OSError, HTTPException) as error:
            return Reply(0, repr(error), "")
        finally:
            connection.close()
        runtime = self.aws.runtime
        sent = [*runtime.bodies[start:], *(dict(one) for one in runtime.headers[start:])]
        return Reply(response.status, text, json.dumps(sent))

    def say(self, text: str = "hello", *, headers: Mapping[str, str] | None = None, **fields: Any) -> Reply:
        return self.ask({**self.api.body([self.api.user(text)]), **fields}, headers=headers)


def _fate(reply: Reply, *needles: str) -> str:
    """What became of a field: sent, dropped, or the request was refused."""
    if reply.status != 200:
        return f"refused ({reply.status})"
    return "sent" if all(needle in reply.sent for needle in needles) else "dropped"


def _say_both(whole: str, streamed: str) -> str:
    return whole if whole == streamed else f"{whole}; streamed {streamed}"


def check_text(probe: Probe) -> str:
    whole, streamed = probe.say(), probe.say(stream=True)
    return _say_both(
        "ok" if probe.api.read(whole.json).text == "pong" else f"HTTP {whole.status}",
        "ok" if probe.api.read_stream(streamed.body).text == "pong" and probe.api.ends in streamed.body else "wrong",
    )


def check_tools(probe: Probe) -> str:
    items = [probe.api.user(_CALL)]
    whole = probe.ask(probe.api.body(items, tool="look"))
    streamed = probe.ask({**probe.api.body(items, tool="look"), "stream": True})
    calls = [probe.api.read(whole.json).call, probe.api.read_stream(streamed.body).call]
    if [json.loads(call or "{}") for call in calls] != [{"path": "a.txt"}] * 2:
        return f"wrong input: {calls}"
    after = probe.ask(probe.api.body([*items, *probe.api.again(whole.json, "rain-4711")], tool="look"))
    return "ok" if "rain-4711" in after.body else f"no result ({after.status})"


def check_thinking(probe: Probe) -> str:
    body = {**probe.api.body([probe.api.user("hello")]), **probe.api.effort}
    whole = probe.ask(body)
    found = probe.api.read(whole.json)
    if found.thinking != THOUGHT:
        return f"HTTP {whole.status}, {found.thinking or 'no thinking'}"
    return "signed" if found.signature else "text without signature"


def check_thinking_again(probe: Probe) -> str:
    items = [probe.api.user("hello")]
    whole = probe.ask({**probe.api.body(items), **probe.api.effort})
    after = probe.ask({**probe.api.body([*items, *probe.api.again(whole.json)]), **probe.api.effort})
    arrived = "sent" if f'"{THOUGHT}"' in after.sent else "dropped"
    return arrived if after.status == 200 else f"refused ({after.status})"


def check_thinking_stream(probe: Probe) -> str:
    body = {**probe.api.body([probe.api.user("hello")]), **probe.api.effort, "stream": True}
    found: Answer = probe.api.read_stream(probe.ask(body).body)
    if found.thinking == THOUGHT:
        return "once"
    return "its beginning twice" if found.thinking.endswith(THOUGHT) else found.thinking or "missing"


def check_effort(probe: Probe) -> str:
    body = {**probe.api.body([probe.api.user("hello")]), **probe.api.effort}
    return _fate(probe.ask(body), '"effort": "high"')


def check_effort_alone(probe: Probe) -> str:
    return _fate(probe.say(output_config={"effort": "high"}), '"effort": "high"')


def check_budget(probe: Probe) -> str:
    """A budget of tokens, which this model refuses, becomes adaptive thinking."""
    reply = probe.say(thinking={"type": "enabled", "budget_tokens": 2048})
    return "made adaptive" if _fate(reply, '"type": "adaptive"') == "sent" else _fate(reply, "budget_tokens")


def check_image(probe: Probe) -> str:
    return _fate(probe.ask(probe.api.body([probe.api.user("look", image=True)])), '"iVBORw0KGgo')


def check_marks(probe: Probe) -> str:
    reply = probe.ask(probe.api.body([probe.api.user("hello", ttl="1h")]))
    if _fate(reply, "cachePoint") == "sent" or _fate(reply, "cache_control") == "sent":
        return "sent" if '"1h"' in reply.sent else "sent for 5 minutes"
    return _fate(reply, "cachePoint")


def check_cache_usage(probe: Probe) -> str:
    body = probe.api.body([probe.api.user(f"{probe.model} {probe.api.path} {_LONG}", ttl="5m")])
    written = probe.api.cached(probe.ask(body).json)[1]
    read = probe.api.cached(probe.ask(body).json)[0]
    return "written and read" if read and written else f"written {written}, read {read}"


def check_billing(probe: Probe) -> str:
    system = [{"type": "text", "text": _BILLING}, {"type": "text", "text": "Be brief."}]
    fate = _fate(probe.ask(probe.api.body([probe.api.user("hello")], system)), "x-anthropic-billing-header")
    return {"sent": "forwarded", "dropped": "stripped"}.get(fate, fate)


def check_loop(probe: Probe) -> str:
    if not isinstance(probe.api, Messages):
        return "–"

    def post(body: Json, headers: Mapping[str, str]) -> tuple[int, str]:
        reply = probe.ask(body, headers=headers)
        return reply.status, reply.body

    found = []
    for thinking in (True, False):
        try:
            share = f"{share_read(run_loop(post, probe.model, thinking=thinking)):.0%}"
        except Failed as error:
            share = f"breaks at {str(error).split(':')[0]}"
        found.append(share)
    return found[0] if found[0] == found[1] else f"{found[0]}; without thinking {found[1]}"


def check_betas(probe: Probe) -> str:
    betas = ("context-management-2025-06-27", "fine-grained-tool-streaming-2025-05-14", "claude-code-20250219")
    reply = probe.say(headers={"anthropic-beta": ",".join(betas)})
    kept = [beta.rpartition("-20")[0] for beta in betas if _fate(reply, beta) == "sent"]
    return ", ".join(kept) if reply.status == 200 and kept else _fate(reply, *betas)


def check_tool_edits(probe: Probe) -> str:
    edits = {"edits": [{"type": "clear_tool_uses_20250919"}]}
    beta = {"anthropic-beta": "context-management-2025-06-27"}
    return _fate(probe.say(headers=beta, context_management=edits), "clear_tool_uses_20250919")


def check_thinking_edits(probe: Probe) -> str:
    edits = {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}
    beta = {"anthropic-beta": "context-management-2025-06-27"}
    reply = probe.say(headers=beta, context_management=edits)
    added = ", thinking added" if '"thinking": {' in reply.sent else ""
    return _fate(reply, "clear_thinking_20251015") + added


def check_eager(probe: Probe) -> str:
    body = probe.api.body([probe.api.user("hello")], tool="look")
    body["tools"][0]["eager_input_streaming"] = True
    reply = probe.ask(body)
    return "as beta flag" if _fate(reply, "fine-grained-tool-streaming") == "sent" else _fate(reply, "eager_input")


def check_web_search(probe: Probe) -> str:
    tool = {"type": "web_search_20250305", "name": "web_search", "max_uses": 3}
    tool = {"type": "web_search"} if isinstance(probe.api, Responses) else tool
    return _fate(probe.say(tools=[tool]), "web_search")


def _guarded(reply: Reply) -> str:
    """Whether the guardrail is where the operation reads it: Converse in the body, InvokeModel in the headers."""
    invoked = "anthropic_version" in reply.sent
    return _fate(reply, '"x-amzn-bedrock-guardrailidentifier": "gr-fake"' if invoked else '"guardrailConfig": {')


def check_guardrail(probe: Probe) -> str:
    return _guarded(probe.say(guardrailConfig=_GUARDRAIL))


def check_configured_guardrail(probe: Probe) -> str:
    return _guarded(probe.ask(probe.api.body([probe.api.user("hello")]), model=f"{probe.model}-guarded"))


def check_guardrail_and_headers(probe: Probe) -> str:
    return _guarded(probe.ask(probe.api.body([probe.api.user("hello")]), model=f"{probe.model}-guarded-twice"))


def check_tier(probe: Probe) -> str:
    return _fate(probe.say(service_tier="priority"), '"priority"')


def check_tier_header(probe: Probe) -> str:
    reply = probe.ask(probe.api.body([probe.api.user("hello")]), model=f"{probe.model}-guarded-twice")
    invoked = "anthropic_version" in reply.sent
    return _fate(reply, '"x-amzn-bedrock-service-tier": "priority"') if invoked else "without effect"


def check_metadata(probe: Probe) -> str:
    return _fate(probe.say(metadata={"user_id": "user-4711"}), "user-4711")


def check_unknown_field(probe: Probe) -> str:
    return _fate(probe.say(chat_id="x"), "chat_id")


def check_errors(probe: Probe) -> str:
    """The statuses, and whether the body is in the form of the API and has Bedrock's words."""
    found = []
    for name, words in (
        ("prompt-too-long", "prompt is too long"),
        ("not-allowed", "not authorized to perform"),
        ("too-many-requests", "Too many requests"),
        ("internal-error", "unexpected error during processing"),
    ):
        probe.aws.runtime.scripts[MODEL] = Script(refusal=name)
        whole, streamed = probe.say(), probe.say(stream=True)
        del probe.aws.runtime.scripts[MODEL]
        formed = isinstance(probe.api, Messages) == (whole.body.startswith('{"type":"error"'))
        known = "" if words in whole.body and formed else " (other body)"
        found.append(_say_both(f"{whole.status}{known}", str(streamed.status) + known))
    return ", ".join(found)


def check_fallback(probe: Probe) -> str:
    probe.aws.runtime.scripts[MODEL] = Script(refusal="too-many-requests")
    try:
        body = probe.api.body([probe.api.user("hello")])
        whole = probe.ask(body, model=probe.safe)
        streamed = probe.ask({**body, "stream": True}, model=probe.safe)
    finally:
        del probe.aws.runtime.scripts[MODEL]
    return _say_both(
        "answers" if whole.status == 200 and "pong" in whole.body else f"HTTP {whole.status}",
        "answers"
        if probe.api.read_stream(streamed.body).text == "pong" and probe.api.ends in streamed.body
        else f"HTTP {streamed.status}",
    )


def _check_broken(probe: Probe, script: Script) -> str:
    probe.aws.runtime.scripts[MODEL] = script
    try:
        reply = probe.say(stream=True)
    finally:
        del probe.aws.runtime.scripts[MODEL]
    if reply.status != 200:
        return f"HTTP {reply.status}" if reply.status else "connection cut"
    if any(words in reply.body for words in ("response.failed", "event: error", '"error": {')):
        return "error event"
    return "looks complete" if probe.api.ends in reply.body else "ends early"


def check_error_in_stream(probe: Probe) -> str:
    return _check_broken(probe, Script(text="word " * 40, broken_off_by="too-many-requests", pause=0.1))


def check_cut_stream(probe: Probe) -> str:
    return _check_broken(probe, Script(text="word " * 40, cut=True, pause=0.1))


CHECKS: tuple[tuple[str, Callable[[Probe], str]], ...] = (
    ("text, whole and streamed", check_text),
    ("tool call and its result, whole and streamed", check_tools),
    ("image", check_image),
    ("thinking: in the answer", check_thinking),
    ("thinking: streamed", check_thinking_stream),
    ("thinking: sent back in the next turn", check_thinking_again),
    ("thinking: effort", check_effort),
    ("`output_config.effort` without `thinking`", check_effort_alone),
    ("thinking: a budget, for a model with adaptive thinking", check_budget),
    ("cache: a mark of the client for 1 hour", check_marks),
    ("cache: tokens in `usage`", check_cache_usage),
    ("cache: `x-anthropic-billing-header` in the system prompt", check_billing),
    ("cache: Claude Code's loop, read from the third turn on", check_loop),
    ("`anthropic-beta`: context management, fine-grained tool streaming, claude-code", check_betas),
    ("`context_management`: clear_tool_uses", check_tool_edits),
    ("`context_management`: clear_thinking", check_thinking_edits),
    ("tool with `eager_input_streaming`", check_eager),
    ("tool `web_search`", check_web_search),
    ("`guardrailConfig` of the client", check_guardrail),
    ("`guardrailConfig` of the configuration", check_configured_guardrail),
    ("`guardrailConfig` and `extra_headers` of the configuration", check_guardrail_and_headers),
    ("`service_tier`", check_tier),
    ("a service tier in `extra_headers` of the configuration", check_tier_header),
    ("`metadata.user_id`", check_metadata),
    ("an unknown field", check_unknown_field),
    ("errors: prompt too long, not allowed, throttled, internal", check_errors),
    ("fallback after a 429", check_fallback),
    ("an error event in the middle of a stream", check_error_in_stream),
    ("a connection cut in the middle of a stream", check_cut_stream),
)
