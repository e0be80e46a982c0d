"""How AWS says no to who calls, and to what they may do: the first half of `bedrock.refusals`."""

from __future__ import annotations

from litellm_systemd.bedrock.refusal import BedrockRefusal

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
