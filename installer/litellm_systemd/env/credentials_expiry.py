"""When the AWS credentials of an environment expire. The runtime uses it too."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from datetime import datetime, timedelta, timezone
from urllib.parse import parse_qs

from litellm_systemd.env.variables import AWS_BEARER_TOKEN_BEDROCK, AWS_CREDENTIAL_EXPIRATION, AWS_SESSION_TOKEN

#: The name that `aws configure export-credentials --format env` prints, and that botocore reads.
END_VARIABLE = AWS_CREDENTIAL_EXPIRATION.name
# A short-term Bedrock API key is this prefix and a presigned URL in base64 (aws-bedrock-token-generator).
_SHORT_TERM = "bedrock-api-key-"


def parse_moment(text: str) -> datetime | None:
    """Parse an ISO 8601 time, as UTC if it has no zone. Return None if the text is not a time.

    Tools that write AWS profiles disagree: `2026-11-24T14:00:00Z`, `…+01:00`, `2026-11-24 14:00:00`.
    """
    try:
        # Python 3.10 accepts neither Z nor a fraction with other than three or six digits.
        found = datetime.fromisoformat(re.sub(r"\.\d+", "", text.strip()).replace("Z", "+00:00"))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=timezone.utc)


def render_moment(moment: datetime) -> str:
    """The time as `parse_moment` reads it, in UTC, to the second."""
    return moment.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")


def find_end(environment: Mapping[str, str]) -> datetime | None:
    """When the credentials of this environment expire. None if they are permanent or the time is unknown."""
    token = environment.get(AWS_BEARER_TOKEN_BEDROCK.name, "")
    if token:
        return _end_of_bearer(token)
    if environment.get(AWS_SESSION_TOKEN.name):
        return parse_moment(environment.get(END_VARIABLE, ""))
    return None


def _end_of_bearer(token: str) -> datetime | None:
    """When the signature of a short-term Bedrock API key expires. None for a long-term key."""
    if not token.startswith(_SHORT_TERM):
        return None
    try:
        query = parse_qs(base64.b64decode(token.removeprefix(_SHORT_TERM)).decode().partition("?")[2])
        signed = datetime.strptime(query["X-Amz-Date"][0], "%Y%m%dT%H%M%SZ").replace(tzinfo=timezone.utc)
        return signed + timedelta(seconds=int(query["X-Amz-Expires"][0]))
    except (binascii.Error, UnicodeDecodeError, KeyError, ValueError, OverflowError):
        return None
