"""Check what a `.env` says of AWS: the credentials, their expiry, endpoints, proxy and private CA. Pure.

Only one method of credentials, complete, and in the format that AWS uses. get_credentials in
litellm/llms/bedrock/base_aws_llm.py defines which of these variables LiteLLM reads, and in which order.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime, timedelta
from urllib.parse import SplitResult, urlsplit

from litellm_systemd.env.credentials_expiry import END_VARIABLE, find_end, parse_moment, render_moment
from litellm_systemd.env.dotenv import Dotenv
from litellm_systemd.env.variables import (
    AWS_BEDROCK_RUNTIME_ENDPOINT,
    ENDPOINT_URL,
    HIDDEN,
    PATH,
    PROXY_URL,
    TABLE,
    Section,
    Variable,
    is_loopback,
    names_in,
    names_of_type,
)
from litellm_systemd.errors import InputError
from litellm_systemd.report.report import Check, Outcome

BEARER_VARIABLE = "AWS_BEARER_TOKEN_BEDROCK"
#: `status` warns for this long before the credentials expire.
WARN_BEFORE = timedelta(hours=1)

CHECK_NAME = "AWS credentials"
_REMEDY = "Put new credentials into .env, then run: sudo litellmctl install"

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

ENDPOINT = AWS_BEDROCK_RUNTIME_ENDPOINT.name
ENDPOINT_VARIABLES = names_of_type(ENDPOINT_URL)
PROXY_VARIABLES = names_of_type(PROXY_URL)
#: Variables that name a file or folder which the service reads.
FILE_VARIABLES = names_of_type(PATH)
#: botocore sends even requests for the instance metadata through a proxy, which would answer for its own host.
NEVER_PROXIED = ("169.254.169.254", "fd00:ec2::254", "127.0.0.1", "localhost")
_ENDPOINT_REGION = re.compile(r"(?:^|\.)bedrock-runtime(?:-fips)?\.([a-z0-9-]+)\.(?:vpce\.)?amazonaws\.com")


def judge_end(environment: Mapping[str, str], now: datetime) -> Check | None:
    """Check temporary credentials: a warning in the hour before they expire, a failure afterwards.

    None if the environment has no temporary credentials. `now` has a time zone.
    """
    end = find_end(environment)
    if end is None:
        if environment.get("AWS_SESSION_TOKEN") and not environment.get(BEARER_VARIABLE):
            return Check(
                CHECK_NAME, Outcome.SKIPPED, f"temporary; the expiry is unknown, because .env has no {END_VARIABLE}"
            )
        return None
    left = end - now
    if left <= timedelta():
        return Check(CHECK_NAME, Outcome.FAILED, f"expired at {render_moment(end)}: AWS rejects every call", _REMEDY)
    detail = f"expire at {render_moment(end)}, in {render_left(left)}"
    if left <= WARN_BEFORE:
        return Check(CHECK_NAME, Outcome.WARNING, detail, _REMEDY)
    return Check(CHECK_NAME, Outcome.OK, detail)


def render_left(left: timedelta) -> str:
    """A time span for messages: `7 min`, `5 h`, `3 days`."""
    minutes = int(left.total_seconds()) // 60
    if minutes < 120:
        return f"{minutes} min"
    return f"{minutes // 60} h" if minutes < 2880 else f"{minutes // 1440} days"


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
    if key_id is None or secret is None or "AWS_ENDPOINT_URL" in values:
        return  # keys of another service, such as MinIO, have any form
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


class TwoMethods(InputError):
    """Two ways to AWS at once. The service starts with them, and LiteLLM uses one."""


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
            raise TwoMethods(
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


def check_network(dotenv: Dotenv, values: Mapping[str, str], region: str | None) -> list[str]:
    """Check URLs and paths. Return the warnings.

    Raises:
        InputError: an invalid URL, an endpoint of another region, or a path that the sandbox hides.
    """
    warnings = []
    for name in ENDPOINT_VARIABLES:
        if name in values:
            warnings += _check_endpoint(dotenv, values, name)
    _check_endpoint_region(dotenv, values, region)
    for name in PROXY_VARIABLES:
        if name in values:
            _check_proxy(dotenv, values, name)
    for variable in TABLE:
        if variable.type is PATH:
            _check_path(dotenv, values, variable)
    return warnings


def spare_metadata(values: Mapping[str, str]) -> tuple[dict[str, str], list[str]]:
    """Extend NO_PROXY if a proxy is set, so that requests for metadata and to this host bypass it.

    Returns:
        The variables to set, none if NO_PROXY is complete, and the notes for the user.
    """
    if not any(name in values for name in PROXY_VARIABLES):
        return {}, []
    # urllib, requests and httpx use the lower-case name if both are set.
    names = [name for name in ("no_proxy", "NO_PROXY") if name in values] or ["NO_PROXY"]
    listed = [entry.strip() for entry in values.get(names[0], "").split(",") if entry.strip()]
    missing = [host for host in NEVER_PROXIED if host not in listed]
    if "*" in listed or not missing:
        return {}, []
    text = ",".join((*listed, *missing))
    note = f"NO_PROXY of the service also has {', '.join(missing)}: instance metadata and this host bypass the proxy."
    return dict.fromkeys(names, text), [note]


def _url(text: str, schemes: tuple[str, ...]) -> SplitResult | None:
    try:
        url = urlsplit(text)
        usable = url.scheme in schemes and bool(url.hostname) and (url.port is None or url.port > 0)
    except ValueError:
        return None
    return url if usable and not re.search(r"[\s\"'<>]", text) else None


def _check_endpoint(dotenv: Dotenv, values: Mapping[str, str], name: str) -> list[str]:
    url = _url(values[name], ("https", "http"))
    if url is None or url.path not in ("", "/") or url.query or url.username:
        raise InputError(
            f"{dotenv.where(name)}: {name} is not the URL of an endpoint, which is https://HOST or"
            " https://HOST:PORT without a path",
            "Write it like https://vpce-0123.bedrock-runtime.us-east-1.vpce.amazonaws.com",
        )
    if url.scheme == "http" and not is_loopback(url.hostname or ""):
        return [f"{name} uses http://: the traffic is not encrypted."]
    return []


def _check_endpoint_region(dotenv: Dotenv, values: Mapping[str, str], region: str | None) -> None:
    found = _ENDPOINT_REGION.search(urlsplit(values.get(ENDPOINT, "")).hostname or "")
    if found and region is not None and found[1] != region:
        raise InputError(
            f"{dotenv.where(ENDPOINT)}: {ENDPOINT} is in {found[1]}, but the region is {region}: requests would be"
            " signed for the wrong region",
            f"Set AWS_REGION_NAME={found[1]}, or use the endpoint of {region}.",
        )


def _check_proxy(dotenv: Dotenv, values: Mapping[str, str], name: str) -> None:
    url = _url(values[name], ("http", "https"))
    if re.match(r"socks\w*://", values[name], re.IGNORECASE):
        raise InputError(
            f"{dotenv.where(name)}: {name} is a SOCKS proxy, which the libraries of LiteLLM cannot use",
            "Use an HTTP proxy, like http://proxy.example:3128.",
        )
    if url is None or url.path not in ("", "/") or url.query or url.fragment:
        # Without the value, which may contain a password.
        raise InputError(
            f"{dotenv.where(name)}: {name} is not the URL of a proxy",
            "Write it with scheme and port, like http://proxy.example:3128. In a password write # as %23, / as %2F.",
        )
    twin = name.swapcase()
    if twin in values and values[twin] != values[name]:
        raise InputError(
            f"{dotenv.where(name)}: {name} and {twin} ({dotenv.where(twin)}) name different proxies",
            "Keep one of the two.",
        )


def _check_path(dotenv: Dotenv, values: Mapping[str, str], variable: Variable[str | None]) -> None:
    name, path = variable.name, variable.read(values, dotenv.where)
    if path is not None and HIDDEN.match(path):
        raise InputError(
            f"{dotenv.where(name)}: the sandbox of the service hides {name}={path} (/home, /root, /tmp)",
            f"Copy the file to /etc/litellm, readable by the group litellm, and set {name}=/etc/litellm/NAME",
        )
