"""Broken hosts for `doctor` whose trouble is AWS or the way there: see `broken_hosts`.

The box has the AWS of `named_aws`. Each `Kind` is a sound host; what is broken in it is broken at AWS or on the way,
and the service runs on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aws import API, METADATA
from broken_hosts import KEEP_ENV, NO_DROP_IN, OLD_ENV, Broken, drop_in
from named_aws import (
    AUTHORITY,
    HOLE,
    METADATA_AGAIN,
    NOWHERE,
    PROXY_PORT,
    REFUSAL,
    RESOLVED,
    RUNTIME,
    SWALLOW_METADATA,
    VPC_ENDPOINT,
    move,
    resolve,
)
from tests.fakes import ACCOUNT, API_KEY, Key

#: A temporary key that the account knows for as long as it is told to.
SESSION = Key("ASIA234567ABCDEFGHIJ", "s" * 40, f"arn:aws:sts::{ACCOUNT}:assumed-role/models/ada", "T" * 160)


@dataclass(frozen=True)
class Kind:
    """A way to Bedrock: the .env, and the hosts that are broken on it."""

    env: str
    broken: Mapping[str, Broken]


def tell(name: str, /, **given: Any) -> str:
    """The command that tells the fakes: see `tests.fakes.__main__`."""
    return f"curl -sSf -o /dev/null -d '{json.dumps(given)}' {API}/-/{name}"


def know(**changes: Any) -> str:
    """AWS knows the temporary key so."""
    known = {name: value for name, value in asdict(SESSION).items() if name != "expires"}
    return tell("key", **{**known, **changes})


CONFIG = "/etc/litellm/configs/iam_role_config.yml"
EDITED = f"mv /root/config.yml {CONFIG}"
SONNET = "us.anthropic.claude-sonnet-5-5"
ROLE = "litellm-gateway"
QUOTA = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 5.5"
OTHER_ROLE = f"arn:aws:iam::{ACCOUNT}:role/of-others"

ON_ROLE = {
    # --- metadata ---
    "no role": Broken(tell("metadata", role=None), "aws-role", "no IAM role", tell("metadata", role=ROLE)),
    "hop limit": Broken(
        tell("metadata", hop_limit_reached=True),
        "aws-role",
        "the hop limit is too small",
        tell("metadata", hop_limit_reached=False),
    ),
    "metadata switched off": Broken(
        tell("metadata", enabled=False), "aws-role", "switched off", tell("metadata", enabled=True)
    ),
    "metadata of version 1": Broken(
        tell("metadata", version_1=True, version_2=False),
        "aws-role",
        "speaks version 1 alone",
        tell("metadata", version_1=False, version_2=True),
    ),
    "no metadata": Broken(
        f"ip address del {METADATA}/32 dev lo",
        "aws-role",
        f"no instance metadata answers at http://{METADATA}",
        f"ip address add {METADATA}/32 dev lo",
    ),
    "metadata that swallows": Broken(
        SWALLOW_METADATA,
        "aws-role",
        f"no instance metadata answers at http://{METADATA}",
        METADATA_AGAIN,
    ),
    "a role that ended": Broken(
        f"{tell('metadata', lifetime=-60)}; {tell('rotate')}",
        "aws-role",
        f"the credentials of the role {ROLE} ended at",
        tell("metadata", lifetime=21600),
    ),
    # --- models ---
    "wrong region": Broken(
        tell("models", without=["anthropic.claude-sonnet-5-5"]),
        "aws-model-refused",
        f"claude-sonnet-5-5 ({SONNET} in us-east-1)",
        tell("models", without=[]),
    ),
    "profile of another region": Broken(
        f"cp -p {CONFIG} /root/config.yml; sed -i s/us.anthropic.claude-haiku/eu.anthropic.claude-haiku/ {CONFIG}",
        "configuration-unusable",
        "calls the inference profile eu., which us-east-1 doesn't have",
        EDITED,
    ),
    "ended model": Broken(
        tell("end", model="anthropic.claude-sonnet-5-5", days=-1),
        "aws-model-ended",
        "(by Bedrock itself)",
        tell("models", without=[]),
    ),
    "model known to have ended": Broken(
        f"cp -p {CONFIG} /root/config.yml; sed -i s/{SONNET}/us.anthropic.claude-3-7-sonnet-20250219-v1:0/ {CONFIG}",
        "aws-model-ended",
        "2026-04-28",
        EDITED,
        also=("configuration-stale",),
    ),
    "access denied": Broken(
        tell("denied", actions=["bedrock:InvokeModel"]),
        "aws-model-refused",
        "is not authorized to perform: bedrock:InvokeModel",
        tell("denied", actions=[]),
    ),
    "throttled": Broken(
        tell("script", **{SONNET: {"refusal": "too-many-requests"}}),
        "aws-throttled",
        "Too many requests",
        tell("script"),
        outcome="warning",
    ),
    "quota of a new account": Broken(
        tell("quota", name=QUOTA, value=0),
        "aws-quota-small",
        f"claude-sonnet-5-5 ({SONNET} in us-east-1): 0 tokens a minute",
        tell("quota", name=QUOTA, value=6000000),
        outcome="warning",
    ),
    # --- host and way ---
    "clock behind": Broken(
        tell("clock", minutes=10), "host-clock", f"10 minutes behind https://{VPC_ENDPOINT}", tell("clock", minutes=0)
    ),
    "VPC endpoint that swallows": Broken(
        move(HOLE, VPC_ENDPOINT),
        "network-unreachable",
        VPC_ENDPOINT,
        RESOLVED,
    ),
    "sandbox that forbids": Broken(drop_in("PrivateNetwork=yes"), "network-sandbox", "from here not", NO_DROP_IN),
}

ON_KEY = {
    "unknown key": Broken(tell("key", access_key=SESSION.access_key), "aws-key", "AWS doesn't know", know()),
    "wrong secret": Broken(know(secret_key="x" * 40), "aws-key", "its secret is another one", know()),
    "expired token": Broken(know(lifetime=-1), "aws-key", "is a temporary one and has ended", know()),
    "token that is known to have expired": Broken(
        f"{KEEP_ENV}echo 'AWS_CREDENTIAL_EXPIRATION=\"2026-01-01T00:00:00Z\"' >> /etc/litellm/litellm.env",
        "environment-credentials",
        "2026-01-01",
        OLD_ENV,
        also=("environment-stale",),
    ),
    "role that may not be assumed": Broken(
        f"{KEEP_ENV}echo 'AWS_ROLE_NAME=\"{OTHER_ROLE}\"' >> /etc/litellm/litellm.env",
        "aws-identity",
        f"is not authorized to perform: sts:AssumeRole on resource: {OTHER_ROLE}",
        OLD_ENV,
        also=("environment-stale",),
    ),
    "clock ahead": Broken(
        tell("clock", minutes=-10), "host-clock", f"10 minutes ahead of https://{RUNTIME}", tell("clock", minutes=0)
    ),
    "DNS dead": Broken(resolve("127.0.0.9"), "network-dns", RUNTIME, RESOLVED),
    "DNS that swallows": Broken(resolve(HOLE), "network-dns", RUNTIME, RESOLVED),
    "IPv6 only": Broken(
        move(NOWHERE, RUNTIME), "network-unreachable", f"Network is unreachable ({NOWHERE})", RESOLVED
    ),
    "private CA missing": Broken(
        f"{KEEP_ENV}sed -i /SSL_CERT_FILE/d /etc/litellm/litellm.env",
        "network-certificate",
        f"{RUNTIME}: ",
        OLD_ENV,
    ),
    "CA's file gone": Broken(
        f"mv {AUTHORITY} /root",
        "environment-file",
        f"{AUTHORITY}: there is no such file",
        f"mv /root/ca.pem {AUTHORITY}",
    ),
}

ON_PROXY = {
    "proxy that wants a password": Broken(
        f"echo 407 Proxy Authentication Required > {REFUSAL}",
        "network-proxy",
        "407 Proxy Authentication Required",
        f"rm {REFUSAL}",
    ),
    "proxy that refuses": Broken(
        f"echo 403 Forbidden > {REFUSAL}", "network-proxy", "403 Forbidden", f"rm {REFUSAL}"
    ),
    "proxy gone": Broken("systemctl stop proxy", "network-proxy", "Connection refused", "systemctl start proxy"),
    "clock ahead, seen through the proxy": Broken(
        tell("clock", minutes=-10), "host-clock", f"10 minutes ahead of https://{RUNTIME}", tell("clock", minutes=0)
    ),
    "API key expired": Broken(
        tell("script", **{SONNET: {"refusal": "api-key-expired"}}),
        "aws-model-refused",
        "Bearer Token has expired",
        tell("script"),
    ),
}

REGION = f"AWS_REGION_NAME=us-east-1\nSSL_CERT_FILE={AUTHORITY}\nNUM_WORKERS=1\n"
PAIR = (
    f"AWS_ACCESS_KEY_ID={SESSION.access_key}\nAWS_SECRET_ACCESS_KEY={SESSION.secret_key}\n"
    f"AWS_SESSION_TOKEN={SESSION.token}\n"
)
KINDS = {
    "a role, through a VPC endpoint": Kind(
        f"{REGION}CONFIG_FILE=iam_role_config.yml\nAWS_BEDROCK_RUNTIME_ENDPOINT=https://{VPC_ENDPOINT}\n", ON_ROLE
    ),
    "a temporary key": Kind(f"{REGION}CONFIG_FILE=access_key_config.yml\n{PAIR}", ON_KEY),
    "an API key, through a proxy": Kind(
        f"{REGION}CONFIG_FILE=iam_role_config.yml\nAWS_BEARER_TOKEN_BEDROCK={API_KEY}\n"
        f"HTTPS_PROXY=http://127.0.0.1:{PROXY_PORT}\n",
        ON_PROXY,
    ),
}
