"""Identify the key of a request: verify Signature Version 4 with botocore's signer, or look up a bearer token."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import datetime, timedelta, timezone

from botocore.auth import SIGV4_TIMESTAMP, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.fakes.account import ACCOUNT, Account, Key
from tests.fakes.http import Request
from tests.fakes.refusals import Refused, refuse

_HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/]+)/(?P<date>\d{8})/(?P<region>[^/]+)/(?P<service>[^/]+)/aws4_request, ?"
    r"SignedHeaders=(?P<headers>[^,]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_SKEW = timedelta(minutes=5)
_MISMATCH = (
    "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key"
    " and signing method. Consult the service documentation for details."
)
#: STS uses an older protocol with other error codes.
_STS_NAMES = {
    "UnrecognizedClientException": "InvalidClientTokenId",
    "ExpiredTokenException": "ExpiredToken",
    "InvalidSignatureException": "SignatureDoesNotMatch",
    "IncompleteSignatureException": "IncompleteSignature",
    "MissingAuthenticationTokenException": "MissingAuthenticationToken",
}


def identify(request: Request, account: Account, service: str, regions: tuple[str, ...]) -> Key:
    """The key that signed a request for `service` in one of `regions`. Raises Refused."""
    try:
        return _identify(request, account, service, regions)
    except Refused as error:
        refusal = error.refusal
        if service != "sts":
            raise
        raise refuse(refusal.status, _STS_NAMES.get(refusal.code, refusal.code), refusal.message) from None


def _identify(request: Request, account: Account, service: str, regions: tuple[str, ...]) -> Key:
    authorization = request.headers.get("authorization", "")
    if authorization.startswith("Bearer ") and service == "bedrock":
        return _bearer(authorization.removeprefix("Bearer "), account)
    if not authorization:
        raise refuse(403, "MissingAuthenticationTokenException", "Missing Authentication Token")
    found = _HEADER.fullmatch(authorization)
    if found is None:
        message = "Authorization header requires 'Credential' parameter, 'SignedHeaders' and 'Signature'."
        raise refuse(403, "IncompleteSignatureException", message)
    key = _known(found["key"], request.headers.get("x-amz-security-token"), account)
    signed_at = _check_time(request, found["date"], account)
    if found["region"] not in regions or found["service"] != service:
        what = "region" if found["region"] not in regions else f"service: '{service}'"
        raise refuse(403, "InvalidSignatureException", f"Credential should be scoped to a valid {what}.")
    signature = _sign(request, key, found["region"], service, tuple(found["headers"].split(";")), signed_at)
    if not hmac.compare_digest(signature, found["signature"]):
        raise refuse(403, "InvalidSignatureException", _MISMATCH)
    return key


def _bearer(token: str, account: Account) -> Key:
    if token not in account.api_keys:
        message = "Authentication failed: Please make sure your API Key is valid."
        raise refuse(403, "AccessDeniedException", message, "Message")
    return Key("(bearer)", "", f"arn:aws:iam::{ACCOUNT}:user/BedrockAPIKey-fake")


def _known(access_key: str, token: str | None, account: Account) -> Key:
    key = account.keys.get(access_key)
    # A pair with the token of another session is unknown too: a client may mix old and new credentials.
    if key is None or key.token != token:
        message = "The security token included in the request is invalid."
        raise refuse(403, "UnrecognizedClientException", message)
    if account.is_expired(key):
        raise refuse(403, "ExpiredTokenException", "The security token included in the request is expired")
    return key


def _check_time(request: Request, date: str, account: Account) -> str:
    text = request.headers.get("x-amz-date", "")
    if not re.fullmatch(r"\d{8}T\d{6}Z", text) or not text.startswith(date):
        message = "Date in Credential scope does not match YYYYMMDD from ISO-8601 version of date from HTTP."
        raise refuse(403, "InvalidSignatureException", message)
    signed = datetime.strptime(text, SIGV4_TIMESTAMP).replace(tzinfo=timezone.utc)
    now = account.clock()
    if signed < now - _SKEW:
        limit, current = (now - _SKEW).strftime(SIGV4_TIMESTAMP), now.strftime(SIGV4_TIMESTAMP)
        message = f"Signature expired: {text} is now earlier than {limit} ({current} - 5 min.)"
        raise refuse(403, "InvalidSignatureException", message)
    if signed > now + _SKEW:
        limit, current = (now + _SKEW).strftime(SIGV4_TIMESTAMP), now.strftime(SIGV4_TIMESTAMP)
        message = f"Signature not yet current: {text} is still later than {limit} ({current} + 5 min.)"
        raise refuse(403, "InvalidSignatureException", message)
    return text


def _sign(request: Request, key: Key, region: str, service: str, names: tuple[str, ...], signed_at: str) -> str:
    """The correct signature of this request, or an empty one if a required header is not signed."""
    if not {"host", "x-amz-date"} <= set(names) or any(name not in request.headers for name in names):
        return ""
    if key.token is not None and "x-amz-security-token" not in names:
        return ""
    digest = request.headers.get("x-amz-content-sha256")
    if digest is not None and digest != hashlib.sha256(request.body).hexdigest():
        return ""
    signer = SigV4Auth(Credentials(key.access_key, key.secret_key, key.token), service, region)
    again = AWSRequest(
        method=request.method,
        url=f"http://{request.headers['host']}{request.target}",
        headers={name: request.headers[name] for name in names},
        data=request.body,
    )
    again.context["timestamp"] = signed_at
    return str(signer.signature(signer.string_to_sign(again, signer.canonical_request(again)), again))
