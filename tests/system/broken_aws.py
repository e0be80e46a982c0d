"""Broken hosts for `doctor` with a problem at AWS or in the network: see `broken_hosts`.

The box has the AWS of `aws_endpoints`. Each `Setup` is a healthy host. The problem is at AWS or in the network, and
the service keeps running.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from aws import API, METADATA
from aws_endpoints import (
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
from broken_hosts import KEEP_ENV, NO_DROP_IN, OLD_ENV, BrokenHost, drop_in
from tests.fakes import ACCOUNT, API_KEY, Key

#: A temporary key; the fake account accepts it until a test revokes it.
SESSION = Key("ASIA234567ABCDEFGHIJ", "s" * 40, f"arn:aws:sts::{ACCOUNT}:assumed-role/models/ada", "T" * 160)


@dataclass(frozen=True)
class Setup:
    """One access to Bedrock: its .env, and the broken hosts that use it."""

    env: str
    broken: Mapping[str, BrokenHost]


def control(name: str, /, **given: Any) -> str:
    """The command that controls the fakes: see `tests.fakes.__main__`."""
    return f"curl -sSf -o /dev/null -d '{json.dumps(given)}' {API}/-/{name}"


def register_key(**changes: Any) -> str:
    """The command that registers the temporary key at AWS, with `changes`."""
    known = {name: value for name, value in asdict(SESSION).items() if name != "expires"}
    return control("key", **{**known, **changes})


CONFIG = "/etc/litellm/configs/shared/models.yml"
EDITED = f"mv /root/config.yml {CONFIG}"
SONNET = "us.anthropic.claude-sonnet-5-5"
ROLE = "litellm-gateway"
QUOTA = "Cross-region model inference tokens per minute for Anthropic Claude Sonnet 5.5"
OTHER_ROLE = f"arn:aws:iam::{ACCOUNT}:role/of-others"

ON_ROLE = {
    # --- metadata ---
    "no role": BrokenHost(control("metadata", role=None), "aws-role", "no IAM role", control("metadata", role=ROLE)),
    "hop limit": BrokenHost(
        control("metadata", hop_limit_reached=True),
        "aws-role",
        "the hop limit is too small",
        control("metadata", hop_limit_reached=False),
    ),
    "metadata switched off": BrokenHost(
        control("metadata", enabled=False), "aws-role", "is disabled", control("metadata", enabled=True)
    ),
    "metadata of version 1": BrokenHost(
        control("metadata", version_1=True, version_2=False),
        "aws-role",
        "supports version 1 alone",
        control("metadata", version_1=False, version_2=True),
    ),
    "no metadata": BrokenHost(
        f"ip address del {METADATA}/32 dev lo",
        "aws-role",
        f"no instance metadata answers at http://{METADATA}",
        f"ip address add {METADATA}/32 dev lo",
    ),
    "metadata that drops packets": BrokenHost(
        SWALLOW_METADATA,
        "aws-role",
        f"no instance metadata answers at http://{METADATA}",
        METADATA_AGAIN,
    ),
    "metadata denied to the service": BrokenHost(
        drop_in(f"IPAddressDeny={METADATA}"),
        "aws-role",
        f"its unit denies it the instance metadata: IPAddressDeny={METADATA}",
        NO_DROP_IN,
    ),
    "profile of the service": BrokenHost(
        "cd /var/lib/litellm; mkdir .aws; echo [work] > .aws/credentials; chown -R litellm: .aws; chmod 700 .aws; "
        + drop_in("Environment=AWS_PROFILE=wrok"),
        "aws-profile",
        "mine.conf:2: there is no profile wrok in /var/lib/litellm/.aws/credentials",
        f"rm -r /var/lib/litellm/.aws; {NO_DROP_IN}",
    ),
    "profile that the service cannot read": BrokenHost(
        "cd /var/lib/litellm; mkdir .aws; echo [work] > .aws/credentials; chmod 600 .aws/credentials; "
        + drop_in("Environment=AWS_PROFILE=work"),
        "aws-profile",
        "/var/lib/litellm/.aws/credentials: the user litellm cannot read it",
        f"rm -r /var/lib/litellm/.aws; {NO_DROP_IN}",
    ),
    "expired role credentials": BrokenHost(
        f"{control('metadata', lifetime=-60)}; {control('rotate')}",
        "aws-role",
        f"the credentials of the role {ROLE} expired at",
        control("metadata", lifetime=21600),
    ),
    # --- models ---
    "wrong region": BrokenHost(
        control("models", without=["anthropic.claude-sonnet-5-5"]),
        "aws-model-refused",
        f"claude-sonnet-5-5 ({SONNET} in us-east-1)",
        control("models", without=[]),
    ),
    "profile of another region": BrokenHost(
        f"cp -p {CONFIG} /root/config.yml; sed -i s/us.anthropic.claude-haiku/eu.anthropic.claude-haiku/ {CONFIG}",
        "configuration-unusable",
        "calls the inference profile eu., which is not available in us-east-1",
        EDITED,
    ),
    "ended model": BrokenHost(
        control("end", model="anthropic.claude-sonnet-5-5", days=-1),
        "aws-model-ended",
        "(source: Bedrock)",
        control("models", without=[]),
    ),
    "model that ended before this release": BrokenHost(
        f"cp -p {CONFIG} /root/config.yml; sed -i s/{SONNET}/us.anthropic.claude-3-7-sonnet-20250219-v1:0/ {CONFIG}",
        "aws-model-ended",
        "2026-04-28",
        EDITED,
        also=("configuration-stale",),
    ),
    "access denied": BrokenHost(
        control("denied", actions=["bedrock:InvokeModel"]),
        "aws-model-refused",
        "is not authorized to perform: bedrock:InvokeModel",
        control("denied", actions=[]),
    ),
    "throttled": BrokenHost(
        control("script", **{SONNET: {"refusal": "too-many-requests"}}),
        "aws-throttled",
        "Too many requests",
        control("script"),
        outcome="warning",
    ),
    "quota of a new account": BrokenHost(
        control("quota", name=QUOTA, value=0),
        "aws-quota-small",
        f"claude-sonnet-5-5 ({SONNET} in us-east-1): 0 tokens per minute",
        control("quota", name=QUOTA, value=6000000),
        outcome="warning",
    ),
    # --- host and network ---
    "clock behind": BrokenHost(
        control("clock", minutes=10),
        "host-clock",
        f"10 minutes behind https://{VPC_ENDPOINT}",
        control("clock", minutes=0),
    ),
    "VPC endpoint that drops packets": BrokenHost(
        move(HOLE, VPC_ENDPOINT),
        "network-unreachable",
        f"/etc/hosts:4 sets its address to {HOLE}",
        RESOLVED,
    ),
    "sandbox that blocks": BrokenHost(
        drop_in("PrivateNetwork=yes"), "network-sandbox", "mine.conf:2: PrivateNetwork=yes: ", NO_DROP_IN
    ),
}

ON_KEY = {
    "unknown key": BrokenHost(
        control("key", access_key=SESSION.access_key), "aws-key", "AWS doesn't know", register_key()
    ),
    "wrong secret": BrokenHost(
        register_key(secret_key="x" * 40), "aws-key", "the secret of the access key", register_key()
    ),
    "expired token": BrokenHost(register_key(lifetime=-1), "aws-key", "is temporary and has expired", register_key()),
    "token with an expiry in the past": BrokenHost(
        f"{KEEP_ENV}echo 'AWS_CREDENTIAL_EXPIRATION=\"2026-01-01T00:00:00Z\"' >> /etc/litellm/litellm.env",
        "environment-credentials",
        "2026-01-01",
        OLD_ENV,
    ),
    "role that may not be assumed": BrokenHost(
        f"{KEEP_ENV}echo 'AWS_ROLE_NAME=\"{OTHER_ROLE}\"' >> /etc/litellm/litellm.env",
        "aws-identity",
        f"is not authorized to perform: sts:AssumeRole on resource: {OTHER_ROLE}",
        OLD_ENV,
    ),
    "clock ahead": BrokenHost(
        control("clock", minutes=-10),
        "host-clock",
        f"10 minutes ahead of https://{RUNTIME}",
        control("clock", minutes=0),
    ),
    "DNS dead": BrokenHost(resolve("127.0.0.9"), "network-dns", "name servers: 127.0.0.9", RESOLVED),
    "DNS that drops packets": BrokenHost(resolve(HOLE), "network-dns", RUNTIME, RESOLVED),
    "no DNS": BrokenHost(
        f"cp -p /etc/nsswitch.conf /root; sed -i '/^hosts:/c hosts: files' /etc/nsswitch.conf; {resolve(HOLE)}",
        "network-dns",
        " asks no name server: hosts: files",
        f"mv /root/nsswitch.conf /etc/; {RESOLVED}",
    ),
    "names that only root can read": BrokenHost(
        "chmod 0600 /etc/hosts", "network-dns", "/etc/hosts is not readable for all", "chmod 0644 /etc/hosts"
    ),
    "IPv6 only": BrokenHost(
        move(NOWHERE, RUNTIME), "network-unreachable", f"Network is unreachable ({NOWHERE})", RESOLVED
    ),
    "private CA missing": BrokenHost(
        f"{KEEP_ENV}sed -i /SSL_CERT_FILE/d /etc/litellm/litellm.env",
        "network-certificate",
        f"{RUNTIME}: ",
        OLD_ENV,
        also=("environment-stale",),
    ),
    "CA file missing": BrokenHost(
        f"mv {AUTHORITY} /root",
        "environment-file",
        f"{AUTHORITY}: the file does not exist",
        f"mv /root/ca.pem {AUTHORITY}",
    ),
}

ON_PROXY = {
    "proxy that requires a password": BrokenHost(
        f"echo 407 Proxy Authentication Required > {REFUSAL}",
        "network-proxy",
        "the proxy needs a user: http://USER:PASSWORD@HOST:PORT",
        f"rm {REFUSAL}",
    ),
    "proxy that refuses": BrokenHost(
        f"echo 403 Forbidden > {REFUSAL}", "network-proxy", "403 Forbidden", f"rm {REFUSAL}"
    ),
    "proxy stopped": BrokenHost(
        "systemctl stop proxy", "network-proxy", "Connection refused", "systemctl start proxy"
    ),
    "clock ahead, seen through the proxy": BrokenHost(
        control("clock", minutes=-10),
        "host-clock",
        f"10 minutes ahead of https://{RUNTIME}",
        control("clock", minutes=0),
    ),
    "API key expired": BrokenHost(
        control("script", **{SONNET: {"refusal": "api-key-expired"}}),
        "aws-model-refused",
        "Bearer Token has expired",
        control("script"),
    ),
}

REGION = f"AWS_REGION_NAME=us-east-1\nSSL_CERT_FILE={AUTHORITY}\nNUM_WORKERS=1\n"
PAIR = (
    f"AWS_ACCESS_KEY_ID={SESSION.access_key}\nAWS_SECRET_ACCESS_KEY={SESSION.secret_key}\n"
    f"AWS_SESSION_TOKEN={SESSION.token}\n"
)
SETUPS = {
    "a role, through a VPC endpoint": Setup(
        f"{REGION}CONFIG_FILE=iam_role_config.yml\nAWS_BEDROCK_RUNTIME_ENDPOINT=https://{VPC_ENDPOINT}\n", ON_ROLE
    ),
    "a temporary key": Setup(f"{REGION}CONFIG_FILE=access_key_config.yml\n{PAIR}", ON_KEY),
    "an API key, through a proxy": Setup(
        f"{REGION}CONFIG_FILE=iam_role_config.yml\nAWS_BEARER_TOKEN_BEDROCK={API_KEY}\n"
        f"HTTPS_PROXY=http://127.0.0.1:{PROXY_PORT}\n",
        ON_PROXY,
    ),
}
