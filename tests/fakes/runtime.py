"""A fake Bedrock runtime: Converse, InvokeModel, both streamed, and CountTokens.

`prompt` reads the bodies of both APIs, `validation` and `thinking` refuse what Bedrock refuses, `prompt_cache` counts
cached tokens, `default_behavior` has what a prompt can ask for (`CALL tool {...}`, `STREAM n EVENTS`), `converse` and
`invoke` render the answer.
"""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.fakes import converse, eventstream, invoke, refusals, thinking
from tests.fakes.account import Account, Key
from tests.fakes.answer import Answer, Block
from tests.fakes.catalogue import INVALID_MODEL, Catalogue, Model
from tests.fakes.default_behavior import behave
from tests.fakes.http import Reply, Request
from tests.fakes.prompt import Body, count_tokens, read_parts, thinking_of
from tests.fakes.prompt_cache import PromptCache
from tests.fakes.refusals import Refused, denied, refuse
from tests.fakes.signature import identify
from tests.fakes.validation import validate

#: The form of the API, and whether the answer is streamed.
_OPERATIONS = {
    "converse": ("converse", False),
    "converse-stream": ("converse", True),
    "invoke": ("invoke", False),
    "invoke-with-response-stream": ("invoke", True),
}
_TIER_HEADER = "X-Amzn-Bedrock-Service-Tier"


@dataclass(frozen=True, slots=True)
class Script:
    """The response of a model.

    Attributes:
        text: the text of the response.
        size: characters of the text in one event of a stream. None: 20, and two events at least.
        tool: the name and the input of a tool that the model calls.
        refusal: respond with this error, a name in `refusals.SCRIPTED`.
        broken_off_by: send this error as an event after the first piece of text.
        first_token: seconds until the first piece.
        pause: seconds between two pieces.
        cut: close the connection after the first piece.
        times: use the script for this number of calls, then the default behavior.
    """

    text: str = "pong"
    size: int | None = None
    tool: tuple[str, dict[str, Any]] | None = None
    refusal: str | None = None
    broken_off_by: str | None = None
    first_token: float = 0.0
    pause: float = 0.0
    cut: bool = False
    times: int | None = None


USUAL = Script()


@dataclass
class Runtime:
    """Respond to chats.

    Attributes:
        scripts: by the id of the called model or profile.
        bodies: the parsed request bodies of the chats.
        headers: the request headers of the chats, in the same order, with names in lower case.
    """

    account: Account
    catalogue: Catalogue
    scripts: dict[str, Script] = field(default_factory=dict)
    bodies: list[Body] = field(default_factory=list)
    headers: list[Mapping[str, str]] = field(default_factory=list)
    _cache: PromptCache = field(init=False)
    _calls: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # The clock of an account can be replaced at any time.
        self._cache = PromptCache(lambda: self.account.clock())

    def answer(self, request: Request) -> tuple[Key, Reply]:
        """The key of the caller and the response. Raises Refused."""
        key = identify(request, self.account, "bedrock", (self.catalogue.region,))
        _, identifier, operation = request.segments
        if request.method == "POST" and operation == "count-tokens":
            return key, self._count(identifier, key, json.loads(request.body))
        if request.method != "POST" or operation not in _OPERATIONS:
            raise refuse(404, "UnknownOperationException", "Unknown operation")
        form, streamed = _OPERATIONS[operation]
        script = self._script(identifier)
        if script.refusal is not None:
            raise Refused(refusals.SCRIPTED[script.refusal])
        action = "bedrock:InvokeModelWithResponseStream" if streamed else "bedrock:InvokeModel"
        model = self._find(identifier, key, action)
        body = json.loads(request.body)
        self.bodies.append(body)
        self.headers.append(request.headers)
        tier = validate(model, body, form, request.headers)
        return key, self._chat(model, body, form, script, tier, streamed=streamed)

    def _chat(self, model: Model, body: Body, form: str, script: Script, tier: str, *, streamed: bool) -> Reply:
        parts = read_parts(body)
        if script is USUAL:
            script = replace(USUAL, **behave(parts))
        choice = body.get("tool_choice") or body.get("toolConfig", {}).get("toolChoice")
        use = self._cache.use(model.id, model.cache_minimum, parts, [thinking_of(body, form), choice])
        answer = Answer(_build_blocks(script, thinks=thinking.is_on(body, form), form=form), use, tier)
        time.sleep(script.first_token)
        headers = {"x-amzn-RequestId": str(uuid.uuid4()), **({_TIER_HEADER: tier} if tier else {})}
        name = model.id.partition(".")[2]
        if streamed:
            return _stream(
                script, converse.events(answer) if form == "converse" else invoke.events(answer, name), headers
            )
        whole = converse.render(answer) if form == "converse" else invoke.render(answer, name)
        return Reply(200, json.dumps(whole).encode(), {**headers, "Content-Type": "application/json"})

    def _count(self, identifier: str, key: Key, body: Body) -> Reply:
        """CountTokens: only for some models, by the id of the foundation model itself, on demand or not.

        Source: https://docs.aws.amazon.com/bedrock/latest/userguide/count-tokens.html
        """
        model = self.catalogue.models.get(identifier)
        if model is None and identifier not in self.catalogue.profiles():
            raise Refused(INVALID_MODEL)
        action = "bedrock:CountTokens"
        if action in self.account.denied:
            arn = self.catalogue.model_arn(model) if model else self.catalogue.profile_arn(identifier)
            raise denied(key.arn, action, arn)
        if model is None or not model.counts:
            raise refuse(400, "ValidationException", "The provided model doesn't support counting tokens.")
        given = body["input"].get("converse") or json.loads(base64.b64decode(body["input"]["invokeModel"]["body"]))
        counted = json.dumps({"inputTokens": count_tokens(given)}).encode()
        return Reply(200, counted, {"x-amzn-RequestId": str(uuid.uuid4()), "Content-Type": "application/json"})

    def _script(self, identifier: str) -> Script:
        script = self.scripts.get(identifier, USUAL)
        if script.times is not None:
            calls = self._calls[identifier] = self._calls.get(identifier, 0) + 1
            return script if calls <= script.times else USUAL
        return script

    def _find(self, identifier: str, key: Key, action: str) -> Model:
        """The model of an id or ARN. Raises Refused if the call is not valid."""
        name = identifier.split("/")[-1] if identifier.startswith("arn:") else identifier
        profile, model = self.catalogue.profiles().get(name), self.catalogue.models.get(name)
        found = profile or model
        if found is None:
            raise Refused(INVALID_MODEL)
        if action in self.account.denied:
            arn = self.catalogue.profile_arn(name) if profile else self.catalogue.model_arn(found)
            raise denied(key.arn, action, arn)
        if found.has_ended(self.account.clock()):
            raise Refused(refusals.SCRIPTED["model-ended"])
        if model is not None and not model.on_demand:
            raise refusals.on_demand(model.id)
        return found


def _build_blocks(script: Script, *, thinks: bool, form: str) -> tuple[Block, ...]:
    blocks = []
    if thinks:
        thought = thinking.THOUGHT
        blocks.append(Block("thinking", thought, _size(thought), signature=thinking.sign(thought)))
    if script.text:
        blocks.append(Block("text", script.text, script.size or _size(script.text)))
    if script.tool:
        name, given = script.tool
        text = json.dumps(given)
        prefix = "tooluse_" if form == "converse" else "toolu_bdrk_"
        blocks.append(Block("tool", text, _size(text), name, f"{prefix}{uuid.uuid4().hex[:22]}"))
    return tuple(blocks)


def _size(text: str) -> int:
    """Of a piece of a text: at least two pieces, not at the ends of words."""
    return max(1, min(20, len(text) // 2))


def _stream(script: Script, events: Iterable[bytes], headers: dict[str, str]) -> Reply:
    cut_short = script.cut or script.broken_off_by is not None
    headers = {**headers, "Content-Type": eventstream.CONTENT_TYPE}
    return Reply(200, b"", headers, _paced(script, events) if cut_short or script.pause else events, cut=script.cut)


def _paced(script: Script, events: Iterable[bytes]) -> Iterator[bytes]:
    for number, one in enumerate(events):
        yield one
        if number == 1 and script.cut:
            # Half of an event, as with a broken connection.
            yield one[: len(one) // 2]
            return
        if number == 1 and script.broken_off_by is not None:
            refusal = refusals.SCRIPTED[script.broken_off_by]
            yield eventstream.exception(refusal.code[0].lower() + refusal.code[1:], refusal.message)
            return
        time.sleep(script.pause)
