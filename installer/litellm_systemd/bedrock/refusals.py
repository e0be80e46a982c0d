"""How AWS says no on the way to a Bedrock model, and what to do about each: shown by verify, listed in the docs.

The words are those of AWS, LiteLLM and botocore. No error code reaches the client for sure, so that refusals are told
apart by their messages. docs/bedrock-refusals.md is made from this: `python -m tests.refusal_matrix` writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BedrockRefusal:
    """One way to be refused.

    `name`: a short handle. `aws`: AWS's error code and status, as people look for it. `words`: a regular expression
    for the message. `cause` and `remedy`: a sentence each; the first without its full stop.
    """

    name: str
    aws: str
    words: str
    cause: str
    remedy: str
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.words, re.IGNORECASE | re.DOTALL))

    @property
    def hint(self) -> str:
        """What verify says under the message of AWS."""
        return f"{self.cause}: {self.remedy}"


ACCESS: tuple[BedrockRefusal, ...] = (
    # --- who is calling ---
    BedrockRefusal(
        "no-credentials",
        "none: boto3 found no credentials",
        r"unable to locate credentials|NoCredentials|partial credentials|Credential refresh failed"
        r"|Error when retrieving credentials from iam-role",
        "The service found no AWS credentials",
        "attach an instance profile to the EC2 instance, or set the AWS key pair in .env and install again.",
    ),
    BedrockRefusal(
        "role-not-assumed",
        "AccessDenied of STS, 403",
        r"not authorized to perform: sts:AssumeRole",
        "The role in AWS_ROLE_NAME doesn't let this identity assume it",
        "name the identity, and AWS_EXTERNAL_ID if one is asked for, in the role's trust policy, and allow it"
        " sts:AssumeRole.",
    ),
    BedrockRefusal(
        "session-expired",
        "ExpiredTokenException, 403",
        r"ExpiredToken|security token included in the request is expired|refreshed credentials are still expired",
        "The temporary AWS key has expired",
        "put a fresh key pair and session token in .env and install again, or use an IAM role, which renews itself.",
    ),
    BedrockRefusal(
        "key-unknown",
        "UnrecognizedClientException, 403",
        r"UnrecognizedClient|InvalidClientTokenId|security token included in the request is invalid",
        "AWS doesn't know this access key, or the session token isn't of this key",
        "check with `aws sts get-caller-identity` that the pair is active, and leave AWS_SESSION_TOKEN out for a key"
        " that starts with AKIA.",
    ),
    BedrockRefusal(
        "wrong-clock",
        "InvalidSignatureException, 403",
        r"Signature expired|Signature not yet current|RequestTimeTooSkewed",
        "This machine's clock is more than five minutes off",
        "set it with `timedatectl set-ntp true` and look at `timedatectl`.",
    ),
    BedrockRefusal(
        "wrong-region",
        "InvalidSignatureException, 403",
        r"Credential should be scoped to a valid region",
        "The endpoint belongs to another region than the one in AWS_REGION_NAME",
        "make AWS_REGION_NAME and AWS_BEDROCK_RUNTIME_ENDPOINT name the same region.",
    ),
    BedrockRefusal(
        "wrong-secret",
        "InvalidSignatureException, 403",
        r"SignatureDoesNotMatch|InvalidSignature|request signature we calculated does not match",
        "AWS knows the access key, but the secret in AWS_SECRET_ACCESS_KEY isn't its own",
        "copy the secret again, or make a new pair.",
    ),
    BedrockRefusal(
        "api-key-expired",
        "AccessDeniedException, 403",
        r"Bearer Token has expired|API key (?:has )?expired",
        "The Bedrock API key in AWS_BEARER_TOKEN_BEDROCK has expired",
        "make a new one in the Bedrock console; short-term keys live twelve hours at most.",
    ),
    BedrockRefusal(
        "api-key-invalid",
        "AccessDeniedException, 403",
        r"make sure your API Key is valid|Invalid API Key format",
        "The Bedrock API key in AWS_BEARER_TOKEN_BEDROCK is unknown in this region",
        "copy it again, and check that it was made for the region in AWS_REGION_NAME.",
    ),
    # --- what it may do ---
    BedrockRefusal(
        "endpoint-policy",
        "AccessDeniedException, 403",
        r"no VPC endpoint policy allows",
        "The policy of the VPC endpoint forbids the call",
        "allow bedrock:InvokeModel* for this identity in the endpoint's policy.",
    ),
    BedrockRefusal(
        "permissions-boundary",
        "AccessDeniedException, 403",
        r"no permissions boundary allows",
        "A permissions boundary of the user or role forbids the call",
        "have bedrock:InvokeModel* added to the boundary; the policy alone can't allow it.",
    ),
    BedrockRefusal(
        "explicit-deny",
        "AccessDeniedException, 403",
        r"with an explicit deny|no service control policy allows",
        "A policy of the organization or account denies the call, often for a region behind the inference profile",
        "ask whoever runs the AWS organization, or use a profile whose regions are all allowed.",
    ),
    BedrockRefusal(
        "not-allowed",
        "AccessDeniedException, 403",
        r"not authorized to perform: bedrock:|no identity-based policy allows",
        "The user or role has no permission for this model",
        "allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream on the inference profile and on the"
        " models behind it.",
    ),
    BedrockRefusal(
        "marketplace",
        "AccessDeniedException, 403",
        r"required AWS Marketplace actions",
        "Nobody has subscribed this account to the model yet, and the service may not do so",
        "call the model once as an administrator with aws-marketplace:Subscribe, then wait two minutes.",
    ),
    BedrockRefusal(
        "payment",
        "AccessDeniedException, 403",
        r"INVALID_PAYMENT_INSTRUMENT|valid payment instrument",
        "The AWS account has no valid means of payment for the model's subscription",
        "mend it in the Billing console, then wait some minutes.",
    ),
    BedrockRefusal(
        "use-case-form",
        "ResourceNotFoundException, 404",
        r"use case details have not been submitted",
        "Anthropic wants to know once per account what its models are for",
        "fill in the use case form in the Bedrock console and wait 15 minutes.",
    ),
    BedrockRefusal(
        "no-caching",
        "AccessDeniedException, 403",
        r"did not allow prompt caching",
        "This model doesn't cache prompts",
        "use iam_role_config.yml or access_key_config.yml for it, without cache_control.",
    ),
    BedrockRefusal(
        "no-model-access",
        "AccessDeniedException, 403",
        r"have access to the model",
        "The account has no access to this model in this region",
        "open the model in the Bedrock console's catalogue of this region and request access.",
    ),
    BedrockRefusal(
        "account-closed",
        "AccessDeniedException, 403",
        r"account is not authorized to invoke this API operation",
        "AWS has not opened Bedrock in this region for the account",
        "enable the region and Bedrock for the account, or ask AWS Support.",
    ),
    BedrockRefusal(
        "operation-not-allowed",
        "ValidationException, 400",
        r"\bOperation not allowed",
        "AWS has closed this model to the account, as for new accounts and for models near their end",
        "configure a newer model; if that fails too, ask AWS Support.",
    ),
)


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
