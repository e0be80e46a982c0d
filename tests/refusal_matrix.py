"""Generate docs/bedrock-refusals.md from the errors that verify knows: `python -m tests.refusal_matrix`."""

from __future__ import annotations

import re
from pathlib import Path

from litellm_systemd.bedrock.refusals import REFUSALS
from tests.fakes.refusals import SCRIPTED

PAGE = Path(__file__).resolve().parents[1] / "docs/bedrock-refusals.md"

_HEAD = """\
# Errors of Amazon Bedrock

When AWS rejects a call, `litellmctl verify` and `litellmctl doctor` name the cause and the remedy. This page lists
the errors that they know, in the order in which they are tried: the first row whose message matches applies. Each row
except `untrusted` is tested end to end, from a client through LiteLLM to a fake Bedrock that returns the error.

This page is generated (`python -m tests.refusal_matrix`): do not edit it.

| Name | Message | Error code and status | Cause | Remedy |
|---|---|---|---|---|
"""
#: The messages of errors that the fakes do not script.
_MESSAGES = {
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


def _message(name: str) -> str:
    text = SCRIPTED[name].message if name in SCRIPTED else _MESSAGES[name]
    # The messages of IAM differ only at their end.
    text = re.sub(r"^User: .* (because|with) ", r"User: … is not authorized to perform: … \1 ", text)
    return text if len(text) <= _LONGEST else text[: text.rindex(" ", 0, _LONGEST)] + " …"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]


def render() -> str:
    rows = (
        f"| {one.name} | {_message(one.name)} | {one.aws} | {one.cause}. | {_sentence(one.remedy)} |"
        for one in REFUSALS
    )
    return _HEAD + "\n".join(rows) + "\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
