"""From what a gateway says to what to do about it: one short sentence a cause."""

from __future__ import annotations

import re

from litellm_systemd.bedrock.refusals import find_refusal
from litellm_systemd.client.errors import JOURNAL
from litellm_systemd.client.gateway import Response

#: Looked for in the text of a failed chat before and after the refusals of AWS, first match wins. LiteLLM's words.
_BEFORE = (
    (
        re.compile(r"invalid model name", re.IGNORECASE),
        "Ask for a name that the configuration has; after a change, `systemctl reload litellm`.",
    ),
    (
        re.compile(r"in cooldown|No deployments available", re.IGNORECASE),
        f"LiteLLM rests this model after a failure just before; {JOURNAL} has the first error.",
    ),
)
_AFTER = (
    (
        re.compile(r"litellm\.Timeout|timed? ?out", re.IGNORECASE),
        "The provider was too slow for LiteLLM: raise request_timeout in the configuration.",
    ),
)

_BY_STATUS = {
    401: "The model's provider refuses the credentials of the service: check those in .env.",
    403: "The model's provider forbids this to the credentials of the service: check those in .env.",
    404: "Check that --base-url is the gateway's own address, without /v1.",
    502: f"A reverse proxy answers, the gateway behind it doesn't: `systemctl status litellm`, {JOURNAL}.",
    503: f"The gateway is starting or overloaded: wait with --wait, then read {JOURNAL}.",
    504: "The gateway was too slow for the reverse proxy in front of it: raise the proxy's time-out.",
}


def hint_for(answer: Response) -> str:
    """The remedy for an answer that isn't the one hoped for; never empty."""
    found = _by_words(answer.text)
    if found:
        return found
    if 300 <= answer.status < 400:
        return "Give the address that it leads to as --base-url: the key isn't sent after a redirect."
    return _BY_STATUS.get(answer.status, f"Read {JOURNAL}.")


def _by_words(text: str) -> str:
    for pattern, hint in _BEFORE:
        if pattern.search(text):
            return hint
    refusal = find_refusal(text)
    if refusal is not None:
        return refusal.hint
    return next((hint for pattern, hint in _AFTER if pattern.search(text)), "")


def hint_for_text(text: str) -> str:
    """The remedy for an error that came inside a stream."""
    return hint_for(Response(200, {}, text, 0.0))
