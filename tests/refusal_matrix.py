"""docs/bedrock-refusals.md, made of what verify's hints are made of: `python -m tests.refusal_matrix` writes it."""

from __future__ import annotations

import re
from pathlib import Path

from litellm_systemd.bedrock.refusals import REFUSALS
from tests.fakes.refusals import SCRIPTED

PAGE = Path(__file__).resolve().parents[1] / "docs/bedrock-refusals.md"

_HEAD = """\
# When AWS says no

`litellmctl verify` asks a model, and when AWS refuses it names the cause and the remedy. This is the list of what it
knows, in the order in which it looks: the first row whose words are in the message counts. Each row but `untrusted`
is tested on the whole way, from a client through LiteLLM to a Bedrock that refuses.

The page is made from the program (`python -m tests.refusal_matrix`): don't edit it.

| Refusal | What AWS says | Error and status | Cause | What to do |
|---|---|---|---|---|
"""
#: The messages of those that aren't scripted.
_SAYS = {
    "no-credentials": "Unable to locate credentials",
    "role-not-assumed": "User: … is not authorized to perform: sts:AssumeRole on resource: …",
    "wrong-region": "Credential should be scoped to a valid region.",
    "wrong-secret": "The request signature we calculated does not match the signature you provided.",
    "api-key-invalid": "Authentication failed: Please make sure your API Key is valid.",
    "on-demand": "Invocation of model ID … with on-demand throughput isn’t supported.",
    "model-unknown": "The provided model identifier is invalid.",
    "stream-cut": "Response payload is not completed",
    "unreachable": "Cannot connect to host …",
    "untrusted": "certificate verify failed",
}
_LONGEST = 110


def _says(name: str) -> str:
    text = SCRIPTED[name].message if name in SCRIPTED else _SAYS[name]
    # Those of IAM differ in their ends alone.
    text = re.sub(r"^User: .* (because|with) ", r"User: … is not authorized to perform: … \1 ", text)
    return text if len(text) <= _LONGEST else text[: text.rindex(" ", 0, _LONGEST)] + " …"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def render() -> str:
    """The page."""
    rows = (
        f"| {one.name} | {_says(one.name)} | {one.aws} | {one.cause}. | {_sentence(one.remedy)} |" for one in REFUSALS
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
