"""From what a gateway says to what to do about it: one short sentence a cause."""

from __future__ import annotations

import re

from litellm_systemd.client import Answer
from litellm_systemd.client_errors import JOURNAL

#: Looked for in the text of a failed chat, first match wins. The words are those of botocore, Bedrock, LiteLLM.
_BY_TEXT: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), hint)
    for pattern, hint in (
        (
            r"unable to locate credentials|NoCredentials|partial credentials",
            "Attach an instance profile to the EC2 instance, or set the AWS key pair in .env and install again.",
        ),
        (
            r"ExpiredToken|security token included in the request is expired|token has expired",
            "The AWS session has expired: put a fresh key pair and session token in .env and install again.",
        ),
        (
            r"UnrecognizedClient|InvalidClientTokenId|SignatureDoesNotMatch|InvalidSignature"
            r"|security token included in the request is invalid",
            "AWS doesn't know this key pair: check it, and the machine's clock, with `aws sts get-caller-identity`.",
        ),
        (
            r"end of its life|marked by provider as legacy|ResourceNotFound",
            "Bedrock has retired the model or doesn't offer it in this region: configure a current one.",
        ),
        (
            r"AccessDenied|not authorized to perform|have access to the model",
            "Allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream on the inference profile and on "
            "the models behind it, and enable the model in the Bedrock console.",
        ),
        (
            r"on-demand throughput|inference profile",
            "Name the model by its inference profile for your region, such as one that begins with us. or eu.",
        ),
        (
            r"model identifier is invalid",
            "Bedrock doesn't have this model id in the region: check both in the configuration.",
        ),
        (
            r"invalid model name",
            "Ask for a name that the configuration has; after a change, `systemctl restart litellm`.",
        ),
        (
            r"in cooldown|No deployments available",
            f"LiteLLM rests this model after a failure just before; {JOURNAL} has the first error.",
        ),
        (
            r"Throttling|Too many (?:requests|tokens)|RateLimit|quota",
            "The provider throttles: wait, or ask AWS for a higher Bedrock quota.",
        ),
        (
            r"Cannot connect to host|Could not connect to the endpoint|Name or service not known"
            r"|certificate verify failed|Connection error",
            "The service can't reach the provider: check DNS, proxy and the way out from this host.",
        ),
        (
            r"litellm\.Timeout|timed? ?out",
            "The provider was too slow for LiteLLM: raise request_timeout in the configuration.",
        ),
    )
)

_BY_STATUS = {
    401: "The model's provider refuses the credentials of the service: check those in .env.",
    403: "The model's provider forbids this to the credentials of the service: check those in .env.",
    404: "Check that --base-url is the gateway's own address, without /v1.",
    502: f"A reverse proxy answers, the gateway behind it doesn't: `systemctl status litellm`, {JOURNAL}.",
    503: f"The gateway is starting or overloaded: wait with --wait, then read {JOURNAL}.",
    504: "The gateway was too slow for the reverse proxy in front of it: raise the proxy's time-out.",
}


def hint_for(answer: Answer) -> str:
    """The remedy for an answer that isn't the one hoped for; never empty."""
    for pattern, hint in _BY_TEXT:
        if pattern.search(answer.text):
            return hint
    if 300 <= answer.status < 400:
        return "Give the address that it leads to as --base-url: the key isn't sent after a redirect."
    return _BY_STATUS.get(answer.status, f"Read {JOURNAL}.")


def hint_for_text(text: str) -> str:
    """The remedy for an error that came inside a stream."""
    return hint_for(Answer(200, {}, text, 0.0))
