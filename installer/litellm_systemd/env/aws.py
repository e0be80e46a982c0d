"""Check the AWS credentials of a `.env`: only one method, complete, and in the format that AWS uses. Pure.

get_credentials in litellm/llms/bedrock/base_aws_llm.py defines which of these variables LiteLLM reads, and in which
order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.expiry import BEARER_VARIABLE, END_VARIABLE, parse_moment
from litellm_systemd.env.variables import Section, names_in
from litellm_systemd.errors import InputError

KEY_ID, SECRET, TOKEN = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"
PAIR = (KEY_ID, SECRET)
ROLE, SESSION_NAME, EXTERNAL_ID = "AWS_ROLE_NAME", "AWS_SESSION_NAME", "AWS_EXTERNAL_ID"
PROFILE_NAME, PROFILE = "AWS_PROFILE_NAME", "AWS_PROFILE"
WEB_IDENTITY, STS_ENDPOINT = "AWS_WEB_IDENTITY_TOKEN", "AWS_STS_ENDPOINT"
#: The variables that name STS, in the order in which LiteLLM and boto3 prefer them.
STS_ENDPOINTS = (STS_ENDPOINT, "AWS_ENDPOINT_URL_STS", "AWS_ENDPOINT_URL")

#: Every variable of a `.env` that defines the AWS identity of the service.
CREDENTIAL_VARIABLES = names_in(Section.CREDENTIALS)

_COPY_AGAIN = "Copy the value again, without quotes, spaces or other text around it."
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html (unique ids)
_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")
_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")
_OTHER_IDS = {"AIDA": "an IAM user", "AROA": "a role", "AGPA": "a group", "AIPA": "an instance profile"}
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
# https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}")


def check_aws(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    """Check the credentials in `values`, the variables of `dotenv` that aren't empty. Return the warnings.

    Raises:
        InputError: the first value that AWS or LiteLLM would reject or misread.
    """
    _check_pair(dotenv, values)
    _check_text(dotenv, values)
    _check_shapes(dotenv, values)
    _check_token(dotenv, values)
    _check_one_method(dotenv, values)
    return [*_check_role(dotenv, values), *_check_end(dotenv, values)]


def _check_pair(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    present = [name for name in PAIR if name in values]
    if len(present) == 1:
        missing = PAIR[1 - PAIR.index(present[0])]
        raise InputError(
            f"{dotenv.where(present[0])}: {present[0]} is set, but {missing} is not",
            f"Set {missing} too. Or remove both to use the IAM role of the instance.",
        )
    if TOKEN in values and not present:
        raise InputError(
            f"{dotenv.where(TOKEN)}: {TOKEN} is set, but its key pair is not",
            f"Set {KEY_ID} and {SECRET} from the same sign-in, or remove {TOKEN}.",
        )


def _check_text(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    for name in (*PAIR, TOKEN, BEARER_VARIABLE):
        if re.search(r"[\s\"'<>]", values.get(name, "")):
            raise InputError(
                f"{dotenv.where(name)}: {name} contains a space, a newline, a quote or a bracket, which no key has",
                _COPY_AGAIN,
            )


def _check_shapes(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    key_id, secret = values.get(KEY_ID), values.get(SECRET)
    if key_id is None or secret is None:
        return
    if _SECRET.fullmatch(key_id) and _KEY_ID.fullmatch(secret):
        raise InputError(f"{dotenv.where(KEY_ID)}: {KEY_ID} and {SECRET} are swapped", "Swap their values.")
    if not _KEY_ID.fullmatch(key_id):
        kind = _OTHER_IDS.get(key_id[:4])
        what = f"is the id of {kind}, not of an access key" if kind else "is not the id of an access key"
        raise InputError(
            f"{dotenv.where(KEY_ID)}: {KEY_ID} {what}, which is AKIA or ASIA and 16 capital letters or digits",
            _COPY_AGAIN,
        )
    if not _SECRET.fullmatch(secret):
        raise InputError(
            f"{dotenv.where(SECRET)}: {SECRET} is not a secret key, which is 40 letters, digits, / and +"
            f" (this has {len(secret)} characters)",
            _COPY_AGAIN,
        )


def _check_token(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    temporary = values.get(KEY_ID, "").startswith("ASIA")
    if temporary and TOKEN not in values:
        raise InputError(
            f"{dotenv.where(KEY_ID)}: {KEY_ID} is a temporary key (ASIA…), but {TOKEN} is not set",
            f"Set {TOKEN} from the same sign-in, or use a permanent key (AKIA…).",
        )
    if TOKEN in values and not temporary:
        raise InputError(
            f"{dotenv.where(TOKEN)}: {TOKEN} is set, but {KEY_ID} is a permanent key (AKIA…), which has no token",
            f"AWS rejects the two together. Remove {TOKEN}.",
        )


def _check_one_method(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    """Reject two methods at once: LiteLLM would use one of them and ignore the other without a message."""
    for winner, losers in (
        (BEARER_VARIABLE, (KEY_ID, ROLE, PROFILE_NAME, PROFILE)),
        (ROLE, (PROFILE_NAME,)),
        (PROFILE_NAME, (KEY_ID,)),
        (PROFILE, (KEY_ID,)),
    ):
        loser = next((name for name in losers if name in values), None)
        if winner in values and loser is not None:
            raise InputError(
                f"{dotenv.where(winner)}: both {winner} and {loser} ({dotenv.where(loser)}) are set, and LiteLLM"
                " would use only one of them",
                "Keep one of the two, and remove the other with its related variables.",
            )


def _check_role(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    role = values.get(ROLE)
    if role is not None and not _ROLE_ARN.fullmatch(role):
        raise InputError(
            f"{dotenv.where(ROLE)}: {ROLE}={role} is not the ARN of a role",
            "Despite its name, the variable needs the whole ARN: arn:aws:iam::123456789012:role/NAME",
        )
    for name, pattern, shape in (
        (SESSION_NAME, _SESSION_NAME, "2 to 64 letters, digits and =,.@_+-"),
        (EXTERNAL_ID, _EXTERNAL_ID, "2 to 1224 letters, digits and =,.@:/_+-"),
    ):
        if name in values and not pattern.fullmatch(values[name]):
            raise InputError(
                f"{dotenv.where(name)}: {name} is not valid for AssumeRole, which takes {shape}", _COPY_AGAIN
            )
    unused = [name for name in (SESSION_NAME, EXTERNAL_ID) if name in values and role is None]
    warnings = [f"{name} has no effect without {ROLE}, unless one of your models names a role." for name in unused]
    if "AWS_ROLE_ARN" in values and "AWS_WEB_IDENTITY_TOKEN_FILE" not in values and role is None:
        warnings.append(f"AWS_ROLE_ARN has no effect: LiteLLM reads {ROLE}. Set {ROLE} to the same ARN.")
    return warnings


def _check_end(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    end = values.get(END_VARIABLE)
    if end is not None and parse_moment(end) is None:
        raise InputError(
            f"{dotenv.where(END_VARIABLE)}: {END_VARIABLE}={end} is not an ISO 8601 time",
            "Write it like 2026-01-31T18:00:00Z, or remove the line.",
        )
    if TOKEN in values and end is None:
        return [f"The AWS key is temporary, but {END_VARIABLE} is not set: status can't warn before the key expires."]
    return []
