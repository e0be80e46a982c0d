"""Clients of AWS with the credentials, proxy, CA and endpoints of the service's environment, and the owner of a key.

The environment and ~/.aws of the user who runs litellmctl are not used, since the service doesn't have them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from litellm_systemd.aws.instance import observe_instance
from litellm_systemd.aws.profiles import Credentials, blank_session, proxies_for
from litellm_systemd.bedrock.models import default_endpoint
from litellm_systemd.env.aws import (
    EXTERNAL_ID,
    PAIR,
    PROFILE,
    PROFILE_NAME,
    ROLE,
    SESSION_NAME,
    STS_ENDPOINTS,
    TOKEN,
    WEB_IDENTITY,
)
from litellm_systemd.env.expiry import BEARER_VARIABLE
from litellm_systemd.errors import InputError

#: GetCallerIdentity gives the same answer in every region of a partition.
_ANY_REGION = "us-east-1"
_SKEW = ("Signature expired", "Signature not yet current")


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The owner of a key; or, if it is unknown, the reason (`doubt`)."""

    arn: str | None = None
    doubt: str | None = None

    @property
    def is_root_user(self) -> bool:
        """Whether the key belongs to the account's root user, which may do everything."""
        return self.arn is not None and self.arn.endswith(":root")


def identify(credentials: Credentials, environ: Mapping[str, str], where: str) -> KeyOwner:
    """Query STS for the owner of a key (GetCallerIdentity, which needs no permission).

    Args:
        credentials: the key pair, with its token if it has one. No other is tried.
        environ: the service's environment, with its endpoint, proxy and CA.
        where: the source of the pair, for messages.

    Raises:
        InputError: AWS refuses the pair; the message says why.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        client = connect_by_pair(credentials, environ, credentials.region or _ANY_REGION, "sts")
        answer = client.get_caller_identity()
    except ClientError as error:
        return _refusal(error.response, credentials, where)
    except (BotoCoreError, ValueError) as error:
        return KeyOwner(doubt=_unreached(error, environ))
    return KeyOwner(arn=str(answer["Arn"]))


def _refusal(response: Mapping[str, Any], credentials: Credentials, where: str) -> KeyOwner:
    code, text = str(response["Error"].get("Code", "")), str(response["Error"].get("Message", ""))
    shown = f"the access key {credentials.access_key[:4]}…{credentials.access_key[-4:]}"
    if code in ("InvalidClientTokenId", "UnrecognizedClientException", "InvalidAccessKeyId"):
        raise InputError(
            f"{where}: AWS doesn't know {shown}: it was deleted, deactivated or mistyped",
            "Create a new one in the IAM console (Users, Security credentials), or copy this one again.",
        )
    if code in ("ExpiredToken", "ExpiredTokenException"):
        raise InputError(
            f"{where}: {shown} is temporary and has expired", "Sign in again, and use the new key and token."
        )
    if code == "RequestExpired" or text.startswith(_SKEW):
        date = response.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("date", "")
        raise InputError(
            f"{where}: AWS rejects requests from this host because its clock is wrong"
            + (f" (the time of AWS: {date})" if date else ""),
            "Set the clock: sudo timedatectl set-ntp true",
        )
    if code == "SignatureDoesNotMatch":
        raise InputError(
            f"{where}: the secret of {shown} is wrong", "Copy the complete secret again, without quotes."
        )
    return KeyOwner(doubt=f"STS answers {code or 'an unknown error'}{f': {text}' if text else ''}")


def _unreached(error: Exception, environ: Mapping[str, str]) -> str:
    from botocore.exceptions import ProxyConnectionError, SSLError

    if isinstance(error, SSLError):
        named = environ.get("SSL_CERT_FILE")
        return (
            f"the certificate of STS isn't trusted: {named} doesn't contain its CA"
            if named
            else ("the certificate of STS isn't trusted: behind a proxy that opens TLS, set SSL_CERT_FILE to its CA")
        )
    if isinstance(error, ProxyConnectionError):
        return "the proxy for STS can't be reached"
    return f"STS can't be reached ({type(error).__name__})"


#: Seconds for a connection and for an answer. These queries are optional, so they must be short; none is retried.
CONNECT_TIMEOUT, READ_TIMEOUT = 2, 5


class Refused(Exception):
    """AWS can't be queried, and further queries would fail as well; the text says why."""


class RoleRefused(Refused):
    """STS does not let the service assume its role."""


def load() -> None:
    """Import all parts of botocore that this package imports on demand. Call it before threads are started.

    Threads that import parts of one package at the same time can get a partially imported module: to prevent a
    deadlock importlib lets no thread wait for one that waits for it (`_ModuleLock` in importlib/_bootstrap.py).
    """
    import botocore.configloader
    import botocore.httpsession
    import botocore.session
    import botocore.tokens  # noqa: F401


def connect(environ: Mapping[str, str], region: str, service: str = "bedrock") -> Any:
    """Return a client with the service's keys or API key, otherwise the role of the EC2 instance.

    With AWS_ROLE_NAME it has assumed that role with any of these. Calls of the client raise errors of botocore, which
    `describe_error` and `describe_refusal` turn into text.

    Raises:
        Refused: there are no credentials, or they can't be loaded.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    session = _session(environ)
    try:
        if environ.get(ROLE) and not environ.get(BEARER_VARIABLE):
            _assume_role(session, environ, region)
        return _build(session, environ, region, service)
    except ClientError as error:
        said = error.response.get("Error", {}).get("Message", "no reason given")
        raise RoleRefused(f"the service's role can't be assumed: {said}") from None
    except (BotoCoreError, ValueError) as error:
        raise Refused(describe_error(error)) from None


def whoami(environ: Mapping[str, str], region: str) -> str:
    """Return the ARN of the identity that the service calls AWS with.

    Raises:
        RoleRefused: the service may not assume its role.
        Refused: STS can't be queried, or doesn't know the credentials.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    if environ.get(BEARER_VARIABLE):
        raise Refused("STS accepts no Bedrock API key")
    try:
        return str(connect(environ, region, "sts").get_caller_identity()["Arn"])
    except ClientError as error:
        raise Refused(describe_refusal(error)) from None
    except BotoCoreError as error:
        raise Refused(describe_error(error)) from None


def describe_refusal(error: Any) -> str:
    """Return the meaning of an error response of AWS (a ClientError)."""
    found = error.response.get("Error", {})
    code, said = found.get("Code", ""), found.get("Message", "") or "no reason given"
    return _WORDS.get(code, f"{code or 'an error'}: {said}")


_WORDS = {
    "AccessDeniedException": "these credentials lack the permission ('litellmctl iam-policy' prints what they need)",
    "UnrecognizedClientException": "AWS doesn't know these credentials",
    "InvalidSignatureException": "AWS doesn't accept the signature: the secret key or the clock is wrong",
    "ExpiredTokenException": "the credentials have expired",
    "ThrottlingException": "AWS throttles the requests; try again in a minute",
    "TooManyRequestsException": "AWS throttles the requests; try again in a minute",
}


def describe_error(error: Exception) -> str:
    """Return why there is no answer: the meaning of an error of botocore itself."""
    from botocore import exceptions as known

    if isinstance(error, known.SSLError):
        return "its certificate isn't trusted here (SSL_CERT_FILE names a private CA)"
    if isinstance(error, known.ProxyConnectionError):
        return "the proxy refuses the connection"
    if isinstance(error, known.ConnectionError | known.HTTPClientError):  # no connection, or no answer in time
        return "it can't be reached from here"
    return str(error)


def connect_by_pair(credentials: Credentials, environ: Mapping[str, str], region: str, service: str) -> Any:
    """Return a client with this key pair alone, and with the endpoint, proxy and CA that `environ` names."""
    session = blank_session()
    session.set_credentials(credentials.access_key, credentials.secret_key, credentials.session_token)
    return _build(session, environ, region, service)


def _build(session: Any, environ: Mapping[str, str], region: str, service: str) -> Any:
    from botocore.config import Config

    endpoint = next((environ[name] for name in _ENDPOINTS[service] if environ.get(name)), None)
    # For names with a hyphen, service and host differ.
    host = urlsplit(endpoint or default_endpoint(region, _HOSTS.get(service, service))).hostname or ""
    takes_api_key = service in ("bedrock", "bedrock-runtime") and environ.get(BEARER_VARIABLE)
    return session.create_client(
        service,
        region_name=region,
        endpoint_url=endpoint,
        verify=environ.get("AWS_CA_BUNDLE") or environ.get("SSL_CERT_FILE") or None,
        config=Config(
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=READ_TIMEOUT,
            retries={"total_max_attempts": 1},
            proxies=proxies_for(host, environ),
            ignore_configured_endpoint_urls=True,
            # Explicit, since botocore would otherwise look for an API key in the caller's environment.
            signature_version="bearer" if takes_api_key else "v4",
        ),
    )


_ENDPOINTS = {
    "bedrock": ("AWS_ENDPOINT_URL_BEDROCK", "AWS_ENDPOINT_URL"),
    "bedrock-runtime": ("AWS_BEDROCK_RUNTIME_ENDPOINT", "AWS_ENDPOINT_URL_BEDROCK_RUNTIME", "AWS_ENDPOINT_URL"),
    "service-quotas": ("AWS_ENDPOINT_URL_SERVICE_QUOTAS", "AWS_ENDPOINT_URL"),
    "sts": STS_ENDPOINTS,
}
_HOSTS = {"service-quotas": "servicequotas"}


def _assume_role(session: Any, environ: Mapping[str, str], region: str) -> None:
    """Give the session the role that LiteLLM assumes, in the same way (llms/bedrock/base_aws_llm.py).

    Raises:
        ClientError: STS refuses it.
    """
    from botocore.exceptions import ClientError

    sts = _build(session, environ, region, "sts")
    name = environ.get(SESSION_NAME) or "litellmctl"
    external = {"ExternalId": environ[EXTERNAL_ID]} if environ.get(EXTERNAL_ID) else {}
    try:
        keys = sts.assume_role(RoleArn=environ[ROLE], RoleSessionName=name, **external)["Credentials"]
    except ClientError:
        if not _is_role(environ[ROLE], str(sts.get_caller_identity()["Arn"])):
            raise
    else:
        session.set_credentials(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"])


def _is_role(role: str, identity: str) -> bool:
    """Whether the identity is that role already. LiteLLM assumes no role in this case."""
    held = re.sub(r":iam::(\d+):role/(?:.*/)?([^/]+)$", r":sts::\1:assumed-role/\2/", role)
    return identity.startswith(held) and held != role


def _session(environ: Mapping[str, str]) -> Any:
    """Return a session that uses the service's environment alone."""
    from botocore.tokens import ScopedEnvTokenProvider, TokenProviderChain

    session = blank_session()
    session.register_component("token_provider", TokenProviderChain([ScopedEnvTokenProvider(session, environ)]))
    if environ.get(BEARER_VARIABLE):
        return session
    if any(environ.get(name) for name in (PROFILE, PROFILE_NAME, WEB_IDENTITY)):
        raise Refused("the service uses a profile or a web identity, which litellmctl doesn't support")
    access, secret = (environ.get(name) for name in PAIR)
    if access and secret:
        session.set_credentials(access, secret, environ.get(TOKEN) or None)
    elif access or secret:
        raise Refused("the service's environment has half a key pair")
    else:
        keys = _instance_role(environ)
        session.set_credentials(keys.access_key, keys.secret_key, keys.session_token)
    return session


def _instance_role(environ: Mapping[str, str]) -> Credentials:
    # Not botocore's own fetcher: it uses the proxy of the caller's environment, and reports no reason.
    found = observe_instance(environ)
    if found.credentials is None:
        reason = f", and {found.trouble.message}" if found.trouble else ""
        raise Refused(f"the service's environment has no credentials{reason}")
    return found.credentials
