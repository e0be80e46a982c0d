"""Errors of AWS for calls of Bedrock models, with cause and remedy: shown by verify, listed in the documentation.

The messages are those of AWS, LiteLLM and botocore. Error codes do not reliably reach the client, so errors are
identified by their messages. docs/bedrock-refusals.md is generated: `python -m tests.refusal_matrix` writes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class BedrockRefusal:
    """One error of AWS.

    `name`: a short identifier. `aws`: AWS's error code and status, for searching. `regex`: matches the message.
    `cause` and `remedy`: one sentence each; `cause` has no full stop.
    """

    name: str
    aws: str
    regex: str
    cause: str
    remedy: str
    pattern: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "pattern", re.compile(self.regex, re.IGNORECASE | re.DOTALL))

    @property
    def hint(self) -> str:
        """The text that verify prints below AWS's message."""
        return f"{self.cause}: {self.remedy}"


ACCESS: tuple[BedrockRefusal, ...] = (
    # --- credentials ---
    BedrockRefusal(
        "no-credentials",
        "none: boto3 found no credentials",
        r"unable to locate credentials|NoCredentials|partial credentials|Credential refresh failed"
        r"|Error when retrieving credentials from iam-role",
        "The service found no AWS credentials",
        "attach an instance profile to the EC2 instance, or set the AWS access key in .env and install again.",
    ),
    BedrockRefusal(
        "role-not-assumed",
        "AccessDenied of STS, 403",
        r"not authorized to perform: sts:AssumeRole",
        "The role in AWS_ROLE_NAME does not allow this identity to assume it",
        "add the identity, and AWS_EXTERNAL_ID if required, to the role's trust policy, and allow the identity"
        " sts:AssumeRole.",
    ),
    BedrockRefusal(
        "session-expired",
        "ExpiredTokenException, 403",
        r"ExpiredToken|security token included in the request is expired|refreshed credentials are still expired",
        "The temporary AWS key has expired",
        "put a new access key and session token into .env and install again, or use an IAM role, which needs no"
        " renewal.",
    ),
    BedrockRefusal(
        "key-unknown",
        "UnrecognizedClientException, 403",
        r"UnrecognizedClient|InvalidClientTokenId|security token included in the request is invalid",
        "AWS does not know this access key, or the session token belongs to another key",
        "check with `aws sts get-caller-identity` that the key is active. A key that starts with ASIA needs its"
        " AWS_SESSION_TOKEN, one that starts with AKIA must have none.",
    ),
    BedrockRefusal(
        "wrong-clock",
        "InvalidSignatureException, 403",
        r"Signature expired|Signature not yet current|RequestTimeTooSkewed",
        "The clock of this host is wrong by more than five minutes",
        "run `sudo timedatectl set-ntp true` and check the result with `timedatectl`.",
    ),
    BedrockRefusal(
        "wrong-region",
        "InvalidSignatureException, 403",
        r"Credential should be scoped to a valid region",
        "The endpoint is in another region than AWS_REGION_NAME",
        "set AWS_REGION_NAME and AWS_BEDROCK_RUNTIME_ENDPOINT to the same region.",
    ),
    BedrockRefusal(
        "wrong-secret",
        "InvalidSignatureException, 403",
        r"SignatureDoesNotMatch|InvalidSignature|request signature we calculated does not match",
        "AWS knows the access key, but AWS_SECRET_ACCESS_KEY is not its secret",
        "copy the secret again, or create a new access key.",
    ),
    BedrockRefusal(
        "api-key-expired",
        "AccessDeniedException, 403",
        r"Bearer Token has expired|API key (?:has )?expired",
        "The Bedrock API key in AWS_BEARER_TOKEN_BEDROCK has expired",
        "create a new one in the Bedrock console; short-term keys are valid for twelve hours at most.",
    ),
    BedrockRefusal(
        "api-key-invalid",
        "AccessDeniedException, 403",
        r"make sure your API Key is valid|Invalid API Key format",
        "The Bedrock API key in AWS_BEARER_TOKEN_BEDROCK is unknown in this region",
        "copy it again, and check that it was created for the region in AWS_REGION_NAME.",
    ),
    # --- permissions ---
    BedrockRefusal(
        "endpoint-policy",
        "AccessDeniedException, 403",
        r"no VPC endpoint policy allows",
        "The policy of the VPC endpoint does not allow the call",
        "allow bedrock:InvokeModel* for this identity in the endpoint's policy.",
    ),
    BedrockRefusal(
        "permissions-boundary",
        "AccessDeniedException, 403",
        r"no permissions boundary allows",
        "The permissions boundary of the user or role does not allow the call",
        "have bedrock:InvokeModel* added to the boundary; a policy alone is not sufficient.",
    ),
    BedrockRefusal(
        "explicit-deny",
        "AccessDeniedException, 403",
        r"with an explicit deny|no service control policy allows",
        "A policy of the organization or account denies the call, often for a region of the inference profile",
        "ask the administrators of the AWS organization, or use a profile whose regions are all allowed.",
    ),
    BedrockRefusal(
        "not-allowed",
        "AccessDeniedException, 403",
        r"not authorized to perform: bedrock:|no identity-based policy allows",
        "The user or role has no permission for this model",
        "allow bedrock:InvokeModel and bedrock:InvokeModelWithResponseStream on the inference profile and on its"
        " models: `sudo litellmctl iam-policy` prints the policy.",
    ),
    BedrockRefusal(
        "marketplace",
        "AccessDeniedException, 403",
        r"required AWS Marketplace actions",
        "The account has no subscription to the model yet, and the service is not allowed to subscribe",
        "call the model once as an administrator with aws-marketplace:Subscribe, then wait two minutes.",
    ),
    BedrockRefusal(
        "payment",
        "AccessDeniedException, 403",
        r"INVALID_PAYMENT_INSTRUMENT|valid payment instrument",
        "The AWS account has no valid payment method for the model's subscription",
        "correct it in the Billing console, then wait a few minutes.",
    ),
    BedrockRefusal(
        "use-case-form",
        "ResourceNotFoundException, 404",
        r"use case details have not been submitted",
        "Anthropic requires a use case form once per account",
        "submit the use case form in the Bedrock console and wait 15 minutes.",
    ),
    BedrockRefusal(
        "no-caching",
        "AccessDeniedException, 403",
        r"did not allow prompt caching",
        "This model does not support prompt caching",
        "use it with iam_role_config.yml or access_key_config.yml, without cache_control.",
    ),
    BedrockRefusal(
        "no-model-access",
        "AccessDeniedException, 403",
        r"have access to the model",
        "The account has no access to this model in this region",
        "open the model in the model catalog of the Bedrock console, in this region, and request access.",
    ),
    BedrockRefusal(
        "account-closed",
        "AccessDeniedException, 403",
        r"account is not authorized to invoke this API operation",
        "AWS has not opened Bedrock in this region for the account",
        "enable the region and Bedrock for the account, or contact AWS Support.",
    ),
    BedrockRefusal(
        "operation-not-allowed",
        "ValidationException, 400",
        r"\bOperation not allowed",
        "AWS has closed this model to the account, as for new accounts and for models near their end",
        "configure a newer model; if that fails too, contact AWS Support.",
    ),
)


#: Failures of the connection, to any provider.
UNREACHABLE = BedrockRefusal(
    "unreachable",
    "none: no connection",
    r"Cannot connect to host|Could not connect to the endpoint|Name or service not known|All connection attempts"
    r" failed|Temporary failure in name resolution|Connection refused|Connection error",
    "The service cannot reach the provider",
    "check DNS, proxy and routes of this host, and AWS_BEDROCK_RUNTIME_ENDPOINT if it is set.",
)
UNTRUSTED = BedrockRefusal(
    "untrusted",
    "none: no TLS",
    r"certificate verify failed",
    "The provider's certificate is not trusted, for example behind a proxy that inspects TLS",
    "set SSL_CERT_FILE to a file with the proxy's CA certificates.",
)

#: Rejections of the id that the configuration has for a model.
MODELS: tuple[BedrockRefusal, ...] = (
    BedrockRefusal(
        "model-ended",
        "ResourceNotFoundException, 404",
        r"end of its life",
        "Bedrock has ended this model",
        "configure a current model.",
    ),
    BedrockRefusal(
        "model-legacy",
        "ResourceNotFoundException, 404",
        r"marked by provider as legacy",
        "Bedrock is retiring this model and has closed it to accounts that do not use it",
        "configure a current model.",
    ),
    BedrockRefusal(
        "on-demand",
        "ValidationException, 400",
        r"on-demand throughput",
        "Bedrock serves this model only through inference profiles",
        "use the profile for your region: us., eu. or global. before the model's id.",
    ),
    BedrockRefusal(
        "model-unknown",
        "ValidationException, 400",
        r"model identifier is invalid|inference profile (?:identifier )?(?:is invalid|does not exist|not found)",
        "Bedrock has no model or profile with this id in the region",
        "check id and region in the configuration.",
    ),
)

_CALLS: tuple[BedrockRefusal, ...] = (
    *MODELS,
    # --- the request ---
    BedrockRefusal(
        "prompt-too-long",
        "ValidationException, 400",
        r"prompt is too long|Input is too long|ContextWindowExceeded",
        "The prompt is longer than the model's context",
        "shorten it, or configure a model with a larger context.",
    ),
    BedrockRefusal(
        "parameter-refused",
        "ValidationException, 400",
        r"is deprecated for this model|does(?:n't| not) support (?:the )?(?:parameter|temperature|top_p)"
        r"|extraneous key",
        "The model rejects a parameter of the request",
        "set drop_params: true under litellm_settings, or omit the parameter.",
    ),
    # --- limits ---
    BedrockRefusal(
        "tokens-per-day",
        "ThrottlingException, 429",
        r"tokens per day",
        "The account's tokens for today are used up",
        "wait until midnight UTC, use another model, or request a higher Bedrock quota from AWS.",
    ),
    BedrockRefusal(
        "too-many-tokens",
        "ThrottlingException, 429",
        r"too many tokens",
        "The account's tokens for this minute are used up",
        "wait, lower max_tokens, or request a higher quota of tokens per minute from AWS.",
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
        "find it in the Service Quotas console and request an increase.",
    ),
    # --- failures of AWS and the network ---
    BedrockRefusal(
        "model-timeout",
        "ModelTimeoutException, 408",
        r"model has timed out",
        "The model took longer than Bedrock allows",
        "try again with a shorter prompt or a smaller max_tokens, or stream the response.",
    ),
    BedrockRefusal(
        "model-stream-error",
        "ModelStreamErrorException, 424",
        r"error occurred while streaming|modelStreamError",
        "The model stopped in the middle of its response",
        "try again; if it happens again, check health.aws.amazon.com.",
    ),
    BedrockRefusal(
        "model-error",
        "ModelErrorException, 424",
        r"error while processing the model",
        "The model failed on this request",
        "try again; if it fails again, try another model.",
    ),
    BedrockRefusal(
        "unavailable",
        "ServiceUnavailableException, 503",
        r"unable to process your request|service is(?:n't| not) currently available|ServiceUnavailableException",
        "Bedrock is overloaded in this region",
        "try again; a global. profile has more capacity.",
    ),
    BedrockRefusal(
        "internal-error",
        "InternalServerException, 500",
        r"encountered an unexpected error during processing|internalServerException",
        "Bedrock failed with an internal error",
        "try again; if it fails again, check health.aws.amazon.com for the region.",
    ),
    BedrockRefusal(
        "stream-cut",
        "none: the connection broke",
        r"undecoded bytes|payload is not completed|peer closed connection without sending complete message"
        r"|incomplete chunked read|decoded to no events",
        "The connection to Bedrock was closed in the middle of a response",
        "look for a proxy or firewall that closes long connections.",
    ),
    UNREACHABLE,
    UNTRUSTED,
    # Last, because LiteLLM's messages about other errors contain its words too.
    BedrockRefusal(
        "too-many-requests",
        "ThrottlingException, 429",
        r"Throttling|too many requests|RateLimit|quota",
        "The provider throttles requests",
        "wait, or request a higher Bedrock quota from AWS.",
    ),
)

#: In this order; the first whose regex matches a message identifies it.
REFUSALS = (*ACCESS, *_CALLS)


def find_refusal(text: str) -> BedrockRefusal | None:
    """The error that a message reports; None if it is unknown."""
    return next((one for one in REFUSALS if one.pattern.search(text)), None)
