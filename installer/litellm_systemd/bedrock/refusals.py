"""How AWS says no on the way to a Bedrock model, and what to do about each: shown by verify, listed in the docs.

The words are those of AWS, LiteLLM and botocore. No error code reaches the client for sure, so that refusals are told
apart by their messages. docs/bedrock-refusals.md is made from this: `python -m tests.refusal_matrix` writes it.
"""

from __future__ import annotations

from litellm_systemd.bedrock.refusal import BedrockRefusal
from litellm_systemd.bedrock.refusals_access import ACCESS

_CALLS: tuple[BedrockRefusal, ...] = (
    # --- which model ---
    BedrockRefusal(
        "model-ended",
        "ResourceNotFoundException, 404",
        r"end of its life",
        "Bedrock has ended this model",
        "configure a current one.",
    ),
    BedrockRefusal(
        "model-legacy",
        "ResourceNotFoundException, 404",
        r"marked by provider as legacy",
        "Bedrock is retiring this model and has closed it to accounts that don't use it",
        "configure a current one.",
    ),
    BedrockRefusal(
        "on-demand",
        "ValidationException, 400",
        r"on-demand throughput",
        "Bedrock serves this model through inference profiles alone",
        "name it by the profile for your region, with us. or eu. or global. before the model's id.",
    ),
    BedrockRefusal(
        "model-unknown",
        "ValidationException, 400",
        r"model identifier is invalid|inference profile (?:identifier )?(?:is invalid|does not exist|not found)",
        "Bedrock doesn't have this model or profile id in the region",
        "check both in the configuration.",
    ),
    # --- what was asked ---
    BedrockRefusal(
        "prompt-too-long",
        "ValidationException, 400",
        r"prompt is too long|Input is too long|ContextWindowExceeded",
        "The prompt is longer than the model can read",
        "shorten it, or configure a model with a larger context.",
    ),
    BedrockRefusal(
        "parameter-refused",
        "ValidationException, 400",
        r"is deprecated for this model|does(?:n't| not) support (?:the )?(?:parameter|temperature|top_p)"
        r"|extraneous key",
        "The model refuses a parameter of the request",
        "set drop_params: true under litellm_settings, or leave the parameter out.",
    ),
    # --- how much ---
    BedrockRefusal(
        "tokens-per-day",
        "ThrottlingException, 429",
        r"tokens per day",
        "The account's tokens for today are used up",
        "wait until midnight UTC, use another model, or ask AWS for a higher Bedrock quota.",
    ),
    BedrockRefusal(
        "too-many-tokens",
        "ThrottlingException, 429",
        r"too many tokens",
        "The account's tokens for this minute are used up",
        "wait, lower max_tokens, or ask AWS for more tokens per minute.",
    ),
    BedrockRefusal(
        "model-not-ready",
        "ModelNotReadyException, 429",
        r"model is not ready",
        "Bedrock is still loading the model",
        "try again in a minute.",
    ),
    BedrockRefusal(
        "quota",
        "ServiceQuotaExceededException, 400",
        r"exceeds the service quota|ServiceQuotaExceeded",
        "A Bedrock quota of the account is used up",
        "look for it in the Service Quotas console and ask for more.",
    ),
    # --- troubles of AWS ---
    BedrockRefusal(
        "model-timeout",
        "ModelTimeoutException, 408",
        r"model has timed out",
        "The model took longer than Bedrock allows",
        "try again with a shorter prompt or fewer max_tokens, or stream the answer.",
    ),
    BedrockRefusal(
        "model-stream-error",
        "ModelStreamErrorException, 424",
        r"error occurred while streaming|modelStreamError",
        "The model broke off its answer",
        "try again; if it stays so, health.aws.amazon.com tells of troubles.",
    ),
    BedrockRefusal(
        "model-error",
        "ModelErrorException, 424",
        r"error while processing the model",
        "The model itself failed on this request",
        "try again; if it stays so, try another model.",
    ),
    BedrockRefusal(
        "unavailable",
        "ServiceUnavailableException, 503",
        r"unable to process your request|service is(?:n't| not) currently available|ServiceUnavailableException",
        "Bedrock is overloaded in this region",
        "try again; a global. profile has more room.",
    ),
    BedrockRefusal(
        "internal-error",
        "InternalServerException, 500",
        r"encountered an unexpected error during processing|internalServerException",
        "Bedrock failed",
        "try again; if it stays so, health.aws.amazon.com tells of troubles in the region.",
    ),
    BedrockRefusal(
        "stream-cut",
        "none: the connection broke",
        r"undecoded bytes|payload is not completed|peer closed connection without sending complete message"
        r"|incomplete chunked read|decoded to no events",
        "The connection to Bedrock broke in the midst of an answer",
        "look for a proxy or firewall that ends long connections.",
    ),
    BedrockRefusal(
        "unreachable",
        "none: no connection",
        r"Cannot connect to host|Could not connect to the endpoint|Name or service not known|All connection attempts"
        r" failed|Temporary failure in name resolution|Connection refused|Connection error",
        "The service can't reach the provider",
        "check DNS, proxy and the way out from this host, and AWS_BEDROCK_RUNTIME_ENDPOINT if it is set.",
    ),
    BedrockRefusal(
        "untrusted",
        "none: no TLS",
        r"certificate verify failed",
        "The certificate of the provider's address isn't trusted here, as behind a proxy that opens TLS",
        "name the proxy's CA certificates in SSL_CERT_FILE.",
    ),
    # Last: its words are in LiteLLM's wrapping of other refusals too.
    BedrockRefusal(
        "too-many-requests",
        "ThrottlingException, 429",
        r"Throttling|too many requests|RateLimit|quota",
        "The provider throttles",
        "wait, or ask AWS for a higher Bedrock quota.",
    ),
)

#: In the order in which they are tried: the first whose words are in a message is it.
REFUSALS = (*ACCESS, *_CALLS)


def find_refusal(text: str) -> BedrockRefusal | None:
    """Which refusal a message tells of, if it is one of them."""
    return next((one for one in REFUSALS if one.pattern.search(text)), None)
