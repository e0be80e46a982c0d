"""Error responses of AWS: code, HTTP status and AWS's own message.

The codes and statuses are from botocore's service models, the messages from public issue threads.
"""

from __future__ import annotations

import json
import secrets
import uuid
from dataclasses import dataclass
from xml.sax.saxutils import escape

from tests.fakes.http import Reply

STS_NAMESPACE = "https://sts.amazonaws.com/doc/2011-06-15/"


@dataclass(frozen=True, slots=True)
class Refusal:
    """An AWS error. `field` is the key of the message in the JSON body: AWS's front end writes `Message`."""

    status: int
    code: str
    message: str
    field: str = "message"

    def as_json(self) -> Reply:
        """Render it as the REST services (Bedrock) do."""
        headers = {
            "Content-Type": "application/json",
            "x-amzn-RequestId": str(uuid.uuid4()),
            "x-amzn-ErrorType": f"{self.code}:http://internal.amazon.com/coral/com.amazon.bedrock/",
        }
        return Reply(self.status, json.dumps({self.field: self.message}).encode(), headers)

    def as_typed_json(self) -> Reply:
        """Render it as the JSON services (Service Quotas) do: code in the body, status 400 for each client error."""
        headers = {"Content-Type": "application/x-amz-json-1.1", "x-amzn-RequestId": str(uuid.uuid4())}
        body = {"__type": self.code, self.field: self.message}
        return Reply(400 if self.status < 500 else self.status, json.dumps(body).encode(), headers)

    def as_xml(self) -> Reply:
        """Render it as the query services (STS) do."""
        kind = "Sender" if self.status < 500 else "Receiver"
        body = (
            f'<ErrorResponse xmlns="{STS_NAMESPACE}"><Error><Type>{kind}</Type><Code>{escape(self.code)}</Code>'
            f"<Message>{escape(self.message)}</Message></Error>"
            f"<RequestId>{uuid.uuid4()}</RequestId></ErrorResponse>"
        )
        return Reply(
            self.status, body.encode(), {"Content-Type": "text/xml", "x-amzn-RequestId": secrets.token_hex(8)}
        )


class Refused(Exception):
    """The response to a request is `refusal`."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def refuse(status: int, code: str, message: str, field: str = "message") -> Refused:
    return Refused(Refusal(status, code, message, field))


def denied(arn: str, action: str, resource: str) -> Refused:
    words = f"because no identity-based policy allows the {action} action"
    message = f"User: {arn} is not authorized to perform: {action} on resource: {resource} {words}"
    return refuse(403, "AccessDeniedException", message, "Message")


def on_demand(model: str) -> Refused:
    """Create the exception for a call with the plain id of a model that needs an inference profile."""
    message = (
        f"Invocation of model ID {model} with on-demand throughput isn\u2019t supported. Retry your request with the"
        " ID or ARN of an inference profile that contains this model."
    )
    return refuse(400, "ValidationException", message)


_WHO = "arn:aws:sts::123456789012:assumed-role/litellm-gateway/i-0fake1234567890ab"
_PROFILE = "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.anthropic.claude-sonnet-5-5"
_MODEL = "arn:aws:bedrock:us-east-2::foundation-model/anthropic.claude-sonnet-5-5"
_INVOKE = f"User: {_WHO} is not authorized to perform: bedrock:InvokeModel on resource: "
_MODEL_ACCESS = "Model access is denied due to "
_REPAIRED = " If you recently fixed this issue, try again after 5 minutes."


def _access(message: str, field: str = "Message") -> Refusal:
    return Refusal(403, "AccessDeniedException", message, field)


def _invalid(message: str) -> Refusal:
    return Refusal(400, "ValidationException", message)


#: The error responses for scripts of tests, by the names of `litellm_systemd.bedrock.refusals`.
SCRIPTED = {
    "session-expired": Refusal(403, "ExpiredTokenException", "The security token included in the request is expired"),
    "key-unknown": Refusal(
        403, "UnrecognizedClientException", "The security token included in the request is invalid."
    ),
    "wrong-clock": Refusal(
        403,
        "InvalidSignatureException",
        "Signature expired: 20261124T120000Z is now earlier than 20261124T125500Z (20261124T130000Z - 5 min.)",
    ),
    "api-key-expired": _access("Bearer Token has expired"),
    "not-allowed": _access(
        f"{_INVOKE}{_PROFILE} because no identity-based policy allows the bedrock:InvokeModel action"
    ),
    "explicit-deny": _access(
        f"{_INVOKE}{_MODEL} with an explicit deny in a service control policy:"
        " arn:aws:organizations::210987654321:policy/o-fake/service_control_policy/p-fake"
    ),
    "endpoint-policy": _access(
        f"{_INVOKE}{_PROFILE} because no VPC endpoint policy allows the bedrock:InvokeModel action"
    ),
    "permissions-boundary": _access(
        f"{_INVOKE}{_PROFILE} because no permissions boundary allows the bedrock:InvokeModel action"
    ),
    "no-model-access": _access("You don't have access to the model with the specified model ID.", "message"),
    "marketplace": _access(
        f"{_MODEL_ACCESS}IAM user or service role is not authorized to perform the required AWS Marketplace actions"
        " (aws-marketplace:ViewSubscriptions, aws-marketplace:Subscribe) to enable access to this model. Refer to the"
        " Amazon Bedrock documentation for further details. Your AWS Marketplace subscription for this model cannot"
        f" be completed at this time.{_REPAIRED}",
        "message",
    ),
    "payment": _access(
        f"{_MODEL_ACCESS}INVALID_PAYMENT_INSTRUMENT:A valid payment instrument must be provided.. Your AWS"
        f" Marketplace subscription for this model cannot be completed at this time.{_REPAIRED}",
        "message",
    ),
    "use-case-form": Refusal(
        404,
        "ResourceNotFoundException",
        "Model use case details have not been submitted for this account. Fill out the Anthropic use case details"
        " form before using the model. If you have already filled out the form, try again in 15 minutes.",
    ),
    "account-closed": _access("Your account is not authorized to invoke this API operation.", "message"),
    "operation-not-allowed": _invalid("Operation not allowed"),
    "no-caching": _access(
        "You invoked an unsupported model or your request did not allow prompt caching. See the documentation for"
        " more information.",
        "message",
    ),
    "model-ended": Refusal(
        404,
        "ResourceNotFoundException",
        "This model version has reached the end of its life. Please refer to the AWS documentation for more details.",
    ),
    "model-legacy": Refusal(
        404,
        "ResourceNotFoundException",
        "Access denied. This Model is marked by provider as Legacy and you have not been actively using the model in"
        " the last 30 days. Please upgrade to an active model on Amazon Bedrock",
    ),
    "parameter-refused": _invalid(
        "The model returned the following errors: `temperature` is deprecated for this model."
    ),
    "prompt-too-long": _invalid(
        "The model returned the following errors: prompt is too long: 1200034 tokens > 1000000 maximum"
    ),
    "too-many-requests": Refusal(429, "ThrottlingException", "Too many requests, please wait before trying again."),
    "too-many-tokens": Refusal(429, "ThrottlingException", "Too many tokens, please wait before trying again."),
    "tokens-per-day": Refusal(
        429, "ThrottlingException", "Too many tokens per day, please wait before trying again."
    ),
    "quota": Refusal(
        400, "ServiceQuotaExceededException", "Your request exceeds the service quota for your account."
    ),
    "model-not-ready": Refusal(
        429, "ModelNotReadyException", "Model is not ready for inference. Wait and try again."
    ),
    "model-timeout": Refusal(
        408, "ModelTimeoutException", "Model has timed out in processing the request. Try your request again."
    ),
    "model-error": Refusal(
        424, "ModelErrorException", "The request failed due to an error while processing the model."
    ),
    "model-stream-error": Refusal(
        424, "ModelStreamErrorException", "An error occurred while streaming the response."
    ),
    "unavailable": Refusal(503, "ServiceUnavailableException", "Bedrock is unable to process your request."),
    "internal-error": Refusal(
        500,
        "InternalServerException",
        "The system encountered an unexpected error during processing. Try your request again.",
    ),
}
