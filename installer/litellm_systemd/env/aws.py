"""The AWS credentials of a `.env`: is it one way to AWS, whole, and in the shape that AWS hands out? Pure.

What LiteLLM reads of these from the environment, and in which order: get_credentials in
litellm/llms/bedrock/base_aws_llm.py.
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

#: Every variable of a `.env` that says who the service is to AWS.
CREDENTIAL_VARIABLES = names_in(Section.CREDENTIALS)

_COPY_AGAIN = "Copy the value again, without what surrounds it."
# https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_identifiers.html (unique ids)
_KEY_ID = re.compile(r"(AKIA|ASIA)[A-Z0-9]{16}")
_SECRET = re.compile(r"[A-Za-z0-9/+]{40}")
_OTHER_IDS = {"AIDA": "an IAM user", "AROA": "a role", "AGPA": "a group", "AIPA": "an instance profile"}
_ROLE_ARN = re.compile(r"arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+")
# https://docs.aws.amazon.com/STS/latest/APIReference/API_AssumeRole.html
_SESSION_NAME = re.compile(r"[\w+=,.@-]{2,64}")
_EXTERNAL_ID = re.compile(r"[\w+=,.@:/-]{2,1224}")


def check_aws(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    """Check the credentials in `values`, those of `dotenv` that aren't empty; give what to warn of.

    Raises:
        InputError: the first thing that AWS or LiteLLM would refuse, or take otherwise than it was meant.
    """
    _check_pair(dotenv, values)
    _check_text(dotenv, values)
    _check_shapes(dotenv, values)
    _check_token(dotenv, values)
    _check_one_way(dotenv, values)
    return [*_check_role(dotenv, values), *_check_end(dotenv, values)]


def _check_pair(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    present = [name for name in PAIR if name in values]
    if len(present) == 1:
        missing = PAIR[1 - PAIR.index(present[0])]
        raise InputError(
            f"{dotenv.where(present[0])}: {present[0]} is set and {missing} is not",
            f"Set {missing} too, or remove both to use the IAM role of the instance.",
        )
    if TOKEN in values and not present:
        raise InputError(
            f"{dotenv.where(TOKEN)}: {TOKEN} is set, without the key pair that it belongs to",
            f"Set {KEY_ID} and {SECRET} of the same sign-in too, or remove it.",
        )


def _check_text(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    for name in (*PAIR, TOKEN, BEARER_VARIABLE):
        if re.search(r"[\s\"'<>]", values.get(name, "")):
            raise InputError(
                f"{dotenv.where(name)}: {name} holds a space, a newline, a quote or a bracket, which no key has",
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
            f"{dotenv.where(KEY_ID)}: {KEY_ID} {what}: that is AKIA or ASIA and 16 capitals or digits",
            _COPY_AGAIN,
        )
    if not _SECRET.fullmatch(secret):
        raise InputError(
            f"{dotenv.where(SECRET)}: {SECRET} is not a secret key: that is 40 letters, digits, / and +"
            f" (this has {len(secret)} characters)",
            _COPY_AGAIN,
        )


def _check_token(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    temporary = values.get(KEY_ID, "").startswith("ASIA")
    if temporary and TOKEN not in values:
        raise InputError(
            f"{dotenv.where(KEY_ID)}: {KEY_ID} is of a temporary key (ASIA…) and {TOKEN} is not set",
            f"Set {TOKEN} of the same sign-in too, or use a key that lasts (AKIA…).",
        )
    if TOKEN in values and not temporary:
        raise InputError(
            f"{dotenv.where(TOKEN)}: {TOKEN} is set, and {KEY_ID} is of a key that takes none (AKIA…)",
            "Remove it: AWS refuses the two together.",
        )


def _check_one_way(dotenv: Dotenv, values: Mapping[str, str]) -> None:
    """Refuse two ways at once: LiteLLM takes one of them and says nothing."""
    for winner, losers in (
        (BEARER_VARIABLE, (KEY_ID, ROLE, PROFILE_NAME, PROFILE)),
        (ROLE, (PROFILE_NAME,)),
        (PROFILE_NAME, (KEY_ID,)),
        (PROFILE, (KEY_ID,)),
    ):
        loser = next((name for name in losers if name in values), None)
        if winner in values and loser is not None:
            raise InputError(
                f"{dotenv.where(winner)}: {winner} is set, and so is {loser} ({dotenv.where(loser)}): it can't be"
                " told which one is meant",
                "Keep one of them, and remove what belongs to the other.",
            )


def _check_role(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    role = values.get(ROLE)
    if role is not None and not _ROLE_ARN.fullmatch(role):
        raise InputError(
            f"{dotenv.where(ROLE)}: {ROLE}={role} is not the ARN of a role",
            "Despite its name it takes the whole ARN: arn:aws:iam::123456789012:role/NAME",
        )
    for name, pattern, shape in (
        (SESSION_NAME, _SESSION_NAME, "2 to 64 letters, digits and =,.@_+-"),
        (EXTERNAL_ID, _EXTERNAL_ID, "2 to 1224 letters, digits and =,.@:/_+-"),
    ):
        if name in values and not pattern.fullmatch(values[name]):
            raise InputError(f"{dotenv.where(name)}: {name} is not what AssumeRole takes: {shape}", _COPY_AGAIN)
    idle = [name for name in (SESSION_NAME, EXTERNAL_ID) if name in values and role is None]
    warnings = [f"{name} does nothing without {ROLE}, unless a model of yours names a role." for name in idle]
    if "AWS_ROLE_ARN" in values and "AWS_WEB_IDENTITY_TOKEN_FILE" not in values and role is None:
        warnings.append(f"AWS_ROLE_ARN does nothing here: LiteLLM reads {ROLE}, which takes the same ARN.")
    return warnings


def _check_end(dotenv: Dotenv, values: Mapping[str, str]) -> list[str]:
    end = values.get(END_VARIABLE)
    if end is not None and parse_moment(end) is None:
        raise InputError(
            f"{dotenv.where(END_VARIABLE)}: {END_VARIABLE}={end} is not a time in ISO 8601",
            "Write it like 2026-01-31T18:00:00Z, or remove the line.",
        )
    if TOKEN in values and end is None:
        return [f"The AWS key is a temporary one, and no {END_VARIABLE} says until when: status can't warn in time."]
    return []
